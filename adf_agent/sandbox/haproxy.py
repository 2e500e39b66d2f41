"""A real haproxy, whose servers come and go by its runtime socket.

https://docs.haproxy.org/2.6/management.html#9.3
"""

import csv
import os
import shutil
import socket
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple, Self

from adf_agent.errors import AgentError

ANSWER_SECONDS = 5.0
RISE, FALL = 2, 2  # checks in a row
ADDED, DELETED = "New server registered.", "Server deleted."
BUSY = "Server still has connections attached to it, cannot remove it."
# No retries: a request that is lost is to be seen. An fd is a socket that listens already: its port is nobody else's.
CONFIG = """
global
    stats socket fd@{admin} level admin
    maxconn 1000
    nbthread 1
defaults
    mode http
    retries 0
    timeout connect 2s
    timeout client 60s
    timeout server 60s
    timeout check 1s
frontend front
    bind fd@{front}
    default_backend pool
backend pool
    balance roundrobin
    option httpchk GET {path}
    http-check expect status 200
    {spare}
"""


class Server(NamedTuple):
    up: bool  # the check passes ("UP", or "UP 1/2" after one failure of two)
    sessions: int  # requests under way at it; a connection that is merely kept alive is none


class Haproxy:
    """A context manager: the process, its files in *folder*. It balances *url* to *port* of its servers, in turn.

    No request gets to one before `join`, and none while the check of *path*, each *interval* seconds, fails. *spare* is
    the address ("127.0.0.1:8000") of another instance, which always serves.
    """

    def __init__(self, folder: Path, port: int, path: str, interval: float, spare: str = "") -> None:
        folder.mkdir(parents=True)
        self.port, self.interval = port, interval
        self._folder, self._socket = folder, folder / "socket"
        self._config = {"path": path, "spare": f"server spare {spare}" if spare else ""}
        self._stack = ExitStack()
        self.url = ""

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._start(stack)
            self._ask("show info")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def join(self, name: str, address: str) -> None:
        """From now on the server gets requests, as soon as its check has passed. It may be there, and drain."""
        server = f"pool/{name}"
        if name not in self.servers():
            check = f"check inter {round(self.interval * 1000)}ms rise {RISE} fall {FALL}"
            self._rule(f"add server {server} {address}:{self.port} {check}", ADDED)
            self._rule(f"enable health {server}")
        # By way of drain, and from down: leaving maintenance it would count as up until its first check.
        self._rule(f"set server {server} state drain; set server {server} health down; set server {server} state ready")

    def drain(self, name: str) -> None:
        """No new request for the server; those under way go on."""
        self._rule(f"set server pool/{name} state drain")

    def leave(self, name: str) -> bool:
        """Nothing goes to the server any more. False while what still went on is being cut off: try again."""
        server = f"pool/{name}"
        end = f"set server {server} state maint; shutdown sessions server {server}; del server {server}"
        return self._rule(end, DELETED, BUSY) == DELETED

    def servers(self) -> dict[str, Server]:
        """What haproxy knows of each, by name."""
        rows = csv.DictReader(self._ask("show stat -1 4 -1").lstrip("# ").strip().split("\n"))  # 4: servers
        return {row["svname"]: Server(row["status"].startswith("UP"), int(row["scur"])) for row in rows}

    def _start(self, stack: ExitStack) -> None:
        front = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        admin = stack.enter_context(socket.socket(socket.AF_UNIX))
        admin.bind(str(self._socket))
        admin.listen()
        sockets = {"front": front.fileno(), "admin": admin.fileno()}
        (self._folder / "haproxy.cfg").write_text(CONFIG.format(**self._config, **sockets))
        with (self._folder / "haproxy.log").open("wb") as log:
            process = subprocess.Popen(
                # It ends with the sandbox, however that ends.
                ["setpriv", "--pdeathsig", "KILL", _found(), "-db", "-f", self._folder / "haproxy.cfg"],
                pass_fds=sockets.values(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        stack.enter_context(process)
        stack.callback(process.kill)
        self.url = "http://{}:{}".format(*front.getsockname())
        front.close()  # haproxy's alone: where it ends, nobody takes the connection
        admin.close()

    def _rule(self, commands: str, *answers: str) -> str:
        """The runtime socket's answer. Raises AgentError where it is none of *answers*; without them, not empty."""
        said = self._ask(commands).strip()
        if said not in (answers or ("",)):
            raise AgentError(f"haproxy answers {said!r} to {commands}; {self._said()}")
        return said

    def _ask(self, commands: str) -> str:
        """What the runtime socket answers. Raises AgentError where it does not."""
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(ANSWER_SECONDS)
                connection.connect(str(self._socket))
                connection.sendall(f"{commands}\n".encode())
                with connection.makefile() as lines:
                    answer = lines.read()
        except OSError as error:
            raise AgentError(f"haproxy does not answer: {error}; {self._said()}") from error
        if not answer:
            raise AgentError(f"haproxy ends at {commands}; {self._said()}")
        return answer

    def _said(self) -> str:
        return (self._folder / "haproxy.log").read_text()[-500:]


def _found() -> str:
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin"  # Debian's place, which users don't have in their PATH
    found = shutil.which("haproxy", path=path)
    if not found:
        raise AgentError("the sandbox's load balancer is haproxy, and this machine has none", hint="Run: make setup")
    return found
