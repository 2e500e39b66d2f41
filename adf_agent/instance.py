"""Who this instance is and what it was launched with, as the instance metadata service (IMDSv2) tells."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Literal, Protocol
from urllib.parse import quote

from adf_agent.aws import fault, faults
from adf_agent.deadline import Deadline
from adf_agent.errors import SettingsError

if TYPE_CHECKING:
    import urllib3

ENDPOINT = "http://169.254.169.254"
TOKEN_SECONDS = 21600  # six hours, the longest there is: a boot needs one token
# Seconds: it answers in milliseconds, or drops what exceeds its packet limit.
CONNECT_SECONDS, READ_SECONDS = 1, 2
TRY_AGAIN = {HTTPStatus.UNAUTHORIZED, HTTPStatus.TOO_MANY_REQUESTS}
FOREIGN = "Outside EC2, set AWS_EC2_METADATA_SERVICE_ENDPOINT to a service that speaks IMDSv2."


@dataclass(frozen=True)
class Identity:
    """The instance identity document's facts. A fact that it does not know is "", id and region never are."""

    instance_id: str
    region: str
    account: str
    zone: str
    image_id: str
    type: str
    private_ip: str

    def shown(self) -> dict[str, str]:
        """What the record has of it."""
        where = {"region": self.region, "zone": self.zone}
        return {"id": self.instance_id, "type": self.type, "image_id": self.image_id} | where


class Metadata:
    """A client of the metadata service at *endpoint*, over one connection that no proxy sees.

    A time-out, a refused connection, 429 and 5xx are tried again until *deadline*; what stays raises a SettingsError.
    *heard* is given each answer's headers.
    https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/configuring-instance-metadata-service.html
    """

    def __init__(
        self, endpoint: str, deadline: Deadline, heard: Callable[[Mapping[str, str]], object] = lambda _: None
    ) -> None:
        self._endpoint = endpoint.rstrip("/") or ENDPOINT
        self._deadline, self._heard = deadline, heard
        self._pools = _direct()
        self._token = ""

    def get(self, path: str) -> bytes | None:
        """What is at *path* (`/latest/…`, URL-quoted), None where nothing is (404)."""
        return self._deadline.retry(lambda: self._ask(path))

    def identity(self) -> Identity:
        """Who this instance is; an error where the document names no instance or no region: neither is ever guessed.

        https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instance-identity-documents.html
        """
        document = self._document("/latest/dynamic/instance-identity/document") or {}
        if missing := [key for key in ("instanceId", "region") if not document.get(key)]:
            raise SettingsError(
                f"The identity document of IMDS at {self._endpoint} has no {' and no '.join(missing)}",
                hint=FOREIGN,
                cause="dependency",
            )
        keys = ("instanceId", "region", "accountId", "availabilityZone", "imageId", "instanceType", "privateIp")
        return Identity(*(str(document.get(key) or "") for key in keys))

    def user_data(self) -> bytes:
        """The user-data as launched, at most 16 KB, no longer base64; empty where there is none."""
        return self.get("/latest/user-data") or b""

    def tags(self) -> dict[str, str] | None:
        """The instance's tags that are settings; None where instance tags are not switched on in IMDS.

        https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/work-with-tags-in-IMDS.html
        """
        folder = "/latest/meta-data/tags/instance"
        listing = self._text(folder)
        if listing is None:
            return None
        keys = filter(_is_setting, listing.splitlines())
        values = {key: self._text(f"{folder}/{quote(key, safe='')}") for key in keys}
        return {key: value for key, value in values.items() if value is not None}

    def lifecycle_target(self) -> str | None:
        """The state that Auto Scaling moves this instance to (`InService`, `Terminated`, …); None outside a group.

        https://docs.aws.amazon.com/autoscaling/ec2/userguide/retrieving-target-lifecycle-state-through-imds.html
        """
        return self._text("/latest/meta-data/autoscaling/target-lifecycle-state")

    def is_spot(self) -> bool:
        """Whether this is a spot instance: others get no notice (`instance-life-cycle`)."""
        return self._text("/latest/meta-data/instance-life-cycle") == "spot"

    def spot_action(self) -> dict[str, Any] | None:
        """The two-minute notice, `{"action": "terminate" | "stop" | "hibernate", "time": …Z}`.

        https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html
        """
        return self._document("/latest/meta-data/spot/instance-action")

    def rebalance(self) -> dict[str, Any] | None:
        """The rebalance recommendation, `{"noticeTime": …Z}`.

        https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/rebalance-recommendations.html
        """
        return self._document("/latest/meta-data/events/recommendations/rebalance")

    def _text(self, path: str) -> str | None:
        answer = self.get(path)
        return None if answer is None else answer.decode(errors="replace")

    def _document(self, path: str) -> dict[str, Any] | None:
        answer = self.get(path)
        try:
            return None if answer is None else dict(json.loads(answer))
        except (ValueError, TypeError, RecursionError) as error:
            raise self._unknown(path, "something that is not a JSON object") from error

    def _ask(self, path: str) -> bytes | None:
        """One answer, with a new token where the service no longer takes ours (401)."""
        response = self._send("GET", path, {"X-aws-ec2-metadata-token": self._token}) if self._token else None
        if response is None or response.status == HTTPStatus.UNAUTHORIZED:
            self._token = self._new_token()
            response = self._send("GET", path, {"X-aws-ec2-metadata-token": self._token})
        if response.status == HTTPStatus.NOT_FOUND:
            return None
        self._check(response, path)
        return response.data

    def _new_token(self) -> str:
        path = "/latest/api/token"
        response = self._send("PUT", path, {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_SECONDS)})
        self._check(response, path)
        token = response.data.decode(errors="replace")
        if not re.fullmatch("[!-~]+", token):  # what no header can hold
            raise self._unknown(path, "something that is not a token")
        return token

    def _send(self, method: str, path: str, headers: Mapping[str, str]) -> "urllib3.BaseHTTPResponse":
        from urllib3 import exceptions  # noqa: PLC0415  as below

        if not self._endpoint.lower().startswith(("http://", "https://")):
            raise self._no_url()
        try:
            response = self._pools.request(method, self._endpoint + path, headers=headers, redirect=False)
        except exceptions.LocationValueError as error:
            raise self._no_url() from error
        except (exceptions.HTTPError, ValueError, OverflowError, MemoryError) as error:  # the last of absurd lengths
            refused = isinstance(error, exceptions.NewConnectionError)  # a TimeoutError, for urllib3
            silent = isinstance(error, exceptions.TimeoutError) and not refused
            raise self._unreadable("no answer in time" if silent else "the connection failed") from error
        self._heard(response.headers)
        return response

    def _check(self, response: "urllib3.BaseHTTPResponse", path: str) -> None:
        status = response.status
        if status == HTTPStatus.FORBIDDEN:
            raise SettingsError(
                f"IMDS at {self._endpoint} is switched off for this instance (403)",
                hint="Switch it on: aws ec2 modify-instance-metadata-options --http-endpoint enabled.",
            )
        if status in TRY_AGAIN or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise self._unreadable(f"it answers {status}")
        if status != HTTPStatus.OK:
            raise self._unknown(path, str(status))

    def _no_url(self) -> SettingsError:
        return SettingsError(
            f"AWS_EC2_METADATA_SERVICE_ENDPOINT is not a URL: {self._endpoint}", hint=f"Use {ENDPOINT}."
        )

    def _unreadable(self, reason: str) -> SettingsError:
        return SettingsError(
            f"IMDS can't be read at {self._endpoint}: {reason}",
            hint=f"In a container, raise the instance's HttpPutResponseHopLimit to 2. {FOREIGN}",
            cause="dependency",
            transient=True,
        )

    def _unknown(self, path: str, what: str) -> SettingsError:
        return SettingsError(f"IMDS at {self._endpoint} answers {path} with {what}", hint=FOREIGN, cause="dependency")


class DescribesTags(Protocol):
    """The EC2 client's one call that is made here: `get_paginator("describe_tags")`."""

    def get_paginator(self, operation_name: Literal["describe_tags"], /) -> Any: ...


def describe_tags(ec2: DescribesTags, instance_id: str) -> dict[str, str]:
    """The tags of *instance_id* that are settings, from EC2: for where they are not switched on in IMDS.

    Raises a SettingsError, transient where it may pass. The action has no resource-level permissions: it is on `*`.
    https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeTags.html
    """
    pages = ec2.get_paginator("describe_tags").paginate(Filters=[{"Name": "resource-id", "Values": [instance_id]}])
    try:
        return {tag["Key"]: tag["Value"] for page in pages for tag in page["Tags"] if _is_setting(tag["Key"])}
    except faults() as error:
        raise fault(error, SettingsError, "ec2:DescribeTags", "*") from error


def _is_setting(key: str) -> bool:
    return key == "RELEASE_URL" or key.startswith("ADF_")


def _direct() -> "urllib3.PoolManager":
    """Connections that no proxy sees. requests would take twice the processor's time, every two seconds for life."""
    import urllib3  # noqa: PLC0415  9 MB that the operators' commands do without

    return urllib3.PoolManager(1, retries=False, timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS))
