"""The calls of Instance Refresh, by boto3 and over loopback: what they take, refuse and answer."""

import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError

from adf_agent.sandbox.cloud import Cloud
from adf_agent.sandbox.front import AwsFault
from adf_agent.sandbox.refreshes import Refreshes, View
from adf_agent.sandbox.replacement import Preferences, Seen

SAVED = {"LaunchTemplate": {"LaunchTemplateId": "lt-1", "LaunchTemplateName": "web", "Version": "1"}}
DESIRED = {"LaunchTemplate": {"LaunchTemplateId": "lt-1", "Version": "2"}}
MIXED = {
    "MixedInstancesPolicy": {
        "LaunchTemplate": {
            "LaunchTemplateSpecification": {"LaunchTemplateName": "web", "Version": "2"},
            "Overrides": [{"InstanceType": f"c{number}.large"} for number in range(12)],
        },
        "InstancesDistribution": {"OnDemandBaseCapacity": 1, "SpotAllocationStrategy": "lowest-price"},
    }
}


class Groups:
    """What is looked at: groups by name, each of two old instances until it is said to be new."""

    def __init__(self) -> None:
        self.new, self.desired, self.launches = False, 2, True
        view = View("web", SAVED, image_alias=False, maintenance=None, launches=lambda _: self.launches)
        self.views = {"web": view}

    def look(self, name: str) -> View | None:
        return self.views.get(name)

    def change(self, **fields: Any) -> None:
        self.views["web"] = replace(self.views["web"], **fields)

    def seen(self) -> tuple[Seen, ...]:
        """Its instances."""
        return tuple(Seen(f"{'new' if self.new else 'old'}-{number}", self.new, "InService") for number in range(2))


@pytest.fixture
def groups() -> Groups:
    return Groups()


@pytest.fixture(scope="module")
def aws() -> Iterator[Cloud]:
    """One for all of them: to make its client takes longer than all that they do."""
    with Cloud() as cloud:
        yield cloud


@pytest.fixture
def refreshes(aws: Cloud, groups: Groups) -> Refreshes:
    aws.reset()
    aws.faults = []
    made = Refreshes(aws, threading.Condition(), groups.look)
    aws.front.handlers |= made.handlers
    return made


@pytest.fixture
def client(aws: Cloud, refreshes: Refreshes) -> Any:  # noqa: ARG001  which answer it
    return aws.client("autoscaling")


def start(client: Any, desired: Mapping[str, Any] | None = DESIRED, **preferences: Any) -> str:
    configuration = {"DesiredConfiguration": desired} if desired else {}
    answer = client.start_instance_refresh(AutoScalingGroupName="web", Preferences=preferences, **configuration)
    return str(answer["InstanceRefreshId"])


def only(client: Any) -> dict[str, Any]:
    [found] = client.describe_instance_refreshes(AutoScalingGroupName="web")["InstanceRefreshes"]
    return dict(found)


def step(refreshes: Refreshes, groups: Groups, seconds: float = 0, alarms: Mapping[str, str] = {}) -> None:
    """What the group's keeper does, *seconds* from now."""
    refresh = refreshes.active("web")
    assert refresh
    refresh.step(groups.seen(), groups.desired, alarms, time.monotonic() + seconds)


def refused(call: Any, **request: Any) -> tuple[str, int, str]:
    """Code, HTTP status and message."""
    with pytest.raises(ClientError) as raised:
        call(**({"AutoScalingGroupName": "web"} | request))
    answer = raised.value.response
    return answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Message"]


PREFERENCES = {
    "MinHealthyPercentage": 80,
    "MaxHealthyPercentage": 120,
    "InstanceWarmup": 7,
    "CheckpointPercentages": [50, 100],
    "CheckpointDelay": 60,
    "SkipMatching": True,
    "AutoRollback": True,
    "ScaleInProtectedInstances": "Ignore",
    "StandbyInstances": "Terminate",
    "BakeTime": 5,
}


def test_a_refresh_is_described_as_aws_does(client: Any, refreshes: Refreshes, groups: Groups) -> None:
    """A watcher that breaks on a field that it never got from the sandbox."""
    name = start(client, MIXED, **PREFERENCES)
    assert only(client) == {
        "InstanceRefreshId": name,
        "AutoScalingGroupName": "web",
        "Status": "Pending",  # it has no time of its start yet
        "Preferences": PREFERENCES,
        "DesiredConfiguration": MIXED,
        "Strategy": "Rolling",
    }
    step(refreshes, groups)
    now = only(client)
    assert (now["Status"], now["PercentageComplete"], now["InstancesToUpdate"]) == ("InProgress", 0, 2)
    assert abs(datetime.now(UTC) - now["StartTime"]) < timedelta(seconds=5)
    refresh = refreshes.active("web")
    assert refresh
    refresh.reason = "a < b & c"
    assert only(client)["StatusReason"] == "a < b & c"


def test_a_rollback_is_described_as_aws_does(client: Any, refreshes: Refreshes, groups: Groups) -> None:
    """A roll that went back, and nobody is told why."""
    start(client, MIXED, **PREFERENCES)
    step(refreshes, groups)
    refresh = refreshes.active("web")
    assert refresh
    refresh.percentage, began = 50, only(client)["StartTime"]
    client.rollback_instance_refresh(AutoScalingGroupName="web")
    rolling = only(client)
    back = rolling["RollbackDetails"]
    assert timedelta() <= back.pop("RollbackStartTime") - began < timedelta(seconds=5)
    assert (rolling["Status"], back) == (
        "RollbackInProgress",
        {
            "RollbackReason": "The rollback was started by the user.",
            "PercentageCompleteOnRollback": 50,
            "InstancesToUpdateOnRollback": 2,
        },
    )
    step(refreshes, groups, 10)
    done = only(client)
    assert (done["Status"], refreshes.active("web")) == ("RollbackSuccessful", None)
    assert timedelta(seconds=5) < done["EndTime"] - began < timedelta(seconds=15)


def test_defaults_are_aws_own(client: Any, refreshes: Refreshes) -> None:
    """A preflight that predicts by other defaults than the roll will have."""
    start(client, None, AutoRollback=False)
    assert refreshes.of("web")[0].preferences == Preferences()
    assert only(client)["Preferences"] == {
        "MinHealthyPercentage": 90,
        "InstanceWarmup": 0,
        "SkipMatching": False,
        "AutoRollback": False,
        "ScaleInProtectedInstances": "Wait",
        "StandbyInstances": "Wait",
        "BakeTime": 0,
    }


def test_the_groups_own_settings_are_defaults_too(client: Any, refreshes: Refreshes, groups: Groups) -> None:
    """A group with a maintenance policy that is refreshed as if it had none."""
    groups.change(maintenance=(100, 110), warmup=300)
    start(client, CheckpointPercentages=[20])
    [refresh] = refreshes.of("web")
    assert refresh.preferences == Preferences(100, 110, 300, checkpoints=(20,), delay=3600)
    refresh.fail(0, "")
    start(client, MinHealthyPercentage=50, MaxHealthyPercentage=100, InstanceWarmup=0)
    assert refreshes.of("web")[0].preferences == Preferences(50, 100, 0)


@pytest.mark.parametrize(
    ("preferences", "message"),
    [
        ({"MinHealthyPercentage": 101}, "MinHealthyPercentage is 101"),
        ({"MinHealthyPercentage": 100, "MaxHealthyPercentage": 201}, "MaxHealthyPercentage is 201"),
        ({"MinHealthyPercentage": 49, "MaxHealthyPercentage": 150}, "more than 100 above"),
        ({"MaxHealthyPercentage": 110}, "needs MinHealthyPercentage"),
        ({"CheckpointPercentages": [50, 101]}, "CheckpointPercentages is 101"),
        ({"CheckpointPercentages": [50, 20, 100]}, "ascending"),
        ({"CheckpointPercentages": [50, 50, 100]}, "ascending"),
        ({"CheckpointPercentages": [50], "CheckpointDelay": 172_801}, "CheckpointDelay is 172801"),
        ({"CheckpointDelay": 60}, "needs CheckpointPercentages"),
        ({"BakeTime": 172_801}, "BakeTime is 172801"),
        ({"StandbyInstances": "Refresh"}, "StandbyInstances is Refresh"),
        ({"ScaleInProtectedInstances": "Terminate"}, "ScaleInProtectedInstances is Terminate"),
        ({"AlarmSpecification": {"Alarms": [f"a{number}" for number in range(11)]}}, "more than 10 alarms"),
        ({"AlarmSpecification": {"Alarms": ["gone"]}}, "The alarm gone is not there, not OK"),
    ],
)
def test_preferences_that_aws_refuses(
    client: Any, refreshes: Refreshes, preferences: Mapping[str, Any], message: str
) -> None:
    """A roll that starts here and is refused in production."""
    code, status, said = refused(client.start_instance_refresh, Preferences=preferences)
    assert (code, status, refreshes.of("web")) == ("ValidationError", 400, [])
    assert message in said


def test_preferences_at_their_limits(client: Any, refreshes: Refreshes, aws: Cloud) -> None:
    """A limit that is off by one refuses what AWS takes."""
    alarms = [f"a{number}" for number in range(10)]
    for name in alarms:
        alarm(aws, name)
    start(
        client,
        MinHealthyPercentage=100,
        MaxHealthyPercentage=200,
        CheckpointPercentages=[1, 100],
        CheckpointDelay=172_800,
        BakeTime=172_800,
        AlarmSpecification={"Alarms": alarms},
    )
    assert only(client)["Preferences"]["AlarmSpecification"] == {"Alarms": alarms}
    [refresh] = refreshes.of("web")
    assert refresh.preferences.alarms == tuple(alarms)


def alarm(aws: Cloud, name: str, state: str = "OK") -> None:
    cloudwatch = aws.client("cloudwatch")
    cloudwatch.put_metric_alarm(
        AlarmName=name, ComparisonOperator="GreaterThanThreshold", EvaluationPeriods=1, Threshold=1
    )
    cloudwatch.set_alarm_state(AlarmName=name, StateValue=state, StateReason="test")


@pytest.mark.parametrize("state", ["ALARM", "INSUFFICIENT_DATA"])
def test_an_alarm_must_be_quiet_at_the_start(client: Any, aws: Cloud, state: str) -> None:
    """A roll that an alarm guards which can't go off."""
    alarm(aws, "errors", state)
    _, _, said = refused(client.start_instance_refresh, Preferences={"AlarmSpecification": {"Alarms": ["errors"]}})
    assert said == f"The alarm errors is {state}, not OK"


def test_one_at_a_time(client: Any, refreshes: Refreshes, groups: Groups) -> None:
    """Two people who roll the same group."""
    first = start(client)
    assert refused(client.start_instance_refresh) == (
        "InstanceRefreshInProgress",
        400,
        "An Instance Refresh is already in progress and blocks the execution of this Instance Refresh.",
    )
    groups.new = True
    step(refreshes, groups)
    groups.views["api"] = replace(groups.views["web"], name="api")
    client.start_instance_refresh(AutoScalingGroupName="api")
    groups.desired = 0
    step(refreshes, groups)
    assert only(client)["Status"] == "Successful"
    second = start(client)
    assert [refresh.id for refresh in refreshes.of("web")] == [second, first]
    refreshes.forget("web")
    assert (refreshes.of("web"), len(refreshes.of("api"))) == ([], 1)


def test_a_version_that_is_not_there(client: Any, groups: Groups) -> None:
    """A refresh that was taken, and that nothing can ever be launched for."""
    groups.launches = False
    code, _, message = refused(lambda **group: client.start_instance_refresh(DesiredConfiguration=DESIRED, **group))
    assert (code, "there is no such version" in message) == ("ValidationError", True)


@pytest.mark.parametrize("call", ["start", "describe", "cancel", "rollback"])
def test_a_group_that_is_not_there(client: Any, call: str) -> None:
    """A slip in the group's name that is taken for a group without refreshes."""
    name = f"{call}_instance_refresh{'es' * (call == 'describe')}"
    code, status, said = refused(getattr(client, name), AutoScalingGroupName="wbe")
    assert (code, status, said) == ("ValidationError", 400, "AutoScalingGroup name not found - wbe")


def test_what_is_not_under_way_can_t_be_ended(client: Any, refreshes: Refreshes) -> None:
    """A rollback that is answered as if it were one, after the refresh has ended."""
    for call in (client.cancel_instance_refresh, client.rollback_instance_refresh):
        assert refused(call)[:2] == ("ActiveInstanceRefreshNotFound", 400)
    start(client)
    refreshes.of("web")[0].fail(0, "")
    for call in (client.cancel_instance_refresh, client.rollback_instance_refresh):
        assert refused(call)[:2] == ("ActiveInstanceRefreshNotFound", 400)


@pytest.mark.parametrize("wait", [True, False])
def test_a_cancel_answers_with_its_refresh(client: Any, *, wait: bool) -> None:
    """A bot that cancels by id, and one that can't wait."""
    name = start(client)
    answer = client.cancel_instance_refresh(AutoScalingGroupName="web", WaitForTransitioningInstances=wait)
    assert answer["InstanceRefreshId"] == name
    assert only(client)["Status"] == ("Cancelling" if wait else "Cancelled")


LATEST = {"LaunchTemplate": {"LaunchTemplateId": "lt-1", "Version": "$Latest"}}


@pytest.mark.parametrize(
    ("group", "desired", "why"),
    [
        ({}, None, "no desired configuration was given"),
        ({"configuration": LATEST}, DESIRED, "the group uses the version $Latest of its launch template"),
        (
            {"configuration": {"LaunchTemplate": {"LaunchTemplateId": "lt-1"}}},
            DESIRED,
            "the group uses the version $Default of its launch template",
        ),
        (
            {
                "configuration": {
                    "MixedInstancesPolicy": {
                        "LaunchTemplate": {"LaunchTemplateSpecification": LATEST["LaunchTemplate"]}
                    }
                }
            },
            MIXED,
            "the group uses the version $Latest of its launch template",
        ),
        ({"image_alias": True}, DESIRED, "the group's launch template names its AMI by a Systems Manager parameter"),
    ],
)
def test_what_can_t_be_rolled_back(
    client: Any, groups: Groups, group: Mapping[str, Any], desired: Mapping[str, Any] | None, why: str
) -> None:
    """A roll with a cord that is tied to nothing."""
    groups.change(**group)
    configuration = {"DesiredConfiguration": desired} if desired else {}
    code, _, said = refused(client.start_instance_refresh, Preferences={"AutoRollback": True}, **configuration)
    assert (code, said) == ("ValidationError", f"Auto rollback is not possible: {why}")
    start(client, desired)
    assert refused(client.rollback_instance_refresh) == (
        "IrreversibleInstanceRefresh",
        400,
        f"The instance refresh can't be rolled back: {why}",
    )


def test_a_desired_version_by_name_may_be_rolled_back(client: Any) -> None:
    """A rule that AWS has for the group alone, as it is the group's version that is gone back to."""
    start(client, LATEST, AutoRollback=True)
    client.rollback_instance_refresh(AutoScalingGroupName="web")
    code, _, said = refused(client.rollback_instance_refresh)
    assert (code, said.endswith("it is RollbackInProgress")) == ("IrreversibleInstanceRefresh", True)


def test_refreshes_come_in_pages_newest_first(client: Any, refreshes: Refreshes) -> None:
    """A watcher that takes the oldest refresh for the one that it started."""
    names = []
    for _ in range(4):
        names.append(start(client))
        refreshes.of("web")[0].fail(0, "")
    names.reverse()
    token: dict[str, str] = {}
    for page in (names[:2], names[2:]):
        answer = client.describe_instance_refreshes(AutoScalingGroupName="web", MaxRecords=2, **token)
        assert [refresh["InstanceRefreshId"] for refresh in answer["InstanceRefreshes"]] == page
        token = {"NextToken": answer["NextToken"]} if "NextToken" in answer else {}
    assert token == {}
    some = client.describe_instance_refreshes(AutoScalingGroupName="web", InstanceRefreshIds=[names[2], names[0]])
    assert [refresh["InstanceRefreshId"] for refresh in some["InstanceRefreshes"]] == [names[0], names[2]]
    assert refused(client.describe_instance_refreshes, NextToken="no")[:2] == ("InvalidNextToken", 400)
    assert refused(client.describe_instance_refreshes, NextToken="5")[:2] == ("InvalidNextToken", 400)
    assert refused(client.describe_instance_refreshes, MaxRecords=101)[:2] == ("ValidationError", 400)


def test_what_is_being_deployed_can_t_be_changed(client: Any, refreshes: Refreshes) -> None:
    """A stack update in the middle of a roll is refused by AWS; one that goes through here hides it."""
    request = {"LaunchTemplate": {"LaunchTemplateName": "web", "Version": "3"}}
    start(client, None)
    assert refused(client.update_auto_scaling_group, **request)[2] == "AutoScalingGroup name not found - null"  # moto's
    refreshes.of("web")[0].fail(0, "")
    start(client)
    code, status, said = refused(client.update_auto_scaling_group, **request)
    assert (code, status, said.partition(".")[0]) == (
        "ValidationError",
        400,
        "An active instance refresh with a desired configuration exists",
    )
    assert "active" not in refused(client.update_auto_scaling_group, MinSize=1)[2]


def test_only_the_rolling_strategy(client: Any) -> None:
    """A refresh that replaces root volumes, and here instances."""
    assert refused(client.start_instance_refresh, Strategy="ReplaceRootVolume")[0] == "ValidationError"


def test_who_may_not_call_is_told_so(aws: Cloud, client: Any, refreshes: Refreshes) -> None:
    """A role without the permission that rolls here and nowhere else."""
    aws.client("iam").create_user(UserName="nobody")
    key = aws.client("iam").create_access_key(UserName="nobody")["AccessKey"]
    aws.enforce_permissions()
    nobody = aws.client("autoscaling", key["AccessKeyId"], key["SecretAccessKey"])
    for call in ("start_instance_refresh", "describe_instance_refreshes", "rollback_instance_refresh"):
        code, status, _ = refused(getattr(nobody, call))
        assert (code, status) == ("AccessDenied", 403)
    assert refreshes.of("web") == []
    aws.reset()
    aws.faults = [AwsFault("autoscaling:StartInstanceRefresh", times=1)]
    assert start(client)  # throttled once, and counted
    assert aws.faults[0].times == 0
