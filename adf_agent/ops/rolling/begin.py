"""How a roll begins: the group pinned, a launch template version made, the refresh started; or all of it taken back."""

import re
import threading
import uuid
from collections.abc import Callable
from typing import Any, TypeVar

from adf_agent import aws
from adf_agent.deadline import Deadline
from adf_agent.errors import AgentError
from adf_agent.ops.rolling import change as changes
from adf_agent.ops.rolling import facts, preferences, refresh
from adf_agent.ops.rolling.change import Change
from adf_agent.ops.rolling.errors import Refused, Unseen
from adf_agent.ops.rolling.facts import Group, Template
from adf_agent.ops.rolling.lookout import Roll
from adf_agent.ops.rolling.wishes import Wishes
from adf_agent.ops.rolling.witnesses import Clients

PATIENCE = 60.0  # seconds of throttling, a call
DESCRIPTION = "adf-roll: {}, from version {}"  # of a launch template version: `back` finds its way by it
T = TypeVar("T")


def source(template: Template) -> int:
    """The number of the version that a roll to *template* came from, a smaller one; 0 where it is not one of ours."""
    form = re.fullmatch(r"adf-roll: .*, from version (\d+)", template.description)
    number = int(form[1]) if form else 0
    return number if number < template.number else 0


def begin(clients: Clients, group: Group, wishes: Wishes, change: Change) -> Roll:
    """Raises Refused where it did not start and nothing is changed, Unseen where that can't be known.

    AgentError where it did not start, and something of it is left.
    """
    autoscaling, ec2 = clients.client("autoscaling"), clients.client("ec2")
    if group.version.startswith("$"):
        _pin(autoscaling, group, str(group.template.number))
    version = 0
    try:
        version = _new_version(ec2, group, wishes, change)
        refresh_id = _start(autoscaling, group, wishes, version)
    except Refused as error:
        if left := _take_back(autoscaling, ec2, group, version):
            raise AgentError(f"{error.sentence}; {left}", hint=error.hint) from error
        raise Refused(f"{error.sentence}; nothing of it is left", hint=error.hint) from error
    return Roll(group, change, version, refresh_id, wishes.alarms)


def _pin(autoscaling: Any, group: Group, version: str) -> None:
    """Has the group launch *version*; nothing else of it is touched."""
    configuration = _configuration(group, version)
    _asked(
        "autoscaling:UpdateAutoScalingGroup",
        group.name,
        lambda: autoscaling.update_auto_scaling_group(AutoScalingGroupName=group.name, **configuration),
    )


def _new_version(ec2: Any, group: Group, wishes: Wishes, change: Change) -> int:
    """Every roll makes one, also where nothing changes: old and new instances are told apart by it.

    https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_CreateLaunchTemplateVersion.html
    """
    number, template = group.template.number, group.template.id
    description = DESCRIPTION.format(change.release_after or change.image_after, number)
    request = {
        "LaunchTemplateId": template,
        "SourceVersion": str(wishes.version or number),
        # Without a member it would not be sent at all, and it is required.
        "LaunchTemplateData": {**change.data} or {"ImageId": change.image_after},
        "VersionDescription": description,
        "ClientToken": str(uuid.uuid4()),  # tried again, it makes no second one
    }
    try:
        answer = _asked(
            "ec2:CreateLaunchTemplateVersion", template, lambda: ec2.create_launch_template_version(**request)
        )
    except Refused as error:
        if error.transient and (found := _made(ec2, group, change, description)):
            return found  # the answer alone was lost
        raise
    return int(answer["LaunchTemplateVersion"]["VersionNumber"])


def _made(ec2: Any, group: Group, change: Change, description: str) -> int:
    """The number of a version made for *change* since, 0 where there is none. Raises Unseen.

    One that an earlier try has left is as good, if it holds the same.
    """
    id_, number = group.template.id, group.template.number
    try:
        made = _patient().retry(lambda: facts.templates(ec2, id_, MinVersion=str(number + 1)))
        same = [each for each in made if each.description == description and _holds(each, group, change)]
    except Refused as error:
        hint = f"Nothing rolls, and {group.name} stays on version {number}. Look for a version of {id_} described as"
        hint += f" {description!r}: remove it, or start again."
        raise Unseen(f"nobody knows whether a template version was made: {error.sentence}", hint=hint) from error
    return max((each.number for each in same), default=0)


def _holds(template: Template, group: Group, change: Change) -> bool:
    """Whether it brings what *change* does."""
    found = changes.between(group.template, template, group.propagated)
    return (found.url_after, found.release_after, found.image_after) == (
        change.url_after,
        change.release_after,
        change.image_after,
    )


def _start(autoscaling: Any, group: Group, wishes: Wishes, version: int) -> str:
    """The refresh's id.

    https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_StartInstanceRefresh.html
    """
    request = {
        "AutoScalingGroupName": group.name,
        "DesiredConfiguration": _configuration(group, str(version)),
        "Preferences": preferences.preferences(group, wishes),
    }

    def start() -> str:
        try:
            with aws.asking(Refused, "autoscaling:StartInstanceRefresh", group.name):
                return str(autoscaling.start_instance_refresh(**request)["InstanceRefreshId"])
        except Refused:
            if found := _started(autoscaling, group, version):  # the answer alone was lost
                return found
            raise

    return _patient().retry(start)


def _started(autoscaling: Any, group: Group, version: int) -> str:
    """The id of the refresh to *version*, "" where there is none. Raises Unseen."""
    try:
        found = _patient().retry(lambda: refresh.latest(autoscaling, group.name))
    except Refused as error:
        hint = f"See `adf-roll status {group.name}`. Where it did not, remove template version {version}."
        raise Unseen(f"nobody knows whether the roll started: {error.sentence}", hint=hint) from error
    return found.id if found and found.version == str(version) else ""


def _take_back(autoscaling: Any, ec2: Any, group: Group, version: int) -> str:
    """Removes *version*, if it is one, and then the pin. What is left, in words; "" for nothing."""
    try:
        if version:
            _delete(ec2, group.template.id, str(version))
        if group.version.startswith("$"):  # not before: $Latest would be what is to go
            other = refresh.latest(autoscaling, group.name)
            if other and not other.ended:
                return f"another roll of {group.name} is under way, so it stays pinned to {group.template.number}"
            _pin(autoscaling, group, group.version)
    except Refused as error:
        return f"and what was made for it could not be taken back: {error.sentence}"
    return ""


def _delete(ec2: Any, template: str, version: str) -> None:
    """https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DeleteLaunchTemplateVersions.html."""
    request = {"LaunchTemplateId": template, "Versions": [version]}
    answer = _asked(
        "ec2:DeleteLaunchTemplateVersions", template, lambda: ec2.delete_launch_template_versions(**request)
    )
    for each in answer.get("UnsuccessfullyDeletedLaunchTemplateVersions", ()):
        raise Refused(f"version {version} of {template}: {each['ResponseError']['Message']}")


def _configuration(group: Group, version: str) -> dict[str, Any]:
    """What the group is to launch: its template's *version*, in the mixed instances policy where it has one."""
    named = {"LaunchTemplateId": group.template.id, "Version": version}  # by id or name, not by both
    if group.mixed is None:
        return {"LaunchTemplate": named}
    return {
        "MixedInstancesPolicy": {
            **group.mixed,
            "LaunchTemplate": {**group.mixed["LaunchTemplate"], "LaunchTemplateSpecification": named},
        }
    }


def _asked(action: str, resource: str, call: Callable[[], T]) -> T:
    """The answer of *call*, tried again where it may pass. Raises Refused."""

    def asked() -> T:
        with aws.asking(Refused, action, resource):
            return call()

    return _patient().retry(asked)


def _patient() -> Deadline:
    """Nothing stops what has begun half-way."""
    return Deadline(PATIENCE, threading.Event())
