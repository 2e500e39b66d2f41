"""The larger steps: a release's keys become everybody's, go with it, or come back; the table is made."""

import itertools
import json
import os
import pty
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

import pytest
from fixtures_operator import TABLE, Operator
from werkzeug.wrappers import Response

from adf_agent import fleetrecord
from adf_agent.deadline import Deadline
from adf_agent.ops.account import Account
from adf_agent.ops.app import App
from adf_agent.ops.configure import cleaning, history
from adf_agent.sandbox.front import AwsFault, Call, Then

COMMAND = [
    sys.executable,
    "-c",
    "import sys; from adf_agent.ops.configure.cli import main; sys.exit(main())",
    "-a",
    "web",
]
GONE = "adf-config -a web rollback --in-batches"


def told(operator: Operator, instance_id: str, release: str = "v41", *, hours: float = 0, group: str = "") -> None:
    """Puts the record of an instance that was heard of *hours* ago, as its agent writes it."""
    parts = {"phase": "in service", "release": {"name": release}, "group": group}
    item = fleetrecord.item(parts, "web", instance_id, "", boot=1, seq=1, now=time.time() - hours * 3600)
    operator.cloud.client("dynamodb").put_item(TableName=TABLE, Item=item)


def group(operator: Operator, name: str, size: int) -> list[str]:
    """An Auto Scaling group of *size* instances; their ids."""
    client = operator.cloud.client("autoscaling")
    client.create_launch_configuration(LaunchConfigurationName=name, ImageId="ami-1", InstanceType="t3.micro")
    client.create_auto_scaling_group(
        AutoScalingGroupName=name,
        LaunchConfigurationName=name,
        MinSize=size,
        MaxSize=size,
        AvailabilityZones=["eu-west-1a"],
    )
    [found] = client.describe_auto_scaling_groups(AutoScalingGroupNames=[name])["AutoScalingGroups"]
    return [each["InstanceId"] for each in found["Instances"]]


def test_the_keys_of_a_former_release_go_and_can_come_back(operator: Operator) -> None:
    """Keys of releases long gone pile up, and nobody dares to remove them."""
    operator.done("set", "HOST=a")
    operator.done("set", "-r", "v41", "HOST=b", "OLD=1")
    operator.done("set", "-r", "v42", "HOST=c")
    told(operator, "i-1", "v42")
    told(operator, "i-2", "v41", hours=2.1)
    ran = operator("clean", "v41", "--yes")
    undo = f"{GONE} --if-revision 4 3"
    assert (ran.code, ran.err) == (0, f"to undo it, as long as nothing else is changed: {undo}\n")
    plan, *reasons, done = ran.out.splitlines()
    assert plan == "2 keys of web@v41, which no other release reads, would go:"
    assert [reason.split(maxsplit=1) for reason in reasons] == [
        ["HOST", "only web@v41 has it; web stays, with its own value"],
        ["OLD", "only web@v41 has it; web has none"],
    ]
    assert done == "revision 4: web@v41: -HOST -OLD"
    assert operator.config() == {"web": {"HOST": "a"}, "web@v42": {"HOST": "c"}}
    assert operator.refused("clean", "v41", "--yes") == "web@v41 holds no key"
    operator.done(*undo.split()[3:])
    assert operator.config()["web@v41"] == {"HOST": "b", "OLD": "1"}
    assert operator.refused(*undo.split()[3:]) == "web is at revision 5, not 4: nothing was changed"


def test_a_release_that_still_runs_keeps_its_keys(operator: Operator) -> None:
    """The keys of the release that half of the fleet still runs: their next restart fails."""
    ours = group(operator, "web", 52)
    operator.done("set", "-r", "v41", "A=1")
    told(operator, "i-gone", hours=2.1)
    told(operator, "i-other", "v42")
    told(operator, "i-ended", group="web")  # touched a minute ago, and in the group no more
    told(operator, ours[0], group="another")
    told(operator, ours[51], group="web", hours=1.9)
    assert (
        operator.refused("clean", "v41", "--yes") == f"v41 still runs on {ours[51]} (in service): nothing was removed"
    )
    for instance_id in ours[:6]:
        told(operator, instance_id, group="web")
    told(operator, "i-alone")
    asked = operator.cloud.calls["autoscaling:DescribeAutoScalingInstances"]
    for number in range(50):  # more than may be asked for at once
        told(operator, f"i-{number:017}", group="web")
    sentence = operator.refused("clean", "v41", "--yes")
    assert operator.cloud.calls["autoscaling:DescribeAutoScalingInstances"] == asked + 2
    assert sentence.endswith(" and 3 more: nothing was removed")
    assert sentence.count(" (in service)") == 5


def test_a_group_that_may_not_be_asked_stops_the_clean_up(operator: Operator) -> None:
    """An instance that is taken for gone since nobody was allowed to look."""
    operator.done("set", "-r", "v41", "A=1")
    told(operator, "i-1", group="web")
    operator.cloud.faults = [AwsFault("autoscaling:*", "AccessDenied", 403, message="no")]
    ran = operator("clean", "v41", "--yes")
    assert (ran.code, ran.err.splitlines()[0]) == (
        13,
        "adf-config: autoscaling:DescribeAutoScalingInstances on * is denied (no)",
    )


def test_an_instance_that_comes_up_between_plan_and_yes_is_seen(operator: Operator) -> None:
    """A scale-out of the old release while an operator reads the plan."""
    operator.done("set", "-r", "v41", "A=1")
    main, theirs = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, "clean", "v41"], stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline().startswith("1 keys of web@v41")
        told(operator, "i-new")
        os.write(main, b"yes\n")
        _, err = process.communicate(timeout=30)
    os.close(main)
    os.close(theirs)
    assert process.returncode == 13
    assert "v41 still runs on i-new (in service)" in err
    assert operator.config() == {"web@v41": {"A": "1"}}


def test_what_was_not_shown_does_not_go(operator: Operator) -> None:
    """A key that a colleague sets while the plan is read goes with a yes that was not meant for it."""
    operator.done("set", "-r", "v41", "A=1")
    app = App("web", Account().table(TABLE), Account(), Deadline(20, threading.Event()))
    planned = cleaning.plan(app, "v41")
    operator.done("set", "-r", "v41", "NEW=1")
    [written] = cleaning.clean(app, "v41", planned)
    assert written.summary == "web@v41: -A"
    assert operator.config() == {"web@v41": {"NEW": "1"}}


@pytest.mark.parametrize(
    ("answer", "left"), [("y\n", {}), ("n\n", {"web@v41": {"A": "1"}}), ("\n", {"web@v41": {"A": "1"}})]
)
def test_nothing_goes_without_a_yes(operator: Operator, answer: str, left: Mapping[str, Any]) -> None:
    """A finger on return, and the config is gone."""
    operator.done("set", "-r", "v41", "A=1")
    main, theirs = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, "clean", "v41"], stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        os.write(main, answer.encode())
        _, err = process.communicate(timeout=30)
    os.close(main)
    os.close(theirs)
    assert operator.config() == left
    assert process.returncode == (1 if left else 0)
    assert b"remove them from adf-config? [y/N] " in err


def test_where_nobody_can_be_asked_yes_has_to_be_said(operator: Operator) -> None:
    """A job that hangs for ever on a question, or one that takes its own silence for a yes."""
    operator.done("set", "-r", "v41", "A=1")
    ran = operator("clean", "v41")
    assert (ran.code, ran.err) == (1, "adf-config: nobody can be asked here: nothing was changed\n  → Say --yes.\n")
    assert operator.config() == {"web@v41": {"A": "1"}}


@pytest.fixture
def crowded(operator: Operator) -> Operator:
    """A release with 200 keys of its own, by hand; one of them hides."""
    operator.done("set", "HIDDEN=1", "KEPT=1")
    operator.put("web@v41", "HIDDEN", Unset={"BOOL": True})
    for number in range(199):
        operator.put("web@v41", f"K{number:03}", Value={"S": str(number)})
    return operator


def test_many_keys_go_and_come_back_in_batches(crowded: Operator) -> None:
    """A clean-up of 200 keys that DynamoDB refuses, or one that can't be taken back."""
    before = crowded.config()
    out = crowded.done("clean", "v41", "--yes").splitlines()[201:]
    assert [line.partition(":")[0] for line in out] == ["revision 2", "revision 3", "revision 4"]
    assert [line.count(" -") for line in out] == [98, 98, 4]
    assert crowded.config() == {"web": before["web"]}
    assert crowded.refused("rollback", "1") == "200 keys would change, of 98 at once"
    back = crowded.done("rollback", "1", "--in-batches").splitlines()
    assert [line.count(" +") + line.count(" !") for line in back] == [98, 98, 4]
    assert crowded.config() == before
    ran = crowded("rollback", "1", "--in-batches")
    assert (ran.code, ran.out, ran.err) == (0, "", "nothing to change\n")


def test_a_clean_up_that_broke_off_is_gone_on_with(crowded: Operator) -> None:
    """A laptop that closes in the middle leaves keys that can neither be removed nor brought back."""
    before = crowded.config()
    numbers = itertools.count(1)

    def deny(name: str) -> AwsFault | None:
        """The second batch is refused."""
        fails = name == "dynamodb:TransactWriteItems" and next(numbers) == 2
        return AwsFault(name, "AccessDeniedException", message="no") if fails else None

    ordered, crowded.cloud.front.ordered_fault = crowded.cloud.front.ordered_fault, deny  # type: ignore[method-assign]
    broken = crowded("clean", "v41", "--yes")
    crowded.cloud.front.ordered_fault = ordered  # type: ignore[method-assign]
    assert (broken.code, "is denied (no)" in broken.err, "\nrevision 2: " in broken.out) == (13, True, True)
    assert len(crowded.config()["web@v41"]) == 102
    assert "would go" in crowded.done("clean", "v41", "--yes")
    assert crowded.config() == {"web": before["web"]}
    crowded.done("rollback", "1", "--in-batches")
    assert crowded.config() == before


def test_a_release_is_promoted_without_its_config_changing(operator: Operator) -> None:
    """The release that runs everywhere gets other keys in the moment that they become everybody's."""
    operator.done("set", "A=1", "B=1", "GONE=1")
    operator.done("set", "-r", "v42", "A=2", "NEW=2")
    operator.done("unset", "-r", "v42", "--hide", "GONE")
    out = operator.done("promote", "v42")
    assert out == "revision 4: web: ~A -GONE +NEW\nrevision 5: web@v42: -A -GONE -NEW\n"
    assert operator.config() == {"web": {"A": "2", "B": "1", "NEW": "2"}}
    operator.done("rollback", "4")
    assert operator.config()["web@v42"] == {"A": "2", "GONE": True, "NEW": "2"}
    operator.done("rollback", "3")
    assert operator.done("promote", "v42", "A") == "revision 8: web: ~A\nrevision 9: web@v42: -A\n"
    assert operator.config()["web@v42"] == {"GONE": True, "NEW": "2"}
    assert operator.refused("promote", "v42", "A") == "web@v42 has no A"


def test_several_changes_may_be_bound_to_a_revision(crowded: Operator) -> None:
    """A second half that is refused by the revision that the first one made."""
    crowded.done("set", "-r", "v42", "A=1")
    assert crowded.done("promote", "--if-revision", "2", "v42").count("revision") == 2
    assert len(crowded.done("clean", "v41", "--yes").splitlines()) == 204
    assert crowded.done("rollback", "--in-batches", "--if-revision", "7", "4").count("revision") == 3
    assert crowded.refused("rollback", "--in-batches", "--if-revision", "7", "4").startswith(
        "web is at revision 10, not 7"
    )


def test_an_undo_is_offered_for_the_clean_up_alone(operator: Operator) -> None:
    """The line that undoes a clean-up, pasted a day later, undoes a day's work of others."""
    operator.done("set", "A=1", "B=1")
    operator.done("set", "A=2")
    operator.done("set", "A=3")
    app = App("web", Account().table(TABLE), Account(), Deadline(20, threading.Event()))
    third, second, first = history.latest(app.table, "web", 3)
    assert cleaning.undo(app, [first, second]).endswith(": adf-config -a web rollback --in-batches --if-revision 2 0")
    assert cleaning.undo(app, [first, third]) == "others changed the config meanwhile: see `history` before a rollback"


def test_a_promotion_that_broke_off_is_gone_on_with(operator: Operator) -> None:
    """A promotion of which only the first half was written can't be repeated."""
    operator.done("set", "-r", "v42", "A=2")
    operator.put("web", "A", Value={"S": "2"})
    assert operator.done("promote", "v42") == "revision 2: web@v42: -A\n"


def test_the_table_is_made_once_and_made_right(bare_operator: Operator) -> None:
    """A table by hand that bills by the hour, keeps the dead instances' records and has no backup."""
    operator = bare_operator
    assert operator.done("init").splitlines() == [
        "made table adf-config in eu-west-1: hash key App (S) and range key Name (S), on-demand",
        "Expires is the time to live: fleet records of instances that are gone go by themselves",
        "point-in-time recovery is on",
    ]
    client = operator.cloud.client("dynamodb")
    assert client.describe_table(TableName=TABLE)["Table"]["BillingModeSummary"]["BillingMode"] == "PAY_PER_REQUEST"
    to_live = client.describe_time_to_live(TableName=TABLE)["TimeToLiveDescription"]
    assert to_live == {"TimeToLiveStatus": "ENABLED", "AttributeName": "Expires"}
    backups = client.describe_continuous_backups(TableName=TABLE)["ContinuousBackupsDescription"]
    assert backups["PointInTimeRecoveryDescription"]["PointInTimeRecoveryStatus"] == "ENABLED"
    operator.done("set", "A=1")
    assert len(operator.done("init").splitlines()) == 2
    assert operator.config() == {"web": {"A": "1"}}


def test_a_table_that_expires_something_else_is_no_table_of_ours(operator: Operator) -> None:
    """Records of dead instances that keep a release alive for ever, in a table that was said to be right."""
    client = operator.cloud.client("dynamodb")
    specification = {"Enabled": True, "AttributeName": "Ttl"}
    client.update_time_to_live(TableName=TABLE, TimeToLiveSpecification=specification)
    assert operator.refused("init") == "the time to live of table adf-config is Ttl, not Expires"


def test_what_is_right_already_is_left_alone(operator: Operator) -> None:
    """A recovery period of one day, made 35 by the second `init`, and billed."""
    before = operator.cloud.calls["dynamodb:UpdateContinuousBackups"]
    operator.done("init")
    assert operator.cloud.calls["dynamodb:UpdateContinuousBackups"] == before > 0


def test_a_table_in_the_making_is_waited_for(bare_operator: Operator) -> None:
    """An `init` that fails since a table takes some seconds."""
    answers = iter(["CREATING", "ACTIVE"])

    def not_yet(_: Call, then: Then) -> Response:
        answer = then()
        facts = json.loads(answer.get_data())
        facts["Table"]["TableStatus"] = next(answers)
        return Response(json.dumps(facts), answer.status, answer.headers)

    bare_operator.cloud.front.handlers["dynamodb:DescribeTable"] = not_yet
    try:
        bare_operator.done("init")
    finally:
        del bare_operator.cloud.front.handlers["dynamodb:DescribeTable"]
    assert next(answers, None) is None


@pytest.fixture
def nobody(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> Operator:
    """Somebody who has not logged in to AWS yet."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return operator


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({}, "there are no AWS credentials"),
        ({"AWS_DEFAULT_REGION": ""}, "no AWS region is set"),
        ({"AWS_PROFILE": "prod"}, "the AWS settings can't be used: The config profile (prod) could not be found"),
    ],
)
def test_who_has_no_account_is_told_what_is_missing(
    nobody: Operator, monkeypatch: pytest.MonkeyPatch, environment: Mapping[str, str], sentence: str
) -> None:
    """A traceback of boto3's on somebody's first day."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    ran = nobody("set", "A=1")
    first, hint = ran.err.splitlines()
    assert (ran.code, first) == (10, f"adf-config: {sentence}")
    assert hint.startswith("  → ")
