"""Whether the app is well: one probe, asked quickly at first, and what its last answer was."""

import http
import http.client
import select
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from adf_agent import __version__, container
from adf_agent.background import Task
from adf_agent.container import Container
from adf_agent.deadline import Deadline
from adf_agent.engine import ANSWER_SECONDS, FAULTS
from adf_agent.errors import ContainerError, HealthError
from adf_agent.image import Image
from adf_agent.manifest import Health
from adf_agent.notation import Probe
from adf_agent.settings import Settings

FIRST_SECONDS = 0.02  # a small app answers within tens of milliseconds of its start
GROWTH = 1.5
LINGER_SECONDS = 0.05  # docker-proxy accepts for a port that nobody listens on, and hangs up within a millisecond
STEADY_SECONDS = 2.0  # that an app without port and HEALTHCHECK must live, as nothing else can be known of it
SHOWN_BYTES = 1000  # of a wrong answer's body
HTTP_PHRASES = {status.value: status.phrase for status in http.HTTPStatus}  # the app may send others


@dataclass(frozen=True)
class Answer:
    """What one probe came to, in words for a person; *said* is the app's own answer, which may hold anything."""

    healthy: bool
    text: str
    said: str = field(default="", repr=False)


@dataclass(frozen=True)
class Healthy:
    """The app answered as often in a row as it should; *probes* counts all that were asked."""

    probe: str
    answer: str
    probes: int

    @property
    def fact(self) -> str:
        return f"{self.answer} ({self.probes} probe{'s' if self.probes > 1 else ''})"


def choose(settings: Settings, health: Health, image: Image, running: Container) -> Probe | None:
    """The probe of `ADF_HEALTH`, else of adf.toml, else the image's HEALTHCHECK, else TCP on the first port, else none.

    Raises HealthError where it names a port that is not published.
    """
    tcp = [port for port in running.ports if port.protocol == "tcp"]
    probe = settings.health or health.probe
    if probe is None and image.healthcheck:
        return Probe("docker")
    if probe is None:
        return Probe("tcp", tcp[0].container) if tcp else None
    if probe.port is not None and probe.port not in {port.container for port in tcp}:
        raise HealthError(
            f"the probe {probe} asks a port of the container that is not published",
            hint="Publish it with ADF_PUBLISH, [container] publish in adf.toml, or EXPOSE in the Dockerfile.",
            cause="settings",
        )
    if probe.kind == "docker" and not image.healthcheck:
        raise HealthError(
            "the probe is `docker`, but the image has no HEALTHCHECK",
            hint="Add one to the Dockerfile, or name another probe with ADF_HEALTH.",
            cause="settings",
        )
    return probe


def asker(client: Any, running: Container, probe: Probe | None, timeout: float) -> Callable[[], Answer]:
    """A function that asks *probe* once, within *timeout* seconds."""
    if probe is None:
        up = time.monotonic() + STEADY_SECONDS
        return lambda: _alive(client, running, steady=time.monotonic() >= up)
    if probe.kind == "docker":
        return lambda: _healthcheck(client, running)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(running.address, running.address)  # noqa: S104  compared
    port = next(port.host for port in running.ports if port.container == probe.port and port.protocol == "tcp")
    if probe.kind == "http":
        return lambda: _http(host, port, probe.path, timeout)
    return lambda: _tcp(host, port, timeout)


def _http(host: str, port: int, path: str, timeout: float) -> Answer:
    """Healthy is any answer from 200 to 399, as for a load balancer that was told so; redirects aren't followed."""
    asked = f"GET http://{host}:{port}{path}"
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    late = threading.Event()
    timer = threading.Timer(timeout, _hang_up, (connection, late))  # a time-out of each read alone lets a drip go on
    timer.daemon = True
    timer.start()
    try:
        connection.request("GET", path, headers={"User-Agent": f"adf-agent/{__version__}", "Connection": "close"})
        response = connection.getresponse()
        if late.is_set():  # http.client takes a connection cut in the headers for their end
            return Answer(healthy=False, text=f"{asked}: no answer in time")
        body = b"" if response.status < 400 else response.read(SHOWN_BYTES + 1)  # noqa: PLR2004  HTTP's own line
    except (OSError, http.client.HTTPException) as error:
        return Answer(healthy=False, text=f"{asked}: {_words(TimeoutError() if late.is_set() else error)}")
    finally:
        timer.cancel()
        connection.close()
    healthy = 200 <= response.status < 400  # noqa: PLR2004
    return Answer(healthy, f"{asked}: {response.status} {HTTP_PHRASES.get(response.status, '')}".rstrip(), _line(body))


def _hang_up(connection: http.client.HTTPConnection, late: threading.Event) -> None:
    late.set()
    with suppress(OSError, AttributeError):  # not connected yet, or closed meanwhile
        connection.sock.shutdown(socket.SHUT_RDWR)


def _line(said: bytes) -> str:
    """*said* in one line; where there is more of it, without its last word: half a secret would not be known as one."""
    line = " ".join(said[:SHOWN_BYTES].decode(errors="replace").split())
    return line if len(said) <= SHOWN_BYTES else f"{line.rpartition(' ')[0]} …".strip()


def _tcp(host: str, port: int, timeout: float) -> Answer:
    asked = f"TCP {host}:{port}"
    try:
        with socket.create_connection((host, port), timeout) as connection:
            readable, _, _ = select.select([connection], [], [], LINGER_SECONDS)
            if readable and not connection.recv(1, socket.MSG_PEEK):
                return Answer(healthy=False, text=f"{asked}: closed at once, nothing listens in the container")
    except OSError as error:
        return Answer(healthy=False, text=f"{asked}: {_words(error)}")
    return Answer(healthy=True, text=f"{asked}: open")


def _words(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ConnectionResetError | http.client.RemoteDisconnected):
        return "closed without an answer"
    if isinstance(error, http.client.HTTPException):
        return f"no HTTP ({type(error).__name__})"  # its message is what the app said
    return getattr(error, "strerror", None) or type(error).__name__


def _healthcheck(client: Any, running: Container) -> Answer:
    try:
        health = client.api.inspect_container(running.id)["State"].get("Health") or {}
    except FAULTS as error:
        return Answer(healthy=False, text=f"HEALTHCHECK: Docker did not answer ({type(error).__name__})")
    status = health.get("Status", "none")
    outputs = [entry.get("Output", "").encode() for entry in health.get("Log") or []]
    return Answer(status == "healthy", f"HEALTHCHECK: {status}", _line(b"".join(outputs[-1:])))


def _alive(client: Any, running: Container, *, steady: bool) -> Answer:
    try:
        alive = container.running(client, running.id)
    except ContainerError as error:
        return Answer(healthy=False, text=error.sentence)
    if not alive:
        return Answer(healthy=False, text="not running")
    return Answer(steady, f"running for {STEADY_SECONDS:.0f} s, with no port and no HEALTHCHECK to ask")


def wait(client: Any, running: Container, probe: Probe | None, health: Health, deadline: Deadline) -> Healthy:
    """Asks until the app is healthy, at most `start_timeout` or until *deadline*.

    Raises Stopped, or HealthError with the last answer and the app's last lines, at once when the container ends.
    """
    ask = asker(client, running, probe, health.timeout)
    ended = Task(lambda: container.wait_for_exit(client, running.id))
    window = deadline.within(health.start_timeout)
    pause, good, probes, answer = FIRST_SECONDS, 0, 0, Answer(healthy=False, text="not asked yet")
    while not window.expired():
        if _is_over(client, running, ended):
            raise _exited(client, running, answer)
        if ended.failed():
            ended = Task(lambda: container.wait_for_exit(client, running.id))
        answer, probes = ask(), probes + 1
        good = good + 1 if answer.healthy else 0
        window.check()
        if good >= health.healthy_threshold and not ended.done():
            return Healthy(str(probe), answer.text, probes)
        _pause(ended, window.within(pause))
        pause = min(pause * GROWTH, health.interval)
    unwell = f"the app was not healthy within {window.seconds:.0f} s: {answer.text}"
    if not _engine_answers(client, running):  # which publishes its ports, or starts it again
        hint = "See `systemctl status docker`."
        raise HealthError(f"Docker does not answer, and {unwell}", hint=hint, cause="host", transient=True)
    raise HealthError(
        unwell,
        hint="See the app's last lines; if it only starts slowly, raise start_timeout in adf.toml.",
        log_tail=_last_words(client, running, answer),
    )


def _engine_answers(client: Any, running: Container) -> bool:
    asked = Task(lambda: container.running(client, running.id))
    with suppress(ContainerError, TimeoutError):
        asked.result(Deadline(ANSWER_SECONDS, threading.Event()))
        return True
    return False


def check_running(client: Any, running: Container) -> str:
    """Raises HealthError where the container has ended since it was healthy. A silent engine says nothing of it.

    What it is silent with is returned, else "".
    """
    try:
        if container.running(client, running.id):
            return ""
    except ContainerError as error:
        return error.sentence
    raise _exited(client, running, Answer(healthy=True, text="it was well"))


def _is_over(client: Any, running: Container, ended: Task[None]) -> bool:
    """Whether the container has ended. A wait that failed says nothing of it: the engine may have been restarted."""
    try:
        return ended.done() and not (ended.failed() and container.running(client, running.id))
    except ContainerError:
        return False


def _pause(ended: Task[None], pause: Deadline) -> None:
    """Waits for the *pause* to pass or the container to end. Raises Stopped."""
    if ended.failed():
        pause.wait(pause.seconds)
        return
    with suppress(TimeoutError, ContainerError):
        ended.result(pause)


def _exited(client: Any, running: Container, answer: Answer) -> HealthError:
    try:
        code, starved = container.exit_state(client, running.id)
    except ContainerError as error:  # somebody removed it
        return HealthError(f"the container is gone: {error.sentence}", hint=error.hint, cause="host")
    sentence, hint = f"the app exited with code {code} before it was healthy", "See the app's last lines."
    if starved:
        sentence = f"the app ran out of memory (exit code {code})"
        hint = "Raise memory in adf.toml, or use a larger instance."
    return HealthError(
        f"{sentence}; the last probe: {answer.text}", hint=hint, log_tail=_last_words(client, running, answer)
    )


def _last_words(client: Any, running: Container, answer: Answer) -> tuple[str, ...]:
    said = (f"(the probe was told: {answer.said})",) if answer.said else ()
    return (*container.last_words(client, running.id), *said)
