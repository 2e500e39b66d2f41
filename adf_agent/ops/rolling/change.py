"""What a roll changes of a launch template version: decided purely, before anything is made."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from adf_agent import location, settings
from adf_agent.errors import SettingsError
from adf_agent.ops.rolling import rewrite
from adf_agent.ops.rolling.errors import Refused
from adf_agent.ops.rolling.facts import Template
from adf_agent.ops.rolling.wishes import Wishes

Specifications = tuple[Mapping[str, Any], ...]  # TagSpecifications of a launch template

TAG_LIMIT = 256  # characters of a value: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/Using_Tags.html


@dataclass(frozen=True)
class Change:
    """From *before* to *after*: RELEASE_URL and the release's name; equal where the release stays.

    *data* is the LaunchTemplateData of CreateLaunchTemplateVersion: only what differs from the source version, empty
    for a mere replacement. *app* and *table* are where its instances keep their fleet records; *app* is "" where none
    is seen.
    """

    url_before: str
    url_after: str
    release_before: str
    release_after: str
    image_before: str
    image_after: str
    app: str
    table: str
    data: Mapping[str, Any]

    @property
    def differs(self) -> bool:
        """Whether there is one: not for a mere replacement."""
        before = self.url_before, self.release_before, self.image_before
        return before != (self.url_after, self.release_after, self.image_after)


UNKNOWN = Change("", "", "", "", "", "", "", "", {})


def of(template: Template, propagated: Mapping[str, str], wishes: Wishes) -> Change:
    """What *wishes* make of *template*, where *propagated* are the tags that instances get of the group.

    A new URL goes to where RELEASE_URL stands, and a name to where ADF_RELEASE stands: the URL's own name without one.
    Raises Refused where no instance would read it there, or could not boot with it.
    """
    new = replace(template, image=wishes.image or template.image)
    if wishes.url:
        new = _released(new, propagated, wishes.url, wishes.name)
    return replace(between(template, new, propagated), data=_differences(template, new))


def between(old: Template, new: Template, propagated: Mapping[str, str]) -> Change:
    """From one version of a launch template to another that exists, as the agent reads both; *data* is empty.

    Raises Refused where the agent can't read the new one.
    """
    try:
        before = _in_force(old, propagated)
    except Refused:  # what can't boot can be left all the same
        before = {}
    after = _in_force(new, propagated)
    return Change(
        url_before=before.get("RELEASE_URL", ""),
        url_after=after.get("RELEASE_URL", ""),
        release_before=_release(before),
        release_after=_release(after),
        image_before=old.image,
        image_after=new.image,
        app=after.get("ADF_APP", ""),
        table=after.get("ADF_CONFIG_TABLE") or settings.TABLE["ADF_CONFIG_TABLE"].default,
        data={},
    )


def _in_force(template: Template, propagated: Mapping[str, str]) -> dict[str, str]:
    """The settings that instances get; agent.env, in the AMI, can't be seen from here. Raises Refused.

    The group's value outranks the template's where both have a tag:
    https://docs.aws.amazon.com/autoscaling/ec2/userguide/ec2-auto-scaling-tagging.html
    """
    sources = template.tags, propagated, rewrite.read(template.user_data)
    return {name: text.strip() for source in sources for name, text in source.items() if text.strip()}


def _release(found: Mapping[str, str]) -> str:
    """The release's name as the agent would derive it; "" where it gets none, or a wrong one."""
    try:
        return found.get("ADF_RELEASE") or location.parse(found.get("RELEASE_URL", "")).name
    except SettingsError:
        return ""


def _released(template: Template, propagated: Mapping[str, str], url: str, name: str) -> Template:
    """*template* with another release. Its URL stands in the user-data, which outranks tags, or in the tags."""
    user = rewrite.read(template.user_data)
    wanted = {"RELEASE_URL": url, "ADF_RELEASE": name or _derived(url)}
    _refuse_propagated([each for each in wanted if each in propagated and each not in user])
    for_user = {each: text for each, text in wanted.items() if each in user}
    for_tags = {each: text for each, text in wanted.items() if each in template.tags}
    beside = for_tags if "RELEASE_URL" in for_tags and "RELEASE_URL" not in for_user else for_user
    for each in ["RELEASE_URL", "ADF_RELEASE"] if name else ["RELEASE_URL"]:
        if each not in for_user and each not in for_tags:
            beside[each] = wanted[each]
    _refuse_what_cannot_boot({**user, **for_user}, {**template.tags, **for_tags, **propagated})
    return replace(
        template,
        user_data=rewrite.rewritten(template.user_data, for_user),
        tags={**template.tags, **for_tags},
        tag_specifications=_tagged(template.tag_specifications, for_tags),
    )


def _derived(url: str) -> str:
    try:
        derived = location.parse(url).name
    except SettingsError as error:
        raise Refused(error.sentence, hint=error.hint) from error
    if not derived:
        raise Refused("RELEASE_URL gives no name for the release", hint="Say --name.")
    return derived


def _refuse_propagated(names: Sequence[str]) -> None:
    if names:
        raise Refused(
            f"{' and '.join(names)} is a tag of the group's: the old release's instances would get the new one as well",
            hint="Put it into the launch template's user-data or tags, and take the tag off the group.",
        )


def _refuse_what_cannot_boot(user: Mapping[str, str], tags: Mapping[str, str]) -> None:
    try:
        settings.resolve(user, tags, {})
    except SettingsError as error:
        raise Refused(error.sentence, hint=error.hint) from error


def _tagged(specifications: Specifications, tags: Mapping[str, str]) -> Specifications:
    """*specifications* with these values of instances' *tags*; the other resource types' stay."""
    if long := [name for name, text in tags.items() if len(text) > TAG_LIMIT]:
        hint = "Put RELEASE_URL into the launch template's user-data instead."
        raise Refused(f"{long[0]} is longer than a tag may be, {TAG_LIMIT} characters", hint=hint)
    if not tags:
        return specifications
    at = [each["ResourceType"] for each in specifications].index("instance")
    merged = {tag["Key"]: tag["Value"] for tag in specifications[at]["Tags"]} | {**tags}
    listed = [{"Key": name, "Value": text} for name, text in merged.items()]
    return *specifications[:at], {**specifications[at], "Tags": listed}, *specifications[at + 1 :]


def _differences(old: Template, new: Template) -> dict[str, Any]:
    """The LaunchTemplateData that makes *new* of *old*.

    What is given overwrites the source version's parameter, a list as a whole; what is not given is inherited:
    https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_CreateLaunchTemplateVersion.html
    """
    data = {
        "ImageId": new.image if new.image != old.image else "",
        "TagSpecifications": [*new.tag_specifications] if new.tag_specifications != old.tag_specifications else [],
        "UserData": base64.b64encode(new.user_data).decode() if new.user_data != old.user_data else "",
    }
    return {name: value for name, value in data.items() if value}
