"""AWS on loopback with permissions enforced twice: by moto, which looks at actions, and before it by whole policies."""

import io
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from fixtures_templates import policy
from iam_requests import ACCOUNT, PARTITION, REGION, Sent, requests
from moto.iam.models import iam_backends
from policy import Policy, Request, allowed, listed

from adf_agent.sandbox.cloud import Cloud
from adf_agent.sandbox.front import Call, Front, error, identify

TRUST = {"Statement": [{"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}]}
# What moto calls by another name than IAM does: a transaction, a HEAD, and the service that signs for CloudWatch.
MOTO = {
    "dynamodb:PutItem": "dynamodb:TransactWriteItems",
    "s3:GetObject": "s3:HeadObject",
    "cloudwatch:DescribeAlarms": "monitoring:DescribeAlarms",
}
DENIED = {"ec2": "UnauthorizedOperation"}
NAMES = {"Partition": PARTITION, "Region": REGION, "Account": ACCOUNT}


@dataclass(frozen=True)
class Asked:
    """A request that *who* made, and what its policies said."""

    who: str
    request: Request
    allowed: bool


class Guarded(Front):
    """A front that answers nobody more than their policies allow, where they have some."""

    def __init__(self, asked: list[Asked]) -> None:
        super().__init__()
        self.asked = asked
        self.who: dict[str, str] = {}  # by access key
        self.policies: dict[str, list[Policy]] = {}  # by who

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        call = identify(environ)
        who = self.who.get(_access_key(environ))
        if call is None or who is None or self.permits(who, _sent(call, environ)):
            return super().__call__(environ, start_response)
        code = DENIED.get(call.service, "AccessDeniedException" if call.json else "AccessDenied")
        answer = error(call, code, f"User: {who} is not authorized to perform: {call.name}", 403)
        refusal: Iterable[bytes] = answer(environ, start_response)
        return refusal

    def permits(self, who: str, sent: Sent) -> bool:
        """Notes each permission that is asked for; whether there are all."""
        judged = [Asked(who, each, allowed(self.policies[who], each)) for each in requests(sent)]
        self.asked += judged
        return all(each.allowed for each in judged)


def _access_key(environ: Mapping[str, Any]) -> str:
    return str(environ.get("HTTP_AUTHORIZATION", "")).partition("Credential=")[2].partition("/")[0]


def _sent(call: Call, environ: dict[str, Any]) -> Sent:
    body = {}
    if call.json:
        raw = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(raw)  # moto reads it as well
        body = json.loads(raw)
    return Sent(call, body, environ["PATH_INFO"], environ.get("QUERY_STRING", ""))


class Account:
    """The cloud of *front*, in which `instance` is a role and others are users, each with policies of packaging/iam."""

    def __init__(self, cloud: Cloud, front: Guarded) -> None:
        self.cloud, self.front, self.iam = cloud, front, cloud.client("iam")

    def instance(self, *policies: str, **names: str) -> str:
        """Gives the metadata service a role's credentials; the role's ARN."""
        role = self.iam.create_role(RoleName="instance", AssumeRolePolicyDocument=json.dumps(TRUST))["Role"]
        self.iam.put_role_policy(
            RoleName="instance", PolicyName="adf-agent", PolicyDocument=self._allow("instance", policies, names)
        )
        request = {"RoleArn": role["Arn"], "RoleSessionName": "boot"}
        given = self.cloud.client("sts").assume_role(**request)["Credentials"]
        here = self.cloud.imds.instance
        here.access_key, here.secret_key = given["AccessKeyId"], given["SecretAccessKey"]
        here.token = given["SessionToken"]
        self.front.who[here.access_key] = "instance"
        return str(role["Arn"])

    def user(self, who: str, *policies: str, **names: str) -> dict[str, str]:
        """The environment of a user with these policies."""
        self.iam.create_user(UserName=who)
        self.iam.put_user_policy(UserName=who, PolicyName="adf", PolicyDocument=self._allow(who, policies, names))
        key = self.iam.create_access_key(UserName=who)["AccessKey"]
        self.front.who[key["AccessKeyId"]] = who
        return {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}

    @contextmanager
    def without(self, who: str, action: str) -> Iterator[None]:
        """As if the policies of *who* had one action less; what is asked for meanwhile is not noted."""
        noted, former = self.front.asked, self.front.policies[who]
        self.front.asked, self.front.policies[who] = [], [_less(each, action) for each in former]
        try:
            yield
        finally:
            self.front.asked, self.front.policies[who] = noted, former

    def _allow(self, who: str, policies: Iterable[str], names: Mapping[str, str]) -> str:
        """Has *who* judged by these; what moto, which sees no resources but S3's, is to judge it by."""
        self.front.policies[who] = [policy(name, {**NAMES, **names}) for name in policies]
        statements = [each for one in self.front.policies[who] for each in one["Statement"]]
        return json.dumps({"Version": "2012-10-17", "Statement": [_for_moto(each) for each in statements]})


def _less(policy: Policy, action: str) -> Policy:
    kept = [
        {**each, "Action": [name for name in listed(each["Action"]) if name != action]} for each in policy["Statement"]
    ]
    return {**policy, "Statement": kept}


def _for_moto(statement: Mapping[str, Any]) -> dict[str, Any]:
    actions = listed(statement["Action"])
    known = [*actions, *(MOTO[action] for action in actions if action in MOTO)]
    resource = statement["Resource"] if actions[0].startswith("s3:") else "*"
    return {"Effect": statement["Effect"], "Action": known, "Resource": resource}


@contextmanager
def account(asked: list[Asked]) -> Iterator[Account]:
    """An AWS whose callers' requests are noted in *asked*. Whoever prepares it, as `sandbox`, may do everything."""
    cloud = Cloud()
    cloud.front = front = Guarded(asked)
    with cloud:
        made = Account(cloud, front)
        made.iam.create_user(UserName="sandbox")
        everything = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
        made.iam.put_user_policy(UserName="sandbox", PolicyName="all", PolicyDocument=json.dumps(everything))
        made.iam.create_access_key(UserName="sandbox")
        [key] = iam_backends[ACCOUNT][PARTITION].get_user("sandbox").access_keys
        key.access_key_id = key.secret_access_key = "sandbox"
        yield made
