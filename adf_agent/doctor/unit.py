"""What starts the agent: systemd's unit or upstart's job, enabled and running."""

import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from adf_agent.doctor.case import Case
from adf_agent.doctor.check import Finding, Skipped
from adf_agent.screen import JOB, SYSTEMD, start_command

NAME = "adf-agent"
MACHINE = Path("/")
SHOWN = "LoadState,UnitFileState,ActiveState,SubState,Result,NRestarts,ExecMainStatus,WatchdogUSec"
ASK_SECONDS = 3.0
LOG = f"sudo journalctl -u {NAME} -n 50"


MENDED = f"Once its cause is mended, which `{LOG}` tells"
BY_HAND = "Stop it where it was started, and then"


def unit(case: Case) -> Iterator[Finding]:
    """Whether anything starts the agent at a boot, and how it fares."""
    if not case.root.whole_machine:
        raise Skipped("an agent below ADF_ROOT has no unit")
    if (MACHINE / SYSTEMD).is_dir():
        yield judge(shown(), alive=case.running)
    elif (MACHINE / JOB).exists():
        yield judge_job(said("initctl", "status", NAME), manual=_is_manual(MACHINE), alive=case.running)
    else:
        yield Finding("warn", "neither systemd nor upstart starts the agent here", "Install the package of adf-agent.")


def shown() -> dict[str, str]:
    """What systemd says of the unit."""
    return _facts(said("systemctl", "show", NAME, f"--property={SHOWN}"))


def _is_manual(machine: Path) -> bool:
    """Whether an override keeps upstart from starting the job at a boot (init(5), `manual`)."""
    try:
        lines = (machine / JOB).with_suffix(".override").read_text(errors="replace").splitlines()
    except OSError:
        return False
    return any(line.strip() == "manual" for line in lines)


def judge_job(text: str, *, manual: bool, alive: bool) -> Finding:
    """*text* is upstart's word of the job, `adf-agent start/running, process 7`; *alive* as below."""
    goal = text.partition(" ")[2].split("/")[0].strip()
    if not goal:
        return Finding("warn", f"upstart does not know the job {NAME}, or does not answer", f"initctl status {NAME}")
    if goal != "start" and alive:
        return Finding("warn", f"an agent runs, and not as upstart's job {NAME}", f"{BY_HAND}: {start_command()}")
    if goal != "start":
        return Finding("fail", f"upstart's job {NAME} does not run ({text.strip()})", start_command())
    if manual:
        fix = f"Take `manual` out: sudo sed -i '/^ *manual *$/d' /{JOB.replace('.conf', '.override')}"
        return Finding("warn", f"upstart's job {NAME} is manual: it stays off after a reboot", fix)
    return Finding("ok", f"upstart's job {NAME} is {text.partition(' ')[2].strip()}")


def _facts(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def judge(facts: Mapping[str, str], *, alive: bool) -> Finding:  # noqa: PLR0911  one sentence a state
    """*facts* are the unit's properties (systemctl show); *alive* is whether an agent runs, by whomever started."""
    if not facts:
        return Finding("warn", "systemd does not answer", "systemctl status")
    if facts.get("LoadState") == "masked":
        until = "--runtime " if facts.get("UnitFileState") == "masked-runtime" else ""
        fix = f"sudo systemctl unmask {until}{NAME} && sudo systemctl start {NAME}"
        return Finding("fail", f"the unit {NAME} is masked", fix)
    if facts.get("LoadState") != "loaded":
        return Finding("fail", f"there is no unit {NAME} ({facts.get('LoadState')})", "Install the package adf-agent.")
    if facts.get("Result") == "watchdog":
        return Finding("fail", "systemd's watchdog ended the agent: its loop stood still", LOG)
    state, result = facts.get("ActiveState", ""), facts.get("Result", "")
    if state == "failed":
        how = f"{result}, exit code {facts.get('ExecMainStatus')}"
        return Finding("fail", f"the unit {NAME} failed ({how})", f"{MENDED}: sudo systemctl restart {NAME}")
    if state == "inactive" and alive:
        return Finding("warn", f"an agent runs, and not as the unit {NAME}", f"{BY_HAND}: {start_command()}")
    if state == "inactive":
        return Finding("fail", f"the unit {NAME} does not run", f"sudo systemctl start {NAME}")
    if facts.get("UnitFileState") not in ("enabled", "enabled-runtime", "static"):
        return Finding(
            "warn", f"the unit {NAME} is not enabled: it stays off after a reboot", f"sudo systemctl enable {NAME}"
        )
    restarts = int(facts.get("NRestarts") or 0)
    if state == "activating" and facts.get("SubState") == "auto-restart":
        return Finding("warn", f"systemd starts the agent again: that is restart {restarts + 1}", LOG)
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
