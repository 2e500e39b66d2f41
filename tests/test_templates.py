"""packaging/cloudformation: from an AMI to a group that adf-roll rolls."""

import base64
import re
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
    module,
    others,
    run,
    template,
    version,
)

from adf_agent import userdata
from adf_agent.deadline import Deadline
from adf_agent.sandbox import hello, machine
from adf_agent.sandbox.cloud import Cloud
from adf_agent.sandbox.fleet import CONFIG, PORT, Fleet, deliver
from adf_agent.sandbox.up import PAGE

BALANCER = {"LoadBalancer", "Listener", "TargetGroup", "LoadBalancerSecurityGroup", "Errors", "Unhealthy"}
AMI = Path(__file__).parents[1] / "docs/ami.md"
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
    assert (group["HealthCheckType"], group["HealthCheckGracePeriod"]) == ("EC2", 0)
    assert "DesiredCapacity" not in group  # an update would scale a group back that somebody has scaled


def test_the_table_is_the_one_that_adf_config_makes(stack: Stack) -> None:
    """Fleet records that stay for ever, or a stack that takes every app's config with it."""
    table = stack.cloud.client("dynamodb").describe_table(TableName=TABLE)["Table"]
    assert {each["AttributeName"]: each["KeyType"] for each in table["KeySchema"]} == {"App": "HASH", "Name": "RANGE"}
    assert {stack.written("Table")[name] for name in ("DeletionPolicy", "UpdateReplacePolicy")} == {"Retain"}
    written = stack.properties("Table")
    assert written["TimeToLiveSpecification"] == {"AttributeName": "Expires", "Enabled": True}
    assert written["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}


def test_the_outputs_are_what_to_type(stack: Stack) -> None:
    """An operator who has a stack, and no word on how a release gets into it."""
    alarms = [stack.properties(name, "AlarmName")["AlarmName"] for name in ("Errors", "Unhealthy")]
    guarded = " ".join(f"--alarm {name}" for name in alarms)
    assert stack.outputs["Start"] == f"adf-roll start hello RELEASE_URL --bake 5m {guarded}"
    assert stack.outputs["InstanceRole"] == stack.id("InstanceRole")
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
    """A stack that fails as its table is there already."""
    assert missing(Stack(cloud, CreateConfigTable="false")) == {"Table"}


def test_the_role_may_what_else_it_is_given(cloud: Cloud) -> None:
    """A group of instances that nobody gets onto, and whose app may nothing, but by an edit of the template."""
    given = [
        f"arn:aws:iam::aws:policy/{name}" for name in ("AmazonSSMManagedInstanceCore", "CloudWatchAgentServerPolicy")
    ]
    stack = Stack(cloud, InstancePolicyArns=",".join(given))
    assert stack.properties("InstanceRole")["ManagedPolicyArns"] == given


def test_it_is_given_nothing_else_by_default(stack: Stack) -> None:
    """A stack that fails, as an empty text is no policy's ARN."""
    assert "ManagedPolicyArns" not in stack.properties("InstanceRole")


def test_the_group_waits_for_who_sends_it_requests(stack: Stack) -> None:
    """Its first instances are launched before a listener is there, and the load balancer checks none of them."""
    assert stack.written("Group")["DependsOn"] == "Served"
    assert stack.properties("Served", part="Metadata") == {"After": stack.id("Listener")}


def test_the_parameters_are_those_of_terraform_and_as_documented() -> None:
    """An example that fails by a name, or the same words that mean another fleet in the other template."""
    parameters, variables = template("Parameters"), module("variable")
    rows = re.findall(r"^\| (`[A-Z].*?) \| (.*?) ?\| ", AMI.read_text().partition("## 3.")[2], re.MULTILINE)
    names = [[re.findall(r"`(\w+)`", cell) for cell in row] for row in rows]
    assert sorted(name for ours, _ in names for name in ours) == sorted(parameters)
    assert sorted(name for _, theirs in names for name in theirs) == sorted(variables)
    for ours, theirs in names:
        for one, other in zip(ours, theirs, strict=False):
            if one.lower() == other.replace("_", ""):
                found, wanted = parameters[one].get("Default"), variables[other].get("default")
                assert str(found or "").lower() == str(wanted or "").lower(), one


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
