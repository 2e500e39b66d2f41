"""The agent's folders, and what tells one boot or process of the machine from another."""

from __future__ import annotations

TYPE_CHECKING = False  # as in typing, which takes `adf-agent status` longer to import than all it does
if TYPE_CHECKING:
    from pathlib import Path

STATUS = "run/adf-agent/status.json"
TAIL = "var/lib/adf-agent/last-lines"
CONTAINER = "adf-app"  # the packages' scripts know it too


class Root:
    """The folders below *root* (`ADF_ROOT`, `/` on an instance)."""

    def __init__(self, root: Path) -> None:
        self.whole_machine = str(root) == "/"
        self.etc = root / "etc/adf-agent"
        self.var = root / "var/lib/adf-agent"
        self.run = root / "run/adf-agent"
        self.hold = self.run / "hold"  # until when a failing instance is kept
        self.status = root / STATUS  # what `adf-agent status` reads; world-readable
        self.tail = root / TAIL  # the last lines of an app or build that failed: for root, adm and the agent

    def container(self, instance_id: str) -> str:
        """The name of the app's container; elsewhere many agents may share one Docker engine."""
        return CONTAINER if self.whole_machine else f"{CONTAINER}-{instance_id}"


def boot_id() -> str:
    """The kernel's id of this boot of the machine; another one after every reboot (random(4))."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def started(pid: int) -> int:
    """When process *pid* started, in clock ticks since the boot of the machine; 0 where it has ended (proc(5)).

    With the boot id it tells a process from a later one of the same number, for any user.
    """
    try:
        with open(f"/proc/{pid}/stat") as file:
            facts = file.read().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if facts[0] in ("Z", "X") else int(facts[19])  # dead, though its parent has not asked yet
