"""What both templates make of one app, and the stack of packaging/cloudformation as moto's CloudFormation makes it."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hcl2
import pytest
from cfnlint.decode import cfn_yaml  # type: ignore[import-untyped]
from moto.cloudformation.models import cloudformation_backends
from moto.cloudformation.parsing import clean_json
from moto.elbv2.models import elbv2_backends

from adf_agent.sandbox.cloud import Cloud

PACKAGING = Path(__file__).parents[1] / "packaging"
TEMPLATE = PACKAGING / "cloudformation" / "app.yaml"
COMMANDS = Path(sys.executable).parent
APP, BUCKET, TABLE = "hello", "releases", "adf-config"
URL = "s3://releases/hello/v1.tar.gz"
HOOKS = [
    {
        "LifecycleHookName": "adf-launch",
        "LifecycleTransition": "autoscaling:EC2_INSTANCE_LAUNCHING",
        "HeartbeatTimeout": 300,
        "DefaultResult": "ABANDON",
    },
    {
        "LifecycleHookName": "adf-terminate",
        "LifecycleTransition": "autoscaling:EC2_INSTANCE_TERMINATING",
        "HeartbeatTimeout": 120,
        "DefaultResult": "CONTINUE",
    },
]
METADATA = {"HttpTokens": "required", "HttpPutResponseHopLimit": 2, "InstanceMetadataTags": "enabled"}
MAINTENANCE = {"MinHealthyPercentage": 100, "MaxHealthyPercentage": 110}
WARMUP = 15
# moto says so of every type that it does not make; the rest of the stack is made.
UNMADE = pytest.mark.filterwarnings(
    "ignore:Tried to parse AWS..CloudWatch..Alarm", "ignore:Tried to parse AWS..CloudFormation..WaitConditionHandle"
)


def policy(name: str, values: Mapping[str, str]) -> Any:
    """The policy of packaging/iam, each `${…}` in it replaced by its value."""
    text = (PACKAGING / "iam" / f"{name}.json").read_text()
    return json.loads(re.sub(r"\$\{(\w+)\}", lambda match: values[match[1]], text))


def network(cloud: Cloud) -> tuple[str, list[str]]:
    """A VPC, and two subnets of it in two zones."""
    ec2 = cloud.client("ec2")
    found = sorted(ec2.describe_subnets()["Subnets"], key=lambda each: str(each["AvailabilityZone"]))
    return found[0]["VpcId"], [each["SubnetId"] for each in found[:2]]


def accounts() -> dict[str, str]:
    """What the policies' placeholders stand for, but for what was made: those have ids."""
    here = {"Partition": "aws", "Region": "eu-west-1", "Account": "123456789012"}
    return {**here, "App": APP, "Group": APP, "Table": TABLE, "Bucket": BUCKET}


def others(cloud: Cloud) -> dict[str, str]:
    """A target group that is there already, and the security group of its load balancer."""
    vpc, _ = network(cloud)
    [there, *_] = cloud.client("ec2").describe_security_groups()["SecurityGroups"]
    made = cloud.client("elbv2").create_target_group(Name="others", Protocol="HTTP", Port=8000, VpcId=vpc)
    return {"arn": made["TargetGroups"][0]["TargetGroupArn"], "security_group_id": there["GroupId"]}


def version(cloud: Cloud, template: str, number: str = "1") -> Any:
    """What a version of the launch template has."""
    described = cloud.client("ec2").describe_launch_template_versions(LaunchTemplateId=template, Versions=[number])
    return described["LaunchTemplateVersions"][0]["LaunchTemplateData"]


def run(
    *command: str | Path, environment: Mapping[str, str], cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """What became of the command, in this process's environment and *environment*."""
    whole = {**os.environ, **environment}
    return subprocess.run(command, cwd=cwd, env=whole, capture_output=True, text=True, timeout=240, check=False)


def template(part: str) -> dict[str, Any]:
    """The Parameters, Resources or Outputs of the CloudFormation template as they are written."""
    found: dict[str, Any] = cfn_yaml.load(str(TEMPLATE))[part]
    return found


def module(kind: str) -> dict[str, dict[str, Any]]:
    """The Terraform module's blocks of a *kind* as they are written: variables by name, resources by type.name."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted((PACKAGING / "terraform").glob("*.tf")):
        for block in plain(hcl2.loads(path.read_text())).get(kind, ()):
            for name, body in block.items():
                inner = {f"{name}.{each}": body[each] for each in body} if kind == "resource" else {name: body}
                found |= inner
    return found


def plain(value: Any) -> Any:
    """What python-hcl2 read, without the quotes that it keeps and what it adds."""
    if isinstance(value, dict):
        return {plain(key): plain(each) for key, each in value.items() if not key.startswith("__")}
    if isinstance(value, list):
        return [plain(each) for each in value]
    return value.strip('"') if isinstance(value, str) else value


class Stack:
    """The stack with its defaults, but for the parameters that are *given*; its group is empty."""

    def __init__(self, cloud: Cloud, **given: str) -> None:
        self.cloud = cloud
        vpc, subnets = network(cloud)
        parameters = {
            "App": APP,
            "ReleaseUrl": URL,
            "ReleaseBucket": BUCKET,
            "ImageId": cloud.imds.instance.image_id,
            "VpcId": vpc,
            "SubnetIds": ",".join(subnets),
            "MinSize": "0",
            **given,
        }
        client = cloud.client("cloudformation")
        client.create_stack(
            StackName=APP,
            TemplateBody=TEMPLATE.read_text(),
            Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
            Capabilities=["CAPABILITY_IAM"],
        )
        [made] = client.describe_stacks(StackName=APP)["Stacks"]
        assert made["StackStatus"] == "CREATE_COMPLETE"
        self.outputs = {each["OutputKey"]: each["OutputValue"] for each in made["Outputs"]}
        backend = cloudformation_backends[cloud.imds.instance.account][cloud.imds.instance.region]
        self._map: Any = backend.get_stack(APP).resource_map

    def id(self, name: str) -> str:
        """Of what was made for the resource *name*: an ARN, where its type has that for an id."""
        return str(self._map[name].physical_resource_id)

    def has(self, name: str) -> bool:
        """Whether the resource *name* is to be made."""
        condition = self.written(name).get("Condition")
        return condition is None or bool(self._map.lazy_condition_map[condition])

    def properties(self, name: str, *wanted: str, part: str = "Properties") -> Any:
        """Of the resource *name* all, or those, with the template's functions resolved: moto does not keep them all."""
        written = self.written(name)[part]
        return clean_json({key: written[key] for key in wanted or written}, self._map)

    def written(self, name: str) -> Any:
        """The resource *name* as the template has it."""
        return self._map._resource_json_map[name]  # noqa: SLF001  no API tells them

    def complete(self) -> None:
        """Gives the group what moto's CloudFormation leaves out of the template and its API takes."""
        client, group = self.cloud.client("autoscaling"), self.properties("Group")
        for hook in group["LifecycleHookSpecificationList"]:
            client.put_lifecycle_hook(AutoScalingGroupName=APP, **hook)
        kept = {name: group[name] for name in ("DefaultInstanceWarmup", "InstanceMaintenancePolicy")}
        client.update_auto_scaling_group(AutoScalingGroupName=APP, **kept)
        self._map["Group"].mixed_instances_policy = None  # not an empty one, of which AWS knows none

    def hasten(self) -> None:
        """Has its health check said to come every second: AWS offers none below five, the sandbox's is quicker yet."""
        place = self.cloud.imds.instance
        target_group = elbv2_backends[place.account][place.region].target_groups[self.id("TargetGroup")]
        target_group.health_check_interval_seconds = 1
