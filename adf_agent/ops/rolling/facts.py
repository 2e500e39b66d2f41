"""An Auto Scaling group as it is before a roll: what AWS says of it, in one value."""

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from adf_agent import aws
from adf_agent.group import TRANSITIONS, Kind
from adf_agent.ops.rolling import witnesses
from adf_agent.ops.rolling.errors import Refused, no_group
from adf_agent.ops.rolling.witnesses import Clients

Described = Mapping[str, Any]  # a group, as it is described


class AutoScaling(Protocol):
    def describe_auto_scaling_groups(self, **request: Any) -> Any: ...
    def describe_lifecycle_hooks(self, **request: Any) -> Any: ...


class Ec2(Protocol):
    def describe_launch_template_versions(self, **request: Any) -> Any: ...


@dataclass(frozen=True)
class Member:
    """One instance of the group. *version* is that of the launch template it was launched from, 0 where unknown."""

    instance_id: str
    version: int
    state: str  # the lifecycle state: "InService", "Pending:Wait" …
    healthy: bool = True
    protected: bool = False  # from scale-in


@dataclass(frozen=True)
class Template:
    """One version of a launch template. *user_data* is raw (decoded); *tags* are those for instances."""

    id: str
    name: str
    number: int
    description: str = ""
    user_data: bytes = b""
    image: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    tag_specifications: tuple[Mapping[str, Any], ...] = ()  # of every resource type, as they are described


@dataclass(frozen=True)
class Group:
    """*version* is as the group names it ("7", "$Latest", "$Default"); *template* is what that resolves to now.

    *mixed* is the MixedInstancesPolicy as it is described, None where the group has a launch template alone.
    https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_AutoScalingGroup.html
    """

    name: str
    desired: int
    smallest: int
    largest: int
    version: str
    template: Template
    members: tuple[Member, ...] = ()
    mixed: Mapping[str, Any] | None = None
    launch_hooks: tuple[str, ...] = ()
    terminate_hooks: tuple[str, ...] = ()
    target_groups: tuple[str, ...] = ()  # ARNs
    load_balancers: tuple[str, ...] = ()  # names of classic ones
    recognition: int = 0  # seconds until all of these have called a new instance healthy …
    unrecognised: str = ""  # … and why nobody knows how many
    suspended: frozenset[str] = frozenset()  # processes: "Launch", "Terminate" …
    grace: int = 300  # the health check grace period, seconds
    health_check: str = "EC2"
    warmup: int | None = None  # DefaultInstanceWarmup, seconds
    maintenance: tuple[int, int] | None = None  # the instance maintenance policy's percentages
    warm_pool: bool = False
    tags: Mapping[str, str] = field(default_factory=dict)  # the group's own
    propagated: Mapping[str, str] = field(default_factory=dict)  # of these, those that instances get


def read(clients: Clients, name: str) -> Group:
    """The group *name* as it is now. Raises Refused where there is none, or none that can be rolled.

    A launch template without a version means its default one.
    https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_LaunchTemplateSpecification.html
    """
    autoscaling = clients.client("autoscaling")
    described = _described(autoscaling, name)
    launched = _launched(described)
    version = launched.get("Version", "$Default")
    hooks = _hooks(autoscaling, name)
    places = tuple(described.get("TargetGroupARNs", ())), tuple(described.get("LoadBalancerNames", ()))
    recognition, unrecognised = _recognition(clients, *places)
    policy = described.get("InstanceMaintenancePolicy", {})
    percentages = policy.get("MinHealthyPercentage", -1), policy.get("MaxHealthyPercentage", -1)
    return Group(
        name=name,
        desired=described["DesiredCapacity"],
        smallest=described["MinSize"],
        largest=described["MaxSize"],
        version=version,
        template=template(clients.client("ec2"), launched["LaunchTemplateId"], version),
        members=_members(described),
        mixed=described.get("MixedInstancesPolicy"),
        launch_hooks=hooks["launch"],
        terminate_hooks=hooks["terminate"],
        target_groups=places[0],
        load_balancers=places[1],
        recognition=recognition,
        unrecognised=unrecognised,
        suspended=frozenset(each["ProcessName"] for each in described.get("SuspendedProcesses", ())),
        grace=described.get("HealthCheckGracePeriod", 0),
        health_check=described.get("HealthCheckType", "EC2"),
        warmup=described.get("DefaultInstanceWarmup"),
        maintenance=None if -1 in percentages else percentages,  # as a policy that was cleared has it
        warm_pool="WarmPoolConfiguration" in described,
        tags=_tags(described.get("Tags", ())),
        propagated=_tags(each for each in described.get("Tags", ()) if each.get("PropagateAtLaunch")),
    )


def now(client: AutoScaling, name: str) -> tuple[int, tuple[Member, ...]]:
    """The desired capacity of the group *name*, and its instances, by one call. Raises Refused where there is none."""
    described = _described(client, name)
    return described["DesiredCapacity"], _members(described)


def template(ec2: Ec2, template_id: str, version: str) -> Template:
    """The *version* of a launch template: a number, `$Latest` or `$Default`. Raises Refused.

    https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeLaunchTemplateVersions.html
    """
    [found] = templates(ec2, template_id, Versions=[version])
    return found


def templates(ec2: Ec2, template_id: str, **which: Any) -> list[Template]:
    """Those versions of a launch template, the first page of them: 200. Raises Refused."""
    resource = " ".join(("version", *which.get("Versions", ()), f"of launch template {template_id}"))
    with aws.asking(Refused, "ec2:DescribeLaunchTemplateVersions", resource):
        answer = ec2.describe_launch_template_versions(LaunchTemplateId=template_id, **which)
    return [_template(template_id, each) for each in answer["LaunchTemplateVersions"]]


def _template(template_id: str, found: Mapping[str, Any]) -> Template:
    data = found["LaunchTemplateData"]
    specifications = data.get("TagSpecifications", ())
    return Template(
        id=template_id,
        name=found["LaunchTemplateName"],
        number=found["VersionNumber"],
        description=found.get("VersionDescription", ""),
        user_data=base64.b64decode(data.get("UserData", "")),
        image=data.get("ImageId", ""),
        tags=_tags(tag for each in specifications if each["ResourceType"] == "instance" for tag in each["Tags"]),
        tag_specifications=tuple(specifications),
    )


def _described(client: AutoScaling, name: str) -> Described:
    with aws.asking(Refused, "autoscaling:DescribeAutoScalingGroups", f"Auto Scaling group {name}"):
        found = client.describe_auto_scaling_groups(AutoScalingGroupNames=[name])["AutoScalingGroups"]
    if not found:
        raise no_group(name)
    described: Described = found[0]
    return described


def _launched(described: Described) -> Mapping[str, str]:
    """The LaunchTemplateSpecification that the group's instances are launched from, the only one. Raises Refused."""
    name, mixed = described["AutoScalingGroupName"], described.get("MixedInstancesPolicy", {}).get("LaunchTemplate", {})
    launched: Mapping[str, str] = mixed.get("LaunchTemplateSpecification") or described.get("LaunchTemplate", {})
    if not launched:
        configuration = described.get("LaunchConfigurationName")
        kind = f"the launch configuration {configuration}" if configuration else "no launch template"
        hint = "A launch configuration can't be changed: make a launch template of it, and give the group that."
        raise Refused(f"{name} has {kind}, and can't be rolled", hint=hint)
    own = [each for each in mixed.get("Overrides", ()) if each.get("LaunchTemplateSpecification")]
    if own:
        types = ", ".join(each.get("InstanceType", "others") for each in own)
        hint = "Let its overrides do without: one launch template for all instance types."
        raise Refused(f"{name} has another launch template for {types}: a release would not reach them", hint=hint)
    return launched


def _recognition(clients: Clients, *places: tuple[str, ...]) -> tuple[int, str]:
    """The seconds, and why they are not known: a roll can do without, as it is warned."""
    try:
        return witnesses.recognition(clients, *places), ""
    except Refused as error:
        if error.transient:
            raise
        return 0, error.sentence


def _hooks(client: AutoScaling, name: str) -> Mapping[Kind, tuple[str, ...]]:
    with aws.asking(Refused, "autoscaling:DescribeLifecycleHooks", f"Auto Scaling group {name}"):
        found = client.describe_lifecycle_hooks(AutoScalingGroupName=name)["LifecycleHooks"]
    return {
        kind: tuple(each["LifecycleHookName"] for each in found if each["LifecycleTransition"] == transition)
        for kind, transition in TRANSITIONS.items()
    }


def _members(described: Described) -> tuple[Member, ...]:
    return tuple(
        Member(
            instance_id=each["InstanceId"],
            version=_number(each.get("LaunchTemplate", {}).get("Version", "")),
            state=each["LifecycleState"],
            healthy=each["HealthStatus"] == "Healthy",
            protected=each["ProtectedFromScaleIn"],
        )
        for each in described["Instances"]
    )


def _number(version: str) -> int:
    return int(version) if version.isdecimal() else 0


def _tags(found: Iterable[Mapping[str, str]]) -> dict[str, str]:
    return {each["Key"]: each["Value"] for each in found}
