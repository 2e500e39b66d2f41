"""Faults to order in a sandbox that runs: what a fleet meets on a bad day."""

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from adf_agent.errors import AgentError
from adf_agent.sandbox import hello
from adf_agent.sandbox.fleet import NAME, Fleet, deliver
from adf_agent.sandbox.front import AwsFault
from adf_agent.sandbox.imds import SILENCE, Fault

SPOT_SECONDS = 120
DIES = "sh /serve & sleep 60; echo out of luck; kill $!; exit 3"
SLOW = "sleep 20; exec sh /serve"


class Faults:
    """Those of *fleet*, by the name that `adf-sandbox fault` has for them. The word after it is what they hit."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet, self.cloud = fleet, fleet.cloud
        self._alarms: set[str] = set()
        self.presets: Mapping[str, Callable[[str], str]] = {
            "imds-401": lambda word: self._imds(word, 401),
            "imds-503": lambda word: self._imds(word, 503),
            "imds-silence": lambda word: self._imds(word, SILENCE),
            "throttling": self._throttling,
            "bad-release": lambda _: self._release("bad", hello.FAILS),
            "dies-later": lambda _: self._release("dies", DIES),
            "slow-start": lambda _: self._release("slow", SLOW),
            "docker-hung": self._docker_hung,
            "spot-notice": self._spot_notice,
            "alarm": self._alarm,
            "refresh-failed": self._refresh_failed,
            "none": lambda _: self._none(),
        }

    def order(self, name: str, word: str) -> str:
        """What was done, for people; of a release its RELEASE_URL. Raises AgentError."""
        if name not in self.presets:
            raise AgentError(f"there is no fault {name}", hint=f"Those there are: {', '.join(self.presets)}.")
        return self.presets[name](word)

    def _imds(self, instance_id: str, status: int) -> str:
        boxes = self.fleet.boxes.of(instance_id)
        for box in boxes:
            box.imds.faults.append(Fault(status))
        what = f"answers {status}" if status else "takes connections and is silent"
        return f"instance metadata of {_names(boxes)} {what}"

    def _throttling(self, action: str) -> str:
        action = action or "*"
        self.cloud.faults.append(AwsFault(action, "ThrottlingException"))
        return f"AWS throttles every call of {action}"

    def _release(self, name: str, script: str) -> str:
        changed = {"Dockerfile": hello.dockerfile(script)}
        with TemporaryDirectory() as folder:
            path = Path(folder) / f"{name}.tar.gz"
            return f"RELEASE_URL={deliver(self.cloud, path, hello.pack(path, changed))}"

    def _docker_hung(self, instance_id: str) -> str:
        boxes = self.fleet.boxes.of(instance_id)
        for box in boxes:
            box.hang_docker()
        return f"Docker of {_names(boxes)} takes connections and is silent"

    def _spot_notice(self, instance_id: str) -> str:
        box = self.fleet.boxes.of(instance_id)[0]
        ends = datetime.now(UTC) + timedelta(seconds=SPOT_SECONDS)
        box.instance.spot_action = {"action": "terminate", "time": f"{ends:%Y-%m-%dT%H:%M:%SZ}"}
        return f"{box.instance.instance_id} has its notice: it ends in {SPOT_SECONDS} s"

    def _alarm(self, name: str) -> str:
        name, cloudwatch = name or NAME, self.cloud.client("cloudwatch")
        if not cloudwatch.describe_alarms(AlarmNames=[name])["MetricAlarms"]:
            self.alarm(name)
        cloudwatch.set_alarm_state(AlarmName=name, StateValue="ALARM", StateReason="ordered")
        self._alarms.add(name)
        return f"the alarm {name} is in ALARM"

    def alarm(self, name: str) -> None:
        """Makes a CloudWatch alarm of that name, which is OK."""
        cloudwatch = self.cloud.client("cloudwatch")
        cloudwatch.put_metric_alarm(
            AlarmName=name,
            Namespace="AWS/ApplicationELB",
            MetricName="HTTPCode_Target_5XX_Count",
            Statistic="Sum",
            Period=60,
            EvaluationPeriods=1,
            Threshold=1,
            ComparisonOperator="GreaterThanThreshold",
        )
        cloudwatch.set_alarm_state(AlarmName=name, StateValue="OK", StateReason="made")

    def _refresh_failed(self, group: str) -> str:
        group, keeper = group or NAME, self.fleet.scaling.keeper
        with keeper.lock:
            refresh = keeper.refreshes.active(group)
            if not refresh:
                raise AgentError(f"no instance refresh of {group} is under way")
            refresh.fail(time.monotonic(), "It was ordered to fail.")
        return f"the instance refresh of {group} is {refresh.status}"

    def _none(self) -> str:
        self.cloud.faults = []
        for box in self.fleet.boxes.made:
            box.imds.faults.clear()
            box.free_docker()
        for name in self._alarms:
            self.cloud.client("cloudwatch").set_alarm_state(AlarmName=name, StateValue="OK", StateReason="over")
        return "no faults any more, but for notices and releases"


def _names(boxes: list[Any]) -> str:
    return ", ".join(box.instance.instance_id for box in boxes)
