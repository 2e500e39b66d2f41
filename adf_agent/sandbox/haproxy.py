"""A real haproxy with one server behind it, ruled by its runtime socket.

https://docs.haproxy.org/2.6/management.html#9.3
"""

import csv
import os
import shutil
import socket
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from adf_agent.errors import AgentError

ANSWER_SECONDS = 5.0
SERVER = "pool/instance"
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
    option httpchk GET {path}
    http-check expect status 200
    server instance {address} check inter {interval}ms rise 2 fall 2 disabled
    {spare}
"""


class Haproxy:
    """A context manager: the process, its files in *folder*. It balances *url* to *address* ("127.0.0.1:8000").

    No request gets there before `join`, and none while the check of *path*, each *interval* seconds, fails. *spare* is
    the address of another instance, which always serves.
    """

    def __init__(self, folder: Path, address: str, path: str, interval: float, spare: str = "") -> None:
        folder.mkdir(parents=True)
        self.port = int(address.rpartition(":")[2])
        self.interval = interval
        self._folder, self._socket = folder, folder / "socket"
        self._config = {"address": address, "path": path, "interval": round(interval * 1000)}
        self._config["spare"] = f"server spare {spare}" if spare else ""
        self._stack = ExitStack()
        self.url = ""

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._start(stack)
            self._rule("show info")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def join(self) -> None:
        """From now on the server gets requests, as soon as its check has passed."""
        # By way of drain, and from down: leaving maintenance it would count as up until its first check.
        self._rule(f"set server {SERVER} state drain", f"set server {SERVER} health down")
        self._rule(f"set server {SERVER} state ready")

    def drain(self) -> None:
        """No new request for the server; those under way go on."""
        self._rule(f"set server {SERVER} state drain")

    def leave(self) -> None:
        """Nothing goes to the server any more; what still went on is cut off."""
        self._rule(f"set server {SERVER} state maint", f"shutdown sessions server {SERVER}")

    @property
    def up(self) -> bool:
        """Whether the check passes ("UP", or "UP 1/2" after one failure of two)."""
        return self._server["status"].startswith("UP")

    @property
    def sessions(self) -> int:
        """Requests under way at the server. A connection that is merely kept alive is none."""
        return int(self._server["scur"])

    @property
    def _server(self) -> dict[str, str]:
        rows = csv.DictReader(self._rule("show stat -1 4 -1").lstrip("# ").split("\n"))  # 4: servers
        return next(row for row in rows if row["svname"] == "instance")

    def _start(self, stack: ExitStack) -> None:
        front = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        admin = stack.enter_context(socket.socket(socket.AF_UNIX))
        admin.bind(str(self._socket))
        admin.listen()
        sockets = {"front": front.fileno(), "admin": admin.fileno()}
        (self._folder / "haproxy.cfg").write_text(CONFIG.format(**self._config, **sockets))
        with (self._folder / "haproxy.log").open("wb") as log:
            process = subprocess.Popen(
                [_found(), "-db", "-f", self._folder / "haproxy.cfg"],
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

    def _rule(self, *commands: str) -> str:
        """What the runtime socket answers. Raises AgentError where it does not answer, or not understand."""
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(ANSWER_SECONDS)
                connection.connect(str(self._socket))
                connection.sendall(f"{'; '.join(commands)}\n".encode())
                with connection.makefile() as lines:
                    answer = lines.read()
        except OSError as error:
            raise AgentError(f"haproxy does not answer: {error}; {self._said()}") from error
        if not answer or (answer.strip() and commands[0].startswith("set ")):
            raise AgentError(f"haproxy answers {answer.strip()!r} to {commands}; {self._said()}")
        return answer

    def _said(self) -> str:
        return (self._folder / "haproxy.log").read_text()[-500:]


def _found() -> str:
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin"  # Debian's place, which users don't have in their PATH
    found = shutil.which("haproxy", path=path)
    if not found:
        raise AgentError("the sandbox's load balancer is haproxy, and this machine has none", hint="Run: make setup")
    return found
