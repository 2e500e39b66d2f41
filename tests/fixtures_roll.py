"""A group whose instances are simulated, and whoever rolls it: `adf-roll` in this process, on an AWS on loopback."""

import base64
import contextlib
import io
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from fixtures_operator import TABLE, Operator, Ran
from werkzeug.wrappers import Response

from adf_agent import fleetrecord, location, userdata
from adf_agent.ops.rolling import cli, guard
from adf_agent.ops.rolling.errors import DETACHED
from adf_agent.sandbox.autoscaling import AutoScaling
from adf_agent.sandbox.cloud import Cloud
from adf_agent.sandbox.front import Call, Then
from adf_agent.sandbox.imds import Instance

GROUP, APP = "shop", "web"
BOOT_SECONDS = 0.15  # several looks long
QUICK = ("--yes", "--bake", "0")
BAKED = ("--yes", "--bake", "1")
LONG = ("--yes", "--bake", "60")
WORDS = "DATABASE_URL is not set"  # the last ones of an app that fails


def url(release: str) -> str:
    """A RELEASE_URL of that name, of a file that instances would have."""
    return f"file:///releases/{release}.tar.gz"


class Simulated:
    """An instance: it keeps a fleet record and completes its launch hook. How it does goes by its release's name.

    "bad…" fails its boot, "restarts…" restarts its app in service, "leaves…" is gone without a word, else it is well.
    """

    def __init__(self, cloud: Cloud, instance: Instance) -> None:
        self.cloud, self.instance = cloud, instance
        settings = userdata.parse(_read(instance.user_data))
        self._app, self.release = settings.get("ADF_APP"), location.parse(settings["RELEASE_URL"]).name
        self._ended, self._seq = threading.Event(), 0
        self._thread = threading.Thread(target=self._boot)
        self._thread.start()

    def end(self) -> None:
        self._ended.set()
        self._thread.join()

    def tell(self, phase: str, tail: str = "", **parts: Any) -> None:
        """Writes its fleet record, as the agent does."""
        if not self._app:
            return
        self._seq += 1
        facts = {"phase": phase, "group": GROUP, "release": {"name": self.release}, **parts}
        item = fleetrecord.item(facts, self._app, self.instance.instance_id, tail, 1, self._seq, time.time())
        self.cloud.client("dynamodb").put_item(TableName=TABLE, Item=item)

    def _boot(self) -> None:
        if not self.release.startswith("leaves"):
            self.tell("booting", stages=[{"name": "image", "state": "running"}])
        if self._ended.wait(BOOT_SECONDS):
            return
        if self.release.startswith("leaves"):
            self._complete("ABANDON")
            return
        if self.release.startswith("bad"):
            error = {"sentence": "the app exited with 7"}
            self.tell("failed", f"starting\n{WORDS}\n", error=error, stages=[{"name": "health", "state": "failed"}])
            self._complete("ABANDON")
            return
        self.tell("in service", stages=[{"name": "report", "state": "done", "seconds": 0.1}])
        self._complete("CONTINUE")
        if self.release.startswith("restarts"):
            self.tell("in service", restarts=1)

    def _complete(self, result: str) -> None:
        """Completes the launch hook, as soon as it waits."""
        client = self.cloud.client("autoscaling")
        request = {"AutoScalingGroupName": GROUP, "LifecycleHookName": "adf-launch", "LifecycleActionResult": result}
        while not self._ended.is_set():
            with contextlib.suppress(ClientError):
                client.complete_lifecycle_action(InstanceId=self.instance.instance_id, **request)
                return
            self._ended.wait(0.02)


def _read(user_data: bytes | Path | None) -> bytes:
    return user_data.read_bytes() if isinstance(user_data, Path) else user_data or b""


class Shop:
    """The group, its instances, and somebody who rolls it: `shop("start", url("v2"), "--yes")`."""

    def __init__(self, operator: Operator) -> None:
        self.operator, self.cloud = operator, operator.cloud
        self.instances: dict[str, Simulated] = {}
        self.autoscaling, self.ec2 = self.cloud.client("autoscaling"), self.cloud.client("ec2")

    def launch(self, instance: Instance) -> Simulated:
        self.instances[instance.instance_id] = made = Simulated(self.cloud, instance)
        return made

    def open(self, size: int = 3, version: str = "1", release: str = "v1", **more: Any) -> None:
        """Makes the group and waits until it is in service."""
        user_data = f"RELEASE_URL={url(release)}\nADF_APP={APP}\n"
        data = {"ImageId": "ami-0123456789abcdef0", "InstanceType": "t3.micro"}
        data["UserData"] = base64.b64encode(user_data.encode()).decode()
        self.ec2.create_launch_template(LaunchTemplateName=GROUP, LaunchTemplateData=data)
        launched = {"LaunchTemplate": {"LaunchTemplateName": GROUP, "Version": version}}
        if "MixedInstancesPolicy" in more:
            launched = {}
        self.autoscaling.create_auto_scaling_group(
            AutoScalingGroupName=GROUP,
            AvailabilityZones=["eu-west-1a"],
            MinSize=0,
            MaxSize=20,
            DesiredCapacity=0,
            HealthCheckGracePeriod=60,
            **launched,
            **more,
        )
        self.autoscaling.put_lifecycle_hook(
            AutoScalingGroupName=GROUP,
            LifecycleHookName="adf-launch",
            LifecycleTransition="autoscaling:EC2_INSTANCE_LAUNCHING",
            HeartbeatTimeout=60,
            DefaultResult="ABANDON",
        )
        self.autoscaling.set_desired_capacity(AutoScalingGroupName=GROUP, DesiredCapacity=size)
        self.until(lambda: [each["LifecycleState"] for each in self.group["Instances"]] == size * ["InService"])

    @property
    def group(self) -> dict[str, Any]:
        found: dict[str, Any] = self.autoscaling.describe_auto_scaling_groups()["AutoScalingGroups"][0]
        return found

    @property
    def refreshes(self) -> list[dict[str, Any]]:
        answer = self.autoscaling.describe_instance_refreshes(AutoScalingGroupName=GROUP)
        found: list[dict[str, Any]] = answer["InstanceRefreshes"]
        return found

    @property
    def versions(self) -> list[int]:
        """Of the launch template, those there are."""
        found = self.ec2.describe_launch_template_versions(LaunchTemplateName=GROUP)["LaunchTemplateVersions"]
        return sorted(each["VersionNumber"] for each in found)

    def looked(self, times: int) -> None:
        """Waits until who watches has looked so often since."""
        before = self.cloud.calls["autoscaling:DescribeInstanceRefreshes"]
        self.until(lambda: self.cloud.calls["autoscaling:DescribeInstanceRefreshes"] >= before + times)

    def refreshing(self, status: str = "InProgress") -> bool:
        """Whether the last refresh is at *status*."""
        return bool(self.refreshes) and self.refreshes[0]["Status"] == status

    def running(self) -> list[str]:
        """The template version of each instance in service."""
        members = [each for each in self.group["Instances"] if each["LifecycleState"] == "InService"]
        return sorted(each["LaunchTemplate"]["Version"] for each in members)

    def until(self, condition: Callable[[], object], seconds: float = 30.0) -> None:
        """Waits until *condition* holds."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, self.group
            time.sleep(0.02)

    def __call__(self, command: str, *words: str, typed: str | None = None) -> Ran:
        """Runs `adf-roll COMMAND shop WORDS…`; with *typed* standard input is a terminal on which that is typed."""
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
        stdin = io.StringIO(typed or "")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(stdin, "isatty", lambda: typed is not None)
            patch.setattr("sys.stdin", stdin)
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                try:
                    code = cli.main([command, GROUP, *words])
                except SystemExit as usage:
                    code = int(str(usage.code))
        return Ran(code, _said(out), _said(err))

    def begin(self, release: str, bake: int) -> None:
        """A roll to that URL that nobody watches."""
        alarm(self, "errors", "OK")
        begun = self("start", release, "--yes", "--bake", str(bake), "--alarm", "errors", "--detach")
        assert begun.code == DETACHED, begun

    @staticmethod
    def interrupt(number: int = signal.SIGINT) -> None:
        """A Ctrl-C for the command that runs in this process, or another signal."""
        os.kill(os.getpid(), number)

    def events(self, *words: str) -> tuple[int, list[dict[str, Any]]]:
        """The exit code and the events of a command with --json."""
        ran = self(*words, "--json")
        return ran.code, [json.loads(line) for line in ran.out.splitlines()]


def _said(stream: io.TextIOWrapper) -> str:
    stream.flush()
    stream.seek(0)
    return stream.read()


def data(shop: Shop, version: int) -> dict[str, Any]:
    """What a template version holds."""
    answer = shop.ec2.describe_launch_template_versions(LaunchTemplateName=GROUP, Versions=[str(version)])
    found: dict[str, Any] = answer["LaunchTemplateVersions"][0]["LaunchTemplateData"]
    return found


@contextmanager
def answered(shop: Shop, name: str, handler: Callable[[Call, Then], Response]) -> Iterator[None]:
    """The call *name*, answered by *handler* in the sandbox's place."""
    handlers = shop.cloud.front.handlers
    former = handlers.get(name)
    handlers[name] = handler
    try:
        yield
    finally:
        if former:
            handlers[name] = former
        else:
            del handlers[name]


@contextmanager
def meanwhile(shop: Shop, do: Callable[[], Any], when: Callable[[], object] | None = None) -> Iterator[None]:
    """*do*, as soon as a canary is in service, or *when*, while a command runs."""

    def wait_and_do() -> None:
        shop.until(when or (lambda: "2" in shop.running()))
        do()

    thread = threading.Thread(target=wait_and_do)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def alarm(shop: Shop, name: str, state: str) -> None:
    """Makes an alarm, and has it in that state."""
    client = shop.cloud.client("cloudwatch")
    client.put_metric_alarm(
        AlarmName=name,
        Namespace="AWS/ApplicationELB",
        MetricName="HTTPCode_Target_5XX_Count",
        Statistic="Sum",
        Period=60,
        EvaluationPeriods=1,
        Threshold=1,
        ComparisonOperator="GreaterThanThreshold",
    )
    client.set_alarm_state(AlarmName=name, StateValue=state, StateReason="test")


def target_group(shop: Shop, **check: int) -> dict[str, list[str]]:
    """What attaches a new one to a group. *check*: HealthCheckIntervalSeconds and the like."""
    vpc = shop.ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    client = shop.cloud.client("elbv2")
    made = client.create_target_group(Name=GROUP, Protocol="HTTP", Port=80, VpcId=vpc, **check)["TargetGroups"][0]
    return {"TargetGroupARNs": [made["TargetGroupArn"]]}


@pytest.fixture
def shop(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    """An app's fleet before there is a group; a command's signal handlers are gone after the test."""
    monkeypatch.setattr(guard, "POLL_SECONDS", 0.05)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    made = Shop(operator)
    with AutoScaling(operator.cloud, made.launch):
        yield made
    for number, handler in handlers.items():
        signal.signal(number, handler)
