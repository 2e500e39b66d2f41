"""The sandbox's load balancers: real requests through a real haproxy, and what AWS's calls say of it."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from botocore.exceptions import ClientError
from web import Answer, Asked, Web

from adf_agent.errors import AgentError
from adf_agent.sandbox.balancer import Balancer
from adf_agent.sandbox.cloud import Cloud
from adf_agent.sandbox.group import Group
from adf_agent.sandbox.member import Hook
from adf_agent.sandbox.pool import Pool

Make = Callable[..., Pool]


class App:
    """Answers "/" at once and "/slow" once *release* is set; *under_way* is set when a slow request got there."""

    def __init__(self, web: Web) -> None:
        self.web, self.port = web, urlsplit(web.url).port or 0
        self.release, self.under_way = threading.Event(), threading.Event()
        web.serve("/", Answer(200, b"app"))
        web.routes["/slow"] = self._slow

    def _slow(self, _: Asked) -> Answer:
        self.under_way.set()
        assert self.release.wait(10)
        return Answer(200, b"slow")


@pytest.fixture
def app(web: Web) -> Iterator[App]:
    made = App(web)
    yield made
    made.release.set()


@pytest.fixture
def balancer(cloud: Cloud, tmp_path: Path) -> Iterator[Balancer]:
    with Balancer(cloud, tmp_path / "balancer") as made:
        yield made


@pytest.fixture(params=["target group", "classic"])
def make(request: pytest.FixtureRequest, balancer: Balancer) -> Make:
    return balancer.target_group if request.param == "target group" else balancer.classic


@pytest.fixture
def slow(app: App) -> Iterator[Callable[[Pool], "Future[requests.Response]"]]:
    """Sends a request that is under way when this returns."""
    with ThreadPoolExecutor() as threads:

        def send(pool: Pool) -> "Future[requests.Response]":
            future = threads.submit(requests.get, f"{pool.url}/slow", timeout=10)
            assert app.under_way.wait(5)
            return future

        yield send
        app.release.set()


def get(pool: Pool) -> int:
    return requests.get(pool.url, timeout=5).status_code


def registration(cloud: Cloud, pool: Pool, verb: str) -> None:
    """Registers or deregisters the instance, by AWS's call."""
    instance = cloud.imds.instance.instance_id
    if pool.arn:
        getattr(cloud.client("elbv2"), f"{verb}_targets")(TargetGroupArn=pool.arn, Targets=[{"Id": instance}])
        return
    elb, way = cloud.client("elb"), "with" if verb == "register" else "from"
    change = getattr(elb, f"{verb}_instances_{way}_load_balancer")
    change(LoadBalancerName=pool.name, Instances=[{"InstanceId": instance}])


def described(cloud: Cloud, pool: Pool, *, named: bool = True) -> tuple[str, ...]:
    """State and reason (target group), or state, reason and description (classic), by AWS's call."""
    instance = cloud.imds.instance.instance_id
    if pool.arn:
        wanted = {"Targets": [{"Id": instance}]} if named else {}
        answer = cloud.client("elbv2").describe_target_health(TargetGroupArn=pool.arn, **wanted)
        health = [target["TargetHealth"] for target in answer["TargetHealthDescriptions"]]
        return tuple(part for one in health for part in (one["State"], one.get("Reason", "")))
    wanted = {"Instances": [{"InstanceId": instance}]} if named else {}
    states = cloud.client("elb").describe_instance_health(LoadBalancerName=pool.name, **wanted)["InstanceStates"]
    return tuple(part for one in states for part in (one["State"], one["ReasonCode"], one["Description"]))


def reach(pool: Pool, state: str) -> None:
    """Waits, no longer than 5 seconds, until the instance is in *state*."""
    end = time.monotonic() + 5
    while pool.state != state:
        assert time.monotonic() < end, f"{pool.state}, not {state}"
        time.sleep(0.02)


SAID: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "unused": (
        ("unused", "Target.NotRegistered"),
        ("OutOfService", "Instance", "Instance is not currently registered with the LoadBalancer."),
    ),
    "initial": (
        ("initial", "Elb.RegistrationInProgress"),
        ("OutOfService", "ELB", "Instance registration is still in progress."),
    ),
    "healthy": (("healthy", ""), ("InService", "N/A", "N/A")),
    "unhealthy": (
        ("unhealthy", "Target.FailedHealthChecks"),
        (
            "OutOfService",
            "Instance",
            "Instance has failed at least the UnhealthyThreshold number of health checks consecutively.",
        ),
    ),
    "draining": (
        ("draining", "Target.DeregistrationInProgress"),
        ("InService", "N/A", "Instance deregistration currently in progress."),
    ),
}


def said(pool: Pool, state: str) -> tuple[str, ...]:
    """What AWS says of an instance that is in *state*."""
    return SAID[state][0 if pool.arn else 1]


def test_requests_come_once_registered_and_checked(cloud: Cloud, app: App, make: Make) -> None:
    """A balancer that serves an unregistered instance hides an agent that never joins."""
    pool = make("web", app.port)
    assert (described(cloud, pool), described(cloud, pool, named=False)) == (said(pool, "unused"), ())
    assert (get(pool), app.web.asked) == (503, [])
    registration(cloud, pool, "register")
    assert described(cloud, pool) == said(pool, "initial")
    reach(pool, "healthy")
    assert described(cloud, pool) == described(cloud, pool, named=False) == said(pool, "healthy")
    assert requests.get(pool.url, timeout=5).text == "app"


def test_no_request_comes_before_the_first_check(cloud: Cloud, app: App, balancer: Balancer) -> None:
    """Traffic ahead of the check would be lost here and nowhere else: the agent is blamed for it."""
    pool = balancer.target_group("web", app.port, interval=60)
    registration(cloud, pool, "register")
    assert [get(pool) for _ in range(20)] == [503] * 20
    assert described(cloud, pool) == said(pool, "initial")


def test_an_app_that_fails_its_check_is_unhealthy_and_gets_nothing(cloud: Cloud, app: App, make: Make) -> None:
    """A balancer that calls every target healthy hides an app that is not."""
    pool = make("web", app.port, path="/health")
    registration(cloud, pool, "register")
    reach(pool, "unhealthy")
    assert (described(cloud, pool), get(pool)) == (said(pool, "unhealthy"), 503)
    app.web.serve("/health", Answer(200))
    reach(pool, "healthy")
    app.web.serve("/health", Answer(500))
    reach(pool, "unhealthy")


def test_draining_ends_with_the_last_request(
    cloud: Cloud, app: App, make: Make, slow: Callable[[Pool], "Future[requests.Response]"]
) -> None:
    """An agent that stops its container while the balancer drains loses the requests under way."""
    pool = make("web", app.port, settle=0.05)
    registration(cloud, pool, "register")
    reach(pool, "healthy")
    answer = slow(pool)
    registration(cloud, pool, "deregister")
    assert described(cloud, pool) == described(cloud, pool, named=False) == said(pool, "draining")
    assert get(pool) == 503  # nothing new
    time.sleep(0.1)  # longer than it settles: it is the request that is waited for
    assert described(cloud, pool) == said(pool, "draining")
    app.release.set()
    reach(pool, "unused")
    assert (answer.result(5).text, described(cloud, pool)) == ("slow", said(pool, "unused"))


def test_draining_lasts_as_long_as_ordered_with_no_request_under_way(cloud: Cloud, app: App, make: Make) -> None:
    """AWS shows a target as draining after its last request; an agent that never sees it is never tested with it."""
    pool = make("web", app.port, settle=0.3)
    registration(cloud, pool, "register")
    reach(pool, "healthy")
    began = time.monotonic()
    registration(cloud, pool, "deregister")
    assert described(cloud, pool) == said(pool, "draining")
    reach(pool, "unused")
    assert time.monotonic() - began >= 0.3


def test_a_request_longer_than_the_delay_is_cut_off(
    cloud: Cloud, app: App, make: Make, slow: Callable[[Pool], "Future[requests.Response]"]
) -> None:
    """A balancer that waits for ever hides that a long request needs a longer deregistration delay."""
    pool = make("web", app.port, deregistration_delay=0.3, settle=0)
    registration(cloud, pool, "register")
    reach(pool, "healthy")
    answer = slow(pool)
    registration(cloud, pool, "deregister")
    reach(pool, "unused")
    assert not app.release.is_set()
    try:
        assert answer.result(5).status_code >= 500
    except requests.ConnectionError:
        assert answer.done()


def test_a_registration_while_it_drains_serves_again(cloud: Cloud, app: App, make: Make) -> None:
    """A reload leaves and joins again; a balancer stuck in its draining makes that an outage."""
    pool = make("web", app.port, settle=30, deregistration_delay=30)
    for verb in ("register", "deregister", "register"):
        registration(cloud, pool, verb)
    reach(pool, "healthy")
    assert get(pool) == 200


def test_deregistering_what_is_not_registered_succeeds(cloud: Cloud, app: App, make: Make) -> None:
    """AWS does not mind; an agent that was taught otherwise fails its own drain after the group's."""
    pool = make("web", app.port)
    registration(cloud, pool, "deregister")
    assert pool.state == "unused"


def test_motos_own_errors_stay(cloud: Cloud, balancer: Balancer) -> None:
    """A target group that is gone and yet answers hides an agent that waits for it for ever."""
    assert balancer.pools == {}
    arn = "arn:aws:elasticloadbalancing:eu-west-1:123456789012:targetgroup/gone/0123456789abcdef"
    elbv2 = cloud.client("elbv2")
    for call in (elbv2.register_targets, elbv2.deregister_targets, elbv2.describe_target_health):
        with pytest.raises(ClientError, match="TargetGroupNotFound"):
            call(TargetGroupArn=arn, Targets=[{"Id": "i-0"}])


def test_a_lost_request_is_seen(cloud: Cloud, balancer: Balancer) -> None:
    """A proxy that tries again hides the very request that an agent lost."""
    taken = []
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor() as threads:
        pool = balancer.target_group("web", listener.getsockname()[1], interval=60)
        registration(cloud, pool, "register")
        pool.haproxy._rule("set server pool/instance health up")  # noqa: SLF001  its check would be a request too

        def drop() -> None:
            listener.settimeout(5)
            while True:
                connection, _ = listener.accept()
                with connection:
                    request = connection.recv(4096)
                if b"/quit" in request:
                    return
                taken.append(request)

        dropping: Future[Any] = threads.submit(drop)
        status = requests.get(pool.url, timeout=5).status_code
        requests.get(f"{pool.url}/quit", timeout=5)
        dropping.result(5)
    assert (status, len([request for request in taken if b"user-agent" in request.lower()])) == (502, 1)


def test_termination_waits_for_the_draining(
    cloud: Cloud, app: App, balancer: Balancer, slow: Callable[[Pool], "Future[requests.Response]"]
) -> None:
    """The hook waits only after the draining: an agent that completes it before gets an error, not more time."""
    pool, old = balancer.target_group("web", app.port), balancer.classic("old", app.port)
    hooks = [Hook("adf-terminate", "terminate")]
    with Group(cloud, hooks=hooks, target_groups=[pool.arn], load_balancers=[old.name]) as group:
        group.launch()
        reach(pool, "healthy")
        reach(old, "healthy")
        answer = slow(pool)
        group.terminate()
        reach(old, "unused")
        named = {"AutoScalingGroupName": group.name, "InstanceId": cloud.imds.instance.instance_id}
        with pytest.raises(ClientError, match="No active Lifecycle Action"):
            cloud.client("autoscaling").complete_lifecycle_action(
                **named, LifecycleHookName="adf-terminate", LifecycleActionResult="CONTINUE"
            )
        assert (group.state, pool.state) == ("Terminating", "draining")
        assert cloud.imds.instance.target_lifecycle_state == "Terminated"
        app.release.set()
        group.wait_for("Terminating:Wait")
        assert (pool.state, answer.result(5).text) == ("unused", "slow")


def test_nothing_is_left_of_it(cloud: Cloud, app: App, tmp_path: Path) -> None:
    """A proxy that outlives its test serves the next one's requests."""
    with Balancer(cloud, tmp_path / "one") as balancer:
        pool = balancer.target_group("web", app.port)
        assert get(pool) == 503
    with pytest.raises(requests.ConnectionError):
        get(pool)
    with pytest.raises(AgentError, match="haproxy does not answer"):
        assert pool.haproxy.up
    assert cloud.pools == {}
    assert not [name for name in cloud.front.handlers if name.startswith("elasticloadbalancing:")]


def test_a_haproxy_that_ends_at_once_says_why(cloud: Cloud, app: App, tmp_path: Path) -> None:
    """An unexplained dead proxy looks like an agent that serves nothing."""
    with Balancer(cloud, tmp_path / "one") as balancer, pytest.raises(AgentError, match="Fatal errors"):
        balancer.target_group("web", app.port, path='"')
