"""`adf-roll back`, during a roll and after it, and the rolls that it can't undo."""

from typing import Any

import pytest
from botocore.exceptions import ClientError
from fixtures_roll import GROUP, LONG, QUICK, Shop, answered, data, meanwhile, url
from werkzeug.wrappers import Response

from adf_agent.ops.rolling import former
from adf_agent.ops.rolling.change import UNKNOWN
from adf_agent.ops.rolling.errors import Refused
from adf_agent.ops.rolling.facts import Group, Template
from adf_agent.ops.rolling.refresh import Refresh
from adf_agent.sandbox.front import Call, Then, error


def test_back_after_a_roll_goes_to_the_release_before(shop: Shop) -> None:
    """A rollback at night, and nobody remembers the URL of what ran before."""
    shop.open(1)
    assert shop("back", "--yes").err.startswith("adf-roll: version 1 of shop does not say what was before it\n  → ")
    assert shop("start", url("v2"), *QUICK).code == 0
    ran = shop("back", "--yes", typed="")
    assert (ran.code, shop.running()) == (0, ["3"])
    assert data(shop, 3) == data(shop, 1)


def test_back_after_replacements_goes_to_another_release(shop: Shop) -> None:
    """A rollback of a bad release, renewed since, that goes to the bad release."""
    shop.open(1)
    for words in ([url("v2")], ["--replace"], ["--replace"]):
        assert shop("start", *words, *QUICK).code == 0
    assert shop("back", "--yes").code == 0
    assert (shop.running(), data(shop, 5)) == (["5"], data(shop, 1))


def test_back_after_a_roll_that_went_back_goes_no_further(shop: Shop) -> None:
    """A bad release that was taken back by itself, and a good one that is taken away by hand."""
    shop.open(1)
    assert shop("start", url("v2"), *QUICK).code == 0
    assert shop("start", url("bad"), *LONG).code == 1
    versions = shop.versions
    ran = shop("back", "--yes")
    assert (ran.code, shop.running(), shop.versions) == (3, ["2"], versions)
    assert ran.err == (
        "adf-roll: the last roll of shop went back already: it has v2\n"
        "  → Name what to go to: adf-roll start shop RELEASE_URL\n"
    )


TEMPLATE = Template("lt-1", "shop", 2, "adf-roll: v2, from version 1", f"RELEASE_URL={url('v2')}\n".encode(), "ami-1")


class Unasked:
    """An EC2 that nobody needs to ask."""

    def describe_launch_template_versions(self, **request: object) -> object:
        raise AssertionError(request)


@pytest.mark.parametrize(
    ("status", "says", "renew"),
    [
        ("RollbackSuccessful", "went back already", False),
        ("RollbackFailed", "could not be taken back whole, and new instances may remain", True),
        ("Cancelled", "was cancelled, and new instances may remain", True),
        ("Failed", "failed, and new instances may remain", True),
    ],
)
def test_a_roll_that_did_not_succeed_is_not_undone(status: str, says: str, *, renew: bool) -> None:
    """The release before the one that was there before: two steps back, where none was needed."""
    with pytest.raises(Refused) as caught:
        former.of(Unasked(), Group("shop", 1, 0, 9, "2", TEMPLATE), Refresh("r-1", status))
    assert caught.value.sentence == f"the last roll of shop {says}: it has v2"
    assert ("adf-roll start shop --replace" in caught.value.hint) is renew


@pytest.mark.parametrize("description", ["adf-roll: v2, from version 2", "adf-roll: v2, from version 7", "by hand"])
def test_the_way_back_leads_to_smaller_numbers_alone(description: str) -> None:
    """A command that goes round in circles, by what somebody has copied into a description."""
    group = Group("shop", 1, 0, 9, "2", Template("lt-1", "shop", 2, description))
    with pytest.raises(Refused, match="does not say what was before it"):
        former.of(Unasked(), group, Refresh("r-1", "Successful"))


class Unreadable:
    """An EC2 that has no such version."""

    def describe_launch_template_versions(self, **_: object) -> object:
        raise ClientError(
            {"Error": {"Code": "InvalidLaunchTemplateId.VersionNotFound"}}, "DescribeLaunchTemplateVersions"
        )


@pytest.mark.parametrize(
    ("template", "version", "ec2", "number"),
    [
        ("lt-2", "1", Unasked(), 1),
        ("another", "$Latest", Unasked(), 0),
        ("lt-1", "3", Unreadable(), 3),
        ("shop", "$Latest", Unreadable(), 0),
    ],
)
def test_of_a_strange_refresh_nothing_is_made_up(template: str, version: str, ec2: Any, number: int) -> None:
    """Another template's version of the same number, taken for ours: a canary that is judged by a stranger's app."""
    under_way = Refresh("r-1", "InProgress", template=template, version=version)
    found = former.deployed(ec2, Group("shop", 1, 0, 9, "2", TEMPLATE), under_way)
    assert found == (number, UNKNOWN, False)


def test_back_that_comes_too_late_rolls_back_all_the_same(shop: Shop) -> None:
    """A bad release that was done a second before, and a command that ends well and has done nothing."""
    shop.open(1)

    def late(call: Call, _: Then) -> Response:
        shop.until(lambda: shop.refreshes[0]["Status"] == "Successful")
        return error(call, "ActiveInstanceRefreshNotFound", "none")

    shop.begin(url("v2"), bake=1)
    with answered(shop, "autoscaling:RollbackInstanceRefresh", late):
        ran = shop("back", "--yes")
    assert (ran.code, shop.running()) == (0, ["3"])
    assert data(shop, 3) == data(shop, 1)


def test_a_rollback_that_is_cut_short_is_no_success(shop: Shop) -> None:
    """A way back of which a colleague's cancel left one half, and that ends 0."""
    shop.open(2)
    shop.begin(url("v2"), bake=60)
    shop.until(lambda: "2" in shop.running())
    roll_back = shop.cloud.front.handlers["autoscaling:RollbackInstanceRefresh"]

    def cut_short(call: Call, then: Then) -> Response:
        answer = roll_back(call, then)
        shop.autoscaling.cancel_instance_refresh(AutoScalingGroupName=GROUP)
        return answer

    with answered(shop, "autoscaling:RollbackInstanceRefresh", cut_short):
        ran = shop("back", "--yes")
    assert (ran.code, ran.out.splitlines()[-1]) == (1, "Cancelled: Cancelled by the user.")


def test_a_refresh_to_another_template_is_shown_and_not_judged(shop: Shop) -> None:
    """A group that moves to another launch template, and a watch that says that it was refused."""
    shop.open(1)
    for number in range(3):
        user_data = data(shop, 1)["UserData"]
        more = {"LaunchTemplateData": {"ImageId": f"ami-{number}", "InstanceType": "t3.micro", "UserData": user_data}}
        if number:
            shop.ec2.create_launch_template_version(LaunchTemplateName="other", **more)
        else:
            shop.ec2.create_launch_template(LaunchTemplateName="other", **more)
    template = shop.ec2.describe_launch_templates(LaunchTemplateNames=["other"])["LaunchTemplates"][0]
    desired = {"LaunchTemplate": {"LaunchTemplateId": template["LaunchTemplateId"], "Version": "3"}}
    preferences = {"MinHealthyPercentage": 100, "MaxHealthyPercentage": 200, "InstanceWarmup": 0, "BakeTime": 1}
    shop.autoscaling.start_instance_refresh(
        AutoScalingGroupName=GROUP, DesiredConfiguration=desired, Preferences=preferences
    )
    assert shop("status").code == 4
    ran = shop("watch")
    assert (ran.code, "it is shown, and not judged" in ran.out) == (0, True)


def test_ctrl_c_on_a_refresh_that_can_not_go_back_does_not_say_so(shop: Shop) -> None:
    """An operator who is told to type what AWS refuses."""
    shop.open(2)
    preferences = {"MinHealthyPercentage": 100, "MaxHealthyPercentage": 150, "InstanceWarmup": 60}
    shop.autoscaling.start_instance_refresh(AutoScalingGroupName=GROUP, Preferences=preferences)
    with meanwhile(shop, shop.interrupt, lambda: len(shop.running()) > 2):
        ran = shop("watch")
    assert ran.code == 4
    assert ran.out.endswith("shop rolls on without this command\n  → to come back: adf-roll watch shop\n")
