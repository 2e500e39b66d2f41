"""What a release can't do to its host: mount what no list names, write where it may not, have the instance's role."""

import ctypes
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import docker
import pytest
from fixtures_agent import BASE, Machine, app
from test_boot import free_port

from adf_agent.deadline import Deadline
from adf_agent.doctor.metadata import reaches_containers
from adf_agent.errors import ReleaseError
from adf_agent.folders import SYSTEM, Folders, unmoved
from adf_agent.instance import Metadata
from adf_agent.launch import socket_of
from adf_agent.notation import Volume
from adf_agent.sandbox.imds import Imds

CLONE_NEWNET = 0x40000000  # setns(2)
ASK = (
    r"printf 'PUT /latest/api/token HTTP/1.1\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\nConnection: close\r\n\r\n'"
    " | timeout 2 nc {} {} | head -n 1"
)


def refused(folders: Folders, source: str, *closed: str) -> ReleaseError:
    """The error that mounting *source* comes to."""
    with pytest.raises(ReleaseError) as caught:
        folders.opened([Volume("data", "/data"), Volume(source, "/x")], closed)
    assert source in caught.value.sentence
    assert "name:/target" in caught.value.hint
    return caught.value


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """`web` may be mounted; beside it are folders that may not, and a socket's, with links to them in it."""
    for folder in ("web/cache/deep", "website", "engine", "agent/state"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "engine/docker.sock").touch()
    links = {"out": "website", "engine": "engine", "socket": "engine/docker.sock", "up": "", "in": "web/cache"}
    for name, target in links.items():
        (tmp_path / "web" / name).symlink_to(tmp_path / target)
    (tmp_path / "web/round").symlink_to("round")
    (tmp_path / "elsewhere").symlink_to("web/cache")
    return tmp_path


@pytest.mark.parametrize(
    ("source", "real"),
    [("web", "web"), ("web/cache/deep", "web/cache/deep"), ("web/in/deep", "web/cache/deep")],
)
def test_what_the_list_names_is_mounted_as_what_it_really_is(host: Path, source: str, real: str) -> None:
    """A link that Docker follows at the next start, to where it leads by then."""
    named = Volume("data", "/data", read_only=True)
    opened = Folders.parse(f"{host}/web/").opened([named, Volume(f"{host}/{source}", "/x")], [f"{host}/engine"])
    assert opened == (named, Volume(f"{host}/{real}", "/x"))
    assert unmoved(each.source for each in opened)


def test_a_folder_of_the_list_may_itself_be_a_link(host: Path) -> None:
    """A disk that is mounted elsewhere on newer AMIs, and a list that nobody can write for both."""
    opened = Folders.parse(f"{host}/elsewhere").opened([Volume(f"{host}/elsewhere/deep", "/x")], [])
    assert [each.source for each in opened] == [f"{host}/web/cache/deep"]


@pytest.mark.parametrize("source", ["website", "", "web/out", "web/up", "elsewhere", "web/../website"])
def test_what_the_list_does_not_name_is_refused(host: Path, source: str) -> None:
    """A release that mounts /etc, by its name, by a prefix of one, or by a link that it made itself."""
    error = refused(Folders.parse(f"{host}/web"), os.path.normpath(f"{host}/{source}"))
    assert f"nothing but what is below {host}/web" in error.sentence
    assert "ADF_VOLUMES" in error.hint


def test_without_a_list_no_folder_of_the_host_is_mounted(host: Path) -> None:
    """An AMI whose makers never heard of the setting, open to every release."""
    error = refused(Folders(), f"{host}/web")
    assert "none of its folders" in error.sentence
    assert (error.exit_code, error.cause, "ADF_VOLUMES" in error.hint) == (12, "release", True)


@pytest.mark.parametrize(
    "source", ["engine", "engine/docker.sock", "", "web/engine", "web/socket", "web/up", "web/out"]
)
def test_the_socket_and_the_agents_state_are_mounted_under_no_list(host: Path, source: str) -> None:
    """Root on the host for every release, as somebody listed the folder above Docker's socket."""
    (host / "closed").symlink_to("website")  # closed by a link's name, too
    folders = Folders.parse(str(host))
    error = refused(folders, os.path.normpath(f"{host}/{source}"), f"{host}/engine/docker.sock", f"{host}/closed")
    assert "no release may mount" in error.sentence
    assert folders.opened([Volume(f"{host}/web/cache", "/x")], [f"{host}/engine/docker.sock"])


@pytest.mark.parametrize(
    "source",
    [
        *SYSTEM,
        *(
            "/",
            "/var",
            "/etc",
            "/var/lib",
            "/var/run/docker.sock",
            "/run/docker.sock",
            "/run/user/1000",
            "/proc/1/root",
        ),
        *("/var/lib/docker/volumes/web", "/dev/mem", "/sys/fs/cgroup", "/etc/adf-agent/agent.env"),
    ],
)
def test_the_systems_own_folders_are_mounted_under_no_list(source: str) -> None:
    """A container that writes its host's kernel settings, or other containers' files."""
    assert "no release may mount" in refused(Folders(("/",)), source).sentence


def test_a_socket_is_mounted_under_no_list(host: Path) -> None:
    """Another engine's socket, or a database's without a password, as it lay in a folder that is open."""
    (host / "web/link").symlink_to("bus")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{host}/web/bus")
        for source in ("bus", "link"):
            assert "which is a socket" in refused(Folders.parse(f"{host}/web"), f"{host}/web/{source}").sentence


@pytest.mark.parametrize(
    ("host", "path"),
    [
        ("unix:///srv/x/docker.sock", "/srv/x/docker.sock"),
        ("unix://srv/x/docker.sock", "/srv/x/docker.sock"),
        ("unix:/srv/x/docker.sock", "/srv/x/docker.sock"),
        ("unix:////srv/x//docker.sock", "/srv/x//docker.sock"),
        ("http+unix://%2Fsrv%2Fx", "//srv/x"),
        ("/srv/x/docker.sock", "/srv/x/docker.sock"),
        ("tcp://127.0.0.1:2375", ""),
        ("ssh://me@host", ""),
        ("", ""),
    ],
)
def test_the_engines_socket_is_known_in_every_form_of_its_address(host: str, path: str) -> None:
    """Docker's own socket in a container, as DOCKER_HOST was written with a slash less than elsewhere."""
    assert socket_of(host) == path
    if path:
        with pytest.raises(ReleaseError, match="no release may mount"):
            Folders(("/srv",)).opened([Volume("/srv/x/docker.sock", "/x")], [socket_of(host)])


@pytest.mark.parametrize(("source", "why"), [("web/none", "No such file"), ("web/round", "symbolic links")])
def test_what_can_not_be_looked_at_is_not_mounted(host: Path, source: str, why: str) -> None:
    """A folder that Docker makes, as root, where a link was put in the meantime; a mistyped one that is empty."""
    assert why in refused(Folders.parse(f"{host}/web"), f"{host}/{source}").sentence


@pytest.mark.parametrize(
    "text",
    [
        *("web", "/", "//", "/srv/../etc", "/srv/./web", "//srv", "/srv:ro", ",", "/srv,web", "/srv,/"),
        *("/run", "/run/web", "/dev/shm", "/var/lib/docker/volumes", "/etc/adf-agent/x", "/proc/"),
    ],
)
def test_a_list_that_names_no_folder_to_open_is_refused(text: str) -> None:
    """A list whose maker thinks that something is open, or shut, which is not."""
    with pytest.raises(ValueError, match="must be folders of the host"):
        Folders.parse(text)


@pytest.mark.parametrize("text", ["/srv/a, /srv/b/", "/srv/a /srv/b"])
def test_a_list_has_several_folders(text: str) -> None:
    """The second folder of a list, taken for a part of the first one's name."""
    assert Folders.parse(text).allowed == ("/srv/a", "/srv/b")


def test_a_release_that_mounts_another_folder_ends_the_boot_before_it_is_built(machine: Machine) -> None:
    """A build of minutes, and an app of somebody else's choice with the host's files in it."""
    (machine.root / "shared").mkdir()
    (machine.root / "link").symlink_to("shared")
    toml = f'[container]\nvolumes = ["{machine.root}/link:/shared"]\n'
    given = {"RELEASE_URL": machine.release(app(adf_toml=toml)), "ADF_PUBLISH": f"{free_port()}:8000"}
    machine.agent_env(ADF_VOLUMES="/srv/web")
    booted = machine.boot(**given)
    assert booted.code == 12, booted.log
    assert f"{machine.root}/link of the host" in booted.error["sentence"]
    assert "ADF_VOLUMES" in booted.error["hint"]
    assert [each["name"] for each in booted.status["stages"] if each["name"] in ("image", "container")] == []
    assert (machine.state()["images"], machine.containers()) == ([], [])
    machine.agent_env(ADF_VOLUMES=machine.root)
    booted = machine.boot(**given)
    assert booted.code == 0, booted.log
    [mount] = machine.containers()[0].attrs["Mounts"]
    assert (mount["Source"], mount["Destination"]) == (f"{machine.root}/shared", "/shared")


def test_the_folder_of_the_engine_in_use_is_closed_wherever_it_is(machine: Machine) -> None:
    """A Docker whose socket is not in /run, and so in every container that mounts the folder above it."""
    place = Path(os.environ["DOCKER_HOST"].removeprefix("unix://"))
    machine.agent_env(ADF_VOLUMES=place.parent)
    toml = f'[container]\nvolumes = ["{place.parent}:/x"]\n'
    booted = machine.boot(RELEASE_URL=machine.release(app(adf_toml=toml)))
    assert (booted.code, f"no release may mount {place}" in booted.error["sentence"]) == (12, True), booted.log


def test_an_app_runs_with_as_little_as_it_asks_for(machine: Machine, docker_client: docker.DockerClient) -> None:
    """A hardening that is in the manual, and that no app survives."""
    name = f"adf-test-{os.urandom(6).hex()}"
    does = "echo kept >/tmp/x && ! touch /open/x && cat /tmp/x && exec httpd -f -p 8000 -h /www"
    files = app(
        Dockerfile=f"FROM {BASE}\nRUN mkdir -m 1777 /tmp /open\nCOPY www /www\nEXPOSE 8000\nSTOPSIGNAL SIGKILL\n"
        f'CMD ["sh", "-c", "{does}"]\n',
        adf_toml='[container]\nuser = "65534:65534"\nread_only = true\ncapabilities = []\n'
        f'volumes = ["{name}:/tmp"]\n[health]\nprobe = "http://:8000/"\n',
    )
    try:
        booted = machine.boot(RELEASE_URL=machine.release(files), ADF_PUBLISH=f"{free_port()}:8000")
        assert booted.code == 0, booted.log
        [container] = machine.containers()
        code, said = container.exec_run(["grep", "-E", "CapBnd|NoNewPrivs", "/proc/1/status"])
        assert (code, said.decode().split()) == (0, ["CapBnd:", "0" * 16, "NoNewPrivs:", "1"])
        assert b"kept" in container.logs()
    finally:
        machine.clean()
        docker_client.volumes.get(name).remove()


@pytest.fixture
def hop_away() -> Iterator[Imds]:
    """A metadata service to which this machine is a router, as it is between EC2's and a container: only root may."""
    if os.geteuid() != 0:
        pytest.fail("a network namespace needs root: sudo make test", pytrace=False)
    name, net = f"adf{os.getpid() % 100000}", f"198.19.{os.getpid() % 250}"  # RFC 2544: for tests, nobody's network

    def inside() -> Imds:
        with Path(f"/run/netns/{name}").open() as namespace:  # for this thread; a socket belongs to it from then on
            assert ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), CLONE_NEWNET) == 0
        return Imds(address=f"{net}.2")

    def ip(*command: str) -> None:
        subprocess.run(["ip", *command], check=True)

    with ExitStack() as stack:
        ip("netns", "add", name)
        stack.callback(ip, "netns", "del", name)
        ip("link", "add", f"{name}v", "type", "veth", "peer", "name", "eth0", "netns", name)
        ip("address", "add", f"{net}.1/30", "dev", f"{name}v")
        ip("link", "set", f"{name}v", "up")
        ip("-n", name, "address", "add", f"{net}.2/30", "dev", "eth0")
        ip("-n", name, "link", "set", "eth0", "up")
        with ThreadPoolExecutor(1) as thread:
            imds = stack.enter_context(thread.submit(inside).result())
        ip("-n", name, "route", "add", "default", "via", f"{net}.1")
        yield imds


def test_a_hop_limit_of_one_shuts_containers_out(
    hop_away: Imds, docker_client: docker.DockerClient, base_image: str
) -> None:
    """Whoever breaks into the app has the instance's role, though the launch template says that he has not."""
    ask = ["sh", "-c", ASK.format(*hop_away.endpoint.removeprefix("http://").split(":"))]
    got = {}
    for hops in (2, 1):
        hop_away.instance.hop_limit = hops
        got[hops] = docker_client.containers.run(base_image, ask, remove=True).decode().strip()
        assert reaches_containers(hop_away.endpoint) is (hops == 2), "the doctor says which holds"
        assert Metadata(hop_away.endpoint, Deadline(10, threading.Event())).identity().region, "the agent is served"
    assert got == {2: "HTTP/1.1 200 OK", 1: ""}
    assert hop_away.requests["/latest/api/token"] == 6, "the container's were heard, and answered"
