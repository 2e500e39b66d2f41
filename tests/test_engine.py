import http.client
import json
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import docker
import pytest
import requests
import urllib3
from conftest import Unprivileged
from docker.errors import APIError, DockerException

from adf_agent import engine
from adf_agent.deadline import Deadline
from adf_agent.errors import ContainerError, DockerError

CONNECT = """
import json, os, sys, threading, docker
from adf_agent import engine
from adf_agent.deadline import Deadline
from adf_agent.errors import DockerError
try:
    engine.connect(lambda timeout: docker.from_env(timeout=0.3), Deadline(1, threading.Event()))
except DockerError as error:
    print(json.dumps([error.sentence, error.hint, error.transient, error.exit_code]))
"""


def absent(path: Path) -> None:
    """No socket: Docker is not up yet."""
    assert not path.exists()


def denied(path: Path) -> None:
    """A socket that only its owner may use."""
    hung(path)
    path.chmod(0)


def hung(path: Path) -> None:
    """A socket that takes connections and says nothing."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(64)
    path.chmod(0o777)
    OPEN.append(listener)


def refusing(path: Path) -> None:
    """A socket that nobody listens on: Docker has ended."""
    hung(path)
    OPEN.pop().close()


OPEN: list[socket.socket] = []


@pytest.mark.parametrize(
    ("prepare", "says", "code"),
    [
        (absent, "does not answer", 75),
        (refusing, "does not answer", 75),
        (hung, "does not answer", 75),
        (denied, "may not use Docker", 11),
    ],
)
def test_what_may_pass_is_waited_for_and_what_may_not_is_said_at_once(
    unprivileged: Unprivileged, prepare: Callable[[Path], None], says: str, code: int
) -> None:
    """A boot given up before Docker's socket was there, or one that waits for a right that it will never have."""
    path = unprivileged.folder / "docker.sock"
    prepare(path)
    process = unprivileged("-c", CONNECT, env={"DOCKER_HOST": f"unix://{path}"})
    out, log = process.communicate(timeout=60)
    for listener in OPEN:
        listener.close()
    OPEN.clear()
    sentence, hint, transient, exit_code = json.loads(out.splitlines()[-1])
    assert says in sentence, log
    assert str(path) in sentence, "which Docker is meant"
    assert hint
    assert (transient, exit_code) == (code == 75, code)


@pytest.mark.parametrize("host", ["ftp://127.0.0.1", "tcp://127.0.0.1:port"])
def test_an_address_that_is_none_is_not_waited_for(unprivileged: Unprivileged, host: str) -> None:
    """A quarter of an hour spent on a typo in DOCKER_HOST."""
    out, log = unprivileged("-c", CONNECT, env={"DOCKER_HOST": host}).communicate(timeout=60)
    sentence, hint, transient, _ = json.loads(out.splitlines()[-1])
    assert (transient, "DOCKER_HOST" in hint) == (False, True), log
    assert "can't be used" in sentence


def test_an_engine_that_answers_is_described(docker_client: docker.DockerClient) -> None:
    """A disk that fills up as free space was measured elsewhere than where the engine has its data."""
    reached = engine.connect(lambda timeout: docker.from_env(timeout=timeout), Deadline(10, threading.Event()))
    facts = docker_client.info()
    assert (reached.version, str(reached.folder)) == (facts["ServerVersion"], facts["DockerRootDir"])
    assert reached.client.api.timeout == engine.CALL_SECONDS, "longer than what an answer to a ping may take"
    assert reached.version in reached.fact
    reached.client.close()


def command(folder: Path, script: str) -> Path:
    """A docker command in *folder* that runs *script*."""
    folder.mkdir(exist_ok=True)
    path = folder / "docker"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def client(version: str, buildx: str = "exit 1") -> str:
    return f'case "$1" in --version) echo "Docker version {version}, build 1";; buildx) {buildx};; *) exit 1;; esac'


BUILDX = "echo github.com/docker/buildx v0.13.1"


@pytest.mark.parametrize(
    ("script", "builds"),
    [
        pytest.param(client("18.09.9"), False, id="too old"),
        pytest.param(client("19.03.0"), True, id="the first with BuildKit in itself"),
        pytest.param(client("20.10.24+dfsg1"), True, id="Debian 12"),
        pytest.param(client("23.0.1"), False, id="new, without the plug-in"),
        pytest.param(client("28.2.2", BUILDX), True, id="new, with the plug-in"),
        pytest.param(client("podman", BUILDX), True, id="a version that says nothing"),
        pytest.param(client("28.2.2", "echo usage; exit 1"), False, id="help in place of the plug-in"),
        pytest.param("exit 127", False, id="broken"),
        pytest.param("kill -9 $$", False, id="killed"),
    ],
)
def test_a_docker_command_without_buildkit_is_passed_over(tmp_path: Path, script: str, builds: bool) -> None:
    """A build that fails at `RUN --mount` though a docker command that can do it is installed beside the other one."""
    fake = command(tmp_path / "fake", script)
    other = command(tmp_path / "other", client("20.10.5"))
    found = engine.find_buildkit(f"{fake.parent}{os.pathsep}{other.parent}")
    assert found == (fake if builds else other)


def test_what_is_no_command_is_passed_over(tmp_path: Path) -> None:
    """A crash of the agent over an empty, relative or odd PATH."""
    odd = tmp_path / "odd"
    command(odd, client("20.10.5")).chmod(0o644)
    (tmp_path / "folder" / "docker").mkdir(parents=True)
    machines = engine.find_buildkit("")
    path = os.pathsep.join(["", str(tmp_path / "none"), str(odd), str(tmp_path / "folder"), ""])
    assert engine.find_buildkit(path) == machines
    unreadable = command(tmp_path / "unreadable", "")
    unreadable.write_bytes(b"\x7fELF no program of this machine's")
    assert engine.find_buildkit(str(unreadable.parent)) == machines


def refused(status: int, said: str = "") -> APIError:
    response = requests.Response()
    response.status_code = status
    return APIError("refused", response, explanation=said)


@pytest.mark.parametrize(
    ("error", "says", "transient"),
    [
        (refused(400, "no space left"), "Docker failed at starting adf-app: no space left", False),
        (refused(500, "no space left"), "Docker failed at starting adf-app: no space left", False),
        (refused(500, "toomanyrequests: slow down"), "Docker failed at starting adf-app: toomanyrequests", True),
        (refused(502), "Docker failed at starting adf-app: 502 Server Error", True),
        (requests.exceptions.ReadTimeout(), "Docker did not answer starting adf-app", True),
        (urllib3.exceptions.ProtocolError(), "Docker did not answer starting adf-app", True),
        (http.client.IncompleteRead(b""), "Docker did not answer starting adf-app", True),
        (DockerException("no credentials"), "Docker's SDK failed at starting adf-app: no credentials", False),
        (KeyError("Id"), "what answered starting adf-app is not Docker", True),
    ],
)
def test_what_docker_says_is_passed_on(error: Exception, says: str, transient: bool) -> None:
    """`500 Server Error` where Docker had said that the disk is full; a crash where an answer broke off."""
    with pytest.raises(ContainerError) as caught, engine.asking("starting adf-app", ContainerError):
        raise error
    assert caught.value.sentence.startswith(says)
    assert (caught.value.cause, caught.value.transient) == ("host", transient)
    assert caught.value.hint, "an error says what to do next"


@pytest.mark.parametrize(("status", "code"), [(403, 11), (429, 75), (500, 75)])
def test_an_engine_that_refuses_is_not_waited_for(status: int, code: int) -> None:
    """A quarter of an hour of `does not answer`, while it answers that a plug-in of its own does not let us in."""

    def refuse(_: float) -> None:
        try:
            raise refused(status, "authorization denied by plugin rules")
        except APIError as error:
            raise DockerException("Error while fetching server API version") from error  # as the SDK has it

    with pytest.raises(DockerError) as caught:
        engine.connect(refuse, Deadline(0, threading.Event()))
    assert caught.value.exit_code == code
    assert ("authorization denied by plugin rules" in caught.value.sentence) is (code == 11)


@pytest.mark.parametrize(
    ("said", "may_pass"),
    [
        ("toomanyrequests: You have reached your pull rate limit", True),
        ("received unexpected HTTP status: 503 Service Unavailable", True),
        ("dial tcp: lookup registry on 10.0.0.2:53: no such host", True),
        ("net/http: TLS handshake timeout", True),
        ("dial tcp 127.0.0.1:5000: connect: connection refused", True),
        ("manifest for web:v9 not found: manifest unknown", False),
        ("pull access denied for web, repository does not exist", False),
        ("blob sha256:5029 is not there", False),
    ],
)
def test_what_a_registry_says_tells_a_hiccup_from_an_end(said: str, may_pass: bool) -> None:
    """An instance lost to Docker Hub's rate limit; a quarter of an hour spent on a tag that is not there."""
    assert engine.passing(said) is may_pass


@pytest.mark.parametrize(
    ("config", "known"),
    [
        ({"auths": {"a": {"auth": "bWU6cGFzc3dvcmQ="}, "b": {"identitytoken": "token"}}}, {"password", "token"}),
        ({"auths": {"a": {"auth": None}, "b": {"auth": 7}, "c": 7, "d": None, "e": {"password": "kept"}}}, {"kept"}),
        ({"auths": {"a": {"auth": "no base64"}, "b": {"auth": "/////w=="}, "c": {"password": "kept"}}}, {"kept"}),
        ({"auths": None}, set()),
        ({"auths": [{"auth": "x"}]}, set()),
        ({"auths": 7}, set()),
        (None, set()),
        (["auths"], set()),
    ],
)
def test_the_logins_for_registries_are_known_whatever_else_the_file_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: object, known: set[str]
) -> None:
    """A boot that ends before it began, as Docker's own file has an entry without a login."""
    monkeypatch.delenv("DOCKER_CONFIG", raising=False)
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert {*engine.logins(tmp_path)} - {""} >= known
    assert {each for each in engine.logins(tmp_path) if each in {"password", "token", "kept"}} == known
