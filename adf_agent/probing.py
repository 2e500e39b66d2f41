"""One question to the app: over HTTP, TCP or Docker's HEALTHCHECK; and what the answer was."""

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
from adf_agent.container import Container
from adf_agent.engine import FAULTS
from adf_agent.errors import ContainerError
from adf_agent.notation import Probe

LINGER_SECONDS = 0.05  # docker-proxy accepts for a port that nobody listens on, and hangs up within a millisecond
STEADY_SECONDS = 2.0  # that an app without port and HEALTHCHECK must live, as nothing else can be known of it
SHOWN_BYTES = 1000  # of a wrong answer's body


@dataclass(frozen=True)
class Answer:
    """What one probe came to, in words for a person; *said* is the app's own answer, which may hold anything."""

    healthy: bool
    text: str
    said: str = field(default="", repr=False)


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
    return Answer(
        healthy, f"{asked}: {response.status} {http.client.responses.get(response.status, '')}".rstrip(), _line(body)
    )


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
