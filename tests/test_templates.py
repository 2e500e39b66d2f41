"""packaging/cloudformation: from an AMI to a group that adf-roll rolls."""

import base64
import threading
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import docker
import pytest
import requests
from fixtures_templates import (
    APP,
    COMMANDS,
    HOOKS,
    MAINTENANCE,
    METADATA,
    TABLE,
    TEMPLATE,
    UNMADE,
    URL,
    WARMUP,
    Stack,
    others,
    run,
    version,
)

from adf_agent import userdata
from adf_agent.deadline import Deadline
from adf_agent.sandbox import hello, machine
from adf_agent.sandbox.cloud import Cloud
from adf_agent.sandbox.fleet import CONFIG, PORT, Fleet, deliver
from adf_agent.sandbox.up import PAGE

BALANCER = {"LoadBalancer", "Listener", "TargetGroup", "LoadBalancerSecurityGroup", "Errors", "Unhealthy"}
pytestmark = UNMADE


@pytest.fixture
def stack(cloud: Cloud) -> Stack:
    """The stack by its defaults."""
    return Stack(cloud)


def test_the_template_is_clean() -> None:
    """A stack that fails after ten minutes of being made, by a property that there is not."""
    done = run(COMMANDS / "cfn-lint", "--regions", "eu-west-1", "us-east-1", "--", TEMPLATE, environment={})
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_instances_are_launched_with_all_that_the_agent_needs(stack: Stack) -> None:
    """A group whose instances boot no release, or may not read their config, or show their role by IMDSv1."""
    data = version(stack.cloud, stack.id("LaunchTemplate"))
    settings = userdata.parse(base64.b64decode(data["UserData"]))
    assert settings == {"RELEASE_URL": URL, "ADF_APP": APP, "ADF_CONFIG_TABLE": TABLE}
    assert data["MetadataOptions"].items() >= METADATA.items()
    [profile] = stack.cloud.client("iam").list_instance_profiles()["InstanceProfiles"]
    assert data["IamInstanceProfile"]["Arn"] == profile["Arn"]
    assert [role["RoleName"] for role in profile["Roles"]] == [stack.id("InstanceRole")]
    assert data["SecurityGroupIds"] == [stack.id("InstanceSecurityGroup")]


def test_the_group_is_one_that_adf_roll_can_roll(stack: Stack) -> None:
    """A rollback that AWS refuses, as the group has $Latest; an old instance that goes before the new one serves."""
    [made] = stack.cloud.client("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"]
    assert made["AutoScalingGroupName"] == APP
    assert made["LaunchTemplate"]["LaunchTemplateId"] == stack.id("LaunchTemplate")
    assert made["LaunchTemplate"]["Version"] == "1"
    assert made["TargetGroupARNs"] == [stack.id("TargetGroup")]
    group = stack.properties("Group")
    assert group["LifecycleHookSpecificationList"] == HOOKS
    assert (group["DefaultInstanceWarmup"], group["InstanceMaintenancePolicy"]) == (WARMUP, MAINTENANCE)
    assert group["HealthCheckType"] == "EC2"
    assert "DesiredCapacity" not in group  # an update would scale a group back that somebody has scaled


def test_the_table_is_the_one_that_adf_config_makes(stack: Stack) -> None:
    """Fleet records that stay for ever, or a config that nobody can have back."""
    table = stack.cloud.client("dynamodb").describe_table(TableName=TABLE)["Table"]
    assert {each["AttributeName"]: each["KeyType"] for each in table["KeySchema"]} == {"App": "HASH", "Name": "RANGE"}
    written = stack.properties("Table")
    assert written["TimeToLiveSpecification"] == {"AttributeName": "Expires", "Enabled": True}
    assert written["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}


def test_the_outputs_are_what_to_type(stack: Stack) -> None:
    """An operator who has a stack, and no word on how a release gets into it."""
    assert stack.outputs["Start"] == "adf-roll start hello RELEASE_URL --alarm hello-errors --alarm hello-unhealthy"
    alarms = [stack.properties(name, "AlarmName", "TreatMissingData") for name in ("Errors", "Unhealthy")]
    assert [each["AlarmName"] for each in alarms] == ["hello-errors", "hello-unhealthy"]
    assert {each["TreatMissingData"] for each in alarms} == {"notBreaching"}  # else a quiet app can't be rolled
    assert stack.outputs["BeforeUpdate"].endswith("--query 'AutoScalingGroups[0].LaunchTemplate.Version' --output text")


def missing(stack: Stack) -> set[str]:
    return {name for name in (*BALANCER, "Table", "Group") if not stack.has(name)}


def test_a_target_group_that_is_there_is_joined(cloud: Cloud) -> None:
    """An app behind the load balancer of others, whose requests its instances don't let in."""
    there = others(cloud)
    arn, security_group = there["arn"], there["security_group_id"]
    stack = Stack(cloud, TargetGroupArn=arn, LoadBalancerSecurityGroupId=security_group)
    assert missing(stack) == BALANCER
    assert stack.properties("Group")["TargetGroupARNs"] == [arn]
    [opened] = stack.properties("InstanceSecurityGroup")["SecurityGroupIngress"]
    assert (opened["SourceSecurityGroupId"], opened["FromPort"]) == (security_group, PORT)
    [document] = stack.properties("InstanceRole")["Policies"]
    assert arn in [each["Resource"] for each in document["PolicyDocument"]["Statement"]]
    assert stack.outputs["Start"] == "adf-roll start hello RELEASE_URL"


def test_the_second_app_shares_the_table(cloud: Cloud) -> None:
    """A stack that fails as its table is there already, or that takes every app's config with it."""
    assert missing(Stack(cloud, CreateConfigTable="false")) == {"Table"}
    assert "DeletionPolicy: Retain" in TEMPLATE.read_text()


def test_bodies_are_kept_where_that_is_asked_for(cloud: Cloud) -> None:
    """The instance that nobody understands is gone: nothing is retained after a CONTINUE."""
    group = Stack(cloud, RetainFailed="true").properties("Group")
    assert group["InstanceLifecyclePolicy"] == {"RetentionTriggers": {"TerminateHookAbandon": "retain"}}
    assert group["LifecycleHookSpecificationList"] == [HOOKS[0], {**HOOKS[1], "DefaultResult": "ABANDON"}]


def test_adf_roll_rolls_the_group_of_the_stack(docker_client: docker.DockerClient) -> None:
    """A template whose group was never rolled: by the first release after it was made, something is missing."""
    with TemporaryDirectory(prefix="adf-") as name, Cloud(machine.instance()) as cloud:
        folder = Path(name)  # short: a socket's path has 108 bytes
        machine.furnish(cloud)
        first, second = released(cloud, folder)
        stack = Stack(cloud, ReleaseUrl=first, HealthPath="/health", MinSize="0")
        with Fleet(cloud, folder, docker_client) as fleet:
            pool = fleet.balancer.behind(stack.id("TargetGroup"), PORT, "/health", deregistration_delay=5)
            stack.complete()
            stack.hasten()
            desk = machine.environment(cloud, folder)
            typed(desk, "adf-config", "-a", APP, "set", *(f"{key}={value}" for key, value in CONFIG.items()))
            cloud.client("autoscaling").set_desired_capacity(AutoScalingGroupName=APP, DesiredCapacity=2)
            fleet.wait(pool, Deadline(60, threading.Event()))
            assert "says v1" in requests.get(pool.url, timeout=5).text
            typed(desk, "adf-roll", "start", APP, second, "--bake", "1s", "--batch", "50%", "--yes")
            fleet.wait(pool, Deadline(60, threading.Event()))
            answers = {requests.get(pool.url, timeout=5).text.partition(" on ")[0] for _ in range(4)}
        assert answers == {"Hello World, tells you v2"}


def released(cloud: Cloud, folder: Path) -> list[str]:
    """The RELEASE_URLs of two releases that answer differently."""
    page = (hello.folder() / PAGE).read_text()
    changed: dict[str, dict[str, str]] = {"v1": {}, "v2": {PAGE: page.replace("says", "tells you")}}
    packed = {folder / f"{release}.tar.gz": files for release, files in changed.items()}
    return [deliver(cloud, path, hello.pack(path, files)) for path, files in packed.items()]


def typed(desk: Mapping[str, str], command: str, *words: str) -> None:
    """Runs the real command, which must end with 0."""
    done = run(COMMANDS / command, *words, environment=desk)
    assert done.returncode == 0, done.stdout + done.stderr
