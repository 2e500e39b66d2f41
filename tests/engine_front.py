"""A socket before a Docker engine's: it passes everything on, but for what was ordered to fail."""

import contextlib
import re
import selectors
import socket
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

HEAD_BYTES = 1 << 16
CHUNK = 1 << 16


@dataclass
class Ordered:
    """The next *times* requests whose method and path match *pattern* are answered by *status* and *body*.

    Without a *status* nothing is ever said.
    """

    pattern: str
    status: int
    body: bytes = b'{"message": "as ordered"}'
    times: float = float("inf")


@dataclass
class EngineFront:
    """A context manager. Clients use *path*, a socket; *engine* is the real one's."""

    path: Path
    engine: Path
    faults: list[Ordered] = field(default_factory=list)
    _closing: threading.Event = field(default_factory=threading.Event)
    _open: set[socket.socket] = field(default_factory=set)

    @property
    def host(self) -> str:
        return f"unix://{self.path}"

    def __enter__(self) -> Self:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen(64)
        self._thread = threading.Thread(target=self._accept, name="engine front")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as waking:  # the thread that accepts
            waking.connect(str(self.path))
        self._thread.join()
        self.hang_up()
        self._listener.close()

    def hang_up(self) -> None:
        """Ends every connection: those that were held in silence too."""
        for each in self._open.copy():
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            if self._closing.is_set():
                client.close()
                return
            self._open.add(client)
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            head = _head(client)
            line = head.partition(b"\r\n")[0].decode()
            if fault := self._fault(line):
                self._fail(client, fault)
            elif head:
                self._pass_on(client, head)
        self._open.discard(client)

    def _fault(self, line: str) -> Ordered | None:
        found = next((each for each in self.faults if each.times > 0 and re.search(each.pattern, line)), None)
        if found:
            found.times -= 1
        return found

    def _fail(self, client: socket.socket, fault: Ordered) -> None:
        if not fault.status:
            while client.recv(CHUNK):  # until somebody hangs up
                pass
            return
        head = f"HTTP/1.1 {fault.status} Ordered\r\nContent-Type: application/json\r\nConnection: close\r\n"
        client.sendall(f"{head}Content-Length: {len(fault.body)}\r\n\r\n".encode() + fault.body)
        client.shutdown(socket.SHUT_WR)
        client.settimeout(1)
        while client.recv(CHUNK):  # closed with bytes unread it would be a reset, and no answer
            pass

    def _pass_on(self, client: socket.socket, head: bytes) -> None:
        """One request a connection, so that each is looked at; a hijacked one stays as it is."""
        if not re.search(rb"\r\nupgrade:", head, re.IGNORECASE):
            line, _, rest = re.sub(rb"\r\nconnection:[^\r]*", b"", head, flags=re.IGNORECASE).partition(b"\r\n")
            head = line + b"\r\nConnection: close\r\n" + rest
        with socket.socket(socket.AF_UNIX) as engine:
            engine.connect(str(self.engine))
            engine.sendall(head)
            _splice(client, engine)


def _head(client: socket.socket) -> bytes:
    """The request's head, and what came with it."""
    head = b""
    while b"\r\n\r\n" not in head and len(head) < HEAD_BYTES:
        chunk = client.recv(CHUNK)
        if not chunk:
            return b""
        head += chunk
    return head


def _splice(client: socket.socket, engine: socket.socket) -> None:
    others = {client: engine, engine: client}
    with selectors.DefaultSelector() as selector:
        for each in others:
            selector.register(each, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select():
                source: socket.socket = key.fileobj  # type: ignore[assignment]  # those registered above
                chunk = source.recv(CHUNK)
                if chunk:
                    others[source].sendall(chunk)
                    continue
                selector.unregister(source)
                others[source].shutdown(socket.SHUT_WR)
                if source is engine:  # the answer is over
                    return
