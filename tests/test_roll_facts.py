"""What a roll knows of its group: all of it, and nothing of another."""

import base64
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from adf_agent.ops.rolling import facts
from adf_agent.ops.rolling.errors import REFUSED, Refused
from adf_agent.sandbox.cloud import Cloud
from adf_agent.sandbox.front import AwsFault

USER_DATA = b"RELEASE_URL=s3://releases/web/v41.tar.gz\n"


@pytest.fixture(scope="module")
def aws() -> Iterator[Cloud]:
    with Cloud() as cloud:
        yield cloud


@pytest.fixture
def account(aws: Cloud) -> Cloud:
    aws.reset()
    aws.faults = []
    return aws


def launch_template(account: Cloud) -> str:
    """A launch template of two versions, the first of which is the default; its id."""
    named = {"instance": "web", "volume": "disk"}
    tags = [{"ResourceType": kind, "Tags": [{"Key": "Name", "Value": name}]} for kind, name in named.items()]
    data = {
        "ImageId": "ami-1",
        "InstanceType": "t3.micro",
        "UserData": base64.b64encode(USER_DATA).decode(),
        "TagSpecifications": tags,
    }
    ec2 = account.client("ec2")
    made = ec2.create_launch_template(LaunchTemplateName="web", VersionDescription="by hand", LaunchTemplateData=data)
    found: str = made["LaunchTemplate"]["LaunchTemplateId"]
    ec2.create_launch_template_version(LaunchTemplateId=found, LaunchTemplateData={**data, "ImageId": "ami-2"})
    return found


def group(account: Cloud, size: int = 0, **request: Any) -> None:
    """A group named web."""
    account.client("autoscaling").create_auto_scaling_group(
        AutoScalingGroupName="web",
        MinSize=0,
        MaxSize=9,
        DesiredCapacity=size,
        AvailabilityZones=["eu-west-1a"],
        **request,
    )


def refused(account: Cloud, name: str = "web") -> str:
    with pytest.raises(Refused) as caught:
        facts.read(account, name)
    assert caught.value.exit_code == REFUSED
    assert caught.value.hint
    return caught.value.sentence


def target_group(account: Cloud, **check: int) -> str:
    """Its ARN."""
    [network] = account.client("ec2").describe_vpcs()["Vpcs"]
    target = {"Name": "web", "Protocol": "HTTP", "Port": 80, "VpcId": network["VpcId"], **check}
    arn: str = account.client("elbv2").create_target_group(**target)["TargetGroups"][0]["TargetGroupArn"]
    return arn


def load_balancer(account: Cloud, interval: int = 30, threshold: int = 10) -> str:
    """The name of a classic one."""
    client, listener = account.client("elb"), {"Protocol": "HTTP", "LoadBalancerPort": 80, "InstancePort": 80}
    client.create_load_balancer(LoadBalancerName="classic", Listeners=[listener], AvailabilityZones=["eu-west-1a"])
    check = {"Target": "HTTP:80/", "Interval": interval, "Timeout": 2, "HealthyThreshold": threshold}
    client.configure_health_check(LoadBalancerName="classic", HealthCheck={**check, "UnhealthyThreshold": 2})
    return "classic"


def test_all_that_matters_of_a_group_is_read(account: Cloud) -> None:
    """A trap that is looked for, and never found, since the group was read by half."""
    template_id = launch_template(account)
    arn, classic = target_group(account), load_balancer(account)
    client = account.client("autoscaling")
    tags = [
        {"Key": "ADF_APP", "Value": "web", "PropagateAtLaunch": True},
        {"Key": "team", "Value": "a", "PropagateAtLaunch": False},
    ]
    group(
        account,
        2,
        LaunchTemplate={"LaunchTemplateId": template_id, "Version": "1"},
        TargetGroupARNs=[arn],
        LoadBalancerNames=[classic],
        HealthCheckType="ELB",
        HealthCheckGracePeriod=90,
        Tags=tags,
    )
    for kind in ("LAUNCHING", "TERMINATING"):
        transition = f"autoscaling:EC2_INSTANCE_{kind}"
        client.put_lifecycle_hook(AutoScalingGroupName="web", LifecycleHookName=kind, LifecycleTransition=transition)
    client.suspend_processes(AutoScalingGroupName="web", ScalingProcesses=["Launch"])
    found = facts.read(account, "web")
    assert (found.name, found.desired, found.smallest, found.largest, found.version) == ("web", 2, 0, 9, "1")
    assert (found.target_groups, found.load_balancers) == ((arn,), ("classic",))
    assert (found.health_check, found.grace, found.suspended) == ("ELB", 90, frozenset({"Launch"}))
    assert (found.launch_hooks, found.terminate_hooks) == (("LAUNCHING",), ("TERMINATING",))
    assert (found.tags, found.propagated) == ({"ADF_APP": "web", "team": "a"}, {"ADF_APP": "web"})
    assert (found.mixed, found.maintenance, found.warmup, found.warm_pool) == (None, None, None, False)
    template = found.template
    assert (template.id, template.name, template.number, template.description) == (template_id, "web", 1, "by hand")
    assert (template.user_data, template.image, template.tags) == (USER_DATA, "ami-1", {"Name": "web"})
    assert [each["ResourceType"] for each in template.tag_specifications] == ["instance", "volume"]
    assert [(each.version, each.state, each.healthy, each.protected) for each in found.members] == [
        (1, "InService", True, False)
    ] * 2
    before = account.calls.copy()
    assert facts.now(account.client("autoscaling"), "web") == (found.desired, found.members)
    assert account.calls - before == {"autoscaling:DescribeAutoScalingGroups": 1}


@pytest.mark.parametrize(("version", "number", "image"), [("$Latest", 2, "ami-2"), ("$Default", 1, "ami-1")])
def test_a_version_that_moves_is_known_by_its_number(account: Cloud, version: str, number: int, image: str) -> None:
    """A group that is pinned to another version than the one it runs."""
    group(account, LaunchTemplate={"LaunchTemplateId": launch_template(account), "Version": version})
    found = facts.read(account, "web")
    assert (found.version, found.template.number, found.template.image) == (version, number, image)


def policy(template_id: str, **override: Any) -> dict[str, Any]:
    launched = {"LaunchTemplateId": template_id, "Version": "2"}
    overrides = [{"InstanceType": "t3.micro"}, {"InstanceType": "t4g.micro", **override}]
    return {"LaunchTemplate": {"LaunchTemplateSpecification": launched, "Overrides": overrides}}


def test_the_template_in_a_mixed_instances_policy_counts(account: Cloud) -> None:
    """A fleet of spot instances that nobody can deliver to."""
    group(account, MixedInstancesPolicy=policy(launch_template(account)))
    found = facts.read(account, "web")
    assert (found.version, found.template.number) == ("2", 2)
    assert found.mixed
    assert [each["InstanceType"] for each in found.mixed["LaunchTemplate"]["Overrides"]] == ["t3.micro", "t4g.micro"]


def test_a_group_that_can_not_be_rolled_is_refused(account: Cloud) -> None:
    """A roll that stops half-way, at the first call that fails."""
    assert refused(account) == "there is no Auto Scaling group web here"
    client = account.client("autoscaling")
    client.create_launch_configuration(LaunchConfigurationName="old", ImageId="ami-1", InstanceType="t3.micro")
    group(account, LaunchConfigurationName="old")
    assert refused(account) == "web has the launch configuration old, and can't be rolled"


def test_an_override_with_a_template_of_its_own_is_refused(account: Cloud) -> None:
    """A part of the fleet that stays on the old release, and a roll that says it was done."""
    own = {"LaunchTemplateSpecification": {"LaunchTemplateId": "lt-arm", "Version": "1"}}
    group(account, MixedInstancesPolicy=policy(launch_template(account), **own))
    assert refused(account) == "web has another launch template for t4g.micro: a release would not reach them"


@pytest.mark.parametrize(
    "action",
    [
        "autoscaling:DescribeAutoScalingGroups",
        "autoscaling:DescribeLifecycleHooks",
        "ec2:DescribeLaunchTemplateVersions",
    ],
)
def test_what_may_not_be_read_is_named(account: Cloud, action: str) -> None:
    """An operator who has to guess which permission is missing."""
    group(account, LaunchTemplate={"LaunchTemplateId": launch_template(account), "Version": "1"})
    account.faults = [AwsFault(action, "AccessDenied", 403, message="no")]
    assert refused(account).startswith(f"{action} on ")


class Newer:
    """What moto's groups don't have yet, in the shape of AWS's answer."""

    def __init__(self, account: Cloud, **more: Any) -> None:
        self._account, self._client, self._more = account, account.client("autoscaling"), more

    def client(self, service: str) -> Any:
        return self if service == "autoscaling" else self._account.client(service)

    def describe_auto_scaling_groups(self, **request: Any) -> Any:
        [found] = self._client.describe_auto_scaling_groups(**request)["AutoScalingGroups"]
        return {"AutoScalingGroups": [{**found, **self._more}]}

    def describe_lifecycle_hooks(self, **request: Any) -> Any:
        return self._client.describe_lifecycle_hooks(**request)


@pytest.mark.parametrize(("least", "most", "expected"), [(100, 110, (100, 110)), (-1, -1, None)])
def test_policies_of_replacement_are_read(
    account: Cloud, least: int, most: int, expected: tuple[int, int] | None
) -> None:
    """A warning of a policy that is there, until nobody reads warnings."""
    group(account, LaunchTemplate={"LaunchTemplateId": launch_template(account), "Version": "1"})
    newer = Newer(
        account,
        InstanceMaintenancePolicy={"MinHealthyPercentage": least, "MaxHealthyPercentage": most},
        DefaultInstanceWarmup=30,
        WarmPoolConfiguration={"MinSize": 1},
    )
    found = facts.read(newer, "web")
    assert (found.maintenance, found.warmup, found.warm_pool) == (expected, 30, True)


@pytest.mark.parametrize(
    ("target", "classic", "seconds"),
    [
        ({"HealthCheckIntervalSeconds": 5, "HealthyThresholdCount": 2}, None, 15),
        ({"HealthCheckIntervalSeconds": 5, "HealthyThresholdCount": 2}, (10, 3), 40),
        ({"HealthCheckIntervalSeconds": 30, "HealthyThresholdCount": 5}, (10, 3), 180),
        (None, (10, 3), 40),
        (None, None, 0),
    ],
)
def test_the_slowest_load_balancer_says_how_long_a_new_instance_is_not_known(
    account: Cloud, target: Mapping[str, int] | None, classic: tuple[int, int] | None, seconds: int
) -> None:
    """An old instance that goes before any balancer sends the new one a request."""
    places: dict[str, Any] = {"TargetGroupARNs": [target_group(account, **target)]} if target else {}
    if classic:
        places["LoadBalancerNames"] = [load_balancer(account, *classic)]
    group(account, LaunchTemplate={"LaunchTemplateId": launch_template(account), "Version": "1"}, **places)
    found = facts.read(account, "web")
    assert (found.recognition, found.unrecognised) == (seconds, "")


def test_without_the_permission_to_see_the_load_balancers_a_group_is_read_all_the_same(account: Cloud) -> None:
    """A roll that is refused for a permission that the last version of this did not need."""
    places: dict[str, Any] = {"TargetGroupARNs": [target_group(account)]}
    group(account, LaunchTemplate={"LaunchTemplateId": launch_template(account), "Version": "1"}, **places)
    account.faults = [AwsFault("elasticloadbalancing:DescribeTargetGroups", "AccessDenied", 403)]
    found = facts.read(account, "web")
    assert found.recognition == 0
    assert found.unrecognised.startswith("elasticloadbalancing:DescribeTargetGroups on ")
