"""What an AWS answer means: one place that tells a transient fault from a permanent one."""

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from types import MappingProxyType
from typing import Any

from adf_agent.errors import AgentError

Meaning = tuple[str, str]  # of an error code: a sentence and a hint

# What botocore's standard retry mode treats as throttling or transient, and the services' own names for it.
# https://docs.aws.amazon.com/boto3/latest/guide/retries.html
TRANSIENT = frozenset({
    "ContinuousBackupsUnavailableException", "InternalError", "InternalFailure", "InternalServerError",
    "InternalServiceError", "InternalServiceErrorException", "KMSInternalException", "LimitExceededException",
    "PriorRequestNotComplete",
    "ProvisionedThroughputExceededException", "RequestLimitExceeded", "RequestThrottled", "RequestThrottledException",
    "RequestTimeout", "RequestTimeoutException", "ServiceUnavailable", "ServiceUnavailableException", "SlowDown",
    "Throttling", "ThrottlingException", "ThrottledException", "TooManyRequestsException",
    "TransactionInProgressException",
})  # fmt: skip
DENIED = frozenset({
    "AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "UnauthorizedAccess", "AuthorizationError",
    "403",  # where an answer has no body
})  # fmt: skip
# What is said of credentials that were once good, or never; the last three where SSO's are renewed.
EXPIRED = frozenset({
    "ExpiredToken", "ExpiredTokenException", "InvalidAccessKeyId", "InvalidClientTokenId", "InvalidSignatureException",
    "RequestExpired", "SignatureDoesNotMatch", "UnrecognizedClientException", "SSOTokenLoadError",
    "TokenRetrievalError", "UnauthorizedSSOTokenError",
})  # fmt: skip


# What is raised on the way through an answer that is not AWS's: it lacks what each has, or leads the SDK in a circle.
NO_ANSWER = (KeyError, RecursionError)
# What is said of a signature's time, under one code or another (AWS takes five minutes, S3 fifteen).
# https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-troubleshooting.html
_UNTIMELY = re.compile(r"RequestTimeTooSkewed|Signature expired|Signature not yet current")


def faults() -> tuple[type[Exception], ...]:
    """What a boto3 client may raise, to be named behind `except`.

    Asked for only when something was raised: a boot that needs no AWS does without botocore, 30 ms of imports.
    """
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415
    from botocore.parsers import ResponseParserError  # noqa: PLC0415

    return ClientError, BotoCoreError, ResponseParserError


def mishaps() -> tuple[type[Exception], ...]:
    """The same, and what is raised by the look at an answer that is none: it lacks what each has."""
    return (*faults(), *NO_ANSWER)


def code(error: Exception) -> str:
    """The service's error code (`ResourceNotFoundException`), or the exception's name where no answer came."""
    return str(_answer(error).get("Error", {}).get("Code") or type(error).__name__)


def fault(error: Exception, kind: type[AgentError], action: str, resource: str) -> AgentError:
    """The *kind* of AgentError that a botocore *error* is, for `raise … from error`; NO_ANSWER is an answer's lack.

    *action* is IAM's name (`dynamodb:Query`), *resource* what it was asked of; both are named to the operator.
    """
    if isinstance(error, NO_ANSWER):  # a page in place of an answer, which the SDK takes for an empty one
        return kind(
            f"{action} on {resource} was answered by something that is not AWS",
            hint="See HTTPS_PROXY, AWS_ENDPOINT_URL… and the VPC's endpoints.",
            cause="dependency",
            transient=True,
        )
    name = code(error)
    if name in DENIED:
        return kind(
            f"{action} on {resource} is denied{_detail(error)}",
            hint=f"Allow {action} on {resource} in the caller's role; on an instance, that of its instance profile.",
        )
    if _UNTIMELY.search(f"{name} {_detail(error)}"):
        return kind(
            f"{action} on {resource} was refused: the clock of this machine is wrong{_detail(error)}",
            hint="Set it right. Where chrony runs, by `sudo chronyc makestep`; else: sudo timedatectl set-ntp true",
            cause="host",
        )
    if name in EXPIRED:
        return kind(
            f"{action} on {resource} was refused: the AWS credentials are expired or not valid ({name})",
            hint="On an instance, see that its clock is right; elsewhere: aws sso login, and see AWS_PROFILE.",
            cause="dependency",
        )
    transient = name in TRANSIENT or _status(error) >= HTTPStatus.INTERNAL_SERVER_ERROR or _broke_off(error)
    return kind(
        f"{action} on {resource} failed: {name}{_detail(error)}",
        hint="It may pass: see the AWS Health Dashboard." if transient else f"See that {resource} is the right name.",
        cause="dependency" if transient else None,
        transient=transient,
    )


@contextmanager
def asking(
    kind: type[AgentError],
    action: str,
    resource: str,
    expected: Collection[str] = (),
    particular: Mapping[str, Meaning] = MappingProxyType({}),
) -> Iterator[None]:
    """Raises AWS's errors as *kind*, see `fault`; an answer with an *expected* code is none.

    *particular* holds what codes mean that say something of their own here. What is taken from the answer is taken
    within: an answer that is not AWS's is found out by what it lacks.
    """
    try:
        yield
    except mishaps() as error:
        if code(error) in expected:
            return
        if meaning := particular.get(code(error)):
            raise kind(meaning[0], hint=meaning[1]) from error
        raise fault(error, kind, action, resource) from error


def _answer(error: Exception) -> dict[str, Any]:
    """The service's answer, empty where none came."""
    answer: dict[str, Any] = getattr(error, "response", None) or {}
    return answer


def _status(error: Exception) -> int:
    return int(_answer(error).get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _broke_off(error: Exception) -> bool:
    from botocore import exceptions, parsers  # noqa: PLC0415

    return isinstance(
        error,
        exceptions.ConnectionError
        | exceptions.HTTPClientError
        | exceptions.IncompleteReadError
        | exceptions.ResponseStreamingError
        | exceptions.CredentialRetrievalError
        | parsers.ResponseParserError,  # no AWS answer at all: a proxy's page
    )


def _detail(error: Exception) -> str:
    message = _answer(error).get("Error", {}).get("Message") or ("" if _answer(error) else str(error))
    return f" ({message})" if message else ""
