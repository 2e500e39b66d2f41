"""What an agent asks on its way, each made to fail in the same five ways: and well again."""

import gzip
import hashlib
import io
import json
import tarfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from engine_front import EngineFront, Ordered
from matrix import Fault
from web import Answer, Asked, Web
from werkzeug.wrappers import Response

from adf_agent.sandbox.cloud import Cloud
from adf_agent.sandbox.front import AwsFault
from adf_agent.sandbox.imds import SILENCE
from adf_agent.sandbox.imds import Fault as ImdsFault

FOREVER = float("inf")
TIMES = 4  # that who throttles does so: more than AWS's SDK tries by itself
PAGE = b"<html><title>Welcome to the hotel's network</title></html>"
STATUS: Mapping[Fault, int] = {"silent": 0, "5xx": 503, "throttled": 429, "denied": 403, "wrong answer": 200}


class Dependency(Protocol):
    def fail(self, fault: Fault) -> None:
        """From now on it does; *fault* is one of matrix.ANSWERS."""

    def mend(self) -> None: ...


def times(fault: Fault) -> float:
    return TIMES if fault == "throttled" else FOREVER


@dataclass
class Imds:
    cloud: Cloud
    path: str = "/"

    def fail(self, fault: Fault) -> None:
        status = STATUS[fault] or SILENCE
        self.cloud.imds.faults = [ImdsFault(status, times(fault), self.path, PAGE if fault == "wrong answer" else None)]

    def mend(self) -> None:
        self.cloud.imds.faults = []


@dataclass
class Aws:
    """The calls that match *action* (`dynamodb:*`)."""

    cloud: Cloud
    action: str

    def fail(self, fault: Fault) -> None:
        if fault == "wrong answer":
            self.cloud.front.handlers = Strangers(self.cloud.front.handlers, self.action.partition("*")[0])
            return
        json = self.action.startswith("dynamodb")
        code, status = {
            "throttled": ("ThrottlingException" if json else "Throttling", 400),
            "denied": ("AccessDeniedException" if json else "AccessDenied", 400 if json else 403),
        }.get(fault, ("", 503))
        seconds = FOREVER if fault == "silent" else 0.0
        self.cloud.faults = [AwsFault(self.action, code, status, times(fault), "as ordered", seconds)]

    def mend(self) -> None:
        self.cloud.faults = []
        handlers = self.cloud.front.handlers
        self.cloud.front.handlers = handlers.known if isinstance(handlers, Strangers) else handlers


class Strangers(dict[str, Any]):
    """Handlers of calls: whatever begins with *prefix* is answered by a page that is not AWS's."""

    def __init__(self, known: dict[str, Any], prefix: str) -> None:
        super().__init__(known)
        self.known, self._prefix = known, prefix

    def get(self, name: str, default: Any = None) -> Any:
        return _strange if name.startswith(self._prefix) else super().get(name, default)

    def pop(self, name: str, *default: Any) -> Any:
        self.known.pop(name, *default)
        return super().pop(name, *default)


def _strange(*_: object) -> Response:
    return Response(PAGE, 200, content_type="text/html")


@dataclass
class Docker:
    front: EngineFront
    pattern: str = "."

    def fail(self, fault: Fault) -> None:
        body = b"{}" if fault == "wrong answer" else b'{"message": "429 as ordered"}'
        body = b'{"message": "as ordered"}' if fault in ("5xx", "denied") else body
        status = 500 if fault == "5xx" else STATUS[fault]
        self.front.faults = [Ordered(self.pattern, status, body, times(fault))]

    def mend(self) -> None:
        self.front.faults = []
        self.front.hang_up()


@dataclass
class Host:
    """A web server's paths: what they answer when all is well is in *sound*."""

    web: Web
    sound: dict[str, Callable[[Asked], Answer]] = field(default_factory=dict)
    strange: bytes = PAGE
    _fault: Fault | None = None
    _left: float = 0.0
    _closing: threading.Event = field(default_factory=threading.Event)

    def serve(self, path: str, route: Callable[[Asked], Answer]) -> str:
        self.sound[path] = route
        self.web.routes[path] = lambda asked: self._answer(path, asked)
        return self.web.url + path

    def _answer(self, path: str, asked: Asked) -> Answer:
        if self._fault is None or self._left <= 0:
            return self.sound[path](asked)
        self._left -= 1
        if self._fault == "silent":
            self._closing.wait()
        return Answer(STATUS[self._fault] or 503, self.strange if self._fault == "wrong answer" else b"")

    def fail(self, fault: Fault) -> None:
        self._fault, self._left = fault, times(fault)

    def mend(self) -> None:
        self._fault = None
        self._closing.set()


def whole(body: bytes, cut: int | None = None, headers: Mapping[str, str] | None = None) -> Callable[[Asked], Answer]:
    """A file with a strong ETag, which is resumed; the first time it breaks off after *cut* bytes."""
    cuts = [cut]

    def route(asked: Asked) -> Answer:
        first = int(asked.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        named = {**(headers or {}), "ETag": f'"{hashlib.sha256(body).hexdigest()}"'}
        until = cuts.pop() if cuts else None
        if first:
            named["Content-Range"] = f"bytes {first}-{len(body) - 1}/{len(body)}"
        return Answer(206 if first else 200, body[first:], named, until)

    return route


def image(page: str) -> tuple[bytes, bytes]:
    """Layer and config of an image that serves *page* on port 8000."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in {"bin/busybox": Path("/bin/busybox").read_bytes(), "www/index.html": page.encode()}.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o755
            tar.addfile(member, io.BytesIO(data))
    layer = buffer.getvalue()
    serve = ["/bin/busybox", "httpd", "-f", "-p", "8000", "-h", "/www"]
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": serve, "ExposedPorts": {"8000/tcp": {}}, "StopSignal": "SIGKILL"},
        "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
    }
    return gzip.compress(layer, 1), json.dumps(config).encode()


def registry(host: Host, page: str, tenth: int | None = None) -> str:
    """Puts an image there, as a registry has it; returns its reference. The layer is cut after *tenth* once.

    https://distribution.github.io/distribution/spec/api/
    """
    layer, config = image(page)
    kind = "application/vnd.docker.distribution.manifest.v2+json"
    parts = {"config": ("application/vnd.docker.container.image.v1+json", config)}
    parts |= {"layer": ("application/vnd.docker.image.rootfs.diff.tar.gzip", layer)}
    described = {
        name: {"mediaType": media, "size": len(data), "digest": _digest(data)} for name, (media, data) in parts.items()
    }
    manifest = json.dumps(
        {"schemaVersion": 2, "mediaType": kind, "config": described["config"], "layers": [described["layer"]]}
    ).encode()
    host.serve("/v2/", whole(b"{}"))
    for name in ("1", _digest(manifest)):
        headers = {"Content-Type": kind, "Docker-Content-Digest": _digest(manifest)}
        host.serve(f"/v2/web/manifests/{name}", whole(manifest, headers=headers))
    host.serve(f"/v2/web/blobs/{_digest(config)}", whole(config))
    cut = None if tenth is None else len(layer) * tenth // 10
    host.serve(f"/v2/web/blobs/{_digest(layer)}", whole(layer, cut))
    return f"docker://{host.web.host}/web:1"


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
