"""The sandbox's Auto Scaling: groups that are really kept, by instances that are simulated here."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from botocore.exceptions import ClientError

from adf_agent.sandbox.autoscaling import AutoScaling
from adf_agent.sandbox.cloud import Cloud
from adf_agent.sandbox.imds import Instance

PLACE = {"AvailabilityZones": ["eu-west-1a"], "MinSize": 0, "MaxSize": 20}


@dataclass
class Simulated:
    """An instance that does nothing by itself."""

    instance: Instance
    ended: bool = False

    def end(self) -> None:
        self.ended = True


@dataclass
class Aws:
    """The calls of an operator, and the machines that were launched."""

    cloud: Cloud
    machines: list[Simulated] = field(default_factory=list)
    broken: int = 0  # launches that fail from now on

    def launcher(self, instance: Instance) -> Simulated:
        if self.broken:
            self.broken -= 1
            raise OSError("no machine")
        self.machines.append(machine := Simulated(instance))
        return machine

    @property
    def autoscaling(self) -> Any:
        return self.cloud.client("autoscaling")

    def template(self, **data: Any) -> None:
        made = {"ImageId": "ami-1", "InstanceType": "t3.micro", **data}
        self.cloud.client("ec2").create_launch_template(LaunchTemplateName="web", LaunchTemplateData=made)

    def group(self, capacity: int, version: str = "1", **more: Any) -> None:
        template = {"LaunchTemplateName": "web", "Version": version}
        self.autoscaling.create_auto_scaling_group(
            AutoScalingGroupName="web", LaunchTemplate=template, DesiredCapacity=capacity, **PLACE, **more
        )

    def described(self) -> dict[str, Any]:
        (group,) = self.autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=["web"])["AutoScalingGroups"]
        return dict(group)

    def states(self) -> dict[str, str]:
        return {each["InstanceId"]: each["LifecycleState"] for each in self.described()["Instances"]}

    def reach(self, *states: str) -> dict[str, str]:
        """Waits until the group's instances are in these states, in any order."""
        until(lambda: sorted(self.states().values()) == sorted(states), self.states)
        return self.states()


def until(condition: Callable[[], object], say: Callable[[], object], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, say()
        threading.Event().wait(0.02)


@pytest.fixture
def aws(cloud: Cloud) -> Iterator[Aws]:
    made = Aws(cloud)
    with AutoScaling(cloud, made.launcher):
        yield made


def test_a_group_has_as_many_instances_as_are_desired(aws: Aws) -> None:
    """A fleet that is rehearsed with two instances where production has three."""
    aws.template()
    aws.group(3)
    before = aws.reach("InService", "InService", "InService")
    aws.autoscaling.set_desired_capacity(AutoScalingGroupName="web", DesiredCapacity=1)
    (left,) = aws.reach("InService")
    until(lambda: {each.instance.instance_id for each in aws.machines if each.ended} == {*before} - {left}, str)
    aws.autoscaling.update_auto_scaling_group(AutoScalingGroupName="web", DesiredCapacity=2)
    assert left in aws.reach("InService", "InService")


def test_an_instance_is_told_what_its_template_version_and_group_say(aws: Aws) -> None:
    """A release that reaches the launch template and no instance."""
    own = [{"Key": "ADF_APP", "Value": "web"}, {"Key": "Name", "Value": "the template's, outranked"}]
    tags = [{"ResourceType": "instance", "Tags": own}]
    aws.template(UserData="UkVMRUFTRV9VUkw9eA==", TagSpecifications=tags)
    aws.cloud.client("ec2").create_launch_template_version(
        LaunchTemplateName="web", SourceVersion="1", LaunchTemplateData={"ImageId": "ami-2"}
    )
    aws.group(1, "2", Tags=[{"Key": "Name", "Value": "w", "PropagateAtLaunch": True, "ResourceId": "web"}])
    (instance_id,) = aws.reach("InService")
    (machine,) = aws.machines
    facts = machine.instance
    assert (facts.instance_id, facts.image_id, facts.user_data) == (instance_id, "ami-2", b"RELEASE_URL=x")
    assert facts.tags == {"ADF_APP": "web", "Name": "w", "aws:autoscaling:groupName": "web"}
    assert facts.private_ip.startswith("127.")
    assert aws.described()["Instances"][0]["LaunchTemplate"]["Version"] == "2"


def test_hooks_hold_an_instance_on_its_way_in_and_out(aws: Aws) -> None:
    """A fleet in which nothing waits for the app to be ready."""
    aws.template()
    aws.group(0)
    for name, kind in (("adf-launch", "LAUNCHING"), ("adf-terminate", "TERMINATING")):
        aws.autoscaling.put_lifecycle_hook(
            AutoScalingGroupName="web",
            LifecycleHookName=name,
            LifecycleTransition=f"autoscaling:EC2_INSTANCE_{kind}",
            HeartbeatTimeout=60,
            DefaultResult="ABANDON",
        )
    aws.autoscaling.set_desired_capacity(AutoScalingGroupName="web", DesiredCapacity=1)
    (instance_id,) = aws.reach("Pending:Wait")

    def complete(hook: str) -> None:
        names = {"AutoScalingGroupName": "web", "LifecycleHookName": hook, "InstanceId": instance_id}
        aws.autoscaling.complete_lifecycle_action(**names, LifecycleActionResult="CONTINUE")

    complete("adf-launch")
    aws.reach("InService")
    aws.autoscaling.set_desired_capacity(AutoScalingGroupName="web", DesiredCapacity=0)
    aws.reach("Terminating:Wait")
    assert aws.machines[0].instance.target_lifecycle_state == "Terminated"
    assert not aws.machines[0].ended
    complete("adf-terminate")
    aws.reach()
    until(lambda: aws.machines[0].ended, str)


@pytest.mark.parametrize("respects", [True, False])
def test_an_unhealthy_instance_is_replaced_unless_its_grace_is_respected(aws: Aws, *, respects: bool) -> None:
    """An instance that gave itself up and stays; one that is killed while it boots."""
    aws.template()
    aws.group(1, HealthCheckGracePeriod=300)
    (instance_id,) = aws.reach("InService")
    told = {"HealthStatus": "Unhealthy", "ShouldRespectGracePeriod": respects}
    aws.autoscaling.set_instance_health(InstanceId=instance_id, **told)
    if respects:
        aws.autoscaling.set_desired_capacity(AutoScalingGroupName="web", DesiredCapacity=2)
        assert instance_id in aws.reach("InService", "InService")
    else:
        until(lambda: instance_id not in aws.states() and [*aws.states().values()] == ["InService"], aws.states)


def test_a_launch_that_raises_is_one_that_failed(aws: Aws) -> None:
    """A sandbox that stands still for ever since one container could not be started."""
    aws.template()
    aws.broken = 1
    aws.group(1)
    (instance_id,) = aws.reach("InService")
    assert [each.instance.instance_id for each in aws.machines] == [instance_id]
    aws.autoscaling.set_desired_capacity(AutoScalingGroupName="web", DesiredCapacity=0)
    aws.reach()
    until(lambda: aws.machines[0].ended, str)


def test_terminate_standby_and_detach_are_taken(aws: Aws) -> None:
    """An operator who takes one instance aside gets moto's answer and no effect."""
    aws.template()
    aws.group(3)
    first, second, third = aws.reach("InService", "InService", "InService")
    group, call = {"AutoScalingGroupName": "web"}, aws.autoscaling
    call.enter_standby(InstanceIds=[first], ShouldDecrementDesiredCapacity=True, **group)
    call.detach_instances(InstanceIds=[second], ShouldDecrementDesiredCapacity=True, **group)
    assert aws.reach("InService", "Standby")[first] == "Standby"
    call.exit_standby(InstanceIds=[first], **group)
    aws.reach("InService", "InService")
    call.terminate_instance_in_auto_scaling_group(InstanceId=third, ShouldDecrementDesiredCapacity=True)
    assert [*aws.reach("InService")] == [first]
    assert [each.ended for each in aws.machines if each.instance.instance_id == second] == [False]
    with pytest.raises(ClientError, match="No managed instance found"):
        call.terminate_instance_in_auto_scaling_group(InstanceId="i-0", ShouldDecrementDesiredCapacity=True)


def test_a_group_with_instances_is_deleted_by_force_alone(aws: Aws) -> None:
    """A slip of the hand that ends a fleet; a deleted group whose instances go on."""
    aws.template()
    aws.group(2)
    aws.reach("InService", "InService")
    with pytest.raises(ClientError, match="ResourceInUse"):
        aws.autoscaling.delete_auto_scaling_group(AutoScalingGroupName="web")
    aws.autoscaling.delete_auto_scaling_group(AutoScalingGroupName="web", ForceDelete=True)
    until(lambda: all(each.ended for each in aws.machines), str)
    assert aws.autoscaling.describe_auto_scaling_groups()["AutoScalingGroups"] == []
    assert len(aws.machines) == 2


def test_a_refresh_replaces_every_instance_and_changes_the_group(aws: Aws) -> None:
    """A roll that was rehearsed in a cloud which forgets what was rolled."""
    aws.template()
    aws.group(3)
    before = aws.reach("InService", "InService", "InService")
    ec2 = aws.cloud.client("ec2")
    ec2.create_launch_template_version(LaunchTemplateName="web", LaunchTemplateData={"ImageId": "ami-2"})
    desired = {"LaunchTemplate": {"LaunchTemplateName": "web", "Version": "2"}}
    aws.autoscaling.start_instance_refresh(
        AutoScalingGroupName="web", DesiredConfiguration=desired, Preferences={"InstanceWarmup": 0}
    )

    def status() -> str:
        found = aws.autoscaling.describe_instance_refreshes(AutoScalingGroupName="web")["InstanceRefreshes"]
        return str(found[0]["Status"])

    until(lambda: status() == "Successful", status)
    group = aws.described()
    assert group["LaunchTemplate"]["Version"] == "2"
    assert {each["LaunchTemplate"]["Version"] for each in group["Instances"]} == {"2"}
    assert not {*before} & {*aws.states()}


def test_settings_that_moto_forgets_are_given_back(aws: Aws) -> None:
    """A preflight that warns of a policy which is there."""
    aws.template()
    policy = {"MinHealthyPercentage": 100, "MaxHealthyPercentage": 110}
    aws.group(1, InstanceMaintenancePolicy=policy, DefaultInstanceWarmup=30)
    aws.reach("InService")
    found = aws.described()
    assert (found["InstanceMaintenancePolicy"], found["DefaultInstanceWarmup"]) == (policy, 30)


def test_a_version_of_a_template_can_be_deleted(aws: Aws) -> None:
    """A roll that did not start and leaves its version behind, since the cloud can't take it back."""
    aws.template()
    ec2 = aws.cloud.client("ec2")
    made = ec2.create_launch_template_version(LaunchTemplateName="web", SourceVersion="1", LaunchTemplateData={})
    template_id = made["LaunchTemplateVersion"]["LaunchTemplateId"]
    answer = ec2.delete_launch_template_versions(LaunchTemplateId=template_id, Versions=["2"])
    gone = answer["SuccessfullyDeletedLaunchTemplateVersions"]
    assert [(each["LaunchTemplateId"], each["VersionNumber"]) for each in gone] == [(template_id, 2)]
    versions = ec2.describe_launch_template_versions(LaunchTemplateId=template_id)["LaunchTemplateVersions"]
    assert [each["VersionNumber"] for each in versions] == [1]
    with pytest.raises(ClientError, match="VersionNotFound"):
        ec2.delete_launch_template_versions(LaunchTemplateId=template_id, Versions=["1"])
