"""What survives a crash: the state file, written whole; and the lock of the one agent."""

import contextlib
import dataclasses
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from adf_agent.errors import AgentError
from adf_agent.root import Root


def prepare(root: Root) -> None:
    """Makes the folders that the agent writes. Raises AgentError where they can't be made or written."""
    for folder in (root.var, root.run):
        try:
            folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(folder, error) from error
        if not os.access(folder, os.W_OK):
            raise _unwritable(folder, None)


def _unwritable(folder: Path, error: OSError | None) -> AgentError:
    return AgentError(
        f"{folder} can't be written{f': {error.strerror}' if error else ''}",
        hint=f"Run as the user that owns {folder} (adf-agent), or set ADF_ROOT to a folder of your own.",
        cause="host",
    )


def write(path: Path, data: bytes, mode: int, *, durable: bool = False) -> None:
    """Replaces *path* by *data* whole: a reader, or a crash of the process, finds the former bytes or these.

    *durable*: a crash of the machine too.
    """
    part = path.with_name(f".{path.name}.part")
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
    with os.fdopen(handle, "wb") as file:
        os.fchmod(handle, mode)  # the umask must not narrow what other users are to read
        file.write(data)
        if durable:
            file.flush()
            os.fsync(handle)
    part.replace(path)


@dataclasses.dataclass(frozen=True)
class State:
    """What the agent knows of this instance from its former runs; empty on a first boot."""

    instance_id: str = ""
    boot_id: str = ""
    url_digest: str = ""  # SHA-256 of RELEASE_URL, which may hold credentials
    release_digest: str = ""
    manifest: str = ""  # adf.toml as the release brought it
    image: str = ""  # adf/release:<sha256>, built or pulled whole
    container_id: str = ""
    in_service: bool = False  # the container has been healthy in this boot of the machine
    last_good: str = ""  # the image that was in service last
    images: tuple[str, ...] = ()  # every image that this agent tagged and has not pruned


def load(root: Root) -> State:
    """The state of *root*; the empty State where there is none, or none that can be read.

    A torn or newer file costs a build, nothing else: no reason to fail a boot.
    """
    try:
        fields = json.loads((root.var / "state.json").read_bytes())
        return State(**{**fields, "images": tuple(fields["images"])})
    except (OSError, ValueError, TypeError, KeyError):
        return State()


def save(root: Root, state: State) -> None:
    """Writes the state of *root*, for this user's eyes only: adf.toml may hold what the app's owner keeps to itself."""
    write(root.var / "state.json", json.dumps(dataclasses.asdict(state), indent=1).encode(), 0o600, durable=True)


class Ledger:
    """The state of one *root*, saved at each change."""

    def __init__(self, root: Root) -> None:
        self._root = root
        self.state = load(root)

    def note(self, **changes: Any) -> None:
        self.state = dataclasses.replace(self.state, **changes)
        save(self._root, self.state)

    def forget(self) -> State:
        """Starts anew, as on an instance that never ran; returns the former state."""
        former, self.state = self.state, State()
        return former

    def keep(self, image: str) -> None:
        """Notes *image* as the release's, and as one of the agent's own."""
        self.note(image=image, images=tuple(dict.fromkeys([*self.state.images, image])))


@contextlib.contextmanager
def only_agent(root: Root) -> Iterator[None]:
    """Holds the lock of the one agent of *root*. Raises AgentError where another one runs."""
    with (root.run / "lock").open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AgentError(
                "another adf-agent is running here", hint="See `adf-agent status`; stop that one first."
            ) from error
        yield
