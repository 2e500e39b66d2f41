"""packaging/iam: whoever has a policy of it needs no more, and has no more; where an action lacks, that is said."""

import json

import docker
import pytest
from fixtures_templates import PACKAGING
from iam_lives import denials, failure, life
from iam_rolls import rolls
from iam_runs import Told
from policy import listed

WHOSE = {"instance": ("instance", "classic"), "operator": ("operator",), "table": ("table",)}
# What is asked for by no call that is made here, and by whom it is.
UNSEEN = {
    "ecr:GetAuthorizationToken": "Docker's credential helper, for a docker:// release",
    "ecr:BatchCheckLayerAvailability": "Docker, where it pulls",
    "ecr:BatchGetImage": "likewise",
    "ecr:GetDownloadUrlForLayer": "likewise",
}


@pytest.fixture(scope="module")
def told(docker_client: docker.DockerClient, base_image: str, tmp_path_factory: pytest.TempPathFactory) -> Told:
    """What was asked for, and what came of it, in the lives of instances and of a group."""
    assert base_image
    made = Told()
    life(made, docker_client, tmp_path_factory.mktemp("life"))
    failure(made, docker_client, tmp_path_factory.mktemp("failure"))
    rolls(made)
    denials(made, docker_client, tmp_path_factory.mktemp("denials"))
    return made


def actions(name: str) -> set[str]:
    """All that a policy allows."""
    statements = json.loads((PACKAGING / "iam" / f"{name}.json").read_text())["Statement"]
    return {action for each in statements for action in listed(each["Action"])}


def test_nobody_is_denied_what_they_do(told: Told) -> None:
    """An agent that calls what its role may not: on the first instance, and in the night when it drains."""
    assert [each for each in told.asked if not each.allowed] == []
    assert {each.who for each in told.asked} == {*WHOSE}


@pytest.mark.parametrize("who", WHOSE)
def test_each_action_that_a_policy_allows_is_used(told: Told, who: str) -> None:
    """A permission that nobody needs is there for who breaks in."""
    used = {each.request.action for each in told.asked if each.who == who}
    given = set().union(*map(actions, WHOSE[who]))
    assert sorted(given - used) == sorted(given & UNSEEN.keys())
    assert used <= given


def test_an_instance_lives_from_boot_to_scale_in_by_its_policy(told: Told) -> None:
    """A test that nothing was denied in, as nothing was done."""
    came = told.came_to
    secrets = {"PASSWORD": "of kms", "TOKEN": "of ssm", "KEY": "of secretsmanager"}
    assert {"GREETING": "one", **secrets}.items() <= came["environment"].items()
    assert {"GREETING": "two", **secrets}.items() <= came["reloaded"].items()
    assert (came["status"]["phase"], came["status"]["degraded"]) == ("in service", [])
    assert came["completed"] == [("adf-launch", "CONTINUE"), ("adf-terminate", "CONTINUE")]
    assert {"drained by target group own", "drained by load balancer web"} <= {*came["steps"]}
    assert came["failed"] == (12, [False])


def test_doctor_finds_no_permission_to_be_lacking(told: Told) -> None:
    """A doctor that needs more than the agent: it names what is allowed as what lacks."""
    found = json.loads(told.came_to["doctor"])["findings"]
    assert {each["level"] for each in found} >= {"ok"}
    assert [each for each in found if "denied" in each["sentence"]] == []


def test_an_operator_rolls_and_keeps_config_by_their_policy(told: Told) -> None:
    """An operator who is given everything, as nobody knows what a roll takes."""
    assert told.came_to["rolls"] == [0, 3, 4, 4, 0, 1, 0, 0]
    assert told.came_to["running"] == ["6", "6"]
    assert told.came_to["clean"].code == 13
    assert "v1" in told.came_to["clean"].err  # an instance lives that has it


@pytest.mark.parametrize(
    ("action", "code", "says"),
    [
        ("dynamodb:Query", 13, "dynamodb:Query on table adf-config in eu-west-1 is denied"),
        ("kms:Decrypt", 13, "kms:Decrypt on the key of secret PASSWORD is denied"),
        ("s3:GetObjectVersion", 12, "s3:GetObjectVersion on releases/web/v1.tar.gz is denied"),
        ("dynamodb:PutItem", 13, "dynamodb:PutItem, UpdateItem and DeleteItem on table adf-config"),
        ("iam:PassRole", 3, "autoscaling:UpdateAutoScalingGroup on shop is denied"),
    ],
)
def test_without_one_of_its_actions_it_ends_and_says_so(told: Told, action: str, code: int, says: str) -> None:
    """A role with an action less, and an instance that fails for a reason that nobody names; or a test that can't."""
    came_to, words = told.refused[action]
    assert came_to == code, words
    assert says in words


def test_moto_judges_as_well(told: Told) -> None:
    """A front that lets everybody pass, and no one behind it who asks for a signature."""
    assert told.came_to["nobody"] == "AccessDenied"
