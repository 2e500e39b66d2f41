"""An instance to boot: the real command, the real engine, AWS on loopback."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.errors import APIError
from web import Web

from adf_agent.sandbox.cloud import Cloud

BASE = f"adf-test/base:{os.getpid()}"  # of its own, as two runs may share an engine
BASE_DOCKERFILE = 'FROM scratch\nCOPY busybox /bin/busybox\nRUN ["/bin/busybox", "--install", "-s", "/bin"]\n'
SERVE = 'CMD ["/bin/httpd", "-f", "-p", "8000", "-h", "/www"]'
DOCKERFILE = f"FROM {BASE}\nCOPY www /www\nEXPOSE 8000\nSTOPSIGNAL SIGKILL\n{SERVE}\n"
Files = Mapping[str, str | bytes]


def tarball(files: Files) -> bytes:
    """A tar with gzip of *files*, name → content."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as tar:
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o755
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def app(page: str = "hello", **files: str) -> Files:
    """A release that serves *page* on port 8000; *files* replace or add to it (`adf_toml`: adf.toml)."""
    more = {name.replace("_", "."): text for name, text in files.items()}
    return {"Dockerfile": DOCKERFILE, "www/index.html": page, **more}


@dataclass(frozen=True)
class Booted:
    """What a command of the agent came to."""

    code: int
    status: Mapping[str, Any]
    log: str
    out: str

    @property
    def error(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.status["error"]
        return found


@dataclass(frozen=True)
class Daemon:
    """An `adf-agent run` that was started on *machine*."""

    machine: "Machine"
    process: "subprocess.Popen[bytes]"

    def until(self, condition: Callable[[], object], what: str, seconds: float = 30.0) -> None:
        """Waits until *condition* holds; fails with the agent's log where it does not, or the agent ends before."""
        deadline = time.monotonic() + seconds
        while not condition():
            ended = self.process.poll() is not None and not condition()
            if ended or time.monotonic() > deadline:
                pytest.fail(f"{'the agent ended' if ended else f'{seconds} s'} before {what}:\n{self.log()}")
            time.sleep(0.02)

    def reach(self, phase: str, seconds: float = 30.0) -> None:
        """Waits until this agent's record says *phase*."""

        def reached() -> bool:
            status = self.machine.status()
            return status.get("phase") == phase and status["agent"]["pid"] == self.process.pid

        self.until(reached, phase, seconds)

    def end(self, number: int = signal.SIGTERM, seconds: float = 40.0) -> int:
        """Signals it and returns its exit code."""
        self.process.send_signal(number)
        return self.ended(seconds)

    def ended(self, seconds: float = 40.0) -> int:
        """Its exit code, waited for."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            pytest.fail(f"the agent goes on:\n{self.log()}")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def log(self) -> str:
        """What it and its predecessors logged."""
        return (self.machine.root / "agent.log").read_text()

    def events(self, name: str) -> list[dict[str, Any]]:
        """The events of this name in the log, oldest first."""
        lines = (json.loads(line) for line in self.log().splitlines() if line.startswith("{"))
        return [line for line in lines if line["event"] == name]


@dataclass
class Machine:
    """An instance with its own folders; the agent there is run by *command*, in *environment*."""

    cloud: Cloud
    web: Web
    engine: docker.DockerClient
    root: Path
    environment: dict[str, str] = field(default_factory=dict)
    closing: list[Callable[[], object]] = field(default_factory=list)
    command: tuple[str, ...] = (sys.executable, "-m", "adf_agent")

    def user_data(self, **settings: object) -> None:
        """Launches it anew with these settings in its user-data, published on loopback unless they say otherwise."""
        lines = {"ADF_PUBLISH_ADDRESS": "127.0.0.1", **settings}
        self.cloud.imds.instance.user_data = "".join(f"{key}={value}\n" for key, value in lines.items()).encode()

    def agent_env(self, **settings: object) -> None:
        folder = self.root / "etc/adf-agent"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "agent.env").write_text("".join(f"{key}={value}\n" for key, value in settings.items()))

    def release(self, files: Files, name: str = "v1.tar.gz") -> str:
        """A release of *files*; returns its file:// URL."""
        path = self.root / name
        path.write_bytes(tarball(files))
        return f"file://{path}"

    def start(self, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [*self.command, *arguments],
            env={**os.environ, **self.environment, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def daemon(self, program: str = "", **environment: str) -> "Daemon":
        """Starts `adf-agent run`, by a *program* of Python's if given; after the test it is killed, if still there."""
        command = [sys.executable, "-c", program] if program else [*self.command, "run"]
        with (self.root / "agent.log").open("a") as log:
            process = subprocess.Popen(
                command,
                env={**os.environ, **self.environment, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        daemon = Daemon(self, process)
        self.closing.append(daemon.kill)
        return daemon

    def run(self, *arguments: str, **environment: str) -> Booted:
        """Runs `adf-agent ARGUMENTS…` to its end."""
        with self.start(*arguments, **environment) as process:
            try:
                out, log = process.communicate(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        return Booted(process.returncode, self.status(), log, out)

    def boot(self, **settings: object) -> Booted:
        """Launches and boots."""
        self.user_data(**settings)
        return self.run("boot")

    def status(self) -> Mapping[str, Any]:
        path = self.root / "run/adf-agent/status.json"
        found: Mapping[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        return found

    def state(self) -> Mapping[str, Any]:
        path = self.root / "var/lib/adf-agent/state.json"
        found: Mapping[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        return found

    def containers(self) -> list[Any]:
        """Every container of this instance's agent, running or not."""
        label = f"adf.instance={self.cloud.imds.instance.instance_id}"
        found: list[Any] = self.engine.containers.list(all=True, ignore_removed=True, filters={"label": label})
        return found

    def clean(self) -> None:
        for close in self.closing:
            close()
        for container in self.containers():
            container.remove(force=True, v=True)
        path = self.root / "var/lib/adf-agent/state.json"
        for image in json.loads(path.read_text())["images"] if path.exists() else []:
            try:
                self.engine.images.remove(image)
            except APIError as error:  # gone by the test itself, or another test runs by it
                if error.status_code not in (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT):
                    raise


@pytest.fixture(scope="session")
def base_image(docker_client: docker.DockerClient) -> Iterator[str]:
    """A base image with busybox and its applets, as no registry can be reached."""
    files = tarball({"Dockerfile": BASE_DOCKERFILE, "busybox": Path("/bin/busybox").read_bytes()})
    docker_client.images.build(
        fileobj=io.BytesIO(files), custom_context=True, encoding="gzip", tag=BASE, rm=True, forcerm=True
    )
    yield BASE
    docker_client.images.remove(BASE, force=True)


@pytest.fixture
def web() -> Iterator[Web]:
    with Web() as server:
        yield server


@pytest.fixture
def machine(
    cloud: Cloud, web: Web, docker_client: docker.DockerClient, base_image: str, tmp_path: Path
) -> Iterator[Machine]:
    """An instance that never booted; containers and images of its agent are gone after the test."""
    assert base_image
    environment = {**cloud.environment(), "ADF_ROOT": str(tmp_path)}
    # Containers that many tests leave and look for are told apart by the instance's id.
    cloud.imds.instance.instance_id = f"i-{os.urandom(8).hex()}"
    made = Machine(cloud, web, docker_client, tmp_path, environment)
    yield made
    made.clean()
