"""adf-roll on a fleet whose instances are simulated; the engine is the sandbox's, the calls are boto3's."""

import base64
import contextlib
import io
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
from fixtures_roll import BAKED, GROUP, LONG, QUICK, WORDS, Shop, alarm, answered, data, meanwhile, target_group, url
from werkzeug.wrappers import Response

from adf_agent import userdata
from adf_agent.ops.rolling import cli, guard
from adf_agent.sandbox.front import AwsFault, Call, Then, error, success

CALL = "autoscaling:DescribeInstanceRefreshes"  # of each look
WRITES = {
    "autoscaling:UpdateAutoScalingGroup",
    "ec2:CreateLaunchTemplateVersion",
    "autoscaling:StartInstanceRefresh",
    "autoscaling:RollbackInstanceRefresh",
    "ec2:DeleteLaunchTemplateVersions",
}


def writes(shop: Shop) -> list[str]:
    """The calls that changed something."""
    return sorted(WRITES & {name for name, number in shop.cloud.calls.items() if number})


def settings(shop: Shop, version: int) -> dict[str, str]:
    """What its user-data says."""
    return userdata.parse(base64.b64decode(data(shop, version)["UserData"]))


def test_a_release_goes_onto_every_instance_after_one_canary(shop: Shop) -> None:
    """A delivery that ends well and left half of the fleet behind, or had no canary; a bot that can't tell."""
    shop.open(3, "$Latest")
    shop.cloud.calls.clear()
    code, told = shop.events("start", url("v2"), *BAKED, "--check", "echo looked")
    assert code == 0
    assert [event["output"] for event in told if event["event"] == "check"] == ["looked\n"]
    names = [event["event"] for event in told]
    assert names[:2] == ["plan", "started"]
    assert told[-1] == {"event": "ended", "status": "Successful", "reason": "", "percentage": 100, "exit": 0}
    assert [event["well"] for event in told if event["event"] == "judged"] == [True]
    before = told[: names.index("judged")]
    assert len({event["id"] for event in before if event["event"] == "instance"}) == 1  # the canary alone
    assert shop.running() == ["2", "2", "2"]
    assert settings(shop, 2) == {"RELEASE_URL": url("v2"), "ADF_APP": "web"}
    assert shop.group["LaunchTemplate"]["Version"] == "2"
    looks = shop.cloud.calls[CALL]
    assert shop.cloud.calls["dynamodb:Query"] <= looks  # not one an instance
    assert writes(shop) == [
        "autoscaling:StartInstanceRefresh",
        "autoscaling:UpdateAutoScalingGroup",
        "ec2:CreateLaunchTemplateVersion",
    ]


def test_a_release_that_fails_is_taken_back_with_its_last_words(shop: Shop) -> None:
    """A bad release that serves; or one that went back, and nobody can say why."""
    shop.open(2)
    ran = shop("start", url("bad"), *LONG)
    assert (ran.code, shop.running()) == (1, ["1", "1"])
    assert f"    | {WORDS}\n" in ran.out
    assert "failed at health: the app exited with 7\nshop goes back to what it had\n" in ran.out
    last = ran.out.splitlines()[-1]
    assert last.startswith("RollbackSuccessful: canary i-")  # not only that somebody asked for it
    assert last.endswith("failed at health: the app exited with 7")
    assert shop.group["LaunchTemplate"]["Version"] == "1"


@pytest.mark.parametrize(
    ("release", "says"),
    [("restarts", "restarted its app, 1 in a row"), ("leaves", "gone without being in service")],
)
def test_a_canary_that_does_not_last_takes_the_roll_back(shop: Shop, release: str, says: str) -> None:
    """A release that dies after a minute, when the checkpoint has been passed."""
    shop.open(2)
    ran = shop("start", url(release), *LONG)
    assert (ran.code, shop.running()) == (1, ["1", "1"])
    assert says in ran.out


def test_an_operators_own_check_takes_the_roll_back(shop: Shop) -> None:
    """A canary that is healthy and wrong."""
    shop.open(2)
    check = 'echo "looked at $ADF_CANARY of $ADF_RELEASE"; exit 1'
    ran = shop("start", url("v2"), *LONG, "--check", check)
    assert (ran.code, shop.running()) == (1, ["1", "1"])
    canary = next(name for name, made in shop.instances.items() if made.release == "v2")
    assert f"looked at {canary} of v2\n--check failed\n" in ran.out


def test_a_check_that_was_not_waited_for_is_no_success(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A check that failed, a bake that was over before the next look, and a roll that ends 0."""
    shop.open(2)
    monkeypatch.setattr(guard, "POLL_SECONDS", 1.5)
    ran = shop("start", url("v2"), *BAKED, "--check", "sleep 0.5; exit 1")
    assert ran.code == 1
    assert "--check did not end within the bake" in ran.out


@pytest.mark.parametrize(("size", "later"), [(3, 6), (4, 2)])
def test_a_group_that_is_scaled_meanwhile_keeps_its_canary_judged(shop: Shop, size: int, later: int) -> None:
    """A night on which the load changes, and a canary that counts as well since it did."""
    shop.open(size)

    def scale_and_restart() -> None:
        shop.autoscaling.set_desired_capacity(AutoScalingGroupName=GROUP, DesiredCapacity=later)
        shop.until(lambda: len(shop.running()) == later)
        asked = shop.cloud.calls[CALL]
        shop.until(lambda: shop.cloud.calls[CALL] > asked + 2)  # it has been looked at
        next(made for made in shop.instances.values() if made.release == "v2").tell("in service", restarts=1)

    with meanwhile(shop, scale_and_restart):
        ran = shop("start", url("v2"), *LONG)
    assert ran.code == 1
    assert "restarted its app" in ran.out
    assert "the canary is well" not in ran.out


def test_a_rollback_that_comes_too_late_is_not_called_one(shop: Shop) -> None:
    """An operator who goes to bed as it all goes back, and it does not."""
    shop.open(1)

    def late(call: Call, _: Then) -> Response:
        shop.until(lambda: shop.refreshes[0]["Status"] == "Successful")
        return error(call, "ActiveInstanceRefreshNotFound", "none")

    with answered(shop, "autoscaling:RollbackInstanceRefresh", late):
        ran = shop("start", url("restarts"), *BAKED)
    assert (ran.code, shop.running()) == (1, ["2"])
    assert "goes back" not in ran.out
    assert "shop was rolled before that could be prevented: canary i-" in ran.out


def test_a_refresh_of_somebody_elses_is_shown_and_not_judged(shop: Shop) -> None:
    """Old instances that are taken for a canary that left, and a healthy refresh that is rolled back for it."""
    shop.open(2)
    preferences = {"MinHealthyPercentage": 100, "MaxHealthyPercentage": 150, "InstanceWarmup": 0}
    before = {each["InstanceId"] for each in shop.group["Instances"]}
    shop.autoscaling.start_instance_refresh(AutoScalingGroupName=GROUP, Preferences=preferences)
    ran = shop("watch")
    assert ran.code == 0
    assert "it is shown, and not judged" in ran.out
    assert not [name for name in before if name in ran.out]


class Closed(io.TextIOWrapper):
    """A terminal that somebody closes once the roll has begun."""

    said = ""

    def write(self, text: str) -> int:
        if "goes to" in self.said:
            raise BrokenPipeError
        self.said += text
        return len(text)


def test_output_that_breaks_off_does_not_end_the_watch(shop: Shop) -> None:
    """A bad release that nobody judges any more, as somebody typed `| head`."""
    shop.open(2)
    with contextlib.redirect_stdout(Closed(io.BytesIO())) as out:
        code = cli.main(["start", GROUP, url("bad"), *LONG])
    assert (code, shop.running()) == (1, ["1", "1"])
    assert "goes back" not in out.said


def test_an_alarm_takes_the_roll_back(shop: Shop) -> None:
    """Errors at every customer, an alarm that rings, and a roll that goes on."""
    shop.open(2)
    alarm(shop, "errors", "OK")
    with meanwhile(shop, lambda: alarm(shop, "errors", "ALARM")):
        ran = shop("start", url("v2"), *LONG, "--alarm", "errors")
    assert (ran.code, shop.running()) == (1, ["1", "1"])
    assert "errors" in ran.out.splitlines()[-1]


def says_unhealthy(call: Call, _: Then) -> Response:
    """Each target asked for is."""
    health = {"State": "unhealthy", "Reason": "Target.ResponseCodeMismatch", "Description": "codes: [502]"}
    names = [value for name, value in call.form.items() if name.endswith(".Id")]
    return success(
        call, {"TargetHealthDescriptions": [{"Target": {"Id": name}, "TargetHealth": health} for name in names]}
    )


def classic_says_unhealthy(call: Call, _: Then) -> Response:
    health = {"State": "OutOfService", "ReasonCode": "Instance", "Description": "codes: [502]"}
    names = [value for name, value in call.form.items() if name.endswith(".InstanceId")]
    return success(call, {"InstanceStates": [{"InstanceId": name, **health} for name in names]})


def classic(shop: Shop) -> dict[str, list[str]]:
    listener = {"Protocol": "HTTP", "LoadBalancerPort": 80, "InstancePort": 80}
    request = {"LoadBalancerName": GROUP, "Listeners": [listener], "AvailabilityZones": ["eu-west-1a"]}
    shop.cloud.client("elb").create_load_balancer(**request)
    return {"LoadBalancerNames": [GROUP]}


@pytest.mark.parametrize(
    ("attached", "call", "handler"),
    [
        (target_group, "elasticloadbalancing:DescribeTargetHealth", says_unhealthy),
        (classic, "elasticloadbalancing:DescribeInstanceHealth", classic_says_unhealthy),
    ],
)
def test_a_canary_that_the_load_balancer_refuses_takes_the_roll_back(
    shop: Shop, attached: Callable[[Shop], Any], call: str, handler: Callable[[Call, Then], Response]
) -> None:
    """An app that answers its own agent, and gives every customer a 502."""
    shop.open(2, **attached(shop))
    with answered(shop, call, handler):
        ran = shop("start", url("v2"), *LONG)
    assert (ran.code, shop.running()) == (1, ["1", "1"])
    assert ran.out.splitlines()[-1].endswith("is unhealthy to the load balancer: codes: [502]")


def test_a_roll_that_was_left_alone_is_joined_again(shop: Shop) -> None:
    """A laptop that was closed: a second roll over the first, or nobody who can tell how it went."""
    shop.open(3)
    alarm(shop, "errors", "OK")
    left = shop("start", url("v2"), *QUICK, "--alarm", "errors", "--detach")
    assert left.code == 4
    assert "alarms guard it: errors\n  → to come back: adf-roll watch shop" in left.out
    assert shop("status").code == 4
    refused = shop("start", url("v3"), *QUICK)
    assert refused.code == 3
    assert "a refresh of shop is under way" in refused.out
    joined = shop("watch")
    assert (joined.code, joined.out.splitlines()[-1]) == (0, "Successful")
    assert "in service" in joined.out  # the instances, by their records
    assert shop("watch").out == "Successful\n"
    ended = shop("status")
    assert (ended.code, ended.out) == (0, "Successful\n")


def test_who_joins_judges_the_canary_as_well(shop: Shop) -> None:
    """A canary that fails under the eyes of whoever took over, who only looks on."""
    shop.open(2)
    alarm(shop, "errors", "OK")
    assert shop("start", url("bad"), *LONG, "--alarm", "errors", "--detach").code == 4
    ran = shop("watch")
    assert (ran.code, shop.running()) == (1, ["1", "1"])
    assert f"    | {WORDS}\n" in ran.out
    assert shop("status").code == 1


def test_ctrl_c_leaves_the_roll_and_back_takes_it_back(shop: Shop) -> None:
    """An operator who presses Ctrl-C, and believes that the roll has stopped."""
    shop.open(2)
    with meanwhile(shop, lambda: os.kill(os.getpid(), signal.SIGINT)):
        left = shop("start", url("v2"), *LONG)
    assert left.code == 4
    assert "nothing judges the canary now" in left.out
    assert "adf-roll watch shop" in left.out
    assert shop.refreshes[0]["Status"] == "InProgress"
    ran = shop("back", "--yes")
    assert (ran.code, shop.running()) == (0, ["1", "1"])  # what was asked for
    assert ran.out.splitlines()[-1].startswith("RollbackSuccessful")


def test_a_replacement_renews_every_instance_as_it_is(shop: Shop) -> None:
    """New config that reaches nobody, as the engine finds that every instance matches already."""
    shop.open(2)
    before = {each["InstanceId"] for each in shop.group["Instances"]}
    assert shop("start", "--replace", *QUICK).code == 0
    assert not before & {each["InstanceId"] for each in shop.group["Instances"]}
    assert (shop.running(), data(shop, 2)) == (["2", "2"], data(shop, 1))


def test_the_template_in_a_mixed_instances_policy_is_rolled(shop: Shop) -> None:
    """A spot fleet that loses its instance types by a roll."""
    types = [{"InstanceType": "t3.micro"}, {"InstanceType": "t3a.micro"}]
    template = {"LaunchTemplateSpecification": {"LaunchTemplateName": GROUP, "Version": "$Default"}, "Overrides": types}
    shop.open(
        1, MixedInstancesPolicy={"LaunchTemplate": template, "InstancesDistribution": {"OnDemandBaseCapacity": 1}}
    )
    assert shop("start", url("v2"), *QUICK).code == 0
    policy = shop.group["MixedInstancesPolicy"]
    assert policy["LaunchTemplate"]["LaunchTemplateSpecification"]["Version"] == "2"
    assert policy["LaunchTemplate"]["Overrides"] == types
    assert policy["InstancesDistribution"]["OnDemandBaseCapacity"] == 1
    assert shop.running() == ["2"]


def test_a_roll_that_does_not_start_leaves_nothing_behind(shop: Shop) -> None:
    """A group that is pinned, and a template version that the next scale-out launches, after a roll that never was."""
    shop.open(1, "$Latest")
    shop.cloud.faults = [AwsFault("autoscaling:StartInstanceRefresh", "LimitExceeded", message="too many")]
    ran = shop("start", url("v2"), *QUICK)
    assert ran.code == 3
    assert ran.err.startswith("adf-roll: autoscaling:StartInstanceRefresh on shop failed: LimitExceeded (too many); ")
    assert "nothing of it is left" in ran.err
    assert (shop.versions, shop.group["LaunchTemplate"]["Version"]) == ([1], "$Latest")


def test_what_can_not_be_taken_back_is_said(shop: Shop) -> None:
    """A sentence that says that all is as it was, and a template version that is left."""
    shop.open(1)
    denied = AwsFault("ec2:DeleteLaunchTemplateVersions", "UnauthorizedOperation", 403)
    shop.cloud.faults = [AwsFault("autoscaling:StartInstanceRefresh", "LimitExceeded"), denied]
    ran = shop("start", url("v2"), *QUICK)
    assert ran.code == 1
    assert "could not be taken back: ec2:DeleteLaunchTemplateVersions on lt-" in ran.err
    assert shop.versions == [1, 2]


def test_an_answer_that_is_lost_is_not_a_roll_that_did_not_start(shop: Shop) -> None:
    """A template version that is removed under a refresh that runs, since the network broke off at its start."""
    shop.open(1)
    start = shop.cloud.front.handlers["autoscaling:StartInstanceRefresh"]
    answers = iter(["lost"])

    def lost(call: Call, then: Then) -> Response:
        answer = start(call, then)
        return error(call, "InternalFailure", "", 500) if next(answers, "") else answer

    with answered(shop, "autoscaling:StartInstanceRefresh", lost):
        assert shop("start", url("v2"), *QUICK).code == 0
    assert (shop.versions, shop.running(), len(shop.refreshes)) == ([1, 2], ["2"], 1)


def test_what_must_not_start_changes_nothing(shop: Shop) -> None:
    """A plan that changes something; a roll that starts though its plan says no."""
    shop.open(1)
    shop.cloud.calls.clear()
    assert shop("plan", url("v2")).code == 0
    code, told = shop.events("plan", url("v1"))
    assert code == 3
    assert told[0]["findings"][0]["level"] == "refuse"
    assert shop("start", url("v1"), *QUICK).code == 3
    said_no = shop("start", url("v2"), typed="n\n")
    assert (said_no.code, said_no.err) == (3, "roll shop? [y/N] adf-roll: nothing was changed\n")
    assert writes(shop) == []
    said_yes = shop("start", url("v2"), "--bake", "0", typed="y\n")
    assert (said_yes.code, said_yes.err) == (0, "roll shop? [y/N] ")


def test_the_clean_up_after_a_roll_takes_the_former_releases_config(shop: Shop) -> None:
    """Config of a year of releases, as nobody remembers to remove it; a roll that fails since there is none."""
    shop.open(1)
    shop.operator.done("set", "-r", "v1", "OLD=1")
    first = shop("start", url("v2"), *QUICK, "--clean")
    assert first.code == 0
    assert "1 keys of v1 removed; to undo it" in first.out
    assert "web@v1" not in shop.operator.config()
    second = shop("start", url("v3"), *QUICK, "--clean")
    assert second.code == 0
    assert "warning: nothing was cleaned up: web@v2 holds no key" in second.out


@pytest.mark.parametrize(
    ("call", "code", "says"),
    [
        (CALL, "ExpiredToken", "shop was refused: the AWS credentials are expired or not valid (ExpiredToken)"),
        ("autoscaling:DescribeAutoScalingGroups", "AccessDenied", "Auto Scaling group shop is denied"),
    ],
)
def test_a_roll_that_can_not_be_seen_any_more_goes_on_and_says_so(shop: Shop, call: str, code: str, says: str) -> None:
    """Credentials that expire after an hour, in the middle of a roll: a traceback, or a failure that is none."""
    shop.open(2)
    fault = AwsFault(call, code)
    with meanwhile(shop, lambda: shop.cloud.faults.append(fault)):
        ran = shop("start", url("v2"), *LONG)
    assert ran.code == 4
    assert ran.err.startswith(f"adf-roll: {call} on {says}")
    assert "adf-roll watch shop" in ran.out


def test_throttling_is_waited_for(shop: Shop) -> None:
    """A roll that nobody watches any more, as another tool asked AWS too often for a second."""
    shop.open(1)
    # Of these two the first is botocore's own to wait for, the second is ours.
    faults = [AwsFault(CALL, "Throttling", times=1), AwsFault(CALL, "InternalFailure", times=2)]
    with meanwhile(shop, lambda: shop.cloud.faults.extend(faults)):
        assert shop("start", url("v2"), *BAKED).code == 0
    assert [fault.times for fault in faults] == [0, 0]


def test_a_group_that_is_deleted_meanwhile_is_said_to_be_gone(shop: Shop) -> None:
    """A watch that goes on for ever over a group that somebody deleted."""
    shop.open(2)
    request = {"AutoScalingGroupName": GROUP, "ForceDelete": True}
    with meanwhile(shop, lambda: shop.autoscaling.delete_auto_scaling_group(**request)):
        ran = shop("start", url("v2"), *LONG)
    assert ran.code == 1
    assert ran.err.startswith("adf-roll: the Auto Scaling group shop is gone")
    for words in (["status"], ["watch"], ["plan", url("v2")], ["back", "--yes"]):
        again = shop(*words)
        assert again.code == 3
        assert again.err.startswith("adf-roll: there is no Auto Scaling group shop here\n  → ")


def test_without_records_the_canary_is_judged_by_what_is_left(shop: Shop) -> None:
    """A roll that fails since its operator may not read a table that it can do without; or one judged blindly."""
    shop.open(1)
    shop.cloud.faults = [AwsFault("dynamodb:Query", "AccessDeniedException")]
    ran = shop("start", url("v2"), *QUICK)
    assert ran.code == 0
    assert ran.out.count("warning: dynamodb:Query on table adf-config in eu-west-1 is denied") == 1


def test_a_canary_of_which_nothing_is_seen_is_not_called_well(shop: Shop) -> None:
    """A release that restarts all night, and a screen that says that it is well."""
    shop.open(1)
    shop.cloud.faults = [AwsFault("dynamodb:Query", "AccessDeniedException")]
    code, told = shop.events("start", url("restarts"), *BAKED)
    assert code == 0
    assert "judged" not in [event["event"] for event in told]
    assert [event["reason"][:27] for event in told if event["event"] == "warning"][-1] == "nothing but its launch hook"
    assert [each["sentence"][:24] for each in told[0]["findings"] if each["level"] == "warn"].count(
        "the canary's own record "
    )


def test_the_pin_of_a_roll_that_came_second_stays(shop: Shop) -> None:
    """Two operators at once: the second one's way back takes the ground from under the first one's rollback."""
    shop.open(1, "$Latest")
    start = shop.cloud.front.handlers["autoscaling:StartInstanceRefresh"]

    def busy(call: Call, then: Then) -> Response:
        start(Call(call.service, call.action, {"AutoScalingGroupName": GROUP}), then)
        return error(call, "InstanceRefreshInProgress", "another one")

    with answered(shop, "autoscaling:StartInstanceRefresh", busy):
        ran = shop("start", url("v2"), *QUICK)
    assert ran.code == 1
    assert "another roll of shop is under way, so it stays pinned to 1" in ran.err
    assert shop.group["LaunchTemplate"]["Version"] == "1"


def test_a_rollback_that_is_refused_is_cried_out(shop: Shop) -> None:
    """A canary that failed, a cord that was pulled, and a roll that goes on all the same."""
    shop.open(2)
    shop.cloud.faults = [AwsFault("autoscaling:RollbackInstanceRefresh", "AccessDenied")]
    ran = shop("start", url("bad"), *LONG)
    assert ran.code == 4
    assert "the rollback was not taken: autoscaling:RollbackInstanceRefresh on shop is denied" in ran.err
    assert "It goes on!" in ran.err


def test_a_group_that_was_never_rolled_has_nothing_to_watch(shop: Shop) -> None:
    """A bot that takes no roll for one that went well; a traceback on a new group."""
    shop.open(1)
    assert shop("watch").code == 3
    status = shop("status")
    assert (status.code, status.out) == (0, "shop was never rolled, or long ago\n")


def test_who_has_no_credentials_is_told_so(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A traceback of boto3's on somebody's first day, or an exit code that adf-roll does not have."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    ran = shop("status")
    assert (ran.code, ran.err.splitlines()[0]) == (3, "adf-roll: there are no AWS credentials")
