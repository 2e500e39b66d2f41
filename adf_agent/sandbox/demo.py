"""One instance from nothing to "Hello World": the real agent on the real engine, with AWS on loopback."""

import hashlib
import http.client
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from typing import Any

from adf_agent.background import Task
from adf_agent.deadline import Deadline
from adf_agent.errors import AgentError
from adf_agent.root import Root
from adf_agent.sandbox import machine
from adf_agent.sandbox.cloud import Cloud

APP, RELEASE, TABLE = "hello", "v1", "adf-config"
CONFIG = {"GREETING": "Hello", "NAME": "World"}
ARTICLE_SECONDS = 108  # "Software Delivery via Amazon Docker Work Flow", 2013: from nothing to "Hello World"
BOOT_SECONDS = 960.0  # ADF_BOOT_TIMEOUT's default and a minute: the agent gives up before we do
STOP_SECONDS = 30.0  # for an agent that was told to stop: it takes back its build and its container
ANSWER_SECONDS = 10.0
Environment = Mapping[str, str]


def hello() -> Path:
    """examples/hello, as the wheel carries it."""
    return Path(str(resources.files("adf_agent.sandbox") / "hello"))


def run(example: Path, stop: threading.Event, began: float) -> int:
    """Boots the release in the folder *example*, prints how it went, and takes everything away again.

    Returns the agent's exit code. *began* is when there was nothing yet (monotonic). Raises AgentError, Stopped.
    """
    deadline, client, busybox = Deadline(BOOT_SECONDS, stop), machine.engine(), static_busybox()
    with ExitStack() as stack:
        stack.callback(client.close)
        removed: list[str] = []
        stack.callback(lambda: _say("removed", ", ".join([*removed, "the emulated AWS and every file"])))
        folder = stack.enter_context(machine.folder())
        cloud = stack.enter_context(Cloud(machine.instance(tags={"Name": APP})))
        web = stack.enter_context(served(folder))
        _say("AWS", "DynamoDB and instance metadata (IMDSv2), emulated on 127.0.0.1")
        digest = pack(example, busybox, folder / f"{RELEASE}.tar.gz")
        _say("release", f"{RELEASE}.tar.gz: {example.name}/ and this machine's busybox, served on 127.0.0.1")
        configure(cloud.client("dynamodb"))
        _say("config", f"{' and '.join(CONFIG)} of the app {APP}, in the table {TABLE}")
        port = free_port()
        user_data = launch(f"{web}/{RELEASE}.tar.gz#sha256={digest}", port)
        cloud.imds.instance.user_data = user_data.encode()
        _say("instance", f"{cloud.imds.instance.instance_id}, launched with this user-data:")
        _show("", *(f"    {line}" for line in user_data.splitlines()), "")
        deadline.check()
        root = Root(folder / "root")
        stack.callback(lambda: removed.extend(machine.clear(client, cloud.imds.instance.instance_id, root)))
        code, answer = _boot(cloud, folder, port, deadline, began)
    if code == 0:
        _show(answer)
    return code


def _say(what: str, text: str) -> None:
    _show(f"{what:<9} {text}")


def _show(*lines: str) -> None:
    print(*lines, sep="\n", flush=True)


def static_busybox() -> Path:
    """This machine's busybox, with no library to load at its start. Raises AgentError."""
    found = shutil.which("busybox")
    # ldd (1) fails for a file that needs no library.
    if not found or subprocess.run(["ldd", found], capture_output=True, check=False).returncode == 0:
        raise AgentError(
            "the demo's release is made of a static busybox, and this machine has none",
            hint="Install it: apt-get install busybox-static",
        )
    return Path(found).resolve()


def pack(example: Path, busybox: Path, path: Path) -> str:
    """Makes *path* the release's tarball, of *example* and *busybox* in one top folder; returns its SHA-256."""

    def ours(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.mode = 0o755
        # To a fraction of a second: each demo's digest, and with it the image, is its own to remove.
        member.mtime = time.time()
        return member

    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        archive.add(example, RELEASE, filter=ours)
        archive.add(busybox, f"{RELEASE}/busybox", filter=ours)
    return hashlib.sha256(path.read_bytes()).hexdigest()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nothing: the agent says what it fetched."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The URL under which the files of *folder* can be had, on loopback, for as long as the context lasts."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,)).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def configure(dynamodb: Any) -> None:
    """The config table with the app's keys, as the operator would have made them."""
    dynamodb.create_table(
        TableName=TABLE,
        KeySchema=[{"AttributeName": "App", "KeyType": "HASH"}, {"AttributeName": "Name", "KeyType": "RANGE"}],
        AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in ("App", "Name")],
        BillingMode="PAY_PER_REQUEST",
    )
    for name, value in CONFIG.items():
        item = {"App": APP, "Name": name, "Value": value}
        dynamodb.put_item(TableName=TABLE, Item={key: {"S": text} for key, text in item.items()})


def free_port() -> int:
    """A TCP port of the loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def launch(url: str, port: int) -> str:
    """The user-data of the instance: all that it is told."""
    return f"RELEASE_URL={url}\nADF_APP={APP}\nADF_PUBLISH={port}:8000\nADF_PUBLISH_ADDRESS=127.0.0.1\n"


def _boot(cloud: Cloud, folder: Path, port: int, deadline: Deadline, began: float) -> tuple[int, str]:
    """The exit code of the agent, and the app's answer; "" where it failed."""
    environment = {**os.environ, **machine.environment(cloud, folder / "root")}
    log, booting = folder / "agent.log", time.monotonic()
    _say("boot", "adf-agent boot\n")
    code = boot(environment, log, deadline)
    booted = time.monotonic() - booting
    answer = ask(port) if code == 0 else ""
    answered = time.monotonic() - began
    subprocess.run(_agent("status"), env=environment, check=False)
    if code == 0:
        _show("")
        _say("answered", f"{answered:.1f} s after there was nothing; the boot was {booted:.1f} s of it")
        _say("", f"(the article of 2013, on EC2: {ARTICLE_SECONDS} s)")
    else:
        _show("\nThe agent's log:", log.read_text(errors="replace"))
    return code, answer


def _agent(command: str) -> list[str]:
    return [sys.executable, "-P", "-m", "adf_agent", command]  # -P: not what the current folder may hold


def boot(environment: Environment, log: Path, deadline: Deadline) -> int:
    """The exit code of `adf-agent boot`, its output in the file *log*. Raises Stopped, with the agent stopped."""
    with log.open("wb") as file:
        # A session of its own: a Ctrl-C is for the demo, which passes it on once.
        process = subprocess.Popen(_agent("boot"), env=environment, stdout=file, stderr=file, start_new_session=True)
        try:
            return Task(process.wait).result(deadline)
        except TimeoutError as error:
            raise AgentError(f"adf-agent boot did not end within {deadline.seconds:.0f} s") from error
        finally:
            _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def ask(port: int) -> str:
    """What the app on *port* of the loopback answers to `GET /`. Raises AgentError."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_SECONDS)
    try:
        connection.request("GET", "/")
        return connection.getresponse().read().decode().strip()
    except (OSError, http.client.HTTPException) as error:
        raise AgentError(f"the app on port {port} was healthy, but did not answer: {error}") from error
    finally:
        connection.close()
