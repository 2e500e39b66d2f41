import base64
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from adf_agent.ops.rolling.change import between, of
from adf_agent.ops.rolling.errors import Refused
from adf_agent.ops.rolling.facts import Template
from adf_agent.ops.rolling.wishes import Wishes

V1, V2 = "https://x.example/v1.tgz", "https://x.example/v2.tgz"
VOLUME = {"ResourceType": "volume", "Tags": [{"Key": "Cost", "Value": "7"}]}


def made(user_data: str = "", tags: Mapping[str, str] | None = None) -> Template:
    """A launch template version, with tags for volumes beside those for instances."""
    listed = [{"Key": name, "Value": text} for name, text in (tags or {}).items()]
    instance = ({"ResourceType": "instance", "Tags": listed},) if listed else ()
    return Template(
        "lt-1", "web", 7, "", user_data.encode(), "ami-1", tags=tags or {}, tag_specifications=(VOLUME, *instance)
    )


def wish(url: str = "", name: str = "", image: str = "") -> Wishes:
    return Wishes("web", url=url, name=name, image=image, replace=not (url or image))


def written(data: Mapping[str, Any]) -> dict[str, Any]:
    """*data* with its user-data as text, and the tags of instances by name."""
    assert set(data) <= {"UserData", "TagSpecifications", "ImageId"}
    plain = {**data}
    if "UserData" in data:
        plain["UserData"] = base64.b64decode(data["UserData"], validate=True).decode()
    if "TagSpecifications" in data:
        volume, instance = data["TagSpecifications"]
        assert volume == VOLUME
        plain["TagSpecifications"] = {tag["Key"]: tag["Value"] for tag in instance["Tags"]}
    return plain


CHANGES: dict[str, tuple[Template, Wishes, str, str, dict[str, Any]]] = {
    "user-data": (made(f"RELEASE_URL={V1}\n"), wish(V2), "v1", "v2", {"UserData": f"RELEASE_URL={V2}\n"}),
    "user-data, named": (
        made(f"RELEASE_URL={V1}\n"),
        wish(V2, "two"),
        "v1",
        "two",
        {"UserData": f"RELEASE_URL={V2}\nADF_RELEASE=two\n"},
    ),
    "user-data, with a name that no longer holds": (
        made(f"RELEASE_URL={V1}\nADF_RELEASE=one"),
        wish(V2),
        "one",
        "v2",
        {"UserData": f"RELEASE_URL={V2}\nADF_RELEASE=v2"},
    ),
    "nowhere yet": (made(), wish(V2), "", "v2", {"UserData": f"RELEASE_URL={V2}\n"}),
    "tags": (
        made("FOO=1", {"Name": "web", "RELEASE_URL": V1}),
        wish(V2),
        "v1",
        "v2",
        {"TagSpecifications": {"Name": "web", "RELEASE_URL": V2}},
    ),
    "tags, named": (
        made("", {"RELEASE_URL": V1}),
        wish(V2, "two"),
        "v1",
        "two",
        {"TagSpecifications": {"RELEASE_URL": V2, "ADF_RELEASE": "two"}},
    ),
    "tags, with a name that no longer holds": (
        made("", {"ADF_RELEASE": "one", "RELEASE_URL": V1}),
        wish(V2),
        "one",
        "v2",
        {"TagSpecifications": {"ADF_RELEASE": "v2", "RELEASE_URL": V2}},
    ),
    "user-data, with a name in tags": (
        made(f"RELEASE_URL={V1}", {"ADF_RELEASE": "one"}),
        wish(V2, "two"),
        "one",
        "two",
        {"UserData": f"RELEASE_URL={V2}", "TagSpecifications": {"ADF_RELEASE": "two"}},
    ),
    "both": (
        made(f"RELEASE_URL={V1}", {"RELEASE_URL": "https://x.example/v0.tgz"}),
        wish(V2),
        "v1",
        "v2",
        {"UserData": f"RELEASE_URL={V2}", "TagSpecifications": {"RELEASE_URL": V2}},
    ),
    "an empty one in user-data": (
        made("RELEASE_URL=\n", {"RELEASE_URL": V1}),
        wish(V2),
        "v1",
        "v2",
        {"UserData": f"RELEASE_URL={V2}\n", "TagSpecifications": {"RELEASE_URL": V2}},
    ),
    "another image": (made(f"RELEASE_URL={V1}"), wish(image="ami-2"), "v1", "v1", {"ImageId": "ami-2"}),
    "both at once": (
        made(f"RELEASE_URL={V1}"),
        wish(V2, image="ami-2"),
        "v1",
        "v2",
        {"UserData": f"RELEASE_URL={V2}", "ImageId": "ami-2"},
    ),
    "replaced alone": (made(f"RELEASE_URL={V1}", {"Name": "web"}), wish(), "v1", "v1", {}),
    "what can't be seen": (made(), wish(image="ami-2"), "", "", {"ImageId": "ami-2"}),
    "a broken one": (made("RELEASE_URL=oops"), wish(V2), "", "v2", {"UserData": f"RELEASE_URL={V2}"}),
}


@pytest.mark.parametrize(("template", "wishes", "before", "after", "data"), CHANGES.values(), ids=CHANGES)
def test_a_change_goes_where_the_agent_reads_it(
    template: Template, wishes: Wishes, before: str, after: str, data: dict[str, Any]
) -> None:
    """A whole fleet is replaced, and boots the old release again: the tag that was changed is outranked."""
    change = of(template, {}, wishes)
    assert (change.release_before, change.release_after) == (before, after)
    assert (change.image_before, change.image_after) == ("ami-1", wishes.image or "ami-1")
    assert written(change.data) == data
    if wishes.url:
        assert change.url_after == V2


@pytest.mark.parametrize(
    ("template", "propagated", "app", "table"),
    [
        (made(), {}, "", "adf-config"),
        (made("ADF_APP=a\nADF_CONFIG_TABLE=t-1", {"ADF_APP": "b"}), {"ADF_APP": "c"}, "a", "t-1"),
        (made("ADF_APP=", {"ADF_APP": "b", "ADF_CONFIG_TABLE": "t-2"}), {"ADF_APP": "c"}, "c", "t-2"),
        (made("#", {"ADF_APP": " b "}), {}, "b", "adf-config"),
    ],
)
def test_the_records_are_looked_for_where_the_agent_keeps_them(
    template: Template, propagated: Mapping[str, str], app: str, table: str
) -> None:
    """A canary that fails unseen: its record is in the partition of another app."""
    change = of(template, propagated, wish())
    assert (change.app, change.table) == (app, table)


USER = made(f"RELEASE_URL={V1}\nADF_APP=web\n")
REFUSED: dict[str, tuple[Template, Mapping[str, str], Wishes, str]] = {
    "the group's tag": (made("ADF_APP=web"), {"RELEASE_URL": V1}, wish(V2), "RELEASE_URL is a tag of the group's"),
    "the group's tag outranks": (
        made("", {"RELEASE_URL": V1}),
        {"RELEASE_URL": V1},
        wish(V2),
        "RELEASE_URL is a tag of the group's",
    ),
    "the group's name": (USER, {"ADF_RELEASE": "v1"}, wish(V2), "ADF_RELEASE is a tag of the group's"),
    "no URL": (USER, {}, wish("v2"), "RELEASE_URL starts with none of"),
    "http": (USER, {}, wish("http://x.example/v2.tgz"), "RELEASE_URL is http:// without a digest"),
    "two lines": (USER, {}, wish(f"{V2}\nADF_APP=b", "v2"), "holds a character that can't be printed"),
    "no name": (USER, {}, wish("https://x.example/"), "RELEASE_URL gives no name for the release"),
    "wrong name": (USER, {}, wish(V2, "v 2"), "ADF_RELEASE from user-data: must be 1 to 100 of"),
    "unreadable": (made("prose"), {}, wish(V2), "the launch template's user-data, line 1"),
    "unreadable, and to stay so": (made("prose"), {}, wish(image="ami-2"), "the launch template's user-data, line 1"),
    "wrong besides": (made(f"RELEASE_URL={V1}\nADF_AP=x"), {}, wish(V2), "the nearest one is ADF_APP"),
    "long tag": (made("", {"RELEASE_URL": V1}), {}, wish(V2 + "?" + "x" * 256, "v2"), "longer than a tag may be"),
}


@pytest.mark.parametrize(("template", "propagated", "wishes", "said"), REFUSED.values(), ids=REFUSED)
def test_what_no_instance_would_boot_is_refused(
    template: Template, propagated: Mapping[str, str], wishes: Wishes, said: str
) -> None:
    """A slip in a URL is found by the canary, minutes later; or the old release's own restarts boot the new one."""
    with pytest.raises(Refused) as caught:
        of(template, propagated, wishes)
    assert said in caught.value.sentence
    assert caught.value.hint


def test_the_groups_tags_do_not_matter_where_user_data_outranks_them() -> None:
    """A roll that is refused for a tag that no instance goes by."""
    propagated = {"RELEASE_URL": "https://x.example/v0.tgz", "ADF_RELEASE": "v0"}
    change = of(made(f"RELEASE_URL={V1}\nADF_RELEASE=one\n"), propagated, wish(V2))
    assert (change.url_before, change.release_before) == (V1, "one")
    assert (change.url_after, change.release_after) == (V2, "v2")


def test_a_version_that_exists_is_only_compared() -> None:
    """Going back makes one more version, from the broken one."""
    old = replace(made("prose"), image="ami-2")
    new = made(json.dumps({"RELEASE_URL": V1, "ADF_APP": "web"}))
    change = between(old, new, {})
    assert (change.url_before, change.release_before, change.image_before) == ("", "", "ami-2")
    assert (change.url_after, change.release_after, change.image_after) == (V1, "v1", "ami-1")
    assert (change.app, change.data) == ("web", {})
