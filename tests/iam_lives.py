"""Instances that do all that one does, with the credentials of packaging/iam's instance.json and classic.json."""

import os
from contextlib import ExitStack
from pathlib import Path

import docker
from botocore.exceptions import ClientError
from fixtures_agent import Machine, app, tarball
from iam_guard import Account
from iam_runs import BUCKET, NAMES, NONE, Told, configured, delivered, person, stocked
from test_boot import free_port
from web import Web

from adf_agent.sandbox.balancer import Balancer
from adf_agent.sandbox.group import Group
from adf_agent.sandbox.member import Hook

HOOKS = Hook("adf-launch", "launch"), Hook("adf-terminate", "terminate")


def life(told: Told, engine: docker.DockerClient, folder: Path) -> None:
    """From the first config to the end of an instance that was booted, examined, reloaded and scaled in."""
    with person(told.asked) as someone, ExitStack() as stack:
        place, cloud = someone.place, someone.place.cloud
        stocked(place)
        someone.become(place.user("table", "table", **NAMES))
        someone.config.done("init")
        operator = place.user("operator", "operator", **NAMES, **NONE)
        someone.become(operator)
        balancer, port = stack.enter_context(Balancer(cloud, folder / "haproxy")), free_port()
        own = balancer.target_group("own", port, deregistration_delay=1)
        balancer.classic("web", port, deregistration_delay=1)
        place.instance("instance", "classic", **NAMES, TargetGroup=own.arn)
        (folder / "clone").mkdir()
        group = stack.enter_context(Group(cloud, "web", HOOKS))
        machine = Machine(cloud, stack.enter_context(Web()), engine, folder, _environment(place, folder))
        stack.callback(machine.clean)
        _tag(place, ADF_APP="web", ADF_TARGET_GROUPS=own.arn, ADF_LOAD_BALANCERS="web")
        cloud.enforce_permissions()
        configured(someone)
        release = delivered(someone, folder / "clone")
        machine.user_data(RELEASE_URL=release, ADF_PUBLISH=f"{port}:8000", ADF_HEALTH="http://:8000/")
        group.launch()
        agent = machine.daemon()
        agent.reach("in service")
        group.wait_for("InService")
        told.came_to |= {"environment": _env(machine), "doctor": machine.run("doctor", "--json").out}
        someone.config.done("set", "GREETING=two")
        someone.config.done("clean", "v0", "--yes")
        someone.config.done("-r", "v1", "set", "LEVEL=debug")
        told.came_to["clean"] = someone.config("clean", "v1", "--yes")
        assert machine.run("reload").code == 0, agent.log()
        told.came_to |= {"reloaded": _env(machine), "status": machine.status()}
        group.terminate()
        group.wait_for("Terminated", 20)
        agent.reach("drained")
        told.came_to |= {"completed": group.completed, "steps": [each["step"] for each in agent.events("drain.step")]}
        assert agent.end() == 0


def failure(told: Told, engine: docker.DockerClient, folder: Path) -> None:
    """An instance without a hook that has no release to boot."""
    with person(told.asked) as someone, ExitStack() as stack:
        place = someone.place
        stocked(place)
        place.instance("instance", **NAMES, **NONE)
        group = stack.enter_context(Group(place.cloud, "web"))
        machine = Machine(place.cloud, stack.enter_context(Web()), engine, folder, _environment(place, folder))
        stack.callback(machine.clean)
        place.cloud.enforce_permissions()
        machine.user_data(RELEASE_URL=f"s3://{BUCKET}/web/gone.tar.gz")
        group.launch()
        told.came_to["failed"] = machine.daemon().ended(), group.unhealthy


def denials(told: Told, engine: docker.DockerClient, folder: Path) -> None:
    """Boots and a change of config, each by somebody who lacks one action."""
    with person([]) as someone, ExitStack() as stack:
        place, web = someone.place, stack.enter_context(Web())
        stocked(place)
        someone.config.done("init")
        someone.config.done("set", "--secret", "PASSWORD", typed="of kms")
        body = {"Bucket": BUCKET, "Key": "web/v1.tar.gz", "Body": tarball(app())}
        version = place.cloud.client("s3").put_object(**body)["VersionId"]
        place.instance("instance", **NAMES, **NONE)
        someone.become(place.user("operator", "operator", **NAMES, **NONE))
        place.cloud.enforce_permissions()
        told.came_to["nobody"] = _nobody(place)
        release = f"s3://{BUCKET}/web/v1.tar.gz?versionId={version}"
        place.cloud.imds.instance.instance_id = f"i-{os.urandom(8).hex()}"  # by which its containers are told apart
        for action in ("dynamodb:Query", "kms:Decrypt", "s3:GetObjectVersion"):
            at = folder / action.partition(":")[0]
            at.mkdir()
            machine = Machine(place.cloud, web, engine, at, _environment(place, at))
            stack.callback(machine.clean)
            with place.without("instance", action):
                booted = machine.boot(RELEASE_URL=release, ADF_APP="web")
            told.refused[action] = booted.code, booted.log
        with place.without("operator", "dynamodb:PutItem"):
            ran = someone.config("set", "A=1")
        told.refused["dynamodb:PutItem"] = ran.code, ran.err


def _nobody(place: Account) -> str:
    """What moto says to somebody without a policy, of whom the front knows nothing."""
    place.iam.create_user(UserName="nobody")
    key = place.iam.create_access_key(UserName="nobody")["AccessKey"]
    client = place.cloud.client("autoscaling", key["AccessKeyId"], key["SecretAccessKey"])
    try:
        return str(client.describe_auto_scaling_groups())
    except ClientError as error:
        return str(error.response["Error"]["Code"])


def _environment(place: Account, folder: Path) -> dict[str, str]:
    """The agent's; the operator's credentials, which this process has, are not for it."""
    return {**place.cloud.environment(), "ADF_ROOT": str(folder), "AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}


def _tag(place: Account, **tags: str) -> None:
    """In EC2 alone: they are not switched on in the metadata service."""
    listed = [{"Key": key, "Value": value} for key, value in tags.items()]
    place.cloud.client("ec2").create_tags(Resources=[place.cloud.imds.instance.instance_id], Tags=listed)


def _env(machine: Machine) -> dict[str, str]:
    [container] = machine.containers()
    return dict(each.split("=", 1) for each in container.attrs["Config"]["Env"])
