"""The metadata service: does it answer, with what user-data, tags and credentials; and the settings they make."""

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from adf_agent import aws, instance
from adf_agent.doctor.case import NO_PROFILE, ROLES, Case
from adf_agent.doctor.check import Finding
from adf_agent.errors import AgentError

SWITCH_ON = "aws ec2 modify-instance-metadata-options --instance-id {} --instance-metadata-tags enabled"


def imds(case: Case) -> Iterator[Finding]:
    """Reachable, with the token handshake of IMDSv2, and it knows the instance."""
    found = case.identity.own()
    yield Finding("ok", f"IMDSv2 at {case.endpoint} gives a token, and says that this is {found.instance_id}")


def hop_limit(case: Case) -> Iterator[Finding]:
    """IMDS does not tell its own hop limit, and from the host its effect can't be seen: EC2 tells, where it may."""
    identity = case.identity.need()
    ask = getattr(case.host.ec2(case.region.need()), "describe_instances", None)  # cut down in the package
    options = _options(ask, identity.instance_id) if ask else None
    yield judge_hops(options, identity.instance_id)


def _options(ask: Any, instance_id: str) -> dict[str, Any] | None:
    try:
        reservations = ask(InstanceIds=[instance_id])["Reservations"]
    except aws.faults() as error:
        if aws.code(error) in aws.DENIED or aws.code(error) == "InvalidInstanceID.NotFound":
            return None
        raise aws.fault(error, AgentError, "ec2:DescribeInstances", "*") from error
    found = [each for reservation in reservations for each in reservation["Instances"]]
    return dict(found[0].get("MetadataOptions") or {}) if found else None


def judge_hops(options: dict[str, Any] | None, instance_id: str) -> Finding:
    """*options* are the instance's MetadataOptions, None where EC2 does not tell them."""
    limit = (options or {}).get("HttpPutResponseHopLimit")
    raised = f"aws ec2 modify-instance-metadata-options --instance-id {instance_id} --http-put-response-hop-limit 2"
    if limit is None:
        return Finding(
            "ok",
            "the hop limit can't be told from here (ec2:DescribeInstances tells it, and is not needed otherwise); "
            "the agent itself is served",
            f"Where the app is to get the role's credentials, make it 2: {raised}",
        )
    if limit == 1:
        return Finding("ok", "the hop limit is 1: the agent is served, and containers get no credentials", raised)
    return Finding("ok", f"the hop limit is {limit}: containers get the instance's credentials too")


def user_data(case: Case) -> Iterator[Finding]:
    """Whether it can be read, and which settings are in it."""
    found = case.user_data()
    names = ", ".join(sorted(found)) or "none"
    yield Finding("ok", f"user-data is readable; settings in it: {names}")


def tags(case: Case) -> Iterator[Finding]:
    """Tags in IMDS, else by ec2:DescribeTags; a missing permission counts only where RELEASE_URL may be a tag."""
    identity = case.identity.need()
    found = case.metadata().tags()
    if found is not None:
        yield Finding("ok", f"tags are switched on in IMDS; settings among them: {', '.join(sorted(found)) or 'none'}")
        return
    fix = SWITCH_ON.format(identity.instance_id)
    try:
        told = instance.describe_tags(case.host.ec2(case.region.need()), identity.instance_id)
    except AgentError as error:
        given = "RELEASE_URL" in case.user_data()
        sentence = f"tags are not switched on in IMDS, and {error.sentence}"
        yield Finding("warn" if given else "fail", sentence, f"{fix} (or allow ec2:DescribeTags)")
        return
    known = ", ".join(sorted(told)) or "none"
    yield Finding("ok", f"tags are not switched on in IMDS, and EC2 tells them; settings among them: {known}", fix)


def settings(case: Case) -> Iterator[Finding]:
    """Each setting as the agent reads it; its own errors say where it is from."""
    case.identity.need()
    read = case.launched.own()
    yield from (Finding("warn", warning, "Mend it in the launch template or agent.env.") for warning in read.warnings)
    given = [name for name, (_, source) in read.settings.sources.items() if source != "default"]
    yield Finding("ok", f"{read.settings.release_url.shown.partition('#')[0]}; set: {', '.join(given)}")


def credentials(case: Case) -> Iterator[Finding]:
    """The instance profile's, as IMDS has them; else what botocore finds elsewhere."""
    identity = case.identity.need()
    role = (case.metadata().get(ROLES) or b"").decode(errors="replace").strip()
    if not role or "AWS_ACCESS_KEY_ID" in os.environ:
        elsewhere = case.region.seen() is not None
        yield (
            Finding("ok", "AWS credentials are here, and not an instance profile's")
            if elsewhere
            else Finding(
                "fail" if _needs_aws(case) else "warn",
                NO_PROFILE,
                f"aws ec2 associate-iam-instance-profile --instance-id {identity.instance_id} "
                "--iam-instance-profile Name=PROFILE",
            )
        )
        return
    document = json.loads(case.metadata().get(ROLES + role.split("\n")[0]) or b"{}")
    yield judge_credentials(role, document, datetime.now(UTC))


def judge_credentials(role: str, document: dict[str, Any], now: datetime) -> Finding:
    """*document* is what IMDS has of *role*'s credentials."""
    if document.get("Code") != "Success":
        what = document.get("Code") or "nothing"
        return Finding("fail", f"IMDS has no credentials of role {role}: {what}", "See the role's trust policy: ec2.")
    ends = datetime.fromisoformat(str(document["Expiration"]))
    if ends <= now:
        fix = "See that the clock is right; then the instance profile, which may have been replaced."
        return Finding("fail", f"the credentials of role {role} expired at {ends:%Y-%m-%dT%H:%M:%SZ}", fix)
    return Finding("ok", f"credentials of role {role}, until {ends:%Y-%m-%dT%H:%M:%SZ}")


def _needs_aws(case: Case) -> bool:
    launched = case.launched.seen()
    if launched is None:
        return True
    given = launched.settings
    wants = given.app, given.release_token, given.target_groups, given.load_balancers, launched.target
    return any(wants) or given.release_url.scheme == "s3"
