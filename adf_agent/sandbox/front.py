"""What stands before moto's server: it counts AWS calls, fails them to order, and lets the sandbox answer for moto."""

import io
import json
import math
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.wrappers import Response

from adf_agent.errors import AgentError

SCOPE = re.compile(r"Credential=[^/]+/\d+/[^/]+/([^/]+)/aws4_request")
SERVICES = {"monitoring": "cloudwatch"}  # whose signatures have another name than their actions
FORM = "application/x-www-form-urlencoded"
CONTROL = "/adf-sandbox/"  # what is below it is not AWS's: the sandbox itself is told something
# Services with an envelope of their own; others of the query protocol have the last one
# (https://smithy.io/2.0/aws/protocols/aws-query-protocol.html#operation-error-serialization).
ENVELOPES = {"ec2": ("Response", "Errors", "Error"), "s3": ("Error",)}
ENVELOPE = ("ErrorResponse", "Error")


@dataclass
class AwsFault:
    """The next *times* calls that *action* matches ("elasticloadbalancing:*") are answered with the error *code*.

    *seconds* pass in silence first, unless the cloud closes. Without a *code* the answer is a bare 503.
    """

    action: str
    code: str = "Throttling"
    status: int = 400
    times: float = math.inf
    message: str = ""
    seconds: float = 0
    more: Mapping[str, Any] = field(default_factory=dict)  # members of an answer in JSON


@dataclass(frozen=True)
class Call:
    """One request: "autoscaling", "CompleteLifecycleAction", and the form's fields ("Targets.member.1.Id")."""

    service: str
    action: str
    form: Mapping[str, str] = field(default_factory=dict)
    json: bool = False

    @property
    def name(self) -> str:
        return f"{self.service}:{self.action}"


Then = Callable[[], Response]  # what moto answers
Handler = Callable[[Call, Then], Response]  # answers in moto's place, or after it
Control = Callable[[str, list[str]], str]  # what is answered to a command and its words. Raises AgentError


class Front:
    """A WSGI application. *handlers* are by a call's name ("autoscaling:CompleteLifecycleAction")."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.faults: list[AwsFault] = []
        self.handlers: dict[str, Handler] = {}
        self.control: Control | None = None
        self.closing = threading.Event()
        self._lock = threading.Lock()
        self._moto: Any = DomainDispatcherApplication(create_backend_app)
        self._table = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        controlled = self.control if environ["PATH_INFO"].startswith(CONTROL) else None
        application = _controlled(controlled, environ) if controlled else self._application(environ)
        answer: Iterable[bytes] = application(environ, start_response)
        return answer

    def ordered_fault(self, name: str) -> AwsFault | None:
        """Counts a call of *name*; the fault that was ordered for it."""
        with self._lock:
            self.calls[name] += 1
            fault = next((fault for fault in self.faults if fault.times > 0 and fnmatchcase(name, fault.action)), None)
            if fault:
                fault.times -= 1
        return fault

    def _application(self, environ: dict[str, Any]) -> Any:
        call = identify(environ)
        if call is None:
            return self._moto
        if fault := self.ordered_fault(call.name):
            self.closing.wait(min(fault.seconds, threading.TIMEOUT_MAX))
            if not fault.code:
                return Response(status=503)
            return error(call, fault.code, fault.message, fault.status, **fault.more)
        if handler := self.handlers.get(call.name):
            return handler(call, lambda: Response.from_app(self._moto, environ))
        if call.service == "dynamodb":  # moto takes a failed transaction back over what others wrote meanwhile
            with self._table:
                return Response.from_app(self._moto, environ)
        return self._moto


def _controlled(control: Control, environ: dict[str, Any]) -> Response:
    words = json.loads(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)))
    try:
        return Response(control(environ["PATH_INFO"].removeprefix(CONTROL), words))
    except AgentError as error:
        return Response("\n  → ".join(filter(None, [error.sentence, error.hint])), HTTPStatus.BAD_REQUEST)


def identify(environ: dict[str, Any]) -> Call | None:
    """The call that a request makes; None where it is not signed. Without an action (S3) it is the method's name.

    The query protocol has it in the form's field Action, the JSON ones in X-Amz-Target.
    """
    scope = SCOPE.search(environ.get("HTTP_AUTHORIZATION", ""))
    if not scope:
        return None
    service = SERVICES.get(scope[1], scope[1])
    if target := environ.get("HTTP_X_AMZ_TARGET"):
        return Call(service, target.rpartition(".")[2], json=True)
    form: dict[str, str] = {}
    if environ.get("CONTENT_TYPE", "").startswith(FORM):
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)  # moto reads it as well
        form = dict(parse_qsl(body.decode(), keep_blank_values=True))
    return Call(service, form.get("Action", environ["REQUEST_METHOD"]), form)


def success(call: Call, result: Any = "") -> Response:
    """The answer of the query protocol: *result* is a mapping, a list of members, or a value, in any depth."""
    body = {f"{call.action}Response": {f"{call.action}Result": result, "ResponseMetadata": {"RequestId": "sandbox"}}}
    return Response(_xml(body), content_type="text/xml")


def error(call: Call, code: str, message: str, status: int = 400, **more: Any) -> Response:
    """The error *code* in the form that the call's protocol has for it; *more* members of it are JSON's."""
    if call.json:
        body = json.dumps({"__type": code, "message": message, **more})
        return Response(body, status, content_type="application/x-amz-json-1.0")
    tree: Any = {"Code": code, "Message": message}
    for name in reversed(ENVELOPES.get(call.service, ENVELOPE)):
        tree = {name: tree}
    return Response(_xml(tree), status, content_type="text/xml")


def _xml(tree: Any) -> str:
    if isinstance(tree, Mapping):
        return "".join(f"<{name}>{_xml(value)}</{name}>" for name, value in tree.items())
    if isinstance(tree, list):
        return "".join(f"<member>{_xml(member)}</member>" for member in tree)
    return escape(str(tree))
