"""An agent that dies where its log comes to a point, or stands still there until it is told to go on."""

from dataclasses import dataclass
from pathlib import Path

from fixtures_agent import Daemon, Machine

# The agent's own log is what it stops by: the line of the point is its last. Without a GATE it dies of it.
AT_POINT = """
import json, os, select, signal, sys, time

def pause(seconds):
    select.select([], [], [], seconds)

class Gate:
    def __init__(self, stream, point, folder):
        self.stream, self.point, self.folder = stream, point, folder

    def isatty(self):
        return False

    def reconfigure(self, **_):
        pass

    def write(self, text):
        self.stream.write(text)
        self.stream.flush()
        event = json.loads(text) if text.startswith("{") else {}
        told = " ".join(str(event.get(key, "")) for key in ("event", "stage", "step", "hook"))
        if self.point and all(word in told for word in self.point.split("|")):
            self.point = ""
            if not self.folder:
                os.kill(os.getpid(), signal.SIGKILL)
            open(self.folder + "/at", "w").close()
            for _ in range(12000):
                if os.path.exists(self.folder + "/go"):
                    return
                pause(0.005)

    def flush(self):
        self.stream.flush()

if "FAKETIME_TIMESTAMP_FILE" in os.environ:
    time.sleep = pause  # what libfaketime makes of a sleep while the clock jumps, is an error
sys.stderr = Gate(sys.stderr, os.environ["POINT"], os.environ.get("GATE"))
sys.argv = ["adf-agent", "run"]
from adf_agent.__main__ import main
raise SystemExit(main())
"""


@dataclass(frozen=True)
class Gate:
    """An *agent* on its way to a point of its log."""

    agent: Daemon
    folder: Path

    def reach(self, seconds: float = 30) -> None:
        """Returns when it stands still there."""
        self.agent.until((self.folder / "at").exists, "the gate", seconds)

    def open(self) -> None:
        (self.folder / "go").touch()


def gated(machine: Machine, point: str, **environment: str) -> Gate:
    """Starts an agent that stands still at *point*: words of the event and its stage, with | between them."""
    folder = machine.root / "gate"
    folder.mkdir()
    return Gate(machine.daemon(AT_POINT, **environment, POINT=point, GATE=str(folder)), folder)
