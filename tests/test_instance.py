"""What the agent learns from the metadata service, and what it says when it learns nothing."""

import threading
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest

from adf_agent.deadline import Deadline
from adf_agent.errors import SettingsError
from adf_agent.instance import Identity, Metadata, describe_tags
from adf_agent.sandbox.cloud import Cloud
from adf_agent.sandbox.imds import SILENCE, Fault, Imds

TOKEN = "/latest/api/token"
USER_DATA = "/latest/user-data"
STATE = "/latest/meta-data/autoscaling/target-lifecycle-state"


def metadata(endpoint: str, seconds: float = 20) -> Metadata:
    """A client that gives up after *seconds*."""
    return Metadata(endpoint, Deadline(seconds, threading.Event()))


def failure(call: Callable[[], object]) -> SettingsError:
    """The error that *call* ends with."""
    with pytest.raises(SettingsError) as raised:
        call()
    return raised.value


def test_identity_is_the_documents(imds: Imds) -> None:
    """An instance that takes itself for another writes into that one's fleet record."""
    assert metadata(imds.endpoint).identity() == Identity(
        instance_id="i-0123456789abcdef0",
        region="eu-west-1",
        account="123456789012",
        zone="eu-west-1a",
        image_id="ami-0123456789abcdef0",
        type="t3.micro",
        private_ip="127.0.0.1",
    )


@pytest.mark.parametrize(
    ("change", "missing"), [({"region": ""}, "no region"), ({"region": "", "instance_id": ""}, "no instanceId and no")]
)
def test_identity_is_never_guessed(imds: Imds, change: dict[str, str], missing: str) -> None:
    """A guessed region reads another region's config table, and serves it."""
    vars(imds.instance).update(change)
    error = failure(metadata(imds.endpoint).identity)
    assert missing in error.sentence
    assert not error.transient


@pytest.mark.parametrize("launched_with", [b"RELEASE_URL=https://example.com/a.tar.gz\n", b"\x1f\x8b\x08\xff", b""])
def test_user_data_comes_as_launched(imds: Imds, launched_with: bytes) -> None:
    """Gzipped user-data that was decoded as text can't be unpacked any more."""
    imds.instance.user_data = launched_with
    assert metadata(imds.endpoint).user_data() == launched_with


def test_nothing_there_is_an_answer(imds: Imds) -> None:
    """404 taken for an error: a standalone instance retries a lifecycle state that it never has until the deadline."""
    client = metadata(imds.endpoint)
    assert client.user_data() == b""
    assert (client.tags(), client.lifecycle_target(), client.spot_action(), client.rebalance()) == (None,) * 4
    assert max(imds.requests.values()) == 1


def test_notices_are_read(imds: Imds) -> None:
    """An agent that misses the notice is cut off with its requests in flight."""
    imds.instance.target_lifecycle_state = "Terminated"
    imds.instance.spot_action = {"action": "terminate", "time": "2026-01-01T00:00:00Z"}
    imds.instance.rebalance = {"noticeTime": "2026-01-01T00:00:00Z"}
    client = metadata(imds.endpoint)
    assert client.lifecycle_target() == "Terminated"
    assert client.spot_action() == imds.instance.spot_action
    assert client.rebalance() == imds.instance.rebalance


def test_tags_are_the_settings_among_them(imds: Imds) -> None:
    """A request for each of fifty tags runs into IMDS' packet limit when a fleet starts."""
    settings = {"RELEASE_URL": "s3://releases/a b.tar.gz", "ADF_APP": " web-ü", "ADF_LOG_OPT_a?b%41": ""}
    imds.instance.tags = {"Name": "web", "RELEASE_URL_OLD": "x", "aws:autoscaling:groupName": "web"} | settings
    assert metadata(imds.endpoint).tags() == settings
    assert imds.requests.total() == 5  # a token, the folder, three values


def test_tag_removed_while_tags_are_read_is_not_one(imds: Imds) -> None:
    """A tag that goes between the listing and its value fails the boot of an instance that doesn't need it."""
    imds.instance.tags = {"ADF_APP": "web", "ADF_ON_FAILURE": "hold"}
    imds.faults = [Fault(404, path="/latest/meta-data/tags/instance/ADF_ON")]
    assert metadata(imds.endpoint).tags() == {"ADF_APP": "web"}


def test_one_token_and_one_connection_serve_a_boot(imds: Imds) -> None:
    """A token and a connection a request overrun IMDS' packet limit."""
    client = metadata(imds.endpoint)
    for _ in range(5):
        client.get(USER_DATA)
    assert (imds.requests[TOKEN], imds.requests[USER_DATA], imds.connections) == (1, 5, 1)


def test_service_that_hung_up_meanwhile_is_asked_again_at_once() -> None:
    """A connection that IMDS closed while it was idle makes a question fail, and a notice of two minutes late."""
    with Imds() as former:
        client = metadata(former.endpoint, seconds=0)  # nothing is tried again
        known = client.identity()
    with Imds(port=urlsplit(former.endpoint).port or 0) as imds:
        assert (client.identity(), client.lifecycle_target()) == (known, None)
        assert imds.connections == 1


def test_token_that_is_gone_is_made_anew_once(imds: Imds) -> None:
    """After six hours, or a stop and start, every request is answered by 401 until the agent restarts."""
    imds.instance.target_lifecycle_state = "InService"
    client = metadata(imds.endpoint)
    client.lifecycle_target()
    imds.revoke_tokens()
    assert client.lifecycle_target() == "InService"
    assert (imds.requests[TOKEN], imds.requests[STATE]) == (2, 3)


@pytest.mark.parametrize(
    "fault",
    [
        Fault(503, times=3),
        Fault(429, times=2, path=USER_DATA),
        Fault(500, times=1, path=TOKEN),
        Fault(401, times=2, path=USER_DATA),
        Fault(SILENCE, times=1, path=USER_DATA),
    ],
    ids=repr,
)
def test_burst_of_faults_is_waited_out(imds: Imds, fault: Fault) -> None:
    """A fleet that starts at once meets 503s and time-outs: a boot that gives up on them replaces every instance."""
    imds.instance.user_data = b"RELEASE_URL=x"
    imds.faults = [Fault(fault.status, fault.times, fault.path)]
    assert metadata(imds.endpoint).user_data() == b"RELEASE_URL=x"
    assert imds.faults[0].times == 0


@pytest.mark.parametrize(
    ("status", "reason"), [(503, "it answers 503"), (401, "it answers 401"), (SILENCE, "no answer in time")]
)
def test_fault_that_stays_is_said_at_the_deadline(imds: Imds, status: int, reason: str) -> None:
    """“No RELEASE_URL” where IMDS could not be read sends the operator to the wrong place."""
    imds.faults = [Fault(status)]
    error = failure(metadata(imds.endpoint, seconds=0.3).user_data)
    assert error.sentence == f"IMDS can't be read at {imds.endpoint}: {reason}"
    assert (error.transient, error.exit_code, error.cause) == (True, 75, "dependency")
    assert "HttpPutResponseHopLimit" in error.hint


def test_nobody_listening_is_said_at_the_deadline() -> None:
    """IMDS may take minutes to answer at boot: a refused connection is not the end of it."""
    with Imds() as gone:
        endpoint = gone.endpoint
    error = failure(metadata(endpoint, seconds=0.3).user_data)
    assert error.sentence == f"IMDS can't be read at {endpoint}: the connection failed"
    assert error.transient


@pytest.mark.parametrize(
    ("status", "sentence", "hint"),
    [
        (403, "is switched off for this instance (403)", "--http-endpoint enabled"),
        (400, f"answers {TOKEN} with 400", "AWS_EC2_METADATA_SERVICE_ENDPOINT"),
        (302, f"answers {TOKEN} with 302", "AWS_EC2_METADATA_SERVICE_ENDPOINT"),
    ],
)
def test_refusal_ends_the_boot_at_once(imds: Imds, status: int, sentence: str, hint: str) -> None:
    """A metadata service that is switched off stays so: fifteen minutes of retries would only hide why."""
    imds.faults = [Fault(status, headers=(("Location", USER_DATA),))]
    error = failure(metadata(imds.endpoint).user_data)
    assert sentence in error.sentence
    assert hint in error.hint
    assert (error.exit_code, imds.requests.total()) == (10, 1)


def test_token_endpoint_missing_is_not_taken_for_no_user_data(imds: Imds) -> None:
    """A service with IMDSv1 only has no token to give: its 404 is no answer to what was asked."""
    imds.faults = [Fault(404, path=TOKEN)]
    assert f"answers {TOKEN} with 404" in failure(metadata(imds.endpoint).user_data).sentence


@pytest.mark.parametrize("body", [b"<html>", b"[1]", b'"text"', b"\xff", b""])
def test_document_that_is_none_is_named(imds: Imds, body: bytes) -> None:
    """A captive portal's page in place of the identity document ends in a stack trace."""
    path = "/latest/dynamic/instance-identity/document"
    imds.faults = [Fault(200, path=path, body=body)]
    error = failure(metadata(imds.endpoint).identity)
    assert error.sentence == f"IMDS at {imds.endpoint} answers {path} with something that is not a JSON object"


@pytest.mark.parametrize("endpoint", ["169.254.169.254", "ftp://127.0.0.1", "http://"])
def test_endpoint_that_is_no_url_is_named(endpoint: str) -> None:
    """A typing error in the environment is retried until the deadline, as if IMDS were slow."""
    error = failure(metadata(endpoint).user_data)
    assert error.sentence == f"AWS_EC2_METADATA_SERVICE_ENDPOINT is not a URL: {endpoint.rstrip('/')}"
    assert not error.transient


def test_proxy_never_sees_the_metadata_service(imds: Imds, monkeypatch: pytest.MonkeyPatch) -> None:
    """With HTTP_PROXY set for the release's download, the proxy would answer for the instance, or get its token."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert metadata(imds.endpoint).identity().region == "eu-west-1"


def run_instance(cloud: Cloud, tags: dict[str, str]) -> str:
    """The id of a new instance with *tags*."""
    listed = [{"Key": key, "Value": value} for key, value in tags.items()]
    image = cloud.client("ec2").register_image(Name="base")["ImageId"]
    answer = cloud.client("ec2").run_instances(
        ImageId=image, MinCount=1, MaxCount=1, TagSpecifications=[{"ResourceType": "instance", "Tags": listed}]
    )
    return str(answer["Instances"][0]["InstanceId"])


def test_described_tags_are_this_instances_settings(cloud: Cloud) -> None:
    """The tags of a neighbour boot the neighbour's release."""
    instance = run_instance(cloud, {"Name": "web", "RELEASE_URL": "s3://releases/a.tar.gz", "ADF_APP": "web"})
    run_instance(cloud, {"RELEASE_URL": "s3://releases/neighbour.tar.gz", "ADF_ON_FAILURE": "hold"})
    assert describe_tags(cloud.client("ec2"), instance) == {"RELEASE_URL": "s3://releases/a.tar.gz", "ADF_APP": "web"}


def test_describing_tags_denied_names_the_permission(cloud: Cloud) -> None:
    """“AccessDenied” alone leaves the operator to guess which of a dozen permissions the role lacks."""
    iam = cloud.client("iam")
    iam.create_user(UserName="nobody")
    key = iam.create_access_key(UserName="nobody")["AccessKey"]
    ec2 = cloud.client("ec2", key["AccessKeyId"], key["SecretAccessKey"])
    cloud.enforce_permissions()
    error = failure(lambda: describe_tags(ec2, "i-0123456789abcdef0"))
    assert error.sentence.startswith("ec2:DescribeTags on * is denied")
    assert "Allow ec2:DescribeTags on *" in error.hint
    assert not error.transient
