"""Findings in the order that they help in, and how they are shown."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from adf_agent.doctor.check import LEVELS, Finding, Level
from adf_agent.screen import printable, start_command

# What may lie behind a failure of each stage, the likeliest first: where such a check fails, that is the cause, and
# what the agent said of it the consequence.
BEHIND: Mapping[str, tuple[str, ...]] = {
    "agent": ("disk",),
    "settings": ("imds", "user-data", "tags", "settings", "credentials"),
    "docker": ("docker", "docker's disk", "disk"),
    "release": ("disk", "clock", "credentials", "release"),
    "config": ("clock", "credentials", "config"),
    "image": ("docker's disk", "disk", "memory", "docker", "builder", "registry"),
    "container": ("ports", "docker's disk", "docker"),
    "health": ("memory", "docker", "ports"),
    "report": ("clock", "credentials", "group", "hooks", "balancers", "group's balancers", "permissions"),
}
# A build or an app that fails says why itself, unless the machine was too small for it.
OWN_CAUSES, TOO_SMALL = ("build", "app"), ("docker's disk", "disk", "memory")
MARKS: Mapping[Level, str] = {"fail": "✗", "warn": "!", "ok": "✓", "skipped": "-"}
COLORS: Mapping[Level, str] = {"fail": "31", "warn": "33", "ok": "32", "skipped": "2"}
AGENT = "agent"


def ranked(findings: Sequence[Finding], error: Mapping[str, Any]) -> list[Finding]:
    """The worst first; among the fails what lies behind the agent's *error*, then what the agent itself says."""
    behind = [
        check
        for check in BEHIND.get(str(error.get("stage")), ())
        if error.get("cause") not in OWN_CAUSES or check in TOO_SMALL
    ]

    def place(finding: Finding) -> tuple[int, int]:
        order = behind.index(finding.check) if finding.check in behind else len(behind) + (finding.check != AGENT)
        return LEVELS.index(finding.level), order if finding.level == "fail" else 0

    said = {found.sentence for found in findings if found.check != AGENT}
    return sorted((_shortened(found, said, error) for found in findings), key=place)


def _shortened(finding: Finding, said: set[str], error: Mapping[str, Any]) -> Finding:
    """The agent's own word, without a sentence that another check says as well."""
    if finding.check != AGENT or not error or str(error.get("sentence")) not in said:
        return finding
    stage = error.get("stage")
    fix = f"Once it is mended: {start_command()}"
    return replace(finding, sentence=f"the boot failed at stage {stage} for that reason", fix=fix)


def summary(findings: Iterable[Finding]) -> str:
    """`1 fail, 2 warn, 14 ok`."""
    counted = Counter(found.level for found in findings)
    return ", ".join(f"{counted[level]} {level}" for level in LEVELS if level != "skipped" or counted[level])


def exit_code(findings: Iterable[Finding]) -> int:
    """0 where nothing fails, else 1."""
    return int(any(found.level == "fail" for found in findings))


def screen(findings: Sequence[Finding], *, color: bool) -> str:
    """For people: what is well has no fix shown, and what was skipped for one reason has one line."""
    made = [found for found in findings if found.level != "skipped"]
    return "\n".join([*_lines(made, color), *_skipped(findings), "", summary(findings)])


def _skipped(findings: Sequence[Finding]) -> Iterator[str]:
    reasons: dict[tuple[str, str], list[str]] = {}
    for found in findings:
        if found.level == "skipped":
            reasons.setdefault((found.sentence, found.fix), []).append(found.check)
    for (sentence, fix), checks in reasons.items():
        step = f" → {fix}" if fix else ""
        yield f"{MARKS['skipped']} {', '.join(dict.fromkeys(checks))}: {printable(sentence + step)}"


def _lines(findings: Sequence[Finding], color: bool) -> Iterator[str]:  # noqa: FBT001
    width = max((len(found.check) for found in findings), default=0)
    for found in findings:
        mark = f"\x1b[{COLORS[found.level]}m{MARKS[found.level]}\x1b[0m" if color else MARKS[found.level]
        yield f"{mark} {found.check:<{width}}  {printable(found.sentence)}"
        if found.fix and found.level in ("fail", "warn"):
            yield f"  {'':<{width}}  → {printable(found.fix)}"


def as_json(findings: Sequence[Finding], seconds: float, parts: Sequence[Any] = ()) -> str:
    """For programs: how many of each level, in how many *seconds*, every finding, and the *parts* of the archive."""
    counted = Counter(found.level for found in findings)
    shown: dict[str, Any] = {
        "summary": {level: counted[level] for level in LEVELS},
        "seconds": round(seconds, 2),
        "findings": [each.shown() for each in findings],
    }
    if parts:
        shown["collected"] = [asdict(each) for each in parts]
    return json.dumps(shown, indent=1, ensure_ascii=False)
