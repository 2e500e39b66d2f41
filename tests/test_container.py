import dataclasses
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import docker
import pytest
from engine_front import EngineFront, Ordered

from adf_agent import container, manifest, settings, spec
from adf_agent.config import AppConfig, Value
from adf_agent.errors import ContainerError
from adf_agent.image import Image
from adf_agent.instance import Identity
from adf_agent.launch import Launch
from adf_agent.manifest import Manifest
from adf_agent.notation import Port
from adf_agent.root import CONTAINER as NAME
from adf_agent.spec import ROTATION, Spec

DIGEST = "ab" * 32
ME = Identity("i-0abc", "eu-west-1", "123456789012", "eu-west-1a", "ami-1", "t3.micro", "10.0.0.1")
# As <linux/capability.h> numbers them.
NUMBERS = {
    "CHOWN": 0, "DAC_OVERRIDE": 1, "FOWNER": 3, "FSETID": 4, "KILL": 5, "SETGID": 6, "SETUID": 7, "SETPCAP": 8,
    "NET_BIND_SERVICE": 10, "NET_RAW": 13, "SYS_CHROOT": 18, "MKNOD": 27, "AUDIT_WRITE": 29, "SETFCAP": 31,
}  # fmt: skip
IGNORES = ["sh", "-c", 'trap "" TERM; echo ready; while :; do sleep 0.1; done']
HEEDS = ["sh", "-c", 'trap "exit 0" TERM; echo ready; while :; do sleep 0.1; done']


def specified(
    toml: str = "",
    exposed: str = "",
    config: Mapping[str, str] | None = None,
    image: str = "adf/release:x",
    name: str = NAME,
    **user_data: str,
) -> Spec:
    """The container of these settings, this `[container]` of adf.toml, an image that EXPOSEs, and the app's config."""
    given = {"RELEASE_URL": "https://dl.example.com/v1.tar.gz", **user_data}
    ports = tuple(Port.parse(port) for port in exposed.split())
    values = {key: Value(text, secret=False, origin="base") for key, text in (config or {}).items()}
    return spec.specify(
        Launch(ME, settings.resolve(given, {}, {}), (), None),
        Manifest.parse(f"[container]\n{toml}".encode()).container,
        Image(image, "sha256:1", 1, ports, healthcheck=False, how="built"),
        None if config is None else AppConfig("web", "v1", values, 1),
        DIGEST,
        name,
    )


@pytest.mark.parametrize(
    ("setting", "toml", "exposed", "ports", "variable"),
    [
        ("", "", "", "", None),
        ("", "", "8000", "8000:8000", "8000"),
        ("", "", "8000 8443", "8000:8000 8443:8443", None),
        ("", "", "53/udp", "53:53/udp", "53"),
        ("", 'publish = ["80:8000"]', "9000", "80:8000", "8000"),
        ("", "publish = []", "9000", "9000:9000", "9000"),
        ("81:8001", 'publish = ["80:8000"]', "9000", "81:8001", "8001"),
        ("80:8000,443:8443", "", "9000", "80:8000 443:8443", None),
    ],
)
def test_ports_are_those_of_the_settings_else_of_the_release_else_of_the_image(
    setting: str, toml: str, exposed: str, ports: str, variable: str | None
) -> None:
    """A load balancer that asks a port which the operator had set, and the release's own wish had replaced."""
    spec = specified(toml, exposed, ADF_PUBLISH=setting)
    assert " ".join(map(str, spec.ports)) == ports
    assert spec.environment.get("PORT") == variable


@pytest.mark.parametrize(
    ("config", "name", "value"),
    [
        (None, "ADF_APP", "web"),
        (None, "ADF_RELEASE", "v1"),
        (None, "ADF_INSTANCE_ID", "i-0abc"),
        (None, "AWS_REGION", "eu-west-1"),
        (None, "PORT", "8000"),
        ({"PORT": "9"}, "PORT", "9"),
        ({"AWS_REGION": "us-east-1"}, "AWS_REGION", "us-east-1"),
        ({"ADF_RELEASE": "another"}, "ADF_RELEASE", "v1"),
        ({"ADF_INSTANCE_ID": "another"}, "ADF_INSTANCE_ID", "i-0abc"),
        ({"GREETING": "a=b 'c'\nd"}, "GREETING", "a=b 'c'\nd"),
    ],
)
def test_config_outranks_what_the_agent_guesses_and_never_what_it_knows(
    config: Mapping[str, str] | None, name: str, value: str
) -> None:
    """An app that reports itself as another instance or release, or can't be told its port."""
    assert specified(exposed="8000", config=config, ADF_APP="web").environment[name] == value


@pytest.mark.parametrize(
    ("given", "driver", "options"),
    [
        ({}, "local", ROTATION),
        ({"ADF_LOG_DRIVER": "json-file"}, "json-file", ROTATION),
        ({"ADF_LOG_OPT_MAX_SIZE": "1m"}, "local", {**ROTATION, "max-size": "1m"}),
        (
            {"ADF_LOG_DRIVER": "awslogs", "ADF_LOG_OPT_AWSLOGS_GROUP": "web"},
            "awslogs",
            {"awslogs-group": "web"},
        ),
    ],
)
def test_logs_that_stay_on_the_disk_are_rotated(given: dict[str, Any], driver: str, options: Mapping[str, str]) -> None:
    """A disk filled by an app's log; a log driver that refuses another one's options."""
    spec = specified(**given)
    assert (spec.log_driver, spec.log_opts) == (driver, options)


def test_labels_name_what_runs_and_change_with_the_config() -> None:
    """A container that nobody can tell the release of; a reload that recreates a container for nothing, or never."""
    labels = specified(config={"A": "1"}, ADF_APP="web").labels
    assert labels == {
        "adf.app": "web",
        "adf.release": "v1",
        "adf.digest": DIGEST,
        "adf.config": labels["adf.config"],
        "adf.instance": "i-0abc",
    }
    assert len(labels["adf.config"]) == 12
    assert specified(config={"A": "1"}, ADF_APP="web").labels == labels
    assert specified(config={"A": "2"}, ADF_APP="web").labels != labels
    assert specified().labels["adf.config"] == ""


def test_a_spec_that_is_printed_shows_no_config() -> None:
    """A password in a log or a traceback."""
    assert "hunter2" not in repr(specified(config={"PASSWORD": "hunter2"}))


Runs = Callable[..., container.Container]


@pytest.fixture
def runs(docker_client: docker.DockerClient, base_image: str) -> Iterator[Runs]:
    """`runs(toml, …)` runs the container of *specified* on the real engine; all are gone after the test."""
    name = f"adf-test-{os.urandom(6).hex()}"
    made: list[str] = []

    def start(toml: str = "", *, command: list[str] | None = None, **given: Any) -> container.Container:
        line = f"command = {command or HEEDS}\n" if "command" not in toml else ""
        address = {"ADF_PUBLISH_ADDRESS": "127.0.0.1"}
        spec = specified(line + toml, image=base_image, name=name, **{**address, **given})
        started = container.run(docker_client, spec)
        made.append(started.id)
        return started

    yield start
    for each in made:
        container.remove(docker_client, each)


def inspected(client: docker.DockerClient, each: container.Container) -> Any:
    return client.api.inspect_container(each.id)


def ready(client: docker.DockerClient, each: container.Container) -> None:
    """Returns when the app has said so."""
    limit = time.monotonic() + 30
    while b"ready" not in client.api.logs(each.id):
        assert time.monotonic() < limit, "it never started"
        threading.Event().wait(0.02)


def test_the_engine_takes_every_wish_of_a_release(
    docker_client: docker.DockerClient, runs: Runs, tmp_path: Path
) -> None:
    """A memory limit that is written down and never in force."""
    toml = f"""
        publish = ["18000:8000", "18001:8001/udp"]
        command = ["sleep", "600"]
        memory = "64m"
        cpus = 0.5
        user = "65534:65534"
        read_only = true
        volumes = ["{tmp_path}:/data:ro", "{tmp_path}:/work"]
        capabilities = ["CHOWN"]
        ulimits = {{ nofile = [1024, 2048], core = 0 }}
    """
    facts = inspected(docker_client, runs(toml, ADF_LOG_DRIVER="json-file", config={"GREETING": "two\nlines"}))
    config, host = facts["Config"], facts["HostConfig"]
    bound = [{"HostIp": "127.0.0.1", "HostPort": "18000"}], [{"HostIp": "127.0.0.1", "HostPort": "18001"}]
    assert config["Cmd"] == ["sleep", "600"]
    assert config["User"] == "65534:65534"
    assert "GREETING=two\nlines" in config["Env"]
    assert config["Labels"]["adf.digest"] == DIGEST
    assert (host["Memory"], host["NanoCpus"], host["ReadonlyRootfs"]) == (64 << 20, 500_000_000, True)
    assert {mount["Destination"]: mount["RW"] for mount in facts["Mounts"]} == {"/data": False, "/work": True}
    assert {(limit["Name"], limit["Soft"], limit["Hard"]) for limit in host["Ulimits"]} == {
        ("nofile", 1024, 2048),
        ("core", 0, 0),
    }
    assert (host["CapDrop"], host["CapAdd"]) == (["ALL"], ["CHOWN"])
    assert host["PortBindings"] == dict(zip(["8000/tcp", "8001/udp"], bound, strict=True))
    assert host["LogConfig"] == {"Type": "json-file", "Config": dict(ROTATION)}
    assert host["RestartPolicy"]["Name"] in ("", "no"), "an old container would start before the agent at a reboot"


def test_without_wishes_the_image_decides(docker_client: docker.DockerClient, runs: Runs) -> None:
    """An app that runs as another user, or not at all, as empty wishes outrank its Dockerfile."""
    facts = inspected(docker_client, runs())
    assert (facts["Config"]["User"], facts["HostConfig"]["Memory"], facts["HostConfig"]["NanoCpus"]) == ("", 0, 0)
    assert (facts["HostConfig"]["ReadonlyRootfs"], facts["Mounts"]) == (False, [])
    assert facts["HostConfig"]["LogConfig"]["Type"] == "local"


@pytest.mark.parametrize(
    ("toml", "capabilities"),
    [
        ("", manifest.CAPABILITIES),
        (f"capabilities = {[*manifest.CAPABILITIES]}", manifest.CAPABILITIES),
        ('capabilities = ["NET_BIND_SERVICE", "KILL"]', ("NET_BIND_SERVICE", "KILL")),
        ("capabilities = []", ()),
    ],
)
def test_an_app_has_no_capability_but_dockers_own_and_none_to_gain(
    docker_client: docker.DockerClient, runs: Runs, toml: str, capabilities: tuple[str, ...]
) -> None:
    """Whoever breaks into an app finds sudo in its image, or may do what nobody meant it to do."""
    started = runs(f'command = ["grep", "-E", "CapPrm|CapBnd|NoNewPrivs", "/proc/self/status"]\n{toml}')
    container.wait_for_exit(docker_client, started.id)
    found = dict(line.split(":\t") for line in container.last_words(docker_client, started.id))
    mask = f"{sum(1 << NUMBERS[name] for name in capabilities):016x}"
    assert found == {"CapPrm": mask, "CapBnd": mask, "NoNewPrivs": "1"}
    facts = inspected(docker_client, started)["HostConfig"]
    assert (facts["Privileged"], facts["NetworkMode"], facts["PidMode"]) == (False, "default", "")


def test_a_folder_that_was_made_a_link_is_not_mounted_anew(
    docker_client: docker.DockerClient, runs: Runs, tmp_path: Path
) -> None:
    """An app that puts a link to /etc where the folder was that it mounts, falls, and is started again with it."""
    for name in ("data/web", "other"):
        (tmp_path / name).mkdir(parents=True)
    toml = f'volumes = ["{tmp_path}/data:/data", "{tmp_path}/data/web:/web"]'
    started = runs(toml, command=["mv", "/data/web", "/data/former"])
    container.wait_for_exit(docker_client, started.id)
    assert container.start_again(docker_client, started.id, DIGEST) is None, "it is gone"
    (tmp_path / "data/web").symlink_to(tmp_path / "other")
    assert container.start_again(docker_client, started.id, DIGEST) is None
    with pytest.raises(ContainerError, match="was made a link, or is gone"):
        runs(toml)
    (tmp_path / "data/web").unlink()
    (tmp_path / "data/former").rename(tmp_path / "data/web")
    again = runs(toml)
    docker_client.api.kill(again.id)
    container.wait_for_exit(docker_client, again.id)
    assert container.start_again(docker_client, again.id, DIGEST) is not None


@pytest.mark.parametrize("below", ["", "volumes", ".."])
def test_dockers_own_folder_is_not_mounted_wherever_it_is(
    docker_client: docker.DockerClient, runs: Runs, below: str
) -> None:
    """Every container's files in one of them, as Docker's data was moved to a disk of its own."""
    folder = os.path.normpath(os.path.join(docker_client.info()["DockerRootDir"], below))  # noqa: PTH118  the engine's
    with pytest.raises(ContainerError, match="Docker's own") as caught:
        runs(f'volumes = ["{folder}:/x"]')
    assert caught.value.cause == "release"


def test_one_port_of_the_container_on_two_of_the_host(docker_client: docker.DockerClient, runs: Runs) -> None:
    """`80:8000,8080:8000`, of which the engine gets the last, while the probe and the load balancer ask the first."""
    started = runs(ADF_PUBLISH="18002:8000,18003:8000")
    [bound] = inspected(docker_client, started)["HostConfig"]["PortBindings"].values()
    assert [each["HostPort"] for each in bound] == ["18002", "18003"]
    adopted = container.adopt(docker_client, started.id, DIGEST)
    assert adopted is not None
    assert adopted.ports == started.ports


def test_a_former_container_of_the_name_is_replaced(docker_client: docker.DockerClient, runs: Runs) -> None:
    """A boot that fails as the container of the former one was left by a crash."""
    former, latter = runs(), runs()
    assert container.running(docker_client, latter.id)
    assert not container.running(docker_client, former.id)
    assert former.name == latter.name


@pytest.mark.parametrize(
    ("toml", "says"),
    [("ulimits = {bogus = 1}", "(?i)bogus"), ("cpus = 10000", "CPU"), ('user = "nobody9"', "nobody9")],
)
def test_what_the_engine_refuses_is_said_and_leaves_no_container(
    docker_client: docker.DockerClient, runs: Runs, toml: str, says: str
) -> None:
    """A boot that ends in Docker's status code; a dead container with the app's name."""
    with pytest.raises(ContainerError, match=says) as caught:
        runs(toml)
    assert caught.value.hint, "an error says what to do next"
    assert docker_client.containers.list(all=True, filters={"label": f"adf.digest={DIGEST}"}) == []


def test_what_may_pass_at_a_start_may_be_tried_again(tmp_path: Path) -> None:
    """An instance lost to a containerd that was being upgraded, and an operator sent to adf.toml for it."""
    engine = Path(os.environ["DOCKER_HOST"].removeprefix("unix://"))
    said = b'{"message": "failed to create shim task: context deadline exceeded"}'
    with EngineFront(tmp_path / "docker.sock", engine) as front:
        client = docker.DockerClient(base_url=front.host)
        front.faults = [Ordered("POST .*/containers/create", 500, said)]
        with pytest.raises(ContainerError, match="context deadline exceeded") as caught:
            container.run(client, specified(name=f"{NAME}-{os.getpid()}-passing"))
        client.close()
    assert (caught.value.cause, caught.value.transient) == ("host", True)


@pytest.mark.parametrize(("command", "timeout", "least", "most"), [(HEEDS, 30.0, 0.0, 15.0), (IGNORES, 1.0, 1.0, 15.0)])
def test_a_container_is_asked_to_stop_and_killed_when_it_will_not(
    docker_client: docker.DockerClient, runs: Runs, command: list[str], timeout: float, least: float, most: float
) -> None:
    """Requests cut in an app that would have finished them; an instance that never ends as its app ignores SIGTERM."""
    started = runs(command=command)
    ready(docker_client, started)
    began = time.monotonic()
    container.stop(docker_client, started.id, timeout)
    assert least <= time.monotonic() - began < most
    assert docker_client.containers.list(all=True, filters={"id": started.id}) == []


def test_what_is_gone_is_gone(docker_client: docker.DockerClient) -> None:
    """A boot that fails over a container that somebody else has removed."""
    gone = "0" * 64
    container.remove(docker_client, gone)
    container.remove(docker_client, "")
    container.stop(docker_client, gone, 1)
    assert not container.running(docker_client, gone)
    assert container.adopt(docker_client, gone, DIGEST) is None
    assert container.adopt(docker_client, "", DIGEST) is None
    assert container.last_words(docker_client, gone) == ()


def test_what_runs_is_adopted_as_it_was_started(docker_client: docker.DockerClient, runs: Runs) -> None:
    """An agent that was restarted and probes or registers another port than the one that is served."""
    started = runs(exposed="18004 18005/udp")
    adopted = container.adopt(docker_client, started.id, DIGEST)
    assert adopted is not None
    image = docker_client.api.inspect_image(started.image)["Id"]
    assert adopted == dataclasses.replace(started, adopted=True, image=image)
    assert container.adopt(docker_client, started.id, "cd" * 32) is None, "of another release"
    docker_client.api.pause(started.id)
    assert container.adopt(docker_client, started.id, DIGEST) is None, "paused"
    docker_client.api.unpause(started.id)
    docker_client.api.kill(started.id)
    container.wait_for_exit(docker_client, started.id)
    assert container.adopt(docker_client, started.id, DIGEST) is None, "ended"
    assert container.exit_state(docker_client, started.id) == (137, False)


def test_last_words_are_the_last_and_few(docker_client: docker.DockerClient, runs: Runs) -> None:
    """A megabyte of log in the fleet record; the first lines of an app in place of what it said when it failed."""
    started = runs(command=["sh", "-c", "{ seq 100; printf 'caf\\303\\251 \\377\\nno end'; } >&2"])
    container.wait_for_exit(docker_client, started.id)
    words = container.last_words(docker_client, started.id)
    assert len(words) == container.TAIL_LINES
    assert words[-3:] == ("100", "caf\u00e9 \ufffd", "no end")


def test_last_words_that_were_cut_begin_with_a_whole_word(docker_client: docker.DockerClient, runs: Runs) -> None:
    """Half a password at the beginning of a long line: no mask knows the half."""
    started = runs(command=["sh", "-c", "yes 0123456789abcdef | head -n 6000 | tr '\\n' ' '"])
    container.wait_for_exit(docker_client, started.id)
    [line] = container.last_words(docker_client, started.id)
    assert container.TAIL_BYTES - 20 < len(line) < container.TAIL_BYTES
    assert {*line.split()} == {"0123456789abcdef"}


def test_a_log_driver_that_keeps_nothing_costs_the_last_words_only(
    docker_client: docker.DockerClient, runs: Runs
) -> None:
    """A failure that can't be reported as the app's log is elsewhere."""
    started = runs(command=["echo", "hello"], ADF_LOG_DRIVER="none")
    container.wait_for_exit(docker_client, started.id)
    assert container.last_words(docker_client, started.id) == ()


@pytest.mark.parametrize(
    "call",
    [
        lambda client: container.run(client, specified()),
        lambda client: container.adopt(client, "1", DIGEST),
        lambda client: container.stop(client, "1", 1),
        lambda client: container.remove(client, "1"),
        lambda client: container.exit_state(client, "1"),
    ],
    ids=["run", "adopt", "stop", "remove", "exit_state"],
)
def test_an_engine_that_went_away_is_an_error_of_the_container(call: Callable[[Any], object]) -> None:
    """A crash of the agent, with a traceback and code 1, because Docker is being restarted."""
    client = docker.DockerClient(base_url="tcp://127.0.0.1:9", version="1.41")
    with pytest.raises(ContainerError) as caught:
        call(client)
    assert (caught.value.exit_code, caught.value.cause) == (75, "host")
    client.close()
