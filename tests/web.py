"""A web server on loopback whose answers a test orders, faults among them."""

import ssl
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self
from urllib.parse import urljoin


@dataclass(frozen=True)
class Answer:
    """*cut* is how many bytes of the body are sent before the connection ends, None for all; *more* comes after it.

    *reason* is said behind the status, where it is not the usual one.
    """

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: int | None = None
    more: Iterable[bytes] = ()
    reason: str | None = None


@dataclass(frozen=True)
class Asked:
    path: str
    headers: Mapping[str, str]
    method: str = "GET"
    body: bytes = b""


Route = Callable[[Asked], Answer]


class Web:
    """A context manager. `web.routes["/v1.tar.gz"]` answers that path; what was asked is kept in *asked*.

    `web.routes["POST /v1"]` and `["DELETE /v1"]` answer those.

    For a client whose proxy it is, it is every host (`web.routes["https://github.com/v1.tar.gz"]`), with TLS by the
    *certificate* and key of that file.
    """

    def __init__(self, certificate: Path | None = None) -> None:
        self.certificate = certificate
        self.routes: dict[str, Route] = {}
        self.posts = Answer(405)  # what any other POST is answered with, as AWS's JSON services are asked
        self.asked: list[Asked] = []
        self._server = _Server(self)
        self.host = f"127.0.0.1:{self._server.server_port}"
        self.url = f"http://{self.host}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,)).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def serve(self, path: str, *answers: Answer) -> str:
        """Answers *path* by each of *answers* in turn, by the last one from then on; returns its URL."""
        rest = list(answers)
        self.routes[path] = lambda _: rest.pop(0) if len(rest) > 1 else rest[0]
        return urljoin(self.url, path)


class _Server(ThreadingHTTPServer):
    def __init__(self, web: Web) -> None:
        self.web = web
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, *_: object) -> None:
        """Nothing: clients that hang up are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    origin = ""

    def do_GET(self) -> None:
        asked = Asked(self.origin + self.path, dict(self.headers.items()))
        self.server.web.asked.append(asked)
        route = self.server.web.routes.get(asked.path.partition("?")[0])
        self._answer(route(asked) if route else Answer(404))

    def do_CONNECT(self) -> None:
        """Goes on with TLS, as the host that is asked for."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.server.web.certificate or "")
        self.send_response(200)
        self.end_headers()
        self.origin = f"https://{self.path.removesuffix(':443')}"
        try:
            self.request = context.wrap_socket(self.request, server_side=True)
        except OSError:  # the client does not trust the certificate
            return
        self.setup()
        self.close_connection = False

    def finish(self) -> None:
        super().finish()
        self.request.close()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        asked = Asked(self.origin + self.path, dict(self.headers.items()), self.command, body)
        route = self.server.web.routes.get(f"{self.command} {asked.path.partition('?')[0]}")
        if route:
            self.server.web.asked.append(asked)
        self._answer(route(asked) if route else self.server.web.posts)

    def do_DELETE(self) -> None:
        self.do_POST()

    def _answer(self, answer: Answer) -> None:
        self.send_response(answer.status, answer.reason)
        for header in {"Content-Length": str(len(answer.body)), **answer.headers}.items():
            self.send_header(*header)
        self.end_headers()
        self.wfile.write(answer.body[: answer.cut])
        for chunk in answer.more:
            self.wfile.write(chunk)

    def log_message(self, *_: object) -> None:
        """Nothing: what was asked is kept."""
