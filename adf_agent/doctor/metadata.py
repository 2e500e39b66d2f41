"""The metadata service: does it answer, with what user-data, tags and credentials; and the settings they make."""

import socket
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from adf_agent import instance, launch
from adf_agent.doctor.case import NO_PROFILE, Case, is_ordinary
from adf_agent.doctor.check import Finding, Skipped
from adf_agent.errors import AgentError, SettingsError

HOPS = "aws ec2 modify-instance-metadata-options --instance-id {} --http-put-response-hop-limit {}"
REQUIRED = "aws ec2 modify-instance-metadata-options --instance-id {} --http-tokens required"
TOKEN = b"PUT /latest/api/token HTTP/1.1\r\nHost: imds\r\nX-aws-ec2-metadata-token-ttl-seconds: 1\r\n\r\n"
WITHOUT = b"GET /latest/meta-data/instance-id HTTP/1.1\r\nHost: imds\r\nConnection: close\r\n\r\n"
DROPPED = "TCPMinTTLDrop"  # the kernel's count of them, in NETSTAT
NETSTAT = Path("/proc/net/netstat")
IP_MINTTL = 21  # of Linux, ip(7): packets with fewer hops to go are dropped; Python has no name for it
HOP_SECONDS = 0.5, 1.5  # until an answer counts as dropped; then until TCP has sent it once more
# Names in agent.env that give the agent itself other credentials than the role's.
OTHERS = {"AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE", "AWS_ROLE_ARN"}
ROLES_OWN = "iam-role"
MINE = OTHERS | {"AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_DEFAULT_PROFILE"}
SWITCH_ON = "aws ec2 modify-instance-metadata-options --instance-id {} --instance-metadata-tags enabled"


def imds(case: Case) -> Iterator[Finding]:
    """Reachable, with the token handshake of IMDSv2, and it knows the instance."""
    found = case.identity.own()
    yield Finding("ok", f"IMDSv2 at {case.endpoint} gives a token, and says that this is {found.instance_id}")


def hop_limit(case: Case) -> Iterator[Finding]:
    """Whether containers are served: EC2 tells it only with a permission that nothing else here needs."""
    instance_id = case.identity.need().instance_id
    if answers_without_token(case.endpoint):
        sentence = "IMDSv1 answers: containers get the role's credentials whatever the hop limit"
        yield Finding("warn", sentence, REQUIRED.format(instance_id))
        return
    more, fewer = HOPS.format(instance_id, 2), HOPS.format(instance_id, 1)
    match reaches_containers(case.endpoint):
        case True:
            sentence = "the hop limit is 2 or more: containers get the role's credentials"
            yield Finding("ok", sentence, f"Where the app is to have none: {fewer}")
        case False:
            sentence = "the hop limit is 1: the agent is served, containers are shut out of the role's credentials"
            yield Finding("ok", sentence, f"Where the app is to have them: {more}")
        case None:
            sentence = "the hop limit can't be told; containers get the role's credentials where it is 2 or more"
            yield Finding("ok", sentence, f"Where the app is to have them: {more}")


def answers_without_token(endpoint: str) -> bool:
    """Whether IMDSv1 is left on, whose answers no hop limit holds back."""
    try:
        with _connected(endpoint) as connection:
            connection.sendall(WITHOUT)
            return _is_good(connection)
    except (OSError, ValueError):
        return False


def reaches_containers(endpoint: str) -> bool | None:
    """Whether a token may go a hop further than to this machine; None where that can't be told.

    The hop limit is the number of hops that the answer to a token's PUT has to go, and is counted at no hop before
    this machine. So its kernel is asked to drop it where that is 1, as it would on the way to a container, and then
    to take it after all: only an answer that comes the second time says that it was dropped the first, and only where
    the kernel has counted one that it dropped. Else the service is slow.
    """
    try:
        with _connected(endpoint) as connection:
            if connection.family != socket.AF_INET:
                return None
            before = _dropped()
            connection.setsockopt(socket.IPPROTO_IP, IP_MINTTL, 2)
            connection.sendall(TOKEN)
            try:
                return _is_good(connection) or None
            except TimeoutError:
                after = _dropped()
                connection.setsockopt(socket.IPPROTO_IP, IP_MINTTL, 0)
                if after == before:
                    return None
                connection.settimeout(HOP_SECONDS[1])
                return False if _is_good(connection) else None
    except (OSError, ValueError):
        return None


def _connected(endpoint: str) -> socket.socket:
    """Raises OSError, or ValueError where it is none."""
    place = urlsplit(endpoint)
    if not place.hostname:
        raise ValueError(f"{endpoint!r} names no host")
    return socket.create_connection((place.hostname, place.port or 80), HOP_SECONDS[0])


def _dropped() -> int:
    """How many packets the kernel has dropped so far for want of a hop. Raises ValueError where it does not say."""
    lines = (line.split() for line in NETSTAT.read_text().splitlines() if line.startswith("TcpExt:"))
    names, counts = lines
    return int(counts[names.index(DROPPED)])


def _is_good(connection: socket.socket) -> bool:
    return connection.recv(1024).startswith(b"HTTP/1.1 200 ")


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
        yield Finding("warn" if given else "fail", sentence, f"Allow ec2:DescribeTags, or switch them on: {fix}")
        return
    known = ", ".join(sorted(told)) or "none"
    yield Finding("ok", f"tags are not switched on in IMDS, and EC2 tells them; settings among them: {known}", fix)


def settings(case: Case) -> Iterator[Finding]:
    """Each setting as the agent reads it; its own errors say where it is from."""
    case.identity.need()
    try:
        read = case.launched.own()
    except SettingsError as error:
        if isinstance(error.__cause__, PermissionError) and is_ordinary():
            raise Skipped(error.sentence, "sudo adf-agent doctor") from error
        raise
    yield from (Finding("warn", warning, "Mend it in the launch template or agent.env.") for warning in read.warnings)
    given = [name for name, (_, source) in read.settings.sources.items() if source != "default"]
    yield Finding("ok", f"{read.settings.release_url.shown.partition('#')[0]}; set: {', '.join(given)}")


def credentials(case: Case) -> Iterator[Finding]:
    """The instance profile's, as IMDS has them; else what botocore finds elsewhere."""
    identity = case.identity.need()
    role, agents = case.role.own(), bool(OTHERS & launch.environment(case.root).keys())
    if role and not agents:
        mine = _method() if case.region.seen() else ROLES_OWN
        yield (
            judge_credentials(role.name, role.document, datetime.now(UTC))
            if mine == ROLES_OWN
            else judge_others(role.name, mine)
        )
    elif case.region.seen():
        yield Finding("ok", "AWS credentials are here, and not an instance profile's")
    else:
        yield Finding(
            "fail" if _needs_aws(case) else "warn",
            NO_PROFILE,
            f"aws ec2 associate-iam-instance-profile --instance-id {identity.instance_id} "
            "--iam-instance-profile Name=PROFILE",
        )


def _method() -> str:
    """Where this user's credentials are from, in botocore's word: `iam-role`, `env`, `shared-credentials-file`."""
    import botocore.session  # noqa: PLC0415

    found = botocore.session.get_session().get_credentials()
    return str(found.method) if found else ROLES_OWN


def judge_others(role: str, method: str) -> Finding:
    """*method* is that of the credentials that every permission was tried with, which are not *role*'s."""
    sentence = f"what AWS was asked here was asked with your own credentials ({method}); the agent has role {role}'s"
    names = " -u ".join(("", *sorted(MINE))).strip()
    fix = f"Ask as the agent does: sudo env {names} HOME=/var/lib/adf-agent adf-agent doctor"
    return Finding("warn", sentence, fix)


def judge_credentials(role: str, document: Mapping[str, Any], now: datetime) -> Finding:
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
