"""The instance metadata service on a loopback port: as strict as IMDSv2, with faults to order."""

import json
import math
import secrets
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Self
from urllib.parse import unquote

from adf_agent.sandbox.closing import Closing

TOKEN_PATH = "/latest/api/token"  # noqa: S105  where tokens are made
LONGEST = 21600  # seconds that a token may live
Clock = Callable[[], float]
Fact = str | bytes | dict[str, str]
SILENCE = 0  # in place of a status: the connection is taken and nothing is ever said


@dataclass
class Instance:
    """The facts that are served. They may be changed at any time: the next request is answered by the new ones."""

    instance_id: str = "i-0123456789abcdef0"
    region: str = "eu-west-1"
    zone: str = "eu-west-1a"
    account: str = "123456789012"
    image_id: str = "ami-0123456789abcdef0"
    type: str = "t3.micro"
    private_ip: str = "127.0.0.1"
    user_data: bytes | Path | None = None  # a file is read anew for each request
    tags: dict[str, str] | None = None  # None: instance tags are not switched on in IMDS
    life_cycle: str = "on-demand"  # or "spot"
    target_lifecycle_state: str | None = None
    spot_action: dict[str, str] | None = None
    rebalance: dict[str, str] | None = None
    hop_limit: int = 64  # of the answers to a token's PUT
    role: str | None = "adf-agent"  # None: no instance profile
    access_key: str = "ASIASANDBOX"
    secret_key: str = "sandbox"  # noqa: S105  nothing that it opens is real
    token: str = "sandbox"  # noqa: S105  likewise


@dataclass
class Fault:
    """The next *times* requests below *path* get *status*, or SILENCE."""

    status: int
    times: float = math.inf
    path: str = "/"
    body: bytes | None = None
    headers: tuple[tuple[str, str], ...] = ()


def identity_document(instance: Instance) -> dict[str, str]:
    """The document (https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instance-identity-documents.html)."""
    return {
        "accountId": instance.account,
        "architecture": "x86_64",
        "availabilityZone": instance.zone,
        "imageId": instance.image_id,
        "instanceId": instance.instance_id,
        "instanceType": instance.type,
        "privateIp": instance.private_ip,
        "region": instance.region,
    }


def credentials(instance: Instance, now: datetime) -> dict[str, str]:
    """The role's (https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instance-metadata-security-credentials.html)."""
    return {
        "Code": "Success",
        "LastUpdated": f"{now:%Y-%m-%dT%H:%M:%SZ}",
        "Type": "AWS-HMAC",
        "AccessKeyId": instance.access_key,
        "SecretAccessKey": instance.secret_key,
        "Token": instance.token,
        "Expiration": f"{now + timedelta(hours=6):%Y-%m-%dT%H:%M:%SZ}",
    }


def content(instance: Instance, now: datetime) -> dict[str, bytes]:
    """Every path that has a value, as below /latest."""
    facts: dict[str, Fact | None] = {
        "dynamic/instance-identity/document": identity_document(instance),
        "user-data": user_data.read_bytes() if isinstance(user_data := instance.user_data, Path) else user_data,
        "meta-data/ami-id": instance.image_id,
        "meta-data/autoscaling/target-lifecycle-state": instance.target_lifecycle_state,
        "meta-data/events/recommendations/rebalance": instance.rebalance,
        f"meta-data/iam/security-credentials/{instance.role}": credentials(instance, now) if instance.role else None,
        "meta-data/instance-id": instance.instance_id,
        "meta-data/instance-life-cycle": instance.life_cycle,
        "meta-data/instance-type": instance.type,
        "meta-data/local-ipv4": instance.private_ip,
        "meta-data/placement/availability-zone": instance.zone,
        "meta-data/placement/region": instance.region,
        "meta-data/spot/instance-action": instance.spot_action,
    }
    facts |= {f"meta-data/tags/instance/{key}": value for key, value in (instance.tags or {}).items()}
    return {f"/latest/{path}": _bytes(fact) for path, fact in facts.items() if fact is not None}


def lookup(contents: dict[str, bytes], path: str) -> bytes | None:
    """The value at *path*, or a folder's listing, a name a line, folders with a slash; None where nothing is."""
    path = path.rstrip("/")  # on a value too: botocore asks for placement/availability-zone/
    if path in contents:
        return contents[path]
    below = [name.removeprefix(f"{path}/") for name in contents if name.startswith(f"{path}/")]
    names = {first + slash for first, slash, _ in (name.partition("/") for name in below)}
    return "\n".join(sorted(names)).encode() or None


class Imds:
    """The service of one *instance*; a context manager. Port 0 is any free one; *clock* ages tokens (seconds)."""

    def __init__(
        self, instance: Instance | None = None, address: str = "127.0.0.1", port: int = 0, clock: Clock = time.monotonic
    ) -> None:
        self.instance = instance or Instance()
        self.faults: list[Fault] = []
        self.requests: Counter[str] = Counter()  # by path, as it was asked for
        self.closing = threading.Event()
        self._clock = clock
        self._tokens: dict[str, float] = {}
        self._lock = threading.Lock()
        self._server = _Server(self, address, port)
        self.endpoint = f"http://{address}:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), name="imds").start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def connections(self) -> int:
        """How many there were."""
        return self._server.connections

    def new_token(self, seconds: int) -> str:
        """A token that opens everything for *seconds*."""
        token = secrets.token_urlsafe(40)
        self._tokens[token] = self._clock() + seconds
        return token

    def revoke_tokens(self) -> None:
        """Every token from before is answered with 401."""
        self._tokens.clear()

    def knows(self, token: str) -> bool:
        """Whether *token* was made here, and neither ran out nor was revoked."""
        return self._clock() < self._tokens.get(token, -math.inf)

    def ordered_fault(self, path: str) -> Fault | None:
        """Counts a request of *path*; the fault that was ordered for it."""
        with self._lock:
            self.requests[path] += 1
            fault = next((fault for fault in self.faults if fault.times > 0 and path.startswith(fault.path)), None)
            if fault:
                fault.times -= 1
        return fault


class _Server(Closing):
    def __init__(self, imds: Imds, address: str, port: int) -> None:
        self.imds = imds
        super().__init__((address, port), _Handler)


class _Handler(BaseHTTPRequestHandler):
    # https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/configuring-instance-metadata-service.html
    server: _Server
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body in one packet: two would wait 40 ms for an acknowledgement

    def do_PUT(self) -> None:
        seconds = self.headers.get("X-aws-ec2-metadata-token-ttl-seconds", "")
        self._reach(self.server.imds.instance.hop_limit)
        if self._faulty():
            return
        if "X-Forwarded-For" in self.headers:  # a proxy that is open to the world must get no token
            self._answer(HTTPStatus.FORBIDDEN)
        elif self.path != TOKEN_PATH:
            self._answer(HTTPStatus.METHOD_NOT_ALLOWED)
        elif not (seconds.isdecimal() and 1 <= int(seconds) <= LONGEST):
            self._answer(HTTPStatus.BAD_REQUEST)
        else:
            token = self.server.imds.new_token(int(seconds))
            self._answer(HTTPStatus.OK, token.encode(), ("X-aws-ec2-metadata-token-ttl-seconds", seconds))

    def do_GET(self) -> None:
        self._reach(Instance.hop_limit)
        if self._faulty():
            return
        if self.path == TOKEN_PATH:
            self._answer(HTTPStatus.METHOD_NOT_ALLOWED)
        elif not self.server.imds.knows(self.headers.get("X-aws-ec2-metadata-token", "")):
            self._answer(HTTPStatus.UNAUTHORIZED)
        else:
            body = lookup(content(self.server.imds.instance, datetime.now(UTC)), unquote(self.path))
            self._answer(HTTPStatus.NOT_FOUND if body is None else HTTPStatus.OK, body)

    def _reach(self, hops: int) -> None:
        """Gives what is answered from now on that many hops to go: what a router would send on with 0, it drops."""
        self.connection.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, hops)

    def log_message(self, *_: object) -> None: ...  # what was asked is counted

    def _faulty(self) -> bool:
        fault = self.server.imds.ordered_fault(self.path)
        if fault and fault.status == SILENCE:
            self.server.imds.closing.wait()
            self.close_connection = True
        elif fault:
            self._answer(HTTPStatus(fault.status), fault.body, *fault.headers)
        return fault is not None

    def _answer(self, status: HTTPStatus, body: bytes | None = None, *headers: tuple[str, str]) -> None:
        body = f"{status} - {status.phrase}".encode() if body is None else body
        self.send_response(status)
        for header in (("Content-Type", "text/plain"), ("Content-Length", str(len(body))), *headers):
            self.send_header(*header)
        self.end_headers()
        self.wfile.write(body)


def _bytes(fact: Fact) -> bytes:
    text = json.dumps(fact) if isinstance(fact, dict) else fact
    return text.encode() if isinstance(text, str) else text
