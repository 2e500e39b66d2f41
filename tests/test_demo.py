"""What newcomers type: the demo and a sandbox."""

import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import boto3
import docker
import pytest
import requests
from botocore.exceptions import ClientError
from docker.errors import NotFound
from test_boot import free_port

from adf_agent.root import Root
from adf_agent.sandbox import demo, hello, isolation

SANDBOX = [str(Path(sys.executable).with_name("adf-sandbox"))]
# A session of somebody who works with the real AWS, behind a proxy that is not there.
OPERATOR = {
    "AWS_PROFILE": "production",
    "AWS_ACCESS_KEY_ID": "AKIAPRODUCTION",
    "AWS_ENDPOINT_URL_DYNAMODB": "http://127.0.0.1:9",
    "HTTP_PROXY": "http://127.0.0.1:9",
    "http_proxy": "http://127.0.0.1:9",
}


@contextmanager
def started(*command: str, tmp: Path, env: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """*command* with its temporary files below *tmp*; killed where it still runs at the end."""
    with subprocess.Popen(
        command,
        env={**os.environ, "TMPDIR": str(tmp), **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def ran(*command: str, tmp: Path, env: Mapping[str, str] | None = None) -> tuple[int, str, str]:
    """Exit code, standard output and error of *command*, run to its end."""
    with started(*command, tmp=tmp, env=env) as process:
        out, err = process.communicate(timeout=120)
        return process.returncode, out, err


def processes(tmp: Path) -> list[str]:
    """The processes that were started with *tmp* for their temporary files, and by those."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"TMPDIR={tmp}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append((folder / "cmdline").read_text())
        except OSError:  # gone meanwhile, or another user's
            continue
    return found


def left(client: docker.DockerClient) -> set[str]:
    """Containers and images that are of the app hello: no other test has those."""
    containers = client.containers.list(all=True, ignore_removed=True)  # others' too, which come and go
    found = {each.name for each in containers if "/serve" in (each.attrs["Config"]["Cmd"] or ())}
    for each in client.api.images():
        with suppress(NotFound):
            facts = client.api.inspect_image(each["Id"])
            found |= {*(facts["RepoTags"] or ())} if "/serve" in (facts["Config"]["Cmd"] or ()) else set()
    return found


@pytest.fixture
def nothing_left(docker_client: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for a sandbox's files: at the end nothing is left of it, and no process, container or image.

    One at a time, whichever of the test processes has it: the app is the same in all of them.
    """
    with (tmp_path_factory.getbasetemp().parent / "hello.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = left(docker_client)
        with TemporaryDirectory(prefix="adf-") as name:  # short: a socket's path has 108 bytes
            folder = Path(name)
            yield folder
            assert [*map(str, folder.iterdir()), *processes(folder)] == []
        until(lambda: left(docker_client) <= before, "nothing is left in Docker")  # another file's app may end yet


def found(pattern: str, text: str) -> str:
    """The first match of *pattern* in *text*, which has one."""
    match = re.search(pattern, text)
    assert match, text
    return match[0]


def test_the_demo_rolls_a_fleet_and_loses_no_request(nothing_left: Path) -> None:
    """The first thing that a newcomer runs: it fails behind their proxy, or loses what it promises to keep."""
    code, out, err = ran(*SANDBOX, "demo", tmp=nothing_left, env=OPERATOR)
    assert code == 0, out + err
    served = re.fullmatch(r"(\d+) requests served, 0 failed", out.splitlines()[-1])
    assert served, out
    assert int(served[1]) > 100
    assert re.search(r"^answered  \d+ times: Hello World, says v1$", out, re.MULTILINE)
    assert re.search(r"^answered  \d+ times: Hello Everybody, tells you v2$", out, re.MULTILINE)
    assert float(found(r"(?<=serving   )[\d.]+", out)) < demo.ARTICLE_SECONDS
    assert "image adf/release:" in found("removed .*", out)


def test_a_broken_release_is_rolled_back_and_says_why(nothing_left: Path) -> None:
    """A demo that just says `failed` sends its user away; a canary that takes the fleet with it sends all away."""
    code, out, _ = ran(*SANDBOX, "demo", "--broken", "--instances", "2", tmp=nothing_left)
    assert code == 1, out
    assert "DATABASE_URL is not set" in out
    assert re.fullmatch(r"\d+ requests served, 0 failed", out.splitlines()[-1]), out
    assert not re.search(r"^answered .*v2$", out, re.MULTILINE)


def test_two_releases_of_the_demo_are_not_the_same_image(tmp_path: Path) -> None:
    """Two sandboxes at once on one engine: the first to end would take the other's image away."""
    assert len({hello.pack(tmp_path / "v1.tar.gz", {}) for _ in range(2)}) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_demo_cut_short_leaves_nothing(nothing_left: Path, number: signal.Signals) -> None:
    """Ctrl-C in the middle of a boot: a build, a container and a server would go on behind the prompt."""
    with started(*SANDBOX, "demo", "--instances", "1", tmp=nothing_left) as process:
        assert process.stdout is not None
        out = ""
        while "RELEASE_URL=" not in out.rpartition("fleet")[2]:
            out += (line := process.stdout.readline())
            assert line, out
        process.send_signal(number)
        rest, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopped" in err
    assert found("removed .*", rest)


@pytest.mark.parametrize(
    ("env", "code", "sentence"),
    [
        ({"DOCKER_HOST": "unix:///nowhere"}, 11, "no Docker engine answers this user at unix:///nowhere"),
        ({"PATH": "/nowhere"}, 1, "is made of a static busybox, and this machine has none"),
    ],
    ids=["no engine", "no busybox"],
)
@pytest.mark.usefixtures("docker_client")
def test_what_the_demo_needs_and_lacks_is_one_sentence(
    tmp_path: Path, env: dict[str, str], code: int, sentence: str
) -> None:
    """Nobody reads a traceback of a program that they have known for a minute."""
    got, out, err = ran(*SANDBOX, "demo", tmp=tmp_path, env=env)
    assert (got, out) == (code, "")
    assert sentence in err.splitlines()[0]
    assert len(err.splitlines()) == 2
    assert list(tmp_path.iterdir()) == []


@contextmanager
def up(tmp: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """`adf-sandbox up`, and the environment of an operator's shell that has evaluated what it printed."""
    with started(*SANDBOX, "up", *(options or ["--instances", "0"]), tmp=tmp, env=OPERATOR) as process:
        assert process.stdout is not None
        exports = process.stdout.read()  # to its end: eval "$(adf-sandbox up &)" must not wait for more
        shell = subprocess.run(
            ["sh", "-c", 'eval "$1"; env -0', "sh", exports],
            env={**os.environ, **OPERATOR},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        yield process, dict(line.split("=", 1) for line in shell.stdout.split("\0") if line)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_up_serves_until_it_is_stopped(tmp_path: Path, number: signal.Signals) -> None:
    """A sandbox that can't be stopped cleanly leaves a server that the next one's port collides with."""
    with up(tmp_path) as (process, environment):
        root = Path(environment["ADF_ROOT"])
        assert root.is_dir()
        process.send_signal(number)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 0
    assert err.splitlines()[-1] == f"adf-sandbox: removed {root}; AWS and metadata are gone"
    assert list(tmp_path.iterdir()) == []
    for name in ("AWS_ENDPOINT_URL", "AWS_EC2_METADATA_SERVICE_ENDPOINT"):
        host, port = environment[name].removeprefix("http://").split(":")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, int(port)), timeout=5)


def test_boto3_in_ups_environment_speaks_to_the_sandbox(tmp_path: Path) -> None:
    """An operator with keys and a profile in the shell would try things out on the real AWS."""
    code = """
import boto3
print(boto3.client("dynamodb").list_tables()["TableNames"], boto3.Session().get_credentials().method)
"""
    with up(tmp_path) as (_, environment):
        said = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
        )
    assert (said.stdout, said.stderr) == ("[] iam-role\n", "")


def test_ups_metadata_takes_the_handshake_and_knows_user_data_and_tags(tmp_path: Path) -> None:
    """What works against a lenient service fails on EC2, where IMDSv2 is required."""
    (tmp_path / "user-data").write_text("RELEASE_URL=https://example.com/v1.tar.gz\n")
    options = ("--user-data", str(tmp_path / "user-data"), "--tag", "ADF_APP=web", "--tag", "Name=a=b")
    with up(tmp_path, *options) as (_, environment):
        latest = environment["AWS_EC2_METADATA_SERVICE_ENDPOINT"] + "/latest"
        assert requests.get(f"{latest}/user-data", timeout=5).status_code == 401
        lifetime = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
        token = {"X-aws-ec2-metadata-token": requests.put(f"{latest}/api/token", headers=lifetime, timeout=5).text}
        told = [
            requests.get(f"{latest}/{path}", headers=token, timeout=5).text
            for path in ("user-data", "meta-data/tags/instance/ADF_APP", "meta-data/tags/instance/Name")
        ]
        session, endpoint = boto3.Session("any", "any", region_name="eu-west-1"), environment["AWS_ENDPOINT_URL"]
        session.client("s3", endpoint_url=endpoint).head_bucket(Bucket="releases")
        session.client("kms", endpoint_url=endpoint).encrypt(KeyId="alias/adf-config", Plaintext=b"secret")
    assert told == ["RELEASE_URL=https://example.com/v1.tar.gz\n", "web", "a=b"]


def test_up_takes_away_what_an_agent_left_in_it(nothing_left: Path, tmp_path: Path) -> None:
    """Each try would leave a container on a port, with no state folder that knows of it."""
    files = tmp_path
    digest, port = hello.pack(files / "v1.tar.gz", {}), free_port()
    url = f"file://{files}/v1.tar.gz"
    (files / "user-data").write_text(f"RELEASE_URL={url}\nADF_PUBLISH={port}:8000\nADF_PUBLISH_ADDRESS=127.0.0.1\n")
    with up(nothing_left, "--user-data", str(files / "user-data"), "--tag", "Name=web") as (process, environment):
        agent = [sys.executable, "-m", "adf_agent", "boot"]
        booted = subprocess.run(agent, env=environment, capture_output=True, text=True, check=False)
        assert booted.returncode == 0, booted.stderr
        status = json.loads(Root(Path(environment["ADF_ROOT"])).status.read_bytes())
        assert "(no GREETING)" in requests.get(f"http://127.0.0.1:{port}", timeout=10).text
        process.terminate()
        _, err = process.communicate(timeout=60)
    instance = status["instance"]["id"]
    assert f"removed container adf-app-{instance}, image adf/release:{digest[:12]}" in err


def sandbox(environment: Mapping[str, str], *words: str) -> tuple[int, str, str]:
    """What a command of adf-sandbox comes to, typed in a sandbox's shell."""
    process = subprocess.run([*SANDBOX, *words], env=environment, capture_output=True, text=True, check=False)
    return process.returncode, process.stdout, process.stderr


def serves(environment: Mapping[str, str], text: str) -> bool:
    """Whether the fleet answers a request with *text* in it."""
    return text in requests.get(environment["FLEET"], timeout=10).text


def until(condition: Callable[[], object], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        threading.Event().wait(0.05)


def test_a_fleet_can_be_broken_and_is_taken_down_whole(nothing_left: Path) -> None:
    """What nobody could rehearse; and a sandbox that leaves agents, containers or haproxy behind."""
    with up(nothing_left, "--instances", "1") as (process, environment):
        until(lambda: serves(environment, "Hello World, says v1 on i-"), "the fleet serves")
        code, out, _ = sandbox(environment, "fault", "bad-release")
        assert (code, out[:31]) == (0, "RELEASE_URL=s3://releases/bad.t")
        assert "throttles every call of sts:*" in sandbox(environment, "fault", "throttling", "sts:*")[1]
        here = {name: value for name, value in environment.items() if name.startswith(("AWS_", "PATH"))}
        sts = boto3.Session("any", "any", region_name="eu-west-1").client("sts", endpoint_url=here["AWS_ENDPOINT_URL"])
        with pytest.raises(ClientError, match="Throttling"):
            sts.get_caller_identity()
        code, _, err = sandbox(environment, "fault", "no-such")
        assert (code, "there is no fault no-such" in err) == (1, True)
        code, _, err = sandbox(environment, "fault", "imds-503", "i-0")
        assert (code, "no instance i-0 runs here" in err) == (1, True)
        code, out, err = sandbox(environment, "down")
        assert (code, out) == (0, ""), err
        assert process.wait(20) == 0
    assert sandbox(environment, "down")[0] == 1


def test_a_sandbox_that_was_killed_is_taken_down_all_the_same(nothing_left: Path) -> None:
    """A laptop that ran out of memory keeps agents that nobody sees, and containers on their ports."""
    with up(nothing_left, "--instances", "1") as (process, environment):
        until(lambda: serves(environment, "Hello World, says v1 on i-"), "the fleet serves")
        process.kill()
        process.wait()
        until(lambda: processes(nothing_left) == [], "its agents have ended")
        code, _, err = sandbox(environment, "down")
        assert (code, "it had ended; removed" in err) == (0, True), err


def test_outside_of_a_sandbox_there_is_nothing_to_break() -> None:
    """An operator in the wrong window is told, not shown a stack of urllib3."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    code, _, err = sandbox(environment, "fault", "none")
    assert (code, "this shell is in no sandbox" in err) == (1, True)


@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        (["--tag", "web"], 2, "'web' is no tag: write KEY=VALUE"),
        (["--tag", "=web"], 2, "'=web' is no tag: write KEY=VALUE"),
        (["--user-data", "/nowhere/user-data"], 1, "/nowhere/user-data can't be read: No such file or directory"),
        (["--port", "{taken}"], 1, "port {taken} of 127.0.0.1 can't be had"),
        (["--imds-port", "{taken}"], 1, "port {taken} of 127.0.0.1 can't be had"),
        (["--port", "70000"], 1, "port 70000 of 127.0.0.1 can't be had"),
    ],
)
def test_up_refuses_in_one_sentence(tmp_path: Path, options: list[str], code: int, sentence: str) -> None:
    """Where its port is taken, moto's server waits for ever."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken = str(listener.getsockname()[1])
        got, out, err = ran(*SANDBOX, "up", *(option.format(taken=taken) for option in options), tmp=tmp_path)
    assert (got, out) == (code, "")
    assert sentence.format(taken=taken) in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_without_its_extra_the_sandbox_names_it(tmp_path: Path) -> None:
    """The wheel without extras has the command too: a ModuleNotFoundError tells nobody what to install."""
    code = "import sys; sys.modules['moto'] = None; from adf_agent.sandbox.cli import main; sys.exit(main(['up']))"
    got, out, err = ran(sys.executable, "-c", code, tmp=tmp_path)
    assert (got, out) == (1, "")
    assert "adf-agent[sandbox]" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("before", "direct"),
    [
        ({}, None),
        ({"NO_PROXY": "example.com"}, None),
        ({"HTTPS_PROXY": "http://proxy"}, "127.0.0.1,localhost"),
        ({"http_proxy": "http://proxy", "NO_PROXY": "example.com"}, "example.com,127.0.0.1,localhost"),
        ({"http_proxy": "http://proxy", "no_proxy": "a", "NO_PROXY": "b"}, "a,127.0.0.1,localhost"),
    ],
)
def test_a_proxy_is_kept_out_of_the_loopback(before: dict[str, str], direct: str | None) -> None:
    """Behind a company's proxy nothing of the sandbox would be reached; and what they exempt must stay exempt."""
    assert isolation.direct(before) == ({"NO_PROXY": direct, "no_proxy": direct} if direct else {})
