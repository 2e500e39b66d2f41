"""The agent's folders, and what tells one boot or process of the machine from another."""

from pathlib import Path


class Root:
    """The folders below *root* (`ADF_ROOT`, `/` on an instance)."""

    def __init__(self, root: Path) -> None:
        self.whole_machine = root == Path("/")  # elsewhere many agents may share one Docker engine
        self.etc = root / "etc/adf-agent"
        self.var = root / "var/lib/adf-agent"
        self.run = root / "run/adf-agent"

    @property
    def status(self) -> Path:
        """What `adf-agent status` reads; world-readable."""
        return self.run / "status.json"

    @property
    def tail(self) -> Path:
        """The last lines of an app or build that failed: for root, adm and the agent, as they may hold anything."""
        return self.var / "last-lines"


def boot_id() -> str:
    """The kernel's id of this boot of the machine; another one after every reboot (random(4))."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def started(pid: int) -> int:
    """When process *pid* started, in clock ticks since the boot of the machine; 0 where it has ended (proc(5)).

    With the boot id it tells a process from a later one of the same number, for any user.
    """
    try:
        facts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if facts[0] in ("Z", "X") else int(facts[19])  # dead, though its parent has not asked yet
