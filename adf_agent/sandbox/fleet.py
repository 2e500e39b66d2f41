"""A fleet on one machine: a group of real agents behind a load balancer, in an AWS on loopback."""

import base64
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from adf_agent.deadline import Deadline
from adf_agent.errors import AgentError
from adf_agent.sandbox import machine
from adf_agent.sandbox.autoscaling import AutoScaling
from adf_agent.sandbox.balancer import Balancer
from adf_agent.sandbox.box import Boxes
from adf_agent.sandbox.cloud import Cloud
from adf_agent.sandbox.member import TRANSITIONS
from adf_agent.sandbox.pool import Pool

NAME = "hello"  # of the group, the launch template, the target group and the app
TABLE = "adf-config"
CONFIG = {"GREETING": "Hello", "NAME": "World"}
PORT = 8000
HOOK_SECONDS = 60
LOOK_SECONDS = 0.2


class Fleet:
    """A context manager over *cloud*: every Auto Scaling group in it is kept, on *client*'s Docker, below *folder*."""

    def __init__(self, cloud: Cloud, folder: Path, client: Any) -> None:
        self.cloud = cloud
        self.boxes = Boxes(cloud, folder / "instances", client)
        self.balancer = Balancer(cloud, folder / "haproxy")
        self.scaling = AutoScaling(cloud, self.boxes)
        self.removed: list[str] = []  # once it has ended: the names of what it has taken away again
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self.balancer)
            stack.callback(lambda: self.removed.extend(self.boxes.clear()))
            stack.enter_context(self.scaling)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def group(self, user_data: str, size: int) -> Pool:
        """The group of *size* instances of this user-data, with our hooks, behind a target group: its load balancer."""
        ec2, autoscaling = self.cloud.client("ec2"), self.cloud.client("autoscaling")
        instance = self.cloud.imds.instance
        template = {
            "ImageId": instance.image_id,
            "InstanceType": instance.type,
            "UserData": base64.b64encode(user_data.encode()).decode(),
            "InstanceMarketOptions": {"MarketType": "spot"},  # so that a notice is heeded
        }
        ec2.create_launch_template(LaunchTemplateName=NAME, LaunchTemplateData=template)
        pool = self.balancer.target_group(NAME, PORT, "/health", deregistration_delay=5)
        autoscaling.create_auto_scaling_group(
            AutoScalingGroupName=NAME,
            LaunchTemplate={"LaunchTemplateName": NAME, "Version": "1"},
            AvailabilityZones=[instance.zone],
            TargetGroupARNs=[pool.arn],
            MinSize=0,
            MaxSize=2 * max(size, 5),
            DesiredCapacity=0,
            HealthCheckType="ELB",
            HealthCheckGracePeriod=60,
            InstanceMaintenancePolicy={"MinHealthyPercentage": 100, "MaxHealthyPercentage": 110},
        )
        for kind, transition in TRANSITIONS.items():
            autoscaling.put_lifecycle_hook(
                AutoScalingGroupName=NAME,
                LifecycleHookName=f"adf-{kind}",
                LifecycleTransition=transition,
                HeartbeatTimeout=HOOK_SECONDS,
                DefaultResult="ABANDON" if kind == "launch" else "CONTINUE",
            )
        autoscaling.set_desired_capacity(AutoScalingGroupName=NAME, DesiredCapacity=size)
        return pool

    def wait(self, pool: Pool, deadline: Deadline) -> None:
        """Returns once every instance is in service and healthy to the load balancer, and those that left are gone.

        Raises AgentError, Stopped.
        """
        while True:
            group = self.cloud.client("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"][0]
            found = [each["InstanceId"] for each in group["Instances"] if each["LifecycleState"] == "InService"]
            states = pool.states()
            well = [each for each in found if states.get(each) == "healthy"]
            if len(well) == len(group["Instances"]) == group["DesiredCapacity"]:
                return
            if deadline.expired():
                logs = f"their logs are in {self.boxes.folder}"
                raise AgentError(f"{len(well)} of {group['DesiredCapacity']} instances are in service; {logs}")
            deadline.wait(LOOK_SECONDS)


def user_data(url: str) -> str:
    """All that an instance of the fleet is told."""
    return f"RELEASE_URL={url}\nADF_APP={NAME}\n"


def deliver(cloud: Cloud, path: Path, digest: str) -> str:
    """Puts the release at *path* into the sandbox's bucket; returns its RELEASE_URL."""
    cloud.client("s3").put_object(Bucket=machine.BUCKET, Key=path.name, Body=path.read_bytes())
    return f"s3://{machine.BUCKET}/{path.name}#sha256={digest}"


def configure(cloud: Cloud) -> None:
    """The config table with the app's keys, as `adf-config init` and `set` would have made them."""
    dynamodb = cloud.client("dynamodb")
    dynamodb.create_table(
        TableName=TABLE,
        KeySchema=[{"AttributeName": "App", "KeyType": "HASH"}, {"AttributeName": "Name", "KeyType": "RANGE"}],
        AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in ("App", "Name")],
        BillingMode="PAY_PER_REQUEST",
    )
    for name, value in CONFIG.items():
        item = {"App": NAME, "Name": name, "Value": value}
        dynamodb.put_item(TableName=TABLE, Item={key: {"S": text} for key, text in item.items()})
