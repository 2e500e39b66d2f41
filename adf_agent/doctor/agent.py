"""The agent's own word: how its boot ended, whether it runs, what it lacks."""

import os
import time
from collections.abc import Iterator, Mapping
from typing import Any

from adf_agent import status
from adf_agent.doctor.case import Case
from adf_agent.doctor.check import Finding
from adf_agent.root import boot_id
from adf_agent.screen import start_command

LINES = {"image": ": adf-agent logs --build", "health": ": adf-agent logs --app"}  # stages whose cause is in an output
CRASHES = "Mend the config and `sudo adf-agent reload`, or go back to the release before; the app's own words"
WHY = "Its last words are in `sudo adf-agent logs --agent`; to start it"
RESTARTING = ("restarting", "joining", "reloading")
LONG_SECONDS = 20 * 60.0  # for a boot: longer than any is given without ADF_BOOT_TIMEOUT


def agent(case: Case) -> Iterator[Finding]:
    """What the status record says, and whether its writer is there."""
    try:
        status.read(str(case.root.status))
    except (OSError, ValueError) as error:
        denied = isinstance(error, PermissionError)
        full = (
            f"See that its disk has room, and what the agent says of it (adf-agent logs --agent): df -h {case.root.run}"
        )
        fix = "sudo adf-agent doctor" if denied else full
        yield Finding("fail", f"{case.root.status} can't be read: {error}", fix)
        return
    rebooted = (case.record.get("agent") or {}).get("boot_id") != boot_id()
    yield from judge(case.record, running=case.running, rebooted=rebooted, now=time.time())
    if case.record and case.state is None:
        why = "its folder is another user's" if os.geteuid() else "it can't be read"
        yield Finding("skipped", f"skipped what the agent keeps to itself, because {why}", "sudo adf-agent doctor")


def judge(record: Mapping[str, Any], *, running: bool, rebooted: bool, now: float) -> Iterator[Finding]:
    """*record* is the agent's status record, empty without one; *running* is whether its process is there."""
    if not record:
        yield Finding("warn", "no agent has run here since the machine's start", start_command())
        return
    phase = str(record.get("phase"))
    error = record["error"] if isinstance(record.get("error"), dict) else {}
    if phase in status.ENDED:
        sentence = f"the boot {'is held, as it ' if phase == 'held' else ''}failed at stage {error.get('stage')}"
        hint = str(error.get("hint") or "adf-agent status").rstrip(".")
        more = LINES.get(str(error.get("stage")), "")
        yield Finding("fail", f"{sentence}: {error.get('sentence')}", f"{hint}{more}")
        return
    code = status.verdict(record, running=running, rebooted=rebooted, strict=False)
    if code == status.NO_AGENT and phase != "stopped":
        what = "the machine restarted since" if rebooted else "it was killed, or crashed"
        yield Finding("fail", f"no agent runs; it was {phase}, and {what}", f"{WHY}: {start_command()}")
        return
    if code == status.NO_AGENT:
        yield Finding("warn", "the agent was told to stop", start_command())
        return
    yield from _present(record, phase, now)


def _troubled(record: Mapping[str, Any], *words: str) -> bool:
    """Whether one of *words* is in what degrades the instance."""
    return any(word in str(reason) for reason in record.get("degraded") or () for word in words)


def _present(record: Mapping[str, Any], phase: str, now: float) -> Iterator[Finding]:
    seconds = now - float(record.get("since", now))
    restarts = int(record.get("restarts") or 0)
    if restarts and phase == "in service":  # a minute of it, and they count no more
        sentence = f"the app ended {restarts} times in a row, and runs again for {seconds:.0f} s"
        yield Finding("warn", sentence, "adf-agent logs --app")
    elif restarts and phase in RESTARTING:
        why = "; ".join(str(reason) for reason in record.get("degraded") or ["it is started again"])
        # Where the host is at fault, the app's config is not: the host's own checks say what is to be done.
        fix = "sudo adf-agent doctor" if _troubled(record, "Docker", "disk") else f"{CRASHES}: adf-agent logs --app"
        yield Finding("fail", f"the app ended {restarts} times in a row: {why}", fix)
    elif phase in ("drained", "draining"):
        away = "it serves nothing until a reload, unless its group or EC2 ends it"
        yield Finding("warn", f"the agent is {phase}: {away}", "sudo adf-agent reload")
    elif phase == "booting" and seconds > LONG_SECONDS:
        yield Finding("warn", f"the boot goes on for {seconds / 60:.0f} min", "adf-agent status")
    else:
        yield Finding("ok", f"the agent is {phase}")
    yield from (Finding("warn", f"degraded: {reason}", "adf-agent status") for reason in record.get("degraded") or ())
