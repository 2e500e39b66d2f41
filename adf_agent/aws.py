"""What an AWS answer means: one place that tells a transient fault from a permanent one."""

from http import HTTPStatus

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,  # noqa: A004  botocore's own
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ResponseStreamingError,
)
from botocore.parsers import ResponseParserError

from adf_agent.errors import AgentError

# What botocore's standard retry mode treats as throttling or transient, and the services' own names for it.
# https://docs.aws.amazon.com/boto3/latest/guide/retries.html
TRANSIENT = frozenset({
    "InternalError", "InternalFailure", "InternalServerError", "InternalServiceError", "InternalServiceErrorException",
    "KMSInternalException", "LimitExceededException", "PriorRequestNotComplete",
    "ProvisionedThroughputExceededException", "RequestLimitExceeded", "RequestThrottled", "RequestThrottledException",
    "RequestTimeout", "RequestTimeoutException", "ServiceUnavailable", "ServiceUnavailableException", "SlowDown",
    "Throttling", "ThrottlingException", "ThrottledException", "TooManyRequestsException",
    "TransactionInProgressException",
})  # fmt: skip
DENIED = frozenset({
    "AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "UnauthorizedAccess", "AuthorizationError",
    "403",  # where an answer has no body
})  # fmt: skip
BROKEN_OFF = (
    ConnectionError,
    HTTPClientError,
    IncompleteReadError,
    ResponseStreamingError,
    CredentialRetrievalError,
    ResponseParserError,
)
FAULTS = (ClientError, BotoCoreError, ResponseParserError)  # the last: no AWS answer at all, a proxy's page


def code(error: Exception) -> str:
    """The service's error code (`ResourceNotFoundException`), or the exception's name where no answer came."""
    if isinstance(error, ClientError):
        return str(error.response.get("Error", {}).get("Code", "Unknown"))
    return type(error).__name__


def fault(error: Exception, kind: type[AgentError], action: str, resource: str) -> AgentError:
    """The *kind* of AgentError that a botocore *error* is, for `raise … from error`.

    *action* is IAM's name (`dynamodb:Query`), *resource* what it was asked of; both are named to the operator.
    """
    name = code(error)
    if name in DENIED:
        return kind(
            f"{action} on {resource} is denied to this instance's role{_detail(error)}",
            hint=f"Allow {action} on {resource} in the role of the instance profile.",
        )
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return kind(
            f"{action} on {resource}: there are no AWS credentials",
            hint="Attach an instance profile to the instance.",
            cause="dependency",
            transient=True,  # a profile's credentials reach IMDS some seconds after the start
        )
    transient = name in TRANSIENT or _status(error) >= HTTPStatus.INTERNAL_SERVER_ERROR or isinstance(error, BROKEN_OFF)
    return kind(
        f"{action} on {resource} failed: {name}{_detail(error)}",
        hint="It may pass: see the AWS Health Dashboard." if transient else f"See that {resource} is the right name.",
        cause="dependency" if transient else None,
        transient=transient,
    )


def _status(error: Exception) -> int:
    metadata = error.response.get("ResponseMetadata", {}) if isinstance(error, ClientError) else {}
    return int(metadata.get("HTTPStatusCode", 0))


def _detail(error: Exception) -> str:
    message = error.response.get("Error", {}).get("Message", "") if isinstance(error, ClientError) else str(error)
    return f" ({message})" if message else ""
