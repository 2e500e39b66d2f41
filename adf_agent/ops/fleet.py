"""The instances of an app, by their own records and by what Auto Scaling says of them."""

import time
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from adf_agent import aws, fleetrecord
from adf_agent.errors import ConfigError
from adf_agent.fleetrecord import FleetRecord
from adf_agent.ops.app import App


class DescribesInstances(Protocol):
    def describe_auto_scaling_instances(self, **request: Any) -> Any: ...


AT_ONCE = 50  # https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_DescribeAutoScalingInstances.html


def records(app: App) -> list[FleetRecord]:
    """Every record of *app*. Raises ConfigError."""
    found = app.deadline.retry(lambda: app.table.items(fleetrecord.partition(app.name)))
    return [FleetRecord.of_item({"Name": {"S": name}, **attributes}) for name, attributes in found]


def live(app: App, release: str) -> list[FleetRecord]:
    """The records of instances that run *release*: touched lately, and still in the group that they name, if any.

    Raises ConfigError.
    """
    now = time.time()  # as Touched is: instances and operators share the wall clock alone
    recent = [each for each in records(app) if each.release == release and each.is_recent(now)]
    grouped = [each.instance_id for each in recent if each.group]
    groups = app.deadline.retry(lambda: dict(_groups(app, grouped)))
    return [each for each in recent if not each.group or groups.get(each.instance_id) == each.group]


def _groups(app: App, instance_ids: Sequence[str]) -> Iterator[tuple[str, str]]:
    for start in range(0, len(instance_ids), AT_ONCE):
        some = instance_ids[start : start + AT_ONCE]
        with aws.asking(ConfigError, "autoscaling:DescribeAutoScalingInstances", "*"):
            client: DescribesInstances = app.account.client("autoscaling")
            found = client.describe_auto_scaling_instances(InstanceIds=[*some])["AutoScalingInstances"]
        yield from ((each["InstanceId"], each["AutoScalingGroupName"]) for each in found)
