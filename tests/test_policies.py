"""packaging/iam: least privilege, and the same in both templates."""

import json
import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from fixtures_templates import PACKAGING, UNMADE, Stack, accounts, policy
from policy import listed

from adf_agent.sandbox.cloud import Cloud

SOURCE = Path(__file__).parents[1] / "adf_agent"
SHARED = ("store", "table", "secret")  # the agent's modules whose calls operators' commands make as well
# Whose policies they are: an instance's role, whoever releases, configures and rolls an app, who makes the table.
WHOSE = {"instance": ("instance", "classic"), "operator": ("operator",), "table": ("table",)}
POLICIES = [name for names in WHOSE.values() for name in names]
# What no code of ours asks for by its name, and why it is allowed all the same.
BESIDES = {
    "instance": {
        "ecr:GetAuthorizationToken": "a docker:// release, by Docker's credential helper",
        "ecr:BatchCheckLayerAvailability": "likewise",
        "ecr:BatchGetImage": "likewise",
        "ecr:GetDownloadUrlForLayer": "likewise",
    },
    "operator": {
        "dynamodb:PutItem": "a part of TransactWriteItems",
        "dynamodb:UpdateItem": "likewise",
        "dynamodb:DeleteItem": "likewise",
        "ec2:RunInstances": "Auto Scaling, of whoever has a group launch another version",
        "iam:PassRole": "likewise",
    },
    "table": {},
}
FREE = {"sts:GetCallerIdentity"}  # needs no permission
UNSCOPED = {"cloudwatch:DescribeAlarms"}  # scoped it hides composite alarms: its own API reference says so


def modules(whose: str) -> set[Path]:
    """Those that run on an instance, where an operator sits, or in `adf-config init` alone."""
    table = {SOURCE / "ops/configure/schema.py"}
    operators = {*SOURCE.glob("ops/**/*.py"), *(SOURCE / f"{each}.py" for each in SHARED)}
    return {"instance": {*SOURCE.glob("*.py")}, "operator": operators - table, "table": table}[whose]


def called(path: Path) -> set[str]:
    """The AWS actions that the module says it was refused, if it was: it names each that it calls."""
    text = path.read_text()
    actions = set(re.findall(r'"((?!autoscaling:EC2_)[a-z0-9]+:[A-Z]\w+)"', text))
    for service in re.findall(r'"(\w+):\{action\}"', text):
        actions |= {f"{service}:{action}" for action in re.findall(r'asking\(\s*"([A-Z]\w+)"', text)}
    return actions


def statements(name: str) -> Iterator[dict[str, Any]]:
    """Those of a policy, what is one in each a list."""
    for each in json.loads((PACKAGING / "iam" / f"{name}.json").read_text())["Statement"]:
        yield each | {key: listed(each[key]) for key in ("Action", "Resource")}


@pytest.mark.parametrize("whose", WHOSE)
def test_a_policy_allows_what_is_called_and_no_more(whose: str) -> None:
    """A release of the agent that calls something new: every instance is denied it, in production."""
    calls = set().union(*map(called, modules(whose))) - FREE
    assert len(calls) > 5
    allowed = [action for name in WHOSE[whose] for each in statements(name) for action in each["Action"]]
    assert sorted(allowed) == sorted(calls | BESIDES[whose].keys())


@pytest.mark.parametrize("name", POLICIES)
def test_a_statement_has_resources_that_its_actions_know(name: str) -> None:
    """An action on an ARN of another kind is allowed nothing, without a word; one on `*` is allowed everything."""
    known = reference()
    for each in statements(name):
        for action in each["Action"]:
            service, _, called = action.partition(":")
            patterns = [
                pattern.replace("${Partition}", ".*").replace("${Region}", ".*").replace("${Account}", ".*")
                for kind in known[service]["Actions"][called.lower()].get("Resources", ())
                for pattern in known[service]["Resources"][kind.lower()]["ARNFormats"]
            ]
            if each["Resource"] == ["*"]:
                assert not patterns or "Condition" in each or action in UNSCOPED, action
            else:
                assert any(re.fullmatch(pattern, arn) for pattern in patterns for arn in scoped(each)), action


def scoped(statement: dict[str, Any]) -> list[str]:
    """The ARNs of a statement, those that a template gives whole by an example."""
    examples = {
        "${TargetGroup}": "arn:aws:elasticloadbalancing:eu-west-1:123456789012:targetgroup/web/0123456789abcdef",
        "${InstanceRole}": "arn:aws:iam::123456789012:role/web",
    }
    return [examples.get(arn, arn) for arn in statement["Resource"]]


def reference() -> Any:
    """AWS's service authorization reference, as cfn-lint carries it."""
    return json.loads((resources.files("cfnlint.data.AdditionalSpecs") / "Policies.json").read_text())


@pytest.mark.parametrize("name", ["instance", "operator"])
def test_a_release_is_its_own_apps(name: str) -> None:
    """Whoever releases one app puts what they like into another's folder, and is root on its instances."""
    buckets = [arn for each in statements(name) for arn in each["Resource"] if ":s3:::" in arn]
    assert buckets == ["arn:${Partition}:s3:::${Bucket}/${App}/*"]


def test_the_manual_says_what_each_permission_of_an_instance_is_for() -> None:
    """A role that lacks something, and a page on which nobody finds what that does."""
    _, _, section = (PACKAGING.parent / "docs" / "service.md").read_text().partition("## Permissions")
    found: list[str] = []
    for row in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE):
        service = ""
        for name in re.findall(r"`(\w+:?\w+)`", row):
            service = name.partition(":")[0] if ":" in name else service
            found.append(name if ":" in name else f"{service}:{name}")
    assert sorted(found) == sorted(
        action for name in WHOSE["instance"] for each in statements(name) for action in each["Action"]
    )


@UNMADE
def test_both_roles_have_the_policies_of_their_files(cloud: Cloud) -> None:
    """A permission that was added in one place of three: instances of one of the templates are replaced for ever."""
    stack = Stack(cloud)
    iam = stack.cloud.client("iam")
    names = {
        **accounts(),
        "TargetGroup": stack.id("TargetGroup"),
        "LaunchTemplate": stack.id("LaunchTemplate"),
        "InstanceRole": iam.get_role(RoleName=stack.id("InstanceRole"))["Role"]["Arn"],
    }
    [inline] = stack.properties("InstanceRole")["Policies"]
    assert inline["PolicyDocument"] == policy("instance", names)
    managed = iam.get_policy_version(PolicyArn=stack.outputs["OperatorPolicyArn"], VersionId="v1")
    assert managed["PolicyVersion"]["Document"] == policy("operator", names)
