"""What survives a crash: the state file, written whole; and the lock of the one agent."""

import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

from adf_agent.errors import AgentError
from adf_agent.root import Root, boot_id


def prepare(root: Root) -> None:
    """Makes the folders that the agent writes. Raises AgentError where they can't be made or written."""
    for folder in (root.var, root.run):
        try:
            if not folder.is_dir():
                folder.mkdir(parents=True)
                folder.chmod(0o755)  # whatever the umask: others may read the status
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

    *durable*: a crash of the machine too. Raises AgentError.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        _fill(part, data, mode, durable)
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise AgentError(
            f"{path} can't be written: {error.strerror}",
            hint=f"See what fills it: du -xh {path.parent}; or give the instance a larger volume."
            if full
            else "See the owner and mode of its folder.",
            cause="host",
        ) from error


def hand_over(handle: int, folder: Path) -> None:
    """Gives root's file to the owner of its *folder*: what was run by hand once, the unit's user has to read."""
    if os.geteuid() == 0:
        owner = folder.stat()
        os.fchown(handle, owner.st_uid, owner.st_gid)


def _fill(path: Path, data: bytes, mode: int, durable: bool) -> None:  # noqa: FBT001  write's own
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
    with os.fdopen(handle, "wb") as file:
        os.fchmod(handle, mode)  # the umask must not narrow what other users are to read
        hand_over(handle, path.parent)
        file.write(data)
        if durable:
            file.flush()
            os.fsync(handle)


# Noted before the call that brings it about, so that after a crash what was begun is done again, to its end:
# "" nobody was told; joining, joined; leaving, to come back at the next start; draining and drained, on an operator's
# word, to stay away.
Standing = Literal["", "joining", "joined", "leaving", "draining", "drained"]
STANDINGS = get_args(Standing)


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
    in_service: bool = False  # in this boot of the machine, the container was healthy and everybody was told
    last_good: str = ""  # the image that was in service last
    tags: str = ""  # those that EC2 told in this boot, as JSON, where IMDS has none
    images: tuple[str, ...] = ()  # every image that this agent tagged and has not pruned
    boots: int = 0  # a number for this boot of the machine, greater than those of former ones
    standing: Standing = ""  # how far balancers and group know of the container in this boot: see `Standing`
    given_up: str = ""  # why this instance was given up for good: ABANDON was sent, or Unhealthy reported


def load(root: Root) -> State:
    """The state of *root*; the empty State where there is none, or none that makes sense: no reason to fail a boot."""
    try:
        found = json.loads((root.var / "state.json").read_bytes())
        known = {field.name: found[field.name] for field in dataclasses.fields(State) if field.name in found}
        state = State(**{**known, "images": tuple(known.get("images", ()))})
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return State()
    kinds = {field.name: type(field.default) for field in dataclasses.fields(State)}
    is_sound = all(isinstance(getattr(state, name), kind) for name, kind in kinds.items())
    is_sound = is_sound and all(isinstance(image, str) for image in state.images) and state.standing in STANDINGS
    return state if is_sound else State()


def save(root: Root, state: State) -> None:
    """Writes the state of *root*, for this user's eyes only: adf.toml may hold what the app's owner keeps to itself."""
    write(root.var / "state.json", json.dumps(dataclasses.asdict(state), indent=1).encode(), 0o600, durable=True)


class Ledger:
    """The state of one *root*, saved at each change."""

    def __init__(self, root: Root) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._saved = True
        self.state = load(root)

    def note(self, **changes: Any) -> None:
        """Changes the state and saves it. Raises AgentError where that fails; the change counts all the same."""
        with self._lock:
            changed = dataclasses.replace(self.state, **changes)
            if changed != self.state or not self._saved:  # where nothing is new, a full disk is no matter
                self.state, self._saved = changed, False
                save(self._root, changed)
                self._saved = True

    def note_if_possible(self, **changes: Any) -> None:
        """As `note`, for when what follows must be done on a full disk too."""
        with contextlib.suppress(AgentError):
            self.note(**changes)

    def begin(self) -> None:
        """Notes the machine's boot: what is true of one boot only is no longer so after another."""
        if self.state.boot_id != boot_id():
            # Greater than any before, also those of a disk that is gone: the fleet record's order goes by it.
            boots = max(self.state.boots + 1, int(time.time()))
            self.note(boot_id=boot_id(), boots=boots, in_service=False, standing="", tags="")

    def belong(self, instance_id: str) -> bool:
        """Makes the state that of *instance_id*. Where it was another one's, False, and it starts anew.

        Kept are the images, to be pruned, and the former container, to be removed.
        """
        former = self.state
        ours = former.instance_id in ("", instance_id)
        if not ours:
            self.state = State(
                boot_id=former.boot_id, boots=former.boots, container_id=former.container_id, images=former.images
            )
            self._saved = False
        self.note(instance_id=instance_id)
        return ours

    def tags(self) -> dict[str, str] | None:
        """The tags that EC2 told since the machine's last boot, None where it was not asked."""
        with contextlib.suppress(ValueError, TypeError, RecursionError):
            tags = dict(json.loads(self.state.tags))
            return tags if all(isinstance(text, str) for pair in tags.items() for text in pair) else None
        return None

    def keep(self, image: str) -> None:
        """Notes *image* as the release's, and as one of the agent's own."""
        self.note(image=image, images=tuple(dict.fromkeys([*self.state.images, image])))


@contextlib.contextmanager
def only_agent(root: Root) -> Iterator[None]:
    """Holds the lock of the one agent of *root*. Raises AgentError where another one runs."""
    path = root.run / "lock"
    try:  # to be read is enough for a lock: whoever ran the agent first may have been another user
        handle = os.open(path, os.O_RDONLY | os.O_CREAT, 0o644)
    except OSError as error:
        raise _unwritable(path, error) from error
    with os.fdopen(handle) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AgentError(
                "another adf-agent is running here", hint="See `adf-agent status`; stop that one first."
            ) from error
        yield
