"""What IAM is asked when a call is made: action, resource and context of each permission that it takes.

By the service authorization reference, and where that leaves a call out by the page named beside it.
https://docs.aws.amazon.com/service-authorization/latest/reference/reference_policies_actions-resources-contextkeys.html
"""

import base64
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote

from moto.autoscaling.models import autoscaling_backends
from moto.ec2.models import ec2_backends
from moto.iam.models import iam_backends
from moto.kms.models import kms_backends
from moto.secretsmanager.models import secretsmanager_backends
from policy import Request

from adf_agent.sandbox.front import Call

PARTITION, REGION, ACCOUNT = "aws", "eu-west-1", "123456789012"
PARTS = {"Put": "PutItem", "Update": "UpdateItem", "Delete": "DeleteItem", "ConditionCheck": "ConditionCheckItem"}
FREE = {"sts:GetCallerIdentity"}  # needs no permission
KEY_ID_BYTES = 36  # with which moto's ciphertexts begin


@dataclass(frozen=True)
class Sent:
    """A call, and what identify leaves out of it: the body of one in JSON, path and query of S3's."""

    call: Call
    body: Mapping[str, Any]
    path: str
    query: str

    @property
    def form(self) -> Mapping[str, str]:
        return self.call.form


def requests(sent: Sent) -> list[Request]:
    """Without a rule of its own, a call is an action of its name on `*`."""
    if sent.call.name in FREE:
        return []
    rule = RULES.get(sent.call.name) or RULES.get(sent.call.service)
    return [*rule(sent)] if rule else [Request(sent.call.name)]


def arn(service: str, resource: str) -> str:
    return f"arn:{PARTITION}:{service}:{REGION}:{ACCOUNT}:{resource}"


# DynamoDB


def _dynamodb(sent: Sent) -> Iterator[Request]:
    """https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/transaction-apis-iam.html."""
    if sent.call.action == "TransactWriteItems":
        for each in sent.body["TransactItems"]:
            [(part, body)] = each.items()
            yield _item(PARTS[part], body)
    else:
        yield _item(sent.call.action, sent.body)


def _item(action: str, body: Mapping[str, Any]) -> Request:
    key = body.get("Key") or body.get("Item") or {"App": body.get("ExpressionAttributeValues", {}).get(":app")}
    context = {"dynamodb:LeadingKeys": (key["App"]["S"],)} if key["App"] else {}
    return Request(f"dynamodb:{action}", arn("dynamodb", f"table/{body['TableName']}"), context)


# Secrets


def _kms(sent: Sent) -> Iterator[Request]:
    backend = kms_backends[ACCOUNT][REGION]
    if sent.call.action == "Decrypt":
        key = base64.b64decode(sent.body["CiphertextBlob"])[:KEY_ID_BYTES].decode()
    else:
        key = backend.any_id_to_key_id(sent.body["KeyId"])
    aliases = tuple(alias.alias_name for alias in backend.list_aliases(key))
    bound = {f"kms:EncryptionContext:{name}": (text,) for name, text in sent.body["EncryptionContext"].items()}
    yield Request(sent.call.name, arn("kms", f"key/{key}"), {"kms:ResourceAliases": aliases, **bound})


def _parameters(sent: Sent) -> Iterator[Request]:
    for name in sent.body["Names"]:
        yield Request(sent.call.name, arn("ssm", f"parameter/{name.removeprefix('/')}"))


def _secrets(sent: Sent) -> Iterator[Request]:
    """https://docs.aws.amazon.com/secretsmanager/latest/apireference/API_BatchGetSecretValue.html."""
    yield Request(sent.call.name)
    for name in sent.body["SecretIdList"]:
        found = secretsmanager_backends[ACCOUNT][REGION].secrets.get(name)
        place = found.arn if found else arn("secretsmanager", f"secret:{name}")
        yield Request("secretsmanager:GetSecretValue", place)


# S3


def _s3(sent: Sent) -> Iterator[Request]:
    """https://docs.aws.amazon.com/AmazonS3/latest/userguide/using-with-s3-policy-actions.html."""
    action = {"GET": "GetObject", "HEAD": "GetObject", "PUT": "PutObject"}[sent.call.action]
    if "versionId" in parse_qs(sent.query):
        action = f"{action}Version"
    yield Request(f"s3:{action}", f"arn:{PARTITION}:s3:::{unquote(sent.path).lstrip('/')}")


# Auto Scaling


def _group(sent: Sent) -> Iterator[Request]:
    """The group's own action; and where it shall launch something else, what Auto Scaling asks of who says so.

    https://docs.aws.amazon.com/autoscaling/ec2/userguide/ec2-auto-scaling-launch-template-permissions.html
    """
    groups = autoscaling_backends[ACCOUNT][REGION].autoscaling_groups
    name = sent.form.get("AutoScalingGroupName") or next(
        name for name, group in groups.items() if sent.form["InstanceId"] in _members(group)
    )
    yield Request(sent.call.name, groups[name].arn)
    for key, template in sent.form.items():
        if key.endswith("LaunchTemplate.LaunchTemplateId"):
            version = sent.form[key.removesuffix("LaunchTemplateId") + "Version"]
            yield from _launching(template, version)


def _members(group: Any) -> list[str]:
    return [state.instance.id for state in group.instance_states]


def _launching(template: str, version: str) -> Iterator[Request]:
    context = {"ec2:LaunchTemplate": (arn("ec2", f"launch-template/{template}"),)}
    yield Request("ec2:RunInstances", arn("ec2", "instance/*"), context)
    data = ec2_backends[ACCOUNT][REGION].get_launch_template(template).get_version(version).data
    if profile := data.get("IamInstanceProfile", {}).get("Name"):
        [role] = iam_backends[ACCOUNT][PARTITION].get_instance_profile(profile).roles
        yield Request("iam:PassRole", role.arn, {"iam:PassedToService": ("ec2.amazonaws.com",)})


# What has its resource in its form


def _named(service: str, form: str, field: str) -> Callable[[Sent], Iterator[Request]]:
    """*form* is the ARN's last part, of the *field*'s value."""

    def rule(sent: Sent) -> Iterator[Request]:
        yield Request(sent.call.name, arn(service, form.format(sent.form[field])))

    return rule


def _target_group(sent: Sent) -> Iterator[Request]:
    yield Request(sent.call.name, sent.form["TargetGroupArn"])


_TEMPLATE = _named("ec2", "launch-template/{}", "LaunchTemplateId")
_CLASSIC = _named("elasticloadbalancing", "loadbalancer/{}", "LoadBalancerName")
_GROUPS = (
    *("CompleteLifecycleAction", "RecordLifecycleActionHeartbeat", "SetInstanceHealth"),
    *("RollbackInstanceRefresh", "StartInstanceRefresh", "UpdateAutoScalingGroup"),
)
RULES: Mapping[str, Callable[[Sent], Iterator[Request]]] = {
    "dynamodb": _dynamodb,
    "kms": _kms,
    "ssm:GetParameters": _parameters,
    "secretsmanager:BatchGetSecretValue": _secrets,
    "s3": _s3,
    **{f"autoscaling:{action}": _group for action in _GROUPS},
    "elasticloadbalancing:RegisterTargets": _target_group,
    "elasticloadbalancing:DeregisterTargets": _target_group,
    "elasticloadbalancing:RegisterInstancesWithLoadBalancer": _CLASSIC,
    "elasticloadbalancing:DeregisterInstancesFromLoadBalancer": _CLASSIC,
    "ec2:CreateLaunchTemplateVersion": _TEMPLATE,
    "ec2:DeleteLaunchTemplateVersions": _TEMPLATE,
}
