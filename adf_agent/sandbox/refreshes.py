"""The calls of Instance Refresh, which moto does not have, on groups that somebody else keeps."""

import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from moto.cloudwatch.models import cloudwatch_backends
from werkzeug.wrappers import Response

from adf_agent.sandbox import preferred
from adf_agent.sandbox.cloud import Cloud
from adf_agent.sandbox.front import Call, Handler, Then, error, success
from adf_agent.sandbox.preferred import RefusedError
from adf_agent.sandbox.refresh import Refresh

Configuration = Mapping[str, Any]  # {"LaunchTemplate": {…}} or {"MixedInstancesPolicy": {…}}, as the API has them

PAGE = 50  # records, where nothing else is asked for
BUSY = "An Instance Refresh is already in progress and blocks the execution of this Instance Refresh."
NONE = "No in progress or pending Instance Refresh found for Auto Scaling group {}"
FIXED = (
    "An active instance refresh with a desired configuration exists. All configuration options derived from the desired"
    " configuration are not available for update while the instance refresh is active."
)


@dataclass(frozen=True)
class View:
    """A group as it is now: the *configuration* that is saved on it, and whether another one can be launched from."""

    name: str
    configuration: Configuration
    image_alias: bool  # the template's ImageId is an SSM parameter's name ("resolve:ssm:…")
    maintenance: tuple[int, int] | None  # percentages of the instance maintenance policy
    launches: Callable[[Configuration], bool]
    warmup: int = 0  # seconds: the default instance warm-up, else the health check grace period


class Refreshes:
    """Every refresh there was. *clock* is the one whose moments `Refresh.step` is handed. All is done under *lock*."""

    def __init__(
        self,
        cloud: Cloud,
        lock: threading.Condition,
        look: Callable[[str], View | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cloud, self._lock, self._look, self._clock = cloud, lock, look, clock
        self._all: list[Refresh] = []  # oldest first
        self.handlers: dict[str, Handler] = {
            "autoscaling:StartInstanceRefresh": self._answer(self._start),
            "autoscaling:DescribeInstanceRefreshes": self._answer(self._describe),
            "autoscaling:CancelInstanceRefresh": self._answer(self._cancel),
            "autoscaling:RollbackInstanceRefresh": self._answer(self._roll_back),
            "autoscaling:UpdateAutoScalingGroup": self._update,
        }

    def of(self, group: str) -> list[Refresh]:
        """Newest first."""
        return [refresh for refresh in reversed(self._all) if refresh.group == group]

    def active(self, group: str) -> Refresh | None:
        return next((refresh for refresh in self.of(group) if refresh.active), None)

    def forget(self, group: str) -> None:
        """To be called once *group* is deleted: the next one of that name has none."""
        self._all = [refresh for refresh in self._all if refresh.group != group]

    def _answer(self, act: Callable[[View, Mapping[str, str]], Any]) -> Handler:
        """A handler that answers with what *act* returns."""

        def handle(call: Call, then: Then) -> Response:
            try:
                return then()  # moto knows who may do this, if not how: an answer is a refusal
            except NotImplementedError:
                name = call.form.get("AutoScalingGroupName", "")
            try:
                with self._lock:
                    if view := self._look(name):
                        return success(call, act(view, call.form))
                return error(call, "ValidationError", f"AutoScalingGroup name not found - {name}")
            except RefusedError as refused:
                return error(call, *refused.args)

        return handle

    def _start(self, view: View, form: Mapping[str, str]) -> dict[str, str]:
        """https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_StartInstanceRefresh.html."""
        desired = tree(form, "DesiredConfiguration") or None
        chosen = preferred.read(tree(form, "Preferences"), view.warmup, view.maintenance)
        if form.get("Strategy", "Rolling") != "Rolling":
            raise RefusedError("The sandbox knows no strategy but Rolling")
        if desired and not view.launches(desired):
            raise RefusedError("You must use a valid fully-formed launch template: there is no such version")
        if chosen.auto_rollback and (why := _irreversible(desired, view)):
            raise RefusedError(f"Auto rollback is not possible: {why}")
        for name in chosen.alarms:
            if self._state_of(name) != "OK":  # instance-refresh-rollback.html: "a compatible state"
                raise RefusedError(f"The alarm {name} is {self._state_of(name)}, not OK")
        if self.active(view.name):
            raise RefusedError(BUSY, "InstanceRefreshInProgress")
        refresh = Refresh(str(uuid.uuid4()), view.name, chosen, view.configuration, desired, self._clock())
        self._all.append(refresh)
        return {"InstanceRefreshId": refresh.id}

    def _describe(self, view: View, form: Mapping[str, str]) -> dict[str, Any]:
        """https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_DescribeInstanceRefreshes.html."""
        wanted = {value for name, value in form.items() if name.startswith("InstanceRefreshIds.member.")}
        found = [refresh for refresh in self.of(view.name) if not wanted or refresh.id in wanted]
        size, token = (
            preferred.value("MaxRecords", form.get("MaxRecords", str(PAGE)), preferred.PERCENTAGE),
            form.get("NextToken", "0"),
        )
        if not token.isdecimal() or int(token) > len(found):
            raise RefusedError(f"{token} is not a valid token", "InvalidNextToken")
        end = int(token) + size
        page = {"InstanceRefreshes": [described(refresh, self._moment) for refresh in found[int(token) : end]]}
        return page | ({"NextToken": end} if end < len(found) else {})

    def _cancel(self, view: View, form: Mapping[str, str]) -> dict[str, str]:
        """A rollback as well: https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_CancelInstanceRefresh.html."""
        refresh = self._found(view)
        refresh.cancel(self._clock(), wait=form.get("WaitForTransitioningInstances", "true") == "true")
        return {"InstanceRefreshId": refresh.id}

    def _roll_back(self, view: View, _: Mapping[str, str]) -> dict[str, str]:
        """https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_RollbackInstanceRefresh.html."""
        refresh = self._found(view)
        why = _irreversible(refresh.desired, view) if refresh.forward else f"it is {refresh.status}"
        if why:
            raise RefusedError(f"The instance refresh can't be rolled back: {why}", "IrreversibleInstanceRefresh")
        refresh.roll_back(self._clock(), "The rollback was started by the user.")
        return {"InstanceRefreshId": refresh.id}

    def _update(self, call: Call, then: Then) -> Response:
        """What a refresh is deploying can't be changed meanwhile.

        https://docs.aws.amazon.com/autoscaling/ec2/userguide/instance-refresh-overview.html#instance-refresh-limitations
        """
        changes = any(name.startswith(("Launch", "MixedInstancesPolicy")) for name in call.form)
        with self._lock:
            refresh = self.active(call.form.get("AutoScalingGroupName", ""))
            if changes and refresh and refresh.desired:
                return error(call, "ValidationError", FIXED)
        return then()

    def _found(self, view: View) -> Refresh:
        if refresh := self.active(view.name):
            return refresh
        raise RefusedError(NONE.format(view.name), "ActiveInstanceRefreshNotFound")

    def _state_of(self, alarm: str) -> str:
        here = self._cloud.imds.instance
        found = cloudwatch_backends[here.account][here.region].alarms.get(alarm)
        return found.state_value if found else "not there"

    def _moment(self, moment: float) -> str:
        """As AWS writes it."""
        seconds = time.time() - self._clock() + moment
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def tree(form: Mapping[str, str], prefix: str) -> dict[str, Any]:
    """What the query protocol has flattened at *prefix*: mappings, lists ("…Alarms.member.1"), and text."""
    grown: dict[str, Any] = {}
    for name, value in form.items():
        first, *path = name.split(".")
        if first == prefix and path:
            place = grown
            for part in path[:-1]:
                place = place.setdefault(part, {})
            place[path[-1]] = value
    found: dict[str, Any] = _listed(grown)
    return found


def _listed(grown: Any) -> Any:
    if not isinstance(grown, dict):
        return grown
    if members := grown.get("member"):
        return [_listed(members[number]) for number in sorted(members, key=int)]
    return {name: _listed(value) for name, value in grown.items()}


def _irreversible(desired: Configuration | None, view: View) -> str:
    """Why there is no way back: https://docs.aws.amazon.com/autoscaling/ec2/userguide/instance-refresh-rollback.html."""
    mixed = view.configuration.get("MixedInstancesPolicy", {}).get("LaunchTemplate", {})
    template = view.configuration.get("LaunchTemplate") or mixed.get("LaunchTemplateSpecification", {})
    version = template.get("Version", "$Default")
    if not desired:
        return "no desired configuration was given"
    if version.startswith("$"):
        return f"the group uses the version {version} of its launch template"
    return "the group's launch template names its AMI by a Systems Manager parameter" if view.image_alias else ""


def described(refresh: Refresh, moment: Callable[[float], str]) -> dict[str, Any]:
    """https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_InstanceRefresh.html; what is unset is left out.

    Progress details are for groups with a warm pool: there are none here.
    """
    back, started = refresh.rollback, refresh.status != "Pending"
    details = back and {
        "RollbackReason": back.reason,
        "RollbackStartTime": moment(back.started),
        "PercentageCompleteOnRollback": back.percentage,
        "InstancesToUpdateOnRollback": back.to_update,
    }
    answer = {
        "InstanceRefreshId": refresh.id,
        "AutoScalingGroupName": refresh.group,
        "Status": refresh.status,
        "StatusReason": refresh.reason or None,
        "StartTime": moment(refresh.started) if started else None,
        "EndTime": None if refresh.ended is None else moment(refresh.ended),
        "PercentageComplete": refresh.percentage if started else None,
        "InstancesToUpdate": refresh.to_update if started else None,
        "Preferences": dict(preferred.written(refresh.preferences)),
        "DesiredConfiguration": refresh.desired,
        "RollbackDetails": details,
        "Strategy": "Rolling",
    }
    return {name: value for name, value in answer.items() if value is not None}
