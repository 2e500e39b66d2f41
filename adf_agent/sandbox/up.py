"""`adf-sandbox up`: a fleet and its AWS, served to a shell until somebody stops it."""

import os
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

from adf_agent.deadline import Deadline
from adf_agent.errors import AgentError
from adf_agent.root import Root
from adf_agent.sandbox import hello, isolation, machine
from adf_agent.sandbox.cloud import Cloud
from adf_agent.sandbox.control import Control
from adf_agent.sandbox.fleet import NAME, Fleet, configure, deliver, user_data
from adf_agent.sandbox.imds import Instance
from adf_agent.sandbox.pool import Pool

BOOT_SECONDS = 300.0
PAGE = "www/cgi-bin/index.cgi"  # what differs from one release to the next


def run(
    size: int,
    given: Path | None,
    tags: dict[str, str] | None,
    ports: tuple[int, int],
    before: Mapping[str, str],
    stop: threading.Event,
) -> None:
    """Prints lines for a shell's eval; returns once *stop* is set, or `adf-sandbox down` was typed, and all is gone.

    *size* instances of the group; beside it one to boot by hand, with the user-data in the file *given* and *tags*.
    *ports* are of AWS and of that one's metadata, 0 is any; *before* is the shell's environment. Raises AgentError.
    """
    _check_readable(given)
    instance = machine.instance(given, tags)
    cloud = _cloud(instance, ports)
    client = machine.engine() if size else None
    removed: list[str] = []
    with ExitStack() as stack:
        root = stack.enter_context(machine.folder())
        stack.enter_context(cloud)
        machine.furnish(cloud)
        fleet = Fleet(cloud, root, client)
        stack.callback(lambda: removed.extend(fleet.removed))
        stack.enter_context(fleet)
        cloud.front.control = Control(fleet, stop)
        pool = _group(fleet, size, root) if size else None
        if pool:
            _explain(f"{size} instances of the group {NAME} boot …")
            fleet.wait(pool, Deadline(BOOT_SECONDS, stop))
        print(isolation.shell(machine.environment(cloud, root) | _named(pool), before), flush=True)
        # At its end a shell's $( ) goes on, with this process in the background.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _explain(*_lines(cloud, pool, size))
        stop.wait()
        removed += _clear(instance.instance_id, root)
    _explain(f"removed {', '.join([*removed, str(root)])}; AWS and metadata are gone")


def _explain(*lines: str) -> None:
    """To standard error: standard output is for a shell's eval."""
    print(f"adf-sandbox: {lines[0]}", *lines[1:], sep="\n", file=sys.stderr, flush=True)


def _check_readable(path: Path | None) -> None:
    try:
        if path:
            path.read_bytes()
    except OSError as error:
        raise AgentError(f"{path} can't be read: {error.strerror}") from error


def _cloud(instance: Instance, ports: tuple[int, int]) -> Cloud:
    for port in ports:
        try:
            socket.create_server(("127.0.0.1", port)).close()  # moto's server would wait for ever
        except (OSError, OverflowError) as error:
            raise AgentError(f"port {port} of 127.0.0.1 can't be had: {error}", hint="Choose another one.") from error
    return Cloud(instance, port=ports[0], imds_port=ports[1])


def _group(fleet: Fleet, size: int, folder: Path) -> Pool:
    """The group of *size* instances of v1, and v2 beside it in the bucket, to be rolled out."""
    again = (hello.folder() / PAGE).read_text().replace("says", "tells you")
    first, _ = (
        deliver(fleet.cloud, path, hello.pack(path, changed))
        for path, changed in ((folder / "v1.tar.gz", {}), (folder / "v2.tar.gz", {PAGE: again}))
    )
    configure(fleet.cloud)
    return fleet.group(user_data(first), size)


def _named(pool: Pool | None) -> dict[str, str]:
    """What makes the group's app the shell's, and where it is served."""
    return {"ADF_APP": NAME, "FLEET": pool.url} if pool else {}


def _lines(cloud: Cloud, pool: Pool | None, size: int) -> Iterator[str]:
    yield f"AWS on {cloud.endpoint}; in it: the bucket {machine.BUCKET}, the KMS key {machine.KEY}"
    if pool:
        yield f"  {size} instances of the group {NAME} serve v1 on {pool.url} ($FLEET)"
        yield f"  to roll: adf-roll start {NAME} s3://{machine.BUCKET}/v2.tar.gz; to break: adf-sandbox fault --help"
    else:
        yield f"  instance {cloud.imds.instance.instance_id}, its metadata on {cloud.imds.endpoint}"
    yield f"  until: adf-sandbox down, Ctrl-C, or kill {os.getpid()}"


def _clear(instance_id: str, root: Path) -> list[str]:
    """What an agent that was started by hand has left in Docker; names."""
    folders = Root(root)
    if not folders.var.exists():  # none was: Docker holds nothing, and may not even be there
        return []
    return machine.clear(machine.engine(), instance_id, folders)
