"""`--collect FILE`: what a ticket needs of this instance in one archive, without the secrets."""

import io
import json
import os
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from adf_agent import logs, screen
from adf_agent.background import Task
from adf_agent.deadline import Deadline
from adf_agent.doctor import ranking, redact
from adf_agent.doctor.case import Case
from adf_agent.doctor.check import Finding, Skipped
from adf_agent.doctor.redact import Redactor
from adf_agent.doctor.unit import NAME, SHOWN, said
from adf_agent.engine import asking
from adf_agent.errors import AgentError, DockerError
from adf_agent.mask import SECRETIVE

MOST_BYTES = 1 << 20  # of each part: the end of a log is what counts
LINES = 5000  # of a journal
SECONDS = 10.0  # for all parts together, at the same time
KNOWN_SECONDS = 4.0  # of these: to learn what the secrets are
LISTED = ("Id", "Names", "Image", "State", "Status", "Ports", "Created")  # of other people's containers
Make = Callable[[], str]


@dataclass(frozen=True)
class Part:
    """A file in the archive, of so many bytes."""

    name: str
    size: int
    what: str


@contextmanager
def archive(path: str) -> Iterator[BinaryIO]:
    """The archive's file, made now, for this user's eyes only; removed where it is not filled. Raises AgentError."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError as error:
        raise AgentError(f"{path} exists already", hint="Name another file, or remove that one.") from error
    except OSError as error:
        raise AgentError(f"{path} can't be made: {error.strerror}", hint="Name a file in a folder of yours.") from error
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
    except BaseException:  # the next try would find that it exists already
        Path(path).unlink(missing_ok=True)
        raise


def fill(file: BinaryIO, case: Case, findings: Sequence[Finding], seconds: float) -> list[Part]:
    """Writes the archive to *file*; returns what is in it. Raises AgentError."""
    deadline = Deadline(SECONDS, threading.Event())
    facts = _inspected(case, deadline)
    known = redact.known(case, screen.part(facts, "Config").get("Env") or (), deadline.lasting(KNOWN_SECONDS))
    ours, theirs = Redactor(known.secrets), Redactor(known.secrets | known.plain)
    making = {name: (what, Task(make)) for name, (what, make) in _parts(case, findings, seconds, facts).items()}
    folder = f"adf-agent-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    parts = []
    try:
        with tarfile.open(fileobj=file, mode="w:gz") as tar:
            for name, (what, task) in making.items():
                text = (ours if name.endswith(".json") else theirs)(_made(task, deadline))
                data = text.encode(errors="replace")[-MOST_BYTES:]
                _add(tar, f"{folder}/{name}", data)
                parts.append(Part(name, len(data), what))
        file.flush()  # where a full disk is told
    except OSError as error:
        raise AgentError(
            f"the archive can't be written: {error.strerror}",
            hint="Name a file on another disk, such as /run/x.tar.gz.",
        ) from error
    return parts


def _made(task: "Task[str]", deadline: Deadline) -> str:
    """A part; in its place why it is missing."""
    try:
        return task.result(deadline) or "(nothing there)\n"
    except TimeoutError:
        return f"(did not answer within {deadline.seconds:.0f} s)\n"
    except Skipped as reason:
        return f"(not there, as {reason})\n"
    except AgentError as error:
        return f"({error.sentence} → {error.hint})\n"
    except OSError as error:
        return f"(can't be read: {error.strerror})\n"
    except Exception as error:  # noqa: BLE001  the boundary of a part: the others count all the same
        return f"(failed: {type(error).__name__})\n"


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = len(data), 0o600, int(time.time())
    tar.addfile(member, io.BytesIO(data))


def _parts(
    case: Case, findings: Sequence[Finding], seconds: float, facts: Mapping[str, Any]
) -> dict[str, tuple[str, Make]]:
    """Name, what it is, and how it is made, of each part. Each is masked when it is made."""
    var = case.root.var
    return {
        "doctor.json": ("what the doctor found", lambda: ranking.as_json(findings, seconds)),
        "status.json": ("the agent's record of its boot", lambda: _json(case.record)),
        "settings.json": ("the settings in force, with their sources", lambda: _settings(case)),
        "state.json": ("what the agent knows of former boots, without adf.toml", lambda: _state(case)),
        "boots.json": ("how the last boots went", lambda: _end(var / "boots.json")),
        "agent.log": (f"the agent's log, {LINES} lines at most", lambda: _log(case)),
        "build.log": ("the last build's output", lambda: _end(var / "build.log")),
        "last-lines": ("the app's last output before a failure", lambda: _end(case.root.tail)),
        "docker-version.json": ("Docker", lambda: _json(_told(case, lambda api: api.version()))),
        "docker-info.json": ("Docker", lambda: _json(_told(case, lambda api: api.info()))),
        "docker-ps.json": ("containers, without their commands", lambda: _containers(case)),
        "container.json": ("the app's container, its environment by names", lambda: _json(without_values(facts))),
        "docker.log": ("Docker's journal", lambda: said("journalctl", "-u", "docker", "-n", "500", "--no-pager")),
        "unit": ("the unit and how it is, without command lines", _unit),
        "df": ("disks", lambda: said("df", "-h") + said("df", "-i")),
        "free": ("memory", lambda: said("free", "-m")),
        "uname": ("the kernel", lambda: said("uname", "-a")),
    }  # fmt: skip


def _told(case: Case, ask: Callable[[Any], Any]) -> Any:
    client = case.engine.need().client.api
    with asking("telling what it has", DockerError):
        return ask(client)


def _inspected(case: Case, deadline: Deadline) -> Mapping[str, Any]:
    """What Docker knows of our container; empty where it knows none, or does not answer."""
    recorded = screen.part(case.record, "container")
    name = str(recorded.get("id") or recorded.get("name") or case.container_name)
    with suppress(Skipped, AgentError, TimeoutError):
        if not name:
            return {}
        found: Mapping[str, Any] = Task(lambda: _told(case, lambda api: api.inspect_container(name))).result(deadline)
        return found
    return {}


def without_values(facts: Mapping[str, Any]) -> dict[str, Any]:
    """*facts* of a container, its environment by names alone; no command line, no label, no log option of a key."""
    shown: dict[str, Any] = json.loads(json.dumps(facts, default=str))
    config = shown.get("Config") or {}
    for part, names in ((shown, ("Path", "Args", "ExecIDs")), (config, ("Cmd", "Entrypoint", "Labels", "Healthcheck"))):
        part.update({name: "***" for name in names if part.get(name)})
    config["Env"] = [f"{pair.partition('=')[0]}=***" for pair in config.get("Env") or ()]
    options = ((shown.get("HostConfig") or {}).get("LogConfig") or {}).get("Config") or {}
    options.update({name: "***" for name in options if SECRETIVE.search(name)})
    return shown


def _containers(case: Case) -> str:
    return _json([{key: each.get(key) for key in LISTED} for each in _told(case, lambda api: api.containers(all=True))])


def _settings(case: Case) -> str:
    launched = case.launched.need()
    return _json({"instance": launched.identity.shown(), "settings": launched.settings.shown()})


def _state(case: Case) -> str:
    """Without adf.toml, which may hold what the app's owner keeps to itself, and tags."""
    if case.state is None:
        raise Skipped("this user may not read it: sudo adf-agent doctor --collect FILE")
    return _json({name: value for name, value in asdict(case.state).items() if name not in ("manifest", "tags")})


def _log(case: Case) -> str:
    if not case.root.whole_machine:
        raise Skipped("the log of an agent below ADF_ROOT goes where it was started")
    command = logs.agent(case.root, logs.Wish(lines=str(LINES)), Path("/"), terminal=True)
    return said(*command, seconds=SECONDS)


def _unit() -> str:
    """Not `systemctl status`: it has the command lines of all processes, and a build's its arguments."""
    return said("systemctl", "show", NAME, f"--property={SHOWN}") + said("systemctl", "cat", NAME)


def _end(path: Path) -> str:
    """The end of *path*, from a line's beginning on: half a secret would not be known as one."""
    try:
        with path.open("rb") as file:
            beyond = path.stat().st_size - MOST_BYTES
            file.seek(max(0, beyond))
            whole = file.read(MOST_BYTES)
            return (whole.partition(b"\n")[2] if beyond > 0 else whole).decode(errors="replace")
    except FileNotFoundError:
        return ""


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False, default=str) + "\n"
