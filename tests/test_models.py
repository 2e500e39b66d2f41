"""What the packages leave of AWS's models is all that the agent, and the SDK by itself, ask for."""

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import botocore
import pytest
from botocore import xform_name
from botocore.loaders import Loader
from botocore.model import ServiceModel, Shape

import adf_agent
from adf_agent.sandbox.cloud import Cloud

LIBRARY = "usr/lib/adf-agent"
AGENT = Path(adf_agent.__file__).parent
SDK = Path(botocore.__file__).parent
DATA = SDK / "data"
SOURCES = [path for path in sorted(AGENT.rglob("*.py")) if not {AGENT / "ops", AGENT / "sandbox"} & {*path.parents}]
SERVICES = (*sorted(set(re.findall(r'_aws\("(\w+)"', (AGENT / "clients.py").read_text()))), "sts")
REGIONS = "eu-west-1", "us-east-1", "cn-north-1", "us-gov-west-1"

# A call of each client, and what an empty account answers: the answer's first member, or the error's code.
CALLS: dict[str, tuple[str, dict[str, Any], str]] = {
    "autoscaling": ("describe_auto_scaling_instances", {"InstanceIds": ["i-1"]}, "AutoScalingInstances"),
    "dynamodb": ("get_item", {"TableName": "none", "Key": {"App": {"S": "web"}}}, "ResourceNotFoundException"),
    "ec2": ("describe_tags", {"Filters": [{"Name": "resource-id", "Values": ["i-1"]}]}, "Tags"),
    "elb": ("describe_load_balancers", {}, "LoadBalancerDescriptions"),
    "elbv2": ("describe_load_balancers", {}, "LoadBalancers"),
    "kms": ("decrypt", {"CiphertextBlob": "none", "EncryptionContext": {"App": "web"}}, "InvalidCiphertextException"),
    "s3": ("get_object", {"Bucket": "none", "Key": "v1.tar.gz"}, "NoSuchBucket"),
    "secretsmanager": ("batch_get_secret_value", {"SecretIdList": ["none"]}, "SecretValues"),
    "ssm": ("get_parameters", {"Names": ["/none"]}, "Parameters"),
    "sts": ("get_caller_identity", {}, "UserId"),
}

TELL = """
import json, os, sys
if LIBRARY:
    sys.path.insert(0, LIBRARY)
import boto3
from botocore.exceptions import ClientError
found, loaders = {}, boto3.session.Session(region_name="eu-west-1")
for service, (method, request, _) in CALLS.items():
    clients = [loaders.client(service, region_name=region) for region in REGIONS]
    facts = [(client.meta.endpoint_url, client.meta.partition, client._request_signer.region_name,
              client._request_signer.signing_name, client._request_signer.signature_version) for client in clients]
    found[service] = {"facts": facts}
    if ENDPOINT:
        client = loaders.client(service, endpoint_url=ENDPOINT)
        try:
            found[service]["answer"] = [*getattr(client, method)(**request)]
        except ClientError as error:
            found[service]["answer"] = [error.response["Error"]["Code"]]
print(json.dumps(found))
"""


def words(tree: ast.AST) -> Iterator[str]:
    """Attributes, and the words of texts: names of methods may stand in a table."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from re.findall(r"\w+", node.value)


def calls_of_clients(tree: ast.AST) -> Iterator[str]:
    """Methods of what is called a client."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and re.search(r"(^|[._])client$", ast.unparse(node.value)):
            yield node.attr


@cache
def asked_for() -> set[str]:
    """The names of methods that the agent may call, or the SDK by itself."""
    ours = {word for path in SOURCES for word in words(ast.parse(path.read_text()))}
    return ours | {word for path in SDK.glob("*.py") for word in calls_of_clients(ast.parse(path.read_text()))}


@cache
def model(data: Path, service: str) -> Any:
    """The service's model below *data*, as the SDK mends it when it is read."""
    return Loader([str(data)], include_default_search_paths=False).load_service_model(service, "service-2")


def needed(service: str) -> list[str]:
    return [name for name in model(DATA, service)["operations"] if service == "sts" or xform_name(name) in asked_for()]


def plain(part: Any) -> Any:
    """*part* of a model without what is for people."""
    if isinstance(part, dict):
        texts = {name for name, value in part.items() if name == "documentation" and isinstance(value, str)}
        return {name: plain(value) for name, value in part.items() if name not in texts}
    return [plain(each) for each in part] if isinstance(part, list) else part


def reached(shape: Shape | None, seen: dict[str, Shape]) -> dict[str, Shape]:
    """*seen* and all shapes that *shape* is made of, by name."""
    if shape is not None and shape.name not in seen:
        seen[shape.name] = shape
        inner = [*getattr(shape, "members", {}).values()]
        for each in (*inner, *(getattr(shape, name, None) for name in ("member", "key", "value"))):
            reached(each, seen)
    return seen


@pytest.mark.parametrize("service", SERVICES)
def test_every_operation_that_is_asked_for_is_there_whole(service: str, unpacked: Path) -> None:
    """An AttributeError where the instance has to leave its load balancer: the one day that the call is made."""
    kept, whole = model(unpacked / LIBRARY / "botocore/data", service), model(DATA, service)
    assert needed(service)
    for name in needed(service):
        assert kept["operations"].get(name) == plain(whole["operations"][name]), name
        operation = ServiceModel(whole, service).operation_model(name)
        shapes: dict[str, Shape] = {}
        for shape in (operation.input_shape, operation.output_shape, *operation.error_shapes):
            reached(shape, shapes)
        for each in shapes:
            assert kept["shapes"].get(each) == plain(whole["shapes"][each]), (name, each)
    apart = {"operations", "shapes"}
    assert {part: kept[part] for part in kept if part not in apart} == {
        part: whole[part] for part in whole if part not in apart
    }


def test_calls_are_found_in_every_form() -> None:
    """A check that overlooks a form leaves out the operation."""
    source = 'autoscaling.set_instance_health(**it)\nACT = {"own": "register_targets"}\npages("describe_tags")'
    assert {"set_instance_health", "register_targets", "describe_tags"} <= {*words(ast.parse(source))}
    theirs = "self._client.head_bucket(Bucket=it)\nclient.assume_role()\nself.meta.client.get_object()\nurl.query"
    assert {*calls_of_clients(ast.parse(theirs))} == {"head_bucket", "assume_role", "get_object"}


def test_the_sdk_finds_its_buckets_by_itself() -> None:
    """A bucket in another region, or a directory bucket, is no place for releases: only in the package."""
    assert {"HeadBucket", "CreateSession", "GetObject"} <= {*needed("s3")}


def tell(python: str, library: str, endpoint: str) -> dict[str, dict[str, Any]]:
    values = {"LIBRARY": library, "ENDPOINT": endpoint, "CALLS": CALLS, "REGIONS": REGIONS}
    code = "".join(f"{name} = {value!r}\n" for name, value in values.items()) + TELL
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    environment |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_CONFIG_FILE": os.devnull}
    options = "-BISc" if library else "-Bc"
    done = subprocess.run([python, options, code], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    told: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return told


def test_each_client_asks_the_host_that_it_should_and_reads_its_answer(cloud: Cloud, unpacked: Path) -> None:
    """A partition that is missed: instances in China ask a host that is not there."""
    told = tell("/usr/bin/python3", str((unpacked / LIBRARY).resolve()), cloud.endpoint)
    by_the_sdk = tell(sys.executable, "", "")
    assert sorted(told) == sorted(SERVICES)
    for service, (_, _, first) in CALLS.items():
        assert told[service]["facts"] == by_the_sdk[service]["facts"]
        assert first in told[service]["answer"], (service, told[service]["answer"])
