"""An AWS that throttles, and clients of it that try again as botocore's do, in virtual time."""

import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from http import HTTPStatus
from types import SimpleNamespace
from typing import Any

from botocore.exceptions import ClientError
from botocore.hooks import HierarchicalEmitter
from botocore.retries import standard
from botocore.session import Session
from virtual import VirtualTime

LATENCY = (0.02, 0.05)  # seconds
GROUP, HOOK = "shop", "adf-launch"
KEYS = 20  # of config
Answer = Mapping[str, Any]


@dataclass
class Bucket:
    """Tokens, of which a call takes one: *size* at most and at first, *rate* more a second."""

    size: float
    rate: float
    left: float = field(init=False)
    filled: float = 0.0

    def __post_init__(self) -> None:
        self.left = self.size

    def take(self, now: float) -> bool:
        self.left = min(self.size, self.left + self.rate * (now - self.filled))
        self.filled = now
        if self.left < 1:
            return False
        self.left -= 1
        return True


def buckets(share: float = 1.0) -> dict[str, Bucket]:
    """What AWS lets an account do in a Region, or a *share* of it, as others call too.

    Auto Scaling has one bucket for all of its calls, of a size that no page gives: 100 and 20 a second are assumed.
    https://docs.aws.amazon.com/autoscaling/ec2/APIReference/Welcome.html
    Elastic Load Balancing: 40, and 10 a second, for what describes; half of that is assumed for registrations.
    https://docs.aws.amazon.com/elasticloadbalancing/latest/userguide/elb-api-throttling.html
    DynamoDB: 3,000 reads and 1,000 writes a second of one partition key.
    https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/bp-partition-key-design.html
    """
    limits = {
        "autoscaling": (100, 20),
        "elbv2 describe": (40, 10),
        "elbv2 register": (20, 5),
        "dynamodb read": (3000, 3000),
        "dynamodb write": (1000, 1000),
    }
    return {name: Bucket(size * share, rate * share) for name, (size, rate) in limits.items()}


KINDS = {"register_targets": " register", "describe_target_health": " describe", "put_item": " write"}


def kind(service: str, call: str) -> str:
    """The bucket that *call* takes its token from."""
    return service + ("" if service == "autoscaling" else KINDS.get(call, " read"))


@dataclass(frozen=True)
class Call:
    """One request as AWS saw it."""

    at: float
    instance: str
    name: str
    throttled: bool


class Aws:
    """One group of which every instance waits in its launch hook, for *timeout* seconds from the beginning on."""

    def __init__(self, clock: VirtualTime, limits: dict[str, Bucket], timeout: float, settles: float) -> None:
        self.clock, self.limits, self.timeout, self.settles = clock, limits, timeout, settles
        self.calls: list[Call] = []
        self.served: Counter[str] = Counter()  # by call, over all instances
        self.in_service: dict[str, float] = {}  # by instance: when its hook was completed
        self.written: set[str] = set()  # who has a fleet record
        self._until: dict[str, float] = {}  # by instance: when its hook runs out
        self._registered: dict[str, float] = {}

    def client(self, service: str, instance: str) -> "Client":
        return Client(self, service, instance)

    def answer(self, service: str, instance: str, call: str, request: Answer) -> tuple[int, dict[str, Any]]:
        """The status, and what botocore would make of the body."""
        throttled = not self.limits[kind(service, call)].take(self.clock.now)
        self.calls.append(Call(self.clock.now, instance, call, throttled))
        if throttled:
            code = "ProvisionedThroughputExceededException" if service == "dynamodb" else "Throttling"
            return _error(code, "Rate exceeded")
        self.served[call] += 1
        answers: dict[str, Callable[[str, Answer], tuple[int, dict[str, Any]]]] = {
            "describe_auto_scaling_instances": self._instances,
            "describe_lifecycle_hooks": self._hooks,
            "record_lifecycle_action_heartbeat": self._heartbeat,
            "complete_lifecycle_action": self._complete,
            "register_targets": self._register,
            "describe_target_health": self._health,
            "get_item": lambda *_: _ok(Item={"Revision": {"N": "7"}}),
            "query": self._query,
            "put_item": self._put,
        }
        return answers[call](instance, request)

    def _waits(self, instance: str) -> bool:
        return instance not in self.in_service and self.clock.now < self._until.get(instance, self.timeout)

    def _instances(self, instance: str, _: Answer) -> tuple[int, dict[str, Any]]:
        waits = "Pending:Wait" if self._waits(instance) else "Terminating"
        state = "InService" if instance in self.in_service else waits
        return _ok(AutoScalingInstances=[{"AutoScalingGroupName": GROUP, "LifecycleState": state}])

    def _hooks(self, *_: object) -> tuple[int, dict[str, Any]]:
        transition = "autoscaling:EC2_INSTANCE_LAUNCHING"
        hook = {"LifecycleHookName": HOOK, "LifecycleTransition": transition, "HeartbeatTimeout": self.timeout}
        return _ok(LifecycleHooks=[hook])

    def _heartbeat(self, instance: str, _: Answer) -> tuple[int, dict[str, Any]]:
        if not self._waits(instance):
            return _error("ValidationError", "No active Lifecycle Action found")
        self._until[instance] = self.clock.now + self.timeout
        return _ok()

    def _complete(self, instance: str, _: Answer) -> tuple[int, dict[str, Any]]:
        if not self._waits(instance):
            return _error("ValidationError", "No active Lifecycle Action found")
        self.in_service[instance] = self.clock.now
        return _ok()

    def _register(self, instance: str, _: Answer) -> tuple[int, dict[str, Any]]:
        self._registered.setdefault(instance, self.clock.now)
        return _ok()

    def _health(self, instance: str, _: Answer) -> tuple[int, dict[str, Any]]:
        well = instance in self._registered and self.clock.now >= self._registered[instance] + self.settles
        return _ok(TargetHealthDescriptions=[{"TargetHealth": {"State": "healthy" if well else "initial"}}])

    def _query(self, _: str, request: Answer) -> tuple[int, dict[str, Any]]:
        place = request["ExpressionAttributeValues"][":app"]["S"]
        names = [] if "@" in place else [f"KEY_{number}" for number in range(KEYS)]
        return _ok(Items=[{"App": {"S": place}, "Name": {"S": name}, "Value": {"S": "value"}} for name in names])

    def _put(self, instance: str, _: Answer) -> tuple[int, dict[str, Any]]:
        self.written.add(instance)
        return _ok()


class Client:
    """What boto3's client of *service* is to one instance, with the retries of adf_agent.clients (mode: standard).

    The botocore that is installed decides by itself whether, how often and how soon a call is made again.
    """

    def __init__(self, aws: Aws, service: str, instance: str) -> None:
        self._aws, self._service, self._instance = aws, service, instance
        self._model, self._events = _model(service), HierarchicalEmitter()
        self._id = self._model.service_id.hyphenize()
        meta = SimpleNamespace(service_model=self._model, events=self._events)
        standard.register_retry_handler(SimpleNamespace(meta=meta))

    def __getattr__(self, call: str) -> Callable[..., dict[str, Any]]:
        return partial(self._made, call)

    def _made(self, call: str, **request: Any) -> dict[str, Any]:
        """As botocore's Endpoint sends a request."""
        context: dict[str, Any] = {}
        pause = 0.0
        for attempt in range(1, 100):
            self._aws.clock.sleep(pause + random.uniform(*LATENCY))  # noqa: S311  not for secrecy
            status, answer = self._aws.answer(self._service, self._instance, call, request)
            http = SimpleNamespace(status_code=status, headers={})
            again = self._again(call, attempt, (http, answer), context)
            if again is None:
                break
            pause = again
        if status != HTTPStatus.OK:
            raise ClientError(answer, call)
        self._events.emit(f"after-call.{self._id}", http_response=http, context=context)
        return answer

    def _again(self, call: str, attempt: int, answer: tuple[Any, Answer], context: dict[str, Any]) -> float | None:
        """How soon botocore would make the call again; None where it would not."""
        heard = self._events.emit(
            f"needs-retry.{self._id}",
            response=answer,
            operation=self._model.operation_model("".join(word.title() for word in call.split("_"))),
            attempts=attempt,
            caught_exception=None,
            request_dict={"context": context},
        )
        return next((seconds for _, seconds in heard if seconds is not None), None)


@cache
def _model(service: str) -> Any:
    return Session().get_service_model(service)


def _ok(**answer: Any) -> tuple[int, dict[str, Any]]:
    return HTTPStatus.OK, answer


def _error(code: str, message: str) -> tuple[int, dict[str, Any]]:
    meta = {"HTTPStatusCode": HTTPStatus.BAD_REQUEST}
    return HTTPStatus.BAD_REQUEST, {"Error": {"Code": code, "Message": message}, "ResponseMetadata": meta}
