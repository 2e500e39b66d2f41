"""What starts the agent: systemd's unit or upstart's job, enabled and running."""

import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from adf_agent.doctor.case import Case
from adf_agent.doctor.check import Finding, Skipped

NAME = "adf-agent"
SYSTEMD = Path("/run/systemd/system")  # there where systemd is what runs the machine (sd_booted(3))
UPSTART = Path("/etc/init/adf-agent.conf")
SHOWN = "LoadState,UnitFileState,ActiveState,SubState,Result,NRestarts,ExecMainStatus,WatchdogUSec"
ASK_SECONDS = 3.0
LOG = f"journalctl -u {NAME} -n 50"


def unit(case: Case) -> Iterator[Finding]:
    """Whether anything starts the agent at a boot, and how it fares."""
    if not case.root.whole_machine:
        raise Skipped("an agent below ADF_ROOT has no unit")
    if SYSTEMD.exists():
        yield judge(shown(), alive=case.running)
    elif UPSTART.exists():
        yield Finding("ok", f"upstart starts the agent by {UPSTART}")
    else:
        yield Finding("warn", "neither systemd nor upstart starts the agent here", "Install the package of adf-agent.")


def shown() -> dict[str, str]:
    """What systemd says of the unit."""
    return _facts(said("systemctl", "show", NAME, f"--property={SHOWN}"))


def _facts(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def judge(facts: Mapping[str, str], *, alive: bool) -> Finding:  # noqa: PLR0911  one sentence a state
    """*facts* are the unit's properties (systemctl show); *alive* is whether an agent runs, by whomever started."""
    if not facts:
        return Finding("warn", "systemd does not answer", "systemctl status")
    if facts.get("LoadState") != "loaded":
        return Finding("fail", f"there is no unit {NAME} ({facts.get('LoadState')})", "Install the package adf-agent.")
    if facts.get("UnitFileState") == "masked":
        return Finding("fail", f"the unit {NAME} is masked", f"systemctl unmask --now {NAME}")
    if facts.get("Result") == "watchdog":
        return Finding("fail", "systemd's watchdog ended the agent: its loop stood still", LOG)
    state, result = facts.get("ActiveState", ""), facts.get("Result", "")
    if state == "failed":
        how = f"{result}, exit code {facts.get('ExecMainStatus')}"
        return Finding("fail", f"the unit {NAME} failed ({how})", f"systemctl restart {NAME}, once its cause is mended")
    if state == "inactive" and alive:
        return Finding("warn", f"an agent runs, and not as the unit {NAME}", f"Stop it, and: systemctl start {NAME}")
    if state == "inactive":
        return Finding("fail", f"the unit {NAME} does not run", f"systemctl start {NAME}")
    if facts.get("UnitFileState") not in ("enabled", "enabled-runtime", "static"):
        return Finding(
            "warn", f"the unit {NAME} is not enabled: it stays off after a reboot", f"systemctl enable {NAME}"
        )
    restarts = int(facts.get("NRestarts") or 0)
    if state == "activating" and facts.get("SubState") == "auto-restart":
        return Finding("warn", f"systemd starts the agent again, for the {restarts + 1}. time", LOG)
    watched = "" if facts.get("WatchdogUSec") in ("0", "infinity", None) else ", watched"
    again = f", started again {restarts} times" if restarts else ""
    return Finding("ok", f"the unit {NAME} is enabled and {state}{watched}{again}")


def said(*command: str, seconds: float = ASK_SECONDS) -> str:
    """What *command* prints; "" where it is not there, fails or hangs."""
    try:
        answer = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds, check=False,
            errors="replace",
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout
