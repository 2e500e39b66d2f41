import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import docker
import pytest
from web import Answer, Web

from adf_agent import container, health, probing, settings
from adf_agent.container import Container
from adf_agent.deadline import Deadline
from adf_agent.errors import HealthError, Stopped
from adf_agent.health import Healthy
from adf_agent.image import Image
from adf_agent.manifest import Health
from adf_agent.notation import Port, Probe

HTTP, TCP, DOCKER = Probe.parse("http://:8000/health"), Probe.parse("tcp://:8000"), Probe.parse("docker")
ANY = "0.0.0.0"  # noqa: S104  where ports are published on every address
SLEEP = ["sleep", "600"]


def listening(port: int, address: str = ANY, container_id: str = "") -> Container:
    """A container whose port 8000 is published on *port*."""
    return Container(container_id, "adf-app", (Port(port, 8000),), address)


def port_of(web: Web) -> int:
    return int(web.host.rpartition(":")[2])


@contextmanager
def speaking(talk: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server that does *talk* to each who connects, then hangs up; yields its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection, suppress(OSError):
                    talk(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize(
    ("answer", "healthy", "text", "said"),
    [
        (Answer(200, b"fine"), True, "200 OK", ""),
        (Answer(204), True, "204 No Content", ""),
        (Answer(301, headers={"Location": "/elsewhere"}), True, "301 Moved Permanently", ""),
        (Answer(399), True, "399", ""),
        (Answer(400), False, "400 Bad Request", ""),
        (Answer(404, b"no such page"), False, "404 Not Found", "no such page"),
        (Answer(500, b"no\n  database\n"), False, "500 Internal Server Error", "no database"),
        (Answer(503, b"no database " + b"x" * 5000), False, "503 Service Unavailable", "no database …"),
        (Answer(200, b"x" * 9, cut=0), True, "200 OK", ""),
        (Answer(500, b"oh no", {"Content-Length": "90"}), False, "500 Internal Server Error", "oh no"),
    ],
)
def test_an_http_answer_is_judged_as_a_load_balancer_would(
    web: Web, answer: Answer, healthy: bool, text: str, said: str
) -> None:
    """An instance in service while its load balancer calls it unhealthy; `unhealthy`, and nobody knows why."""
    web.serve("/health", answer)
    came = probing.asker(None, listening(port_of(web)), HTTP, timeout=5)()
    assert came == probing.Answer(healthy, f"GET http://{web.host}/health: {text}", said)
    assert [asked.path for asked in web.asked] == ["/health"], "a redirect is an answer, not a way to go"
    assert web.asked[0].headers["User-Agent"].startswith("adf-agent/")


def silent(connection: socket.socket) -> None:
    """Waits for the other side to hang up."""
    while connection.recv(4096):
        pass


def banner(connection: socket.socket) -> None:
    connection.sendall(b"220 mail\r\n")
    silent(connection)


def hang_up(connection: socket.socket) -> None:
    connection.shutdown(socket.SHUT_RDWR)


def garbage(connection: socket.socket) -> None:
    connection.recv(4096)
    connection.sendall(b"\x00\x01 what is this\r\n\r\n")


@pytest.mark.parametrize(
    ("probe", "talk", "healthy", "says"),
    [
        (TCP, silent, True, "open"),
        (TCP, banner, True, "open"),
        (TCP, hang_up, False, "closed at once"),
        (HTTP, silent, False, "no answer in time"),
        (HTTP, hang_up, False, "closed without an answer"),
        (HTTP, garbage, False, "GET http://127.0.0.1"),
    ],
)
def test_whoever_listens_must_answer_as_the_probe_asks(
    probe: Probe, talk: Callable[[socket.socket], None], healthy: bool, says: str
) -> None:
    """An app that accepts connections and is stuck behind them, and gets requests."""
    with speaking(talk) as port:
        came = probing.asker(None, listening(port), probe, timeout=0.3)()
    assert (came.healthy, says in came.text) == (healthy, True), came.text


@pytest.mark.parametrize("probe", [TCP, HTTP])
def test_a_port_that_nobody_listens_on_is_no_crash(probe: Probe) -> None:
    """A boot that fails with a traceback as the app is not up at once."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    came = probing.asker(None, listening(port), probe, timeout=1)()
    assert not came.healthy
    assert "refused" in came.text


def test_an_address_of_ipv6_is_asked_too() -> None:
    """A host with IPv6 whose app is never found healthy."""
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
        for address in ("::", "::1"):
            assert probing.asker(None, listening(listener.getsockname()[1], address), TCP, timeout=1)().healthy


Runs = Callable[..., Container]


@pytest.fixture
def runs(docker_client: docker.DockerClient, base_image: str) -> Iterator[Runs]:
    """`runs(command, …)` starts a container whose port 8000 is published on a free one; all are gone afterwards."""
    made: list[str] = []

    def start(command: list[str], **options: Any) -> Container:
        created = docker_client.containers.create(
            base_image, command, ports={"8000/tcp": ("127.0.0.1", None)}, **options
        )
        made.append(created.id)
        created.start()
        created.reload()
        bound = (created.ports.get("8000/tcp") or [{"HostPort": "1"}])[0]  # none where it has ended already
        return listening(int(bound["HostPort"]), "127.0.0.1", created.id)

    yield start
    for each in made:
        container.remove(docker_client, each)


def wait(
    client: Any,
    running: Container,
    probe: Probe | None = None,
    stop: threading.Event | None = None,
    **wishes: float,
) -> Healthy:
    wanted = Health(**{"timeout": 0.3, "interval": 60.0, "start_timeout": 30.0, **wishes})  # type: ignore[arg-type]
    return health.wait(client, running, probe, wanted, Deadline(60, stop or threading.Event()))


def test_dockers_proxy_is_not_taken_for_the_app(docker_client: docker.DockerClient, runs: Runs) -> None:
    """An instance in service whose app listens nowhere: Docker's proxy accepts on each published port."""
    ask = probing.asker(docker_client, runs(SLEEP), TCP, timeout=2)
    came = ask()
    assert (came.healthy, "nothing listens" in came.text) == (False, True), came.text


def test_dockers_healthcheck_counts_from_starting_to_unhealthy(docker_client: docker.DockerClient, runs: Runs) -> None:
    """An app in service while its own HEALTHCHECK says no, or given up while it says `starting`."""
    tenth = 100_000_000  # nanoseconds
    check = {"test": ["CMD-SHELL", "test -e /ok || { echo no /ok; exit 1; }"], "interval": tenth, "retries": 1}
    running = runs(SLEEP, healthcheck={**check, "start_period": 600 * 10 * tenth})
    ask = probing.asker(docker_client, running, DOCKER, timeout=2)
    until(lambda: ask() == probing.Answer(healthy=False, text="HEALTHCHECK: starting", said="no /ok"))
    docker_client.containers.get(running.id).exec_run(["touch", "/ok"])
    until(lambda: ask().healthy)
    docker_client.containers.get(running.id).exec_run(["rm", "/ok"])
    until(lambda: ask() == probing.Answer(healthy=False, text="HEALTHCHECK: unhealthy", said="no /ok"))
    assert probing.asker(docker_client, runs(SLEEP), DOCKER, timeout=2)().text == "HEALTHCHECK: none"
    away = docker.DockerClient(base_url="tcp://127.0.0.1:9", version="1.41")
    assert "Docker did not answer" in probing.asker(away, running, DOCKER, timeout=2)().text
    away.close()


def until(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < limit, "it never came"
        threading.Event().wait(0.02)


def test_an_app_without_a_port_is_healthy_while_it_runs(docker_client: docker.DockerClient, runs: Runs) -> None:
    """A worker that serves nobody and therefore never gets into service."""
    running = runs(SLEEP)
    healthy = wait(docker_client, running)
    assert healthy.answer.startswith("running for 2 s")
    assert healthy.probes > 1, "one look would take an app that dies at once for one that lives"
    docker_client.api.kill(running.id)
    container.wait_for_exit(docker_client, running.id)
    assert not probing.asker(docker_client, running, None, timeout=1)().healthy


@pytest.mark.parametrize(
    ("threshold", "statuses"),
    [(1, [200]), (1, [404, 500, 200]), (2, [200, 500, 200, 200]), (3, [200, 200, 500, 500, 200, 200, 200])],
)
def test_good_answers_must_come_in_a_row(
    docker_client: docker.DockerClient, runs: Runs, web: Web, threshold: int, statuses: list[int]
) -> None:
    """An app that flaps while it starts, and gets requests at its first good moment."""
    web.serve("/health", *map(Answer, statuses))
    running = listening(port_of(web), container_id=runs(SLEEP).id)
    came = wait(docker_client, running, HTTP, healthy_threshold=threshold)
    assert (came.probes, came.probe) == (len(statuses), "http://:8000/health")
    assert "200 OK" in came.fact


def test_an_app_is_asked_quickly_at_first(docker_client: docker.DockerClient, runs: Runs, web: Web) -> None:
    """Seconds lost at each boot to an interval that is meant for what is in service."""
    web.serve("/health", *[Answer(503)] * 4, Answer(200))
    running = listening(port_of(web), container_id=runs(SLEEP).id)
    began = time.monotonic()
    wait(docker_client, running, HTTP, interval=60.0)
    assert time.monotonic() - began < 5


def test_an_app_that_is_never_well_fails_with_its_last_answer_and_lines(
    docker_client: docker.DockerClient, runs: Runs, web: Web
) -> None:
    """An instance that waits for ever, or gives up without a reason."""
    web.serve("/health", Answer(500, b"no database"))
    app = runs(["sh", "-c", "echo listening; exec sleep 600"])
    with pytest.raises(HealthError) as caught:
        wait(docker_client, listening(port_of(web), container_id=app.id), HTTP, start_timeout=0.5)
    assert "500 Internal Server Error" in caught.value.sentence
    assert "no database" not in caught.value.sentence, "what an app says is for fewer eyes"
    assert "start_timeout" in caught.value.hint
    assert (caught.value.exit_code, caught.value.cause) == (16, "app")
    assert caught.value.log_tail == ("listening", "(the probe was told: no database)")
    assert len(web.asked) > 3


def drip(connection: socket.socket) -> None:
    """A header that never ends, a byte at a time, so that no read is ever late; 5 s at most."""
    for _ in range(100):
        connection.sendall(b"H")
        threading.Event().wait(0.05)


def test_a_server_that_answers_byte_by_byte_is_late(docker_client: docker.DockerClient, runs: Runs) -> None:
    """A boot that hangs, beyond its deadline, in one probe of a proxy that never ends its answer."""
    app = runs(SLEEP)
    began = time.monotonic()
    with speaking(drip) as port:
        with pytest.raises(HealthError, match="no answer in time"):
            wait(docker_client, listening(port, container_id=app.id), HTTP, start_timeout=1.0)
        assert time.monotonic() - began < 4


def test_a_stop_ends_the_wait_at_once(docker_client: docker.DockerClient, runs: Runs) -> None:
    """A SIGTERM that is heeded only after the app's start time-out."""
    stop = threading.Event()
    app = runs(SLEEP)
    threading.Timer(0.3, stop.set).start()
    began = time.monotonic()
    with pytest.raises(Stopped):
        wait(docker_client, app, TCP, stop)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("command", "options", "says", "hint"),
    [
        (["sh", "-c", "echo bye; sleep 0.4; exit 7"], {}, "exited with code 7", "last lines"),
        (["sh", "-c", "echo bye; sleep 0.4"], {}, "exited with code 0", "last lines"),
        (["sh", "-c", "echo bye; exec tail /dev/zero"], {"mem_limit": "8m", "memswap_limit": "8m"}, "memory", "memory"),
    ],
)
def test_a_container_that_ends_is_seen_at_once(
    docker_client: docker.DockerClient, runs: Runs, command: list[str], options: dict[str, str], says: str, hint: str
) -> None:
    """Minutes of probing an app that is dead; `exit code 137` where memory was too little."""
    app = runs(command, **options)
    began = time.monotonic()
    with pytest.raises(HealthError, match=says) as caught:
        wait(docker_client, app, TCP)
    assert time.monotonic() - began < 15
    assert hint in caught.value.hint
    assert caught.value.log_tail == ("bye",)


def test_a_container_that_somebody_removed_is_said_in_a_sentence(docker_client: docker.DockerClient) -> None:
    """A crash of the agent, with Docker's 404, as an operator cleans up beside it."""
    began = time.monotonic()
    with pytest.raises(HealthError, match="gone") as caught:
        wait(docker_client, listening(9, container_id=os.urandom(32).hex()), TCP)
    assert caught.value.exit_code == 16
    assert time.monotonic() - began < 10


class Hiccup:
    """A client whose first wait for an exit is cut off: the engine is restarted beneath its apps."""

    def __init__(self, client: docker.DockerClient) -> None:
        self._api = client.api
        self.api = self
        self.waits = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._api, name)

    def wait(self, *arguments: Any, **options: Any) -> Any:
        self.waits += 1
        if self.waits == 1:
            raise ConnectionResetError
        return self._api.wait(*arguments, **options)


def test_an_engine_that_hangs_up_is_not_taken_for_an_app_that_ended(
    docker_client: docker.DockerClient, runs: Runs, web: Web
) -> None:
    """`the app exited with code 0` said of an app that runs, as Docker was restarted while it started."""
    web.serve("/health", *[Answer(503)] * 3, Answer(200))
    running = listening(port_of(web), container_id=runs(SLEEP).id)
    client = Hiccup(docker_client)
    assert wait(client, running, HTTP).probes == 4
    assert client.waits == 2, "it goes on to watch for an exit"


@pytest.mark.parametrize(
    ("setting", "toml", "check", "ports", "chosen"),
    [
        ("http://:8000/a", "tcp://:8000", True, "80:8000", "http://:8000/a"),
        ("", "http://:8000/b", True, "80:8000", "http://:8000/b"),
        ("", "", True, "80:8000", "docker"),
        ("", "", True, "", "docker"),
        ("", "", False, "80:8000 443:8443", "tcp://:8000"),
        ("", "", False, "53:53/udp 443:8443", "tcp://:8443"),
        ("", "", False, "53:53/udp", None),
        ("", "", False, "", None),
        ("docker", "tcp://:8000", True, "80:8000", "docker"),
        ("docker", "", False, "80:8000", HealthError),
        ("tcp://:80", "", False, "80:8000", HealthError),
        ("tcp://:53", "", False, "53:53/udp", HealthError),
        ("", "http://:9000/", False, "80:8000", HealthError),
    ],
)
def test_the_probe_is_that_of_the_settings_else_of_the_release_else_of_the_image(
    setting: str, toml: str, check: bool, ports: str, chosen: str | type[HealthError] | None
) -> None:
    """An instance judged by another probe than the one that its operator set; a probe that can never succeed."""
    wanted = Health(probe=Probe.parse(toml) if toml else None)
    resolved = settings.resolve({"RELEASE_URL": "https://dl.example.com/v1.tar.gz", "ADF_HEALTH": setting}, {}, {})
    image = Image("adf/release:x", "sha256:1", 1, (), check, "built")
    running = Container("1", "adf-app", tuple(Port.parse(port) for port in ports.split()), ANY)
    if isinstance(chosen, type):
        with pytest.raises(chosen) as caught:
            health.choose(resolved, wanted, image, running)
        assert (caught.value.cause, bool(caught.value.hint)) == ("settings", True)
        return
    probe = health.choose(resolved, wanted, image, running)
    assert (probe and str(probe)) == chosen
