"""Who watches a roll: when the canary has been judged to the end, and what must not end the watch."""

import contextlib
import io
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from botocore.config import Config
from fixtures_operator import TABLE
from fixtures_roll import APP, BAKED, GROUP, LONG, QUICK, Shop, answered, meanwhile, target_group, url
from werkzeug.wrappers import Response

from adf_agent import fleetrecord
from adf_agent.ops import account, roll
from adf_agent.ops.rolling import begin, cli
from adf_agent.ops.rolling.canary import Instance
from adf_agent.ops.rolling.check import Check
from adf_agent.ops.rolling.guard import Trial
from adf_agent.ops.rolling.lookout import Look
from adf_agent.ops.rolling.refresh import Refresh
from adf_agent.ops.rolling.screen import Lines
from adf_agent.sandbox.front import AwsFault, Call, Then, error, success

# At the end of the bake, and not before, this one's load balancer counts.
CANARY = Instance("i-1", "InService", served=True, balancer="codes: [502]")


@pytest.mark.parametrize(
    ("warmup", "delay", "seconds", "beyond", "late"),
    [
        (0, 60, 0, False, False),
        (0, 60, 49, False, False),
        (0, 60, 50, False, True),  # two looks before AWS goes on
        (30, 60, 50, False, False),
        (30, 60, 79, False, False),
        (30, 60, 80, False, True),
        (30, 60, 0, True, True),  # AWS has gone on
        (0, 4, 1, False, False),
        (0, 4, 2, False, True),
        (30, 4, 31, False, False),
        (30, 0, 29, False, False),
        (30, 0, 30, False, True),
    ],
)
def test_the_canary_is_judged_until_aws_goes_on(
    warmup: int, delay: int, seconds: float, *, beyond: bool, late: bool
) -> None:
    """A canary that fails in the last half of its bake, when nobody looks any more."""
    now = [100.0]
    look = Look(Refresh("r-1", "InProgress", delay=delay), (CANARY,), (CANARY,), beyond=beyond, warmup=warmup)
    with Check("") as none:
        trial = Trial("v2", none, Lines(), lambda: now[0])
        if seconds:
            assert trial.verdict(look) is None
        now[0] += seconds
        assert bool(trial.verdict(look)) is late


@pytest.mark.parametrize(
    ("percentage", "of", "beyond"),
    [(25, 4, False), (50, 4, True), (50, 2, False), (33, 3, False), (34, 3, False), (67, 3, True), (100, 1, False)],
)
def test_a_percentage_is_of_what_may_be_replaced(percentage: int, of: int, *, beyond: bool) -> None:
    """A canary that counts as judged since half of the group is protected from scale-in."""
    assert Refresh("r-1", "InProgress", percentage=percentage).beyond(1, of) is beyond


def test_a_canary_beside_protected_instances_is_judged_to_the_end(shop: Shop) -> None:
    """A group of workers that protect themselves, whose canary is called well as soon as it serves."""
    shop.open(4)
    protected = [each["InstanceId"] for each in shop.group["Instances"]][:2]
    request = {"AutoScalingGroupName": GROUP, "InstanceIds": protected, "ProtectedFromScaleIn": True}
    shop.autoscaling.set_instance_protection(**request)

    def restart() -> None:
        shop.until(lambda: shop.refreshes[0]["PercentageComplete"] == 50)
        shop.looked(3)
        next(made for made in shop.instances.values() if made.release == "v2").tell("in service", restarts=1)

    with meanwhile(shop, restart):
        ran = shop("start", url("v2"), *LONG)
    assert (ran.code, "the canary is well" in ran.out) == (1, False)


def test_a_canary_is_judged_while_it_warms_up_too(shop: Shop) -> None:
    """A canary that dies in the seconds that AWS waits for the load balancer, and a bake that was over before."""
    shop.open(2, TargetGroupARNs=target_group(shop)["TargetGroupARNs"])

    def restart() -> None:
        shop.looked(30)  # for a second and a half: the bake's one second is over, its warm-up is not
        next(made for made in shop.instances.values() if made.release == "v2").tell("in service", restarts=1)

    def brisk(call: Call, _: Then) -> Response:
        return success(call, {"TargetGroups": [{"HealthCheckIntervalSeconds": 10, "HealthyThresholdCount": 3}]})

    with answered(shop, "elasticloadbalancing:DescribeTargetGroups", brisk), meanwhile(shop, restart):
        ran = shop("start", url("v2"), *BAKED)
    assert shop.refreshes[0]["Preferences"]["InstanceWarmup"] == 40
    assert (ran.code, shop.running()) == (1, ["1", "1"])


def test_a_failure_of_the_last_try_is_none_of_this_one(shop: Shop) -> None:
    """A release that is rolled a second time and goes back at once, as its first canary's record is still there."""
    shop.open(2)
    facts = {"phase": "failed", "group": GROUP, "release": {"name": "v2"}}
    item = fleetrecord.item(facts, APP, "i-0old", "", 1, 1, time.time() - 600)
    shop.cloud.client("dynamodb").put_item(TableName=TABLE, Item=item)
    describe = shop.cloud.front.handlers["autoscaling:DescribeInstanceRefreshes"]
    looks = iter(range(5))

    def pending(call: Call, then: Then) -> Response:
        answer = describe(call, then)
        if "<StartTime>" in (text := answer.get_data(as_text=True)) and next(looks, 5) < 5:
            head, _, tail = text.partition("<StartTime>")
            answer.set_data(head.replace("InProgress", "Pending") + tail.partition("</StartTime>")[2])
        return answer

    with answered(shop, "autoscaling:DescribeInstanceRefreshes", pending):
        ran = shop("start", url("v2"), *BAKED)
    assert (ran.code, "i-0old" in ran.out) == (0, False)


def test_an_answer_that_is_lost_is_not_a_version_that_was_not_made(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A version that is left behind, and launched by the next scale-out of a group with $Latest."""
    monkeypatch.setattr(begin, "PATIENCE", 1.0)
    shop.open(1, "$Latest")
    create = shop.cloud.front.handlers["ec2:CreateLaunchTemplateVersion"]
    once = iter(["made"])

    def lost(call: Call, then: Then) -> Response:
        if next(once, ""):
            create(call, then)
        return error(call, "InternalError", "", 500)

    with answered(shop, "ec2:CreateLaunchTemplateVersion", lost):
        ran = shop("start", url("v2"), *QUICK)
    assert (ran.code, shop.versions, shop.running()) == (0, [1, 2], ["2"])


@pytest.mark.parametrize(("blind", "code", "version"), [(True, 4, "1"), (False, 3, "$Latest")])
def test_a_version_of_which_nobody_knows_leaves_the_pin(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, code: int, version: str, *, blind: bool
) -> None:
    """A pin that is taken off a group, whose $Latest is a version that nobody knows of."""
    monkeypatch.setattr(begin, "PATIENCE", 1.0)
    shop.open(1, "$Latest")

    def lost(call: Call, _: Then) -> Response:
        if blind:
            shop.cloud.faults.append(AwsFault("ec2:DescribeLaunchTemplateVersions", "InternalError", 500))
        return error(call, "InternalError", "", 500)

    with answered(shop, "ec2:CreateLaunchTemplateVersion", lost):
        ran = shop("start", url("v2"), *QUICK)
    assert (ran.code, shop.group["LaunchTemplate"]["Version"], shop.refreshes) == (code, version, [])
    assert ("nobody knows whether a template version was made" in ran.err) is blind


def test_only_a_rollback_is_called_one(shop: Shop) -> None:
    """A cord that was not pulled, and a screen that says that all goes back, as the roll was over meanwhile."""
    shop.open(1)

    def denied(call: Call, _: Then) -> Response:
        shop.until(lambda: shop.refreshing("Successful"))
        return error(call, "AccessDenied", "", 403)

    with answered(shop, "autoscaling:RollbackInstanceRefresh", denied):
        ran = shop("start", url("restarts"), *BAKED)
    assert (ran.code, "goes back" in ran.out) == (4, False)
    assert "the rollback was not taken" in ran.err


class Broken(io.TextIOWrapper):
    """Standard error of a terminal that is not there any more."""

    def write(self, _: str) -> int:
        raise BrokenPipeError


@pytest.mark.parametrize(
    ("call", "begun"), [("ec2:CreateLaunchTemplateVersion", False), ("autoscaling:DescribeInstanceRefreshes", True)]
)
def test_a_closed_standard_error_ends_neither_the_start_nor_the_watch(shop: Shop, call: str, *, begun: bool) -> None:
    """A group that is pinned and not rolled, or a bad release that nobody judges, for want of a place for a warning."""
    shop.open(2)

    def fail() -> None:
        # The first ones are botocore's own to try again.
        shop.cloud.faults.append(AwsFault(call, "InternalFailure", 500, times=4))

    out, err = io.TextIOWrapper(io.BytesIO()), Broken(io.BytesIO())
    streams = contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)
    with meanwhile(shop, fail, shop.refreshing if begun else shop.running), streams[0], streams[1]:
        code = cli.main(["start", GROUP, url("bad"), *LONG])
    assert (code, shop.running()) == (1, ["1", "1"])


@pytest.mark.parametrize(("ignored", "code"), [(False, 4), (True, 1)])
def test_a_terminal_that_is_closed_leaves_the_roll_unless_nohup_said_otherwise(
    shop: Shop, code: int, *, ignored: bool
) -> None:
    """A roll below nohup that is left alone as soon as its operator goes home."""
    shop.open(2)
    if ignored:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def close() -> None:
        shop.interrupt(signal.SIGHUP)
        next(made for made in shop.instances.values() if made.release == "v2").tell("in service", restarts=int(ignored))

    with meanwhile(shop, close):
        ran = shop("start", url("v2"), *LONG)
    assert ran.code == code


@contextmanager
def silent() -> Iterator[str]:
    """The address of something that takes connections, and says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        yield "http://{}:{}".format(*listener.getsockname())


def test_a_table_that_hangs_holds_up_no_look(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A minute between two looks, and a canary that fails meanwhile and has been passed."""
    brief = Config(retries={"total_max_attempts": 1}, connect_timeout=1, read_timeout=0.2)
    assert account.BRIEF.read_timeout + account.BRIEF.connect_timeout + roll.RECORDS_SECONDS <= 10
    monkeypatch.setattr(account, "BRIEF", brief)
    monkeypatch.setattr(roll, "RECORDS_SECONDS", 0.1)
    shop.open(1)
    with silent() as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", address)
        began = time.monotonic()
        ran = shop("start", url("v2"), *QUICK)
    assert (ran.code, "dynamodb:Query on table adf-config" in ran.out) == (0, True)
    assert time.monotonic() - began < 15  # by the clients of all else a look is held up for a minute


def test_a_clean_up_that_is_stopped_says_what_to_type(shop: Shop) -> None:
    """A roll that was done, and ends as if it had been stopped half-way."""
    shop.open(2)
    shop.operator.done("set", "-r", "v1", "OLD=1")
    protected = {"AutoScalingGroupName": GROUP, "InstanceIds": [shop.group["Instances"][0]["InstanceId"]]}
    shop.autoscaling.set_instance_protection(**protected, ProtectedFromScaleIn=True)

    def interrupt() -> None:
        asked = shop.cloud.calls["autoscaling:DescribeAutoScalingGroups"]
        shop.until(lambda: shop.cloud.calls["autoscaling:DescribeAutoScalingGroups"] > asked + 5)  # it waits
        shop.interrupt()

    with meanwhile(shop, interrupt, lambda: shop.refreshing("Successful")):
        ran = shop("start", url("v2"), *QUICK, "--clean")
    assert ran.code == 0
    assert "warning: stopped before the clean-up\n  → adf-config -a web clean v1" in ran.out
