import contextlib
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from adf_agent import archive
from adf_agent.notation import Limits

EXAMPLES = Path(__file__).parents[1] / "examples"
NAMES = sorted(path.parent.name for path in EXAMPLES.glob("*/Dockerfile"))
# Node.js is no part of what `make setup` installs; where it is, its example runs as Python's does.
APPS = {"python": [sys.executable, "app.py"]} | ({"node": ["node", "server.js"]} if shutil.which("node") else {})
BUSYBOX = Path("/bin/busybox")


def instructions(name: str, instruction: str) -> list[str]:
    """What follows each *instruction* of an example's Dockerfile, its continued lines joined."""
    text = (EXAMPLES / name / "Dockerfile").read_text().replace("\\\n", " ")
    return re.findall(rf"^{instruction}\s+(.*)", text, re.MULTILINE)


def packed(folder: Path, path: Path, *extra: str) -> Path:
    """A tarball of *folder* at *path*, as GitHub makes it, with empty files named *extra* beside the others."""
    with tarfile.open(path, "w:gz") as tar:
        tar.add(folder, "example-1.0")
        for name in extra:
            tar.addfile(tarfile.TarInfo(f"example-1.0/{name}"))
    return path


def test_the_three_examples_are_found() -> None:
    """A renamed folder would leave every test below with nothing to test."""
    assert NAMES == ["hello", "node", "python"]


@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_a_release(name: str, tmp_path: Path) -> None:
    """A team's first release is a copy of an example: one that the agent refuses costs them the first day."""
    release = archive.inspect(packed(EXAMPLES / name, tmp_path / "v1.tar.gz"), Limits())
    probe = release.manifest.health.probe
    assert release.top == "example-1.0"
    assert probe is not None
    assert (probe.kind, probe.path) == ("http", "/health")
    assert probe.port in {port.container for port in release.manifest.container.publish}
    assert instructions(name, "EXPOSE") == [str(probe.port)]


@pytest.mark.parametrize("name", ["node", "python"])
def test_dockerignore_keeps_a_developers_leftovers_out(name: str, tmp_path: Path) -> None:
    """A laptop's dependencies in the image would hide those that the build installs."""
    leftovers = {"node": ["node_modules/a.js", "debug.log"], "python": [".venv/bin/python", "a/__pycache__/b.pyc"]}[
        name
    ]
    release = archive.inspect(packed(EXAMPLES / name, tmp_path / "v1.tar.gz", *leftovers, "kept"), Limits())
    with tarfile.open(fileobj=io.BytesIO(b"".join(archive.context(release)))) as tar:
        names = set(tar.getnames())
    assert "kept" in names
    assert not names & set(leftovers)


@pytest.mark.parametrize("name", NAMES)
def test_an_example_copies_what_it_has(name: str) -> None:
    """A COPY of a file that was renamed fails the build on every instance."""
    sources = {source for line in instructions(name, "COPY") for source in line.split()[:-1]}
    brought = {"busybox"} if name == "hello" else set()  # by adf-sandbox
    assert sources
    assert {source for source in sources if not (EXAMPLES / name / source).exists()} == brought


@pytest.mark.parametrize("name", NAMES)
def test_an_example_gives_up_root(name: str) -> None:
    """An app that runs as root turns a hole in it into a hole in the instance."""
    [user] = instructions(name, "USER")
    assert user.partition(":")[0] not in ("root", "0")


@pytest.mark.parametrize("name", ["node", "python"])
def test_a_healthcheck_is_a_command_that_docker_can_read(name: str) -> None:
    """JSON that is none is run as a shell's line, and the check fails for ever."""
    [check] = instructions(name, "HEALTHCHECK")
    program, flag, code = json.loads(check.partition("CMD")[2])
    assert (program, flag) in [("node", "-e"), ("python", "-c")]
    assert "/health" in code


@pytest.fixture(params=APPS)
def app(request: pytest.FixtureRequest) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """An example's app as a process of its own, and the port that it listens on."""
    name: str = request.param
    environment = {**os.environ, "PORT": "0", "GREETING": "Good day", "ADF_RELEASE": "v7"}
    with subprocess.Popen(
        APPS[name], cwd=EXAMPLES / name, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield process, int(process.stdout.readline().removeprefix("listening on port "))
        finally:
            process.kill()


def ask(connection: socket.socket, request: bytes) -> bytes:
    """All that comes back for *request* until the other side closes."""
    connection.sendall(request)
    return b"".join(iter(lambda: connection.recv(4096), b""))


@pytest.mark.parametrize(("path", "body"), [("/", b"Good day from v7\n"), ("/health", b"ok\n")])
def test_an_app_answers_with_its_config(app: tuple[subprocess.Popen[str], int], path: str, body: bytes) -> None:
    """An example that reads its config elsewhere teaches every app the wrong place."""
    with socket.create_connection(("127.0.0.1", app[1]), timeout=10) as connection:
        answer = ask(connection, f"GET {path} HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n".encode())
    assert b" 200 OK\r\n" in answer
    assert body in answer


def test_a_request_under_way_is_answered_after_sigterm(app: tuple[subprocess.Popen[str], int]) -> None:
    """Every deploy would break the requests of its last moment."""
    process, port = app
    with socket.create_connection(("127.0.0.1", port), timeout=10) as slow:
        slow.sendall(b"GET / HTTP/1.1\r\n")
        with socket.create_connection(("127.0.0.1", port), timeout=10) as other:  # once answered, the first is known
            assert b" 200 OK" in ask(other, b"GET /health HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n")
        process.send_signal(signal.SIGTERM)
        until_it_refuses(port)
        assert b"Good day" in ask(slow, b"Host: app\r\nConnection: close\r\n\r\n")
    assert process.wait(10) == 0


def until_it_refuses(port: int) -> None:
    """Returns once nobody listens on *port* of the loopback."""
    end = time.monotonic() + 10
    with contextlib.suppress(ConnectionRefusedError, ConnectionResetError):  # reset: caught in the act of closing
        while True:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
            assert time.monotonic() < end, "new connections are still taken"


def test_hello_stops_at_once(docker_client: docker.DockerClient, tmp_path: Path) -> None:
    """Process 1 of a container gets no SIGTERM that it does not ask for: each stop would wait for SIGKILL."""
    example = tmp_path / "hello"
    shutil.copytree(EXAMPLES / "hello", example)
    shutil.copy(BUSYBOX, example / "busybox")
    image, _ = docker_client.images.build(path=str(example), rm=True)
    try:
        container = docker_client.containers.run(image.id, detach=True, network_mode="none", read_only=True)
        try:
            until_it_listens(container)
            began = time.monotonic()
            container.stop(timeout=60)
            assert time.monotonic() - began < 10
            assert container.wait()["StatusCode"] == 0
        finally:
            container.remove(force=True)
    finally:
        docker_client.images.remove(image.id)


def until_it_listens(container: docker.models.containers.Container) -> None:
    """Returns once the app answers inside *container*."""
    asked = ["/bin/busybox", "wget", "-q", "-O", "-", "http://127.0.0.1:8000/health"]
    end = time.monotonic() + 10
    while container.exec_run(asked).output != b"ok\n":
        assert time.monotonic() < end, container.logs()
