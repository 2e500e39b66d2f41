"""The sandbox's metadata service is as strict as the real one."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
import requests

from adf_agent.sandbox.cloud import Cloud
from adf_agent.sandbox.imds import SILENCE, Fault, Imds, Instance

TTL = "X-aws-ec2-metadata-token-ttl-seconds"
TOKEN = "X-aws-ec2-metadata-token"
DATA = "/latest/meta-data"


def get(imds: Imds, path: str) -> requests.Response:
    """The answer to a client that has a token."""
    return requests.get(imds.endpoint + path, headers={TOKEN: imds.new_token(60)}, timeout=5)


def put(imds: Imds, headers: dict[str, str], path: str = "/latest/api/token") -> requests.Response:
    """The answer to a client that asks for a token."""
    return requests.put(imds.endpoint + path, headers=headers, timeout=5)


@pytest.mark.parametrize("seconds", ["", "0", "21601", "-1", "1.5", "soon"])
def test_token_with_a_lifetime_out_of_range_is_refused(imds: Imds, seconds: str) -> None:
    """A client that forgets the header passes here and gets 400 on every instance."""
    assert put(imds, {TTL: seconds}).status_code == 400


@pytest.mark.parametrize("seconds", ["1", "21600"])
def test_token_opens_what_is_closed_without_it(imds: Imds, seconds: str) -> None:
    """An agent that speaks IMDSv1 only passes here and fails where the AMI asks for version 2."""
    response = put(imds, {TTL: seconds})
    url = imds.endpoint + f"{DATA}/instance-id"

    assert (response.status_code, response.headers[TTL]) == (200, seconds)
    assert requests.get(url, timeout=5).status_code == 401
    assert requests.get(url, headers={TOKEN: "made-up"}, timeout=5).status_code == 401
    assert requests.get(url, headers={TOKEN: response.text}, timeout=5).text == imds.instance.instance_id


def test_token_ends_with_its_lifetime_or_when_revoked() -> None:
    """An agent that never renews its token loses the metadata service six hours after the start."""
    now = 100.0
    with Imds(clock=lambda: now) as imds:
        token = put(imds, {TTL: "60"}).text
        assert imds.knows(token)
        now += 60
        assert not imds.knows(token)
        token = put(imds, {TTL: "60"}).text
        imds.revoke_tokens()
        assert not imds.knows(token)


def test_token_is_not_given_through_a_proxy_nor_by_other_ways(imds: Imds) -> None:
    """A client that goes through HTTP_PROXY works here and gets 403 on an instance."""
    assert put(imds, {TTL: "60", "X-Forwarded-For": "127.0.0.9"}).status_code == 403
    assert put(imds, {TTL: "60"}, DATA).status_code == 405
    assert get(imds, "/latest/api/token").status_code == 405


FULL = Instance(
    user_data=b"\x1f\x8b\x00",
    tags={"ADF_APP": "web", "Name": "", "ADF_Ü": "é"},
    target_lifecycle_state="InService",
    spot_action={"action": "terminate", "time": "2026-01-01T00:00:00Z"},
    rebalance={"noticeTime": "2026-01-01T00:00:00Z"},
)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/latest/user-data", b"\x1f\x8b\x00"),
        (f"{DATA}/instance-id", b"i-0123456789abcdef0"),
        (f"{DATA}/ami-id", b"ami-0123456789abcdef0"),
        (f"{DATA}/instance-type", b"t3.micro"),
        (f"{DATA}/local-ipv4", b"127.0.0.1"),
        (f"{DATA}/placement/region", b"eu-west-1"),
        (f"{DATA}/placement/availability-zone", b"eu-west-1a"),
        (f"{DATA}/placement/availability-zone/", b"eu-west-1a"),
        (f"{DATA}/placement/", b"availability-zone\nregion"),
        (f"{DATA}/tags/instance", "ADF_APP\nADF_Ü\nName".encode()),
        (f"{DATA}/tags/instance/ADF_APP", b"web"),
        (f"{DATA}/tags/instance/ADF_%C3%9C", "é".encode()),
        (f"{DATA}/tags/instance/Name", b""),
        (f"{DATA}/tags/", b"instance/"),
        (f"{DATA}/autoscaling/target-lifecycle-state", b"InService"),
        (f"{DATA}/spot/instance-action", b'{"action": "terminate", "time": "2026-01-01T00:00:00Z"}'),
        (f"{DATA}/events/recommendations/rebalance", b'{"noticeTime": "2026-01-01T00:00:00Z"}'),
        (f"{DATA}/iam/security-credentials/", b"adf-agent"),
        ("/latest/dynamic/", b"instance-identity/"),
    ],
)
def test_path_has_the_instances_fact(imds: Imds, path: str, body: bytes) -> None:
    """A sandbox that answers in a form of its own hides what fails on an instance."""
    imds.instance = FULL
    assert (get(imds, path).status_code, get(imds, path).content) == (200, body)


@pytest.mark.parametrize(
    "path",
    [
        "/latest/user-data",
        f"{DATA}/tags/instance",
        f"{DATA}/autoscaling/target-lifecycle-state",
        f"{DATA}/spot/instance-action",
        f"{DATA}/events/recommendations/rebalance",
        f"{DATA}/kernel-id",
        f"{DATA}/instance",
        "/2009-04-04/user-data",
    ],
)
def test_path_without_a_fact_is_404(imds: Imds, path: str) -> None:
    """A client that takes an error page for user-data boots a release that nobody named."""
    assert get(imds, path).status_code == 404


def test_fact_changes_while_the_service_runs(imds: Imds) -> None:
    """A notice that can't arrive in a running sandbox can't be rehearsed."""
    imds.instance.target_lifecycle_state = "InService"
    before = get(imds, f"{DATA}/autoscaling/target-lifecycle-state").text
    imds.instance.target_lifecycle_state = "Terminated"
    assert (before, get(imds, f"{DATA}/autoscaling/target-lifecycle-state").text) == ("InService", "Terminated")


def test_identity_and_credentials_are_documents(imds: Imds) -> None:
    """Credentials that look expired make boto3 ask for new ones before every call."""
    identity = get(imds, "/latest/dynamic/instance-identity/document").json()
    key = get(imds, f"{DATA}/iam/security-credentials/adf-agent").json()

    assert (identity["instanceId"], identity["region"], identity["accountId"]) == (
        "i-0123456789abcdef0",
        "eu-west-1",
        "123456789012",
    )
    assert key["Code"] == "Success"
    assert datetime.fromisoformat(key["Expiration"]) > datetime.now(UTC) + timedelta(hours=1)


def test_boto3_takes_credentials_and_region_from_it(cloud: Cloud) -> None:
    """An agent in the sandbox that needs keys in its environment is not the agent that runs on an instance."""
    code = (
        "import boto3, botocore.utils, json, os\n"
        "session = boto3.Session()\n"
        "found = session.get_credentials()\n"
        "region = botocore.utils.InstanceMetadataRegionFetcher(base_url=os.environ['IMDS']).retrieve_region()\n"
        "account = session.client('sts', region_name=region).get_caller_identity()['Account']\n"
        "print(json.dumps([found.method, found.access_key, region, account]))\n"
    )
    environment = {**cloud.environment(), "IMDS": cloud.imds.endpoint}
    output = subprocess.check_output([sys.executable, "-c", code], env=environment, text=True, timeout=60)
    assert json.loads(output) == ["iam-role", "ASIASANDBOX", "eu-west-1", "123456789012"]


def test_cloud_begins_empty(cloud: Cloud) -> None:
    """A test that passes because of what an earlier one left fails alone, or on another day."""
    cloud.client("s3").create_bucket(
        Bucket="left", CreateBucketConfiguration={"LocationConstraint": cloud.imds.instance.region}
    )
    with Cloud() as later:
        assert later.client("s3").list_buckets()["Buckets"] == []


def test_fault_lasts_as_often_as_ordered_and_where(imds: Imds) -> None:
    """A fault that outlives its test breaks the next one."""
    imds.faults = [Fault(503, times=2, path="/latest/user"), Fault(429, times=1, path=f"{DATA}/ami")]
    user_data = [get(imds, "/latest/user-data").status_code for _ in range(3)]
    image = [get(imds, f"{DATA}/ami-id").status_code for _ in range(2)]
    assert (user_data, image) == ([503, 503, 404], [429, 200])
    assert imds.requests == {"/latest/user-data": 3, f"{DATA}/ami-id": 2}


def test_stopping_ends_silent_and_kept_alive_connections() -> None:
    """A metadata service that is gone yet answers hides an agent that can't do without it."""
    with requests.Session() as session:
        with Imds() as imds:
            headers = {TOKEN: imds.new_token(60)}
            assert session.get(imds.endpoint + f"{DATA}/instance-id", headers=headers, timeout=5).ok
            imds.faults = [Fault(SILENCE)]
            with pytest.raises(requests.Timeout):
                session.get(imds.endpoint + f"{DATA}/instance-id", headers=headers, timeout=0.1)
            imds.faults = []
            assert session.get(imds.endpoint + f"{DATA}/instance-id", headers=headers, timeout=5).ok
        with pytest.raises(requests.ConnectionError):
            session.get(imds.endpoint + f"{DATA}/instance-id", headers=headers, timeout=5)
