"""packaging/iam: who may ask for what, by resources and conditions, which moto leaves out; and who judges that here."""

import re

import pytest
from fixtures_templates import policy
from iam_requests import ACCOUNT, PARTITION, REGION, arn
from policy import Policy, Request, allowed

from adf_agent.fleetrecord import partition
from adf_agent.location import NAME

TARGET_GROUP = arn("elasticloadbalancing", "targetgroup/web/0123456789abcdef")
ROLE = f"arn:{PARTITION}:iam::{ACCOUNT}:role/web"
PLACE = {"Partition": PARTITION, "Region": REGION, "Account": ACCOUNT, "Group": "web", "Table": "adf-config"}
PLACE |= {"Bucket": "releases", "TargetGroup": TARGET_GROUP, "LaunchTemplate": "lt-1", "InstanceRole": ROLE}
OURS = {name: policy(name, {**PLACE, "App": "web"}) for name in ("instance", "classic", "operator", "table")}
SERVICE = "iam:PassedToService"


def item(action: str, *apps: str, table: str = "adf-config") -> Request:
    """A request to DynamoDB for items of these partitions."""
    context = {"dynamodb:LeadingKeys": apps} if apps else {}
    return Request(f"dynamodb:{action}", arn("dynamodb", f"table/{table}"), context)


def secret(action: str, *aliases: str, **bound: str) -> Request:
    """A request to KMS for what a key with these *aliases* encrypts, *bound* to an encryption context."""
    context = {f"kms:EncryptionContext:{name}": (text,) for name, text in bound.items()}
    return Request(f"kms:{action}", arn("kms", "key/1"), {**context, "kms:ResourceAliases": aliases})


def file(action: str, place: str) -> Request:
    return Request(f"s3:{action}", f"arn:{PARTITION}:s3:::{place}")


def group(action: str, name: str) -> Request:
    """A request about an Auto Scaling group of this *name*, whose id nobody knows before."""
    return Request(f"autoscaling:{action}", arn("autoscaling", f"autoScalingGroup:1-2-3:autoScalingGroupName/{name}"))


def balancer(action: str, resource: str) -> Request:
    return Request(f"elasticloadbalancing:{action}", arn("elasticloadbalancing", resource))


def run_instances(*templates: str) -> Request:
    context = {"ec2:LaunchTemplate": tuple(arn("ec2", f"launch-template/{each}") for each in templates)}
    return Request("ec2:RunInstances", arn("ec2", "instance/*"), context)


def template(action: str, name: str) -> Request:
    return Request(f"ec2:{action}", arn("ec2", f"launch-template/{name}"))


ALLOWED = {
    "instance": [
        *(item(action, place) for action in ("GetItem", "Query") for place in ("web", "web@v42")),
        item("PutItem", "web#fleet"),
        secret("Decrypt", "alias/adf-config", App="web", Name="PASSWORD"),
        secret("Decrypt", "alias/other", "alias/adf-config", App="web"),
        Request("ssm:GetParameters", arn("ssm", "parameter/web/token")),
        Request("secretsmanager:GetSecretValue", arn("secretsmanager", "secret:web/token-AbCdEf")),
        file("GetObject", "releases/web/v1.tar.gz"),
        file("GetObjectVersion", "releases/web/v1.tar.gz"),
        Request("ecr:BatchGetImage", arn("ecr", "repository/web")),
        *(group(action, "web") for action in ("CompleteLifecycleAction", "SetInstanceHealth")),
        Request("elasticloadbalancing:RegisterTargets", TARGET_GROUP),
    ],
    "classic": [balancer("RegisterInstancesWithLoadBalancer", "loadbalancer/web")],
    "operator": [
        *(item(action, "web") for action in ("GetItem", "Query", "PutItem", "UpdateItem", "DeleteItem")),
        *(item("PutItem", place) for place in ("web@v42", "web#history")),
        item("Query", "web#fleet"),
        secret("Encrypt", "alias/adf-config", App="web", Name="PASSWORD"),
        file("PutObject", "releases/web/v1.tar.gz"),
        group("StartInstanceRefresh", "web"),
        template("CreateLaunchTemplateVersion", "lt-1"),
        run_instances("lt-1"),
        *(Request("iam:PassRole", ROLE, {SERVICE: (f"ec2.amazonaws.com{suffix}",)}) for suffix in ("", ".cn")),
    ],
    "table": [item("CreateTable")],
}
REFUSED = {
    "instance": [
        *(item("Query", place) for place in ("web#history", "web#fleet", "web2", "web-production", "web2@v42", "shop")),
        item("Query", "web", "shop"),
        item("Query", "web", table="other"),
        item("Query", "web", table="adf-config/index/other"),
        *(item(action, "web") for action in ("BatchGetItem", "ConditionCheckItem", "PartiQLSelect", "Scan")),
        *(item(action) for action in ("GetItem", "Query", "PutItem", "Scan")),  # with no key that could be looked at
        *(item("PutItem", place) for place in ("web", "web@v42", "web#history", "shop#fleet", "web2#fleet")),
        *(item(action, "web#fleet") for action in ("DeleteItem", "UpdateItem")),
        secret("Decrypt", "alias/adf-config", App="shop", Name="PASSWORD"),
        secret("Decrypt", "alias/adf-config", Name="PASSWORD"),
        secret("Decrypt", "alias/other", App="web"),
        secret("Decrypt", App="web"),
        secret("Encrypt", "alias/adf-config", App="web"),
        *(Request("ssm:GetParameters", arn("ssm", f"parameter/{name}")) for name in ("web", "web2/a", "shop/web/a")),
        *(
            Request("secretsmanager:GetSecretValue", arn("secretsmanager", f"secret:{name}-AbCdEf"))
            for name in ("web", "web2/a", "shop/web/a")
        ),
        *(file("GetObject", place) for place in ("releases/web2/v1.tar.gz", "releases/shop/v1.tar.gz", "other/web/v1")),
        file("PutObject", "releases/web/v1.tar.gz"),
        *(Request("ecr:BatchGetImage", arn("ecr", f"repository/{name}")) for name in ("web2", "shop/web")),
        Request("ecr:PutImage", arn("ecr", "repository/web")),
        *(group("CompleteLifecycleAction", name) for name in ("web2", "shop", "shop/web")),
        group("SetInstanceHealth", "shop"),
        group("StartInstanceRefresh", "web"),
        balancer("RegisterTargets", "targetgroup/shop/0123456789abcdef"),
        balancer("RegisterInstancesWithLoadBalancer", "loadbalancer/web"),  # but for classic.json
        run_instances("lt-1"),
        template("CreateLaunchTemplateVersion", "lt-1"),
        Request("iam:PassRole", ROLE, {SERVICE: ("ec2.amazonaws.com",)}),
    ],
    "classic": [balancer("DeregisterInstancesFromLoadBalancer", f"loadbalancer/{name}") for name in ("shop", "web2")],
    "operator": [
        *(item("PutItem", place) for place in ("web2", "web-production", "web2#history", "shop", "shop@v42")),
        item("PutItem", "web", "shop"),
        *(item(action) for action in ("GetItem", "Query", "PutItem", "UpdateItem", "DeleteItem", "DeleteTable")),
        *(item(action, "web") for action in ("BatchWriteItem", "Scan")),
        secret("Encrypt", "alias/adf-config", App="shop", Name="PASSWORD"),
        secret("Decrypt", "alias/adf-config"),
        secret("Decrypt", "alias/other", App="web"),
        *(file("PutObject", f"releases/{place}/v1.tar.gz") for place in ("web2", "shop")),
        file("DeleteObject", "releases/web/v1.tar.gz"),
        *(group("StartInstanceRefresh", name) for name in ("web2", "shop", "shop/web")),
        group("TerminateInstanceInAutoScalingGroup", "web"),
        *(template(action, "lt-2") for action in ("CreateLaunchTemplateVersion", "DeleteLaunchTemplateVersions")),
        template("DeleteLaunchTemplate", "lt-1"),
        run_instances("lt-2"),
        run_instances(),
        Request("iam:PassRole", ROLE, {SERVICE: ("lambda.amazonaws.com",)}),
        Request("iam:PassRole", ROLE),
        Request("iam:PassRole", f"{ROLE}2", {SERVICE: ("ec2.amazonaws.com",)}),
    ],
    "table": [item("CreateTable", table="other"), item("DeleteTable"), item("GetItem", "web"), item("Scan")],
}


@pytest.mark.parametrize(("name", "asked"), [(name, each) for name, found in ALLOWED.items() for each in found])
def test_what_an_app_needs_is_allowed(name: str, asked: Request) -> None:
    """A condition that is written for a key which the service does not give: it allows nothing."""
    assert allowed([OURS[name]], asked)


@pytest.mark.parametrize(("name", "asked"), [(name, each) for name, found in REFUSED.items() for each in found])
def test_what_is_another_apps_or_nobodys_is_refused(name: str, asked: Request) -> None:
    """An instance that was broken into, and with it every other app of the account."""
    assert not allowed([OURS[name]], asked)


@pytest.mark.parametrize("name", ["w", "WEB", "web.", "web2", "web-production", "web.web"])
def test_the_partitions_of_apps_keep_apart(name: str) -> None:
    """An app whose name begins as another's does, and that reads that other's passwords."""
    theirs = {each: policy(each, {**PLACE, "App": name}) for each in ("instance", "operator")}
    for whose, other in theirs.items():
        for place in ("web", "web@v1", "web#history", partition("web")):
            for action in ("GetItem", "Query", "PutItem", "UpdateItem", "DeleteItem"):
                assert not allowed([other], item(action, place)), place
                assert not allowed([OURS[whose]], item(action, place.replace("web", name, 1))), place


@pytest.mark.parametrize("name", ["web@v1", "web#fleet", "w*", "we?", "web/v1", "${aws:userid}", ""])
def test_no_app_has_a_name_that_a_policy_takes_for_more(name: str) -> None:
    """An app with another one's overlay for a name, or a policy whose pattern an app's name has widened."""
    assert not re.fullmatch(NAME, name)


# The evaluator


def stated(effect: str = "Allow", action: str = "s3:*", resource: str = "*", **condition: dict[str, str]) -> Policy:
    spelled = {operator.replace("_", ":"): keys for operator, keys in condition.items()}
    return {"Statement": [{"Effect": effect, "Action": action, "Resource": resource, "Condition": spelled}]}


@pytest.mark.parametrize(
    ("policies", "context", "expected"),
    [
        ([], {}, False),
        ([stated()], {}, True),
        ([stated(action="S3:get*")], {}, True),
        ([stated(action="s3:Put*")], {}, False),
        ([stated(resource="arn:aws:s3:::a/?")], {}, True),
        ([stated(resource="arn:aws:s3:::A/b")], {}, False),
        ([stated(), stated("Deny")], {}, False),
        ([stated(), stated("Deny", "s3:PutObject")], {}, True),
        ([stated(StringEquals={"k": "x"})], {"K": ("x",)}, True),
        ([stated(StringEquals={"k": "x"})], {"k": ("X",)}, False),
        ([stated(StringEquals={"k": "x"})], {}, False),
        ([stated(StringLike={"k": "x*"})], {"k": ("xyz",)}, True),
        ([stated(StringEquals={"k": "x*"})], {"k": ("xyz",)}, False),
        ([stated(ForAllValues_StringEquals={"k": "x"})], {}, True),
        ([stated(ForAllValues_StringEquals={"k": "x"}, Null={"k": "false"})], {}, False),
        ([stated(ForAllValues_StringEquals={"k": "x"})], {"k": ("x", "y")}, False),
        ([stated(ForAnyValue_StringEquals={"k": "x"})], {"k": ("x", "y")}, True),
        ([stated(ForAnyValue_StringEquals={"k": "x"})], {}, False),
        ([stated(Null={"k": "true"})], {}, True),
        ([stated(Null={"k": "true"})], {"k": ("x",)}, False),
        ([stated(StringEquals={"k": "x"}, ArnEquals={"l": "arn:*"})], {"k": ("x",), "l": ("arn:a",)}, True),
        ([stated(StringEquals={"k": "x"}, ArnEquals={"l": "arn:*"})], {"k": ("x",), "l": ("a",)}, False),
    ],
)
def test_the_evaluator_says_what_aws_documents(
    policies: list[Policy], context: dict[str, tuple[str, ...]], expected: bool
) -> None:
    """A table of requests that proves nothing, as who judges them errs."""
    assert allowed(policies, Request("s3:GetObject", "arn:aws:s3:::a/b", context)) is expected


@pytest.mark.parametrize(
    ("unknown", "says"),
    [
        (stated(NumericEquals={"k": "1"}), "NumericEquals of k is not evaluated here"),
        (stated(StringEquals={"k": "x"}), "takes one value only"),
        (stated(resource="arn:aws:s3:::${aws:username}"), "has a variable"),
        ({"Statement": [{"Effect": "Allow", "NotAction": "s3:*", "Resource": "*"}]}, "NotAction"),
    ],
)
def test_what_the_evaluator_does_not_know_is_no_answer(unknown: Policy, says: str) -> None:
    """A condition that is passed over, and a policy that is called narrow."""
    with pytest.raises(ValueError, match=says):
        allowed([unknown], Request("s3:GetObject", "arn:aws:s3:::a/b", {"k": ("x", "y")}))
