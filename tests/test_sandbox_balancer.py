"""The sandbox's load balancers: real requests through a real haproxy, and what AWS's calls say of it."""

import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
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


class Machine(ThreadingHTTPServer):
    """An instance whose app answers *status* and its address, and to /slow not before *release* is set.

    *asked* is what it was asked, without the check of /health.
    """

    def __init__(self, instance_id: str, address: str, port: int = 0) -> None:
        super().__init__((address, port), _Handler)
        self.id, self.address = instance_id, address
        self.status, self.asked, self.release = 200, list[str](), threading.Event()

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, args=(0.02,)).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.release.set()
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Machine

    def do_GET(self) -> None:
        if self.path != "/health":
            self.server.asked.append(self.path)
        if self.path == "/slow":
            assert self.server.release.wait(10)
        self.send_response(self.server.status)
        self.end_headers()
        self.wfile.write(self.server.address.encode())

    def log_message(self, *_: object) -> None:
        """Nothing: what was asked is kept."""


@pytest.fixture
def two(cloud: Cloud) -> Iterator[tuple[Machine, Machine]]:
    with Machine("i-1", "127.0.0.2") as one, Machine("i-2", "127.0.0.3", one.server_port) as other:
        cloud.addresses |= {each.id: each.address for each in (one, other)}
        yield one, other


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


def registration(cloud: Cloud, pool: Pool, verb: str, *named: str) -> None:
    """Registers or deregisters the instances, or the cloud's own, by AWS's call."""
    instances = named or [cloud.imds.instance.instance_id]
    if pool.arn:
        change = getattr(cloud.client("elbv2"), f"{verb}_targets")
        change(TargetGroupArn=pool.arn, Targets=[{"Id": each} for each in instances])
        return
    elb, way = cloud.client("elb"), "with" if verb == "register" else "from"
    change = getattr(elb, f"{verb}_instances_{way}_load_balancer")
    change(LoadBalancerName=pool.name, Instances=[{"InstanceId": each} for each in instances])


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


def all_described(cloud: Cloud, pool: Pool) -> dict[str, str]:
    """The state of each instance that AWS's call names where it is asked for none."""
    if pool.arn:
        answer = cloud.client("elbv2").describe_target_health(TargetGroupArn=pool.arn)
        return {each["Target"]["Id"]: each["TargetHealth"]["State"] for each in answer["TargetHealthDescriptions"]}
    states = cloud.client("elb").describe_instance_health(LoadBalancerName=pool.name)["InstanceStates"]
    return {each["InstanceId"]: each["State"] for each in states}


def until(met: Callable[[], bool]) -> None:
    """Waits, no longer than 5 seconds."""
    end = time.monotonic() + 5
    while not met():
        assert time.monotonic() < end
        time.sleep(0.02)


def reach(pool: Pool, state: str, *named: str) -> None:
    """Waits, no longer than 5 seconds, until the instances, or the cloud's own, are in *state*."""
    instances = named or [pool.cloud.imds.instance.instance_id]
    until(lambda: {*pool.states(instances).values()} == {state})


def servants(pool: Pool, requests_: int) -> Counter[str]:
    """Who answered so many requests, by address."""
    return Counter(requests.get(pool.url, timeout=5).text for _ in range(requests_))


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
    assert pool.haproxy.servers() == {}, "nothing of it is left"


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
        server = f"pool/{cloud.imds.instance.instance_id}"
        pool.haproxy._rule(f"set server {server} health up")  # noqa: SLF001  its check would be a request too

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


def test_two_instances_share_the_requests(cloud: Cloud, make: Make, two: tuple[Machine, Machine]) -> None:
    """A fleet of which one instance serves alone, and the roll that replaces it is an outage."""
    pool = make("web", two[0].server_port, path="/health")
    registration(cloud, pool, "register", "i-1", "i-2")
    reach(pool, "healthy", "i-1", "i-2")
    assert servants(pool, 10) == {"127.0.0.2": 5, "127.0.0.3": 5}
    assert all_described(cloud, pool) == dict.fromkeys(("i-1", "i-2"), said(pool, "healthy")[0])


def test_one_drains_while_the_other_goes_on(cloud: Cloud, make: Make, two: tuple[Machine, Machine]) -> None:
    """A drain that stops the whole fleet, or that cuts off what the leaving instance still works on."""
    pool = make("web", two[0].server_port, path="/health", settle=0.05)
    registration(cloud, pool, "register", "i-1", "i-2")
    reach(pool, "healthy", "i-1", "i-2")
    with ThreadPoolExecutor() as threads:
        slow = threads.submit(requests.get, f"{pool.url}/slow", timeout=10)
        until(lambda: any(each.asked for each in two))
        leaving, staying = two if two[0].asked else two[::-1]
        registration(cloud, pool, "deregister", leaving.id)
        assert servants(pool, 6) == {staying.address: 6}
        assert pool.states() == {staying.id: "healthy", leaving.id: "draining"}
        assert (pool.drains(leaving.id), pool.drains(staying.id)) == (True, False)
        assert all_described(cloud, pool).keys() == {"i-1", "i-2"}
        leaving.release.set()
        assert slow.result(5).text == leaving.address
    reach(pool, "unused", leaving.id)
    assert (leaving.asked, pool.states()) == (["/slow"], {staying.id: "healthy"})


def test_one_whose_check_fails_is_unhealthy_alone(
    cloud: Cloud, balancer: Balancer, two: tuple[Machine, Machine]
) -> None:
    """A canary that fails and is called healthy, for its neighbour is."""
    pool = balancer.target_group("web", two[0].server_port, path="/health")
    two[0].status = 500
    registration(cloud, pool, "register", "i-1", "i-2")
    reach(pool, "unhealthy", "i-1")
    assert pool.state_of("i-2") == "healthy"
    assert servants(pool, 4) == {"127.0.0.3": 4}


def test_an_instance_comes_again_under_another_address(
    cloud: Cloud, balancer: Balancer, two: tuple[Machine, Machine]
) -> None:
    """Requests to where an instance was in its last life, and nobody is."""
    pool = balancer.target_group("web", two[0].server_port, settle=0)
    registration(cloud, pool, "register", "i-1")
    reach(pool, "healthy", "i-1")
    assert servants(pool, 2) == {"127.0.0.2": 2}
    registration(cloud, pool, "deregister", "i-1")
    reach(pool, "unused", "i-1")
    assert (pool.haproxy.servers(), pool.states()) == ({}, {})
    cloud.addresses["i-1"] = "127.0.0.3"
    registration(cloud, pool, "register", "i-1")
    reach(pool, "healthy", "i-1")
    assert servants(pool, 2) == {"127.0.0.3": 2}


THIRTY = [f"i-{number}" for number in range(30)]


def test_thirty_instances_at_one_question(cloud: Cloud, app: App, balancer: Balancer) -> None:
    """A fleet's demo that is slow, or a page of targets that is cut off."""
    pool = balancer.target_group("web", app.port, interval=0.2)
    registration(cloud, pool, "register", *THIRTY)
    reach(pool, "healthy", *THIRTY)
    before = questions(pool)
    assert all_described(cloud, pool) == dict.fromkeys(THIRTY, "healthy")
    assert questions(pool) - before == 2, "the second is that of this count"


def questions(pool: Pool) -> int:
    """How many haproxy has answered, the one that asks for it among them; users' requests count as well."""
    said = pool.haproxy._ask("show info")  # noqa: SLF001  nobody else wants to know
    return next(int(line.removeprefix("CumReq: ")) for line in said.splitlines() if line.startswith("CumReq: "))


def test_thirty_that_come_and_go_at_once(cloud: Cloud, app: App, balancer: Balancer) -> None:
    """A roll in which haproxy is told twice to add one, or one is lost: each agent registers from its own thread."""
    pool = balancer.target_group("web", app.port, interval=0.2, settle=0)

    def come_and_go(instance_id: str) -> None:
        for verb in ("register", "deregister", "register"):
            registration(cloud, pool, verb, instance_id)
        assert not pool.drains(instance_id)

    with ThreadPoolExecutor(8) as threads:
        [*threads.map(come_and_go, THIRTY)]
    reach(pool, "healthy", *THIRTY)
    assert pool.haproxy.servers().keys() == {*THIRTY}


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
        pool.haproxy.servers()
    assert cloud.pools == {}
    assert not [name for name in cloud.front.handlers if name.startswith("elasticloadbalancing:")]


def test_a_haproxy_that_ends_at_once_says_why(cloud: Cloud, app: App, tmp_path: Path) -> None:
    """An unexplained dead proxy looks like an agent that serves nothing."""
    with Balancer(cloud, tmp_path / "one") as balancer, pytest.raises(AgentError, match="Fatal errors"):
        balancer.target_group("web", app.port, path='"')
