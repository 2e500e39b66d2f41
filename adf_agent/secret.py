"""Secrets: decrypted by KMS, or fetched from where a reference points to (Parameter Store, Secrets Manager)."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Protocol

from adf_agent import aws
from adf_agent.deadline import Deadline
from adf_agent.errors import ConfigError, ReleaseError

Answer = Mapping[str, Any]


class KMS(Protocol):
    def decrypt(self, **request: Any) -> Answer: ...


class SSM(Protocol):
    def get_parameters(self, **request: Any) -> Answer: ...


class SecretsManager(Protocol):
    def batch_get_secret_value(self, **request: Any) -> Answer: ...


@dataclass(frozen=True)
class Clients:
    """Clients of one *region*; those for secrets are made where such a secret is there, and once."""

    region: str
    kms: Callable[[], KMS]
    ssm: Callable[[], SSM]
    secretsmanager: Callable[[], SecretsManager]

    def __post_init__(self) -> None:
        for service in ("kms", "ssm", "secretsmanager"):  # a client takes tens of milliseconds and a connection
            object.__setattr__(self, service, cache(getattr(self, service)))


def encryption_context(app: str, name: str) -> dict[str, str]:
    """What KMS binds a secret to: its ciphertext is of no use under another app or name."""
    return {"App": app, "Name": name}


def resolve(references: Mapping[str, str], clients: Clients, deadline: Deadline) -> dict[str, str]:
    """The texts that *references* (who asks → `ssm:…` or `secretsmanager:…`) stand for, by who asks.

    Raises ConfigError, which names who asks and the reference.
    """
    for name, reference in references.items():
        check_reference(name, reference)
    texts: dict[str, str] = {}
    for store, most, ask in (("ssm:", 10, _parameters), ("secretsmanager:", 20, _secrets)):  # most: the API's limit
        ids = sorted({ref.removeprefix(store) for ref in references.values() if ref.startswith(store)})
        for start in range(0, len(ids), most):
            found = deadline.retry(partial(ask, ids[start : start + most], clients))
            texts |= {store + each: text for each, text in found.items()}
    if missing := [f"{reference} (for {name})" for name, reference in references.items() if reference not in texts]:
        raise ConfigError(
            f"not found in {clients.region}: {', '.join(missing)}", hint="Create it there, or correct the Ref."
        )
    return {name: texts[reference] for name, reference in references.items()}


def release_token(reference: str, clients: Clients, deadline: Deadline) -> str:
    """What ADF_RELEASE_TOKEN, *reference*, leads to. Raises ReleaseError: it is the release that can't be had."""
    try:
        return resolve({"ADF_RELEASE_TOKEN": reference}, clients, deadline)["ADF_RELEASE_TOKEN"]
    except ConfigError as error:
        raise ReleaseError(error.sentence, hint=error.hint, cause=error.cause, transient=error.transient) from error


def check_reference(name: str, reference: str) -> None:
    """Raises ConfigError where *name* does not refer to anything."""
    if not re.match("(ssm|secretsmanager):.", reference):  # not shown: it may be a secret in the wrong place
        raise ConfigError(f"{name} does not refer to ssm:… or secretsmanager:…", hint=f"Correct the Ref of {name}.")


def decrypt(app: str, name: str, cipher: bytes, clients: Clients) -> str:
    """The text of a KMS *cipher* that is bound to *app* and *name*. Raises ConfigError."""
    context = encryption_context(app, name)
    other = (f"the secret {name} of {app} can't be decrypted as such", f"Encrypt it again, with the context {context}.")
    with asking("kms:Decrypt", f"the key of secret {name}", InvalidCiphertextException=other):
        plain: bytes = clients.kms().decrypt(CiphertextBlob=cipher, EncryptionContext=context)["Plaintext"]
    with suppress(UnicodeDecodeError):  # it holds the secret: nothing is raised from it
        return plain.decode()
    raise ConfigError(f"the secret {name} of {app} is not UTF-8 text", hint="An environment holds text only.")


def _parameters(names: list[str], clients: Clients) -> dict[str, str]:
    """The texts of those parameters that exist, by name or ARN, with `:version` or `:label`, as in *names*."""
    with asking("ssm:GetParameters", f"parameters {', '.join(names)}"):
        found = clients.ssm().get_parameters(Names=names, WithDecryption=True)["Parameters"]
        return {
            each[by] + selector: each["Value"]
            for each in found
            for by in ("Name", "ARN")
            for selector in (each.get("Selector", ""), f":{each['Version']}")  # moto gives no Selector
        }


def _secrets(ids: list[str], clients: Clients) -> dict[str, str]:
    """The texts of those secrets that exist, by name, ARN, and ARN without its 7 random last characters."""
    with asking("secretsmanager:BatchGetSecretValue", f"secrets {', '.join(ids)}"):
        call = clients.secretsmanager().batch_get_secret_value
        answers = [*pages(call, {"SecretIdList": ids}, "NextToken", "NextToken")]
        found = [each for page in answers for each in _values(page)]
        errors = [error for page in answers for error in page.get("Errors", ())]
        for error in (error for error in errors if error["ErrorCode"] != "ResourceNotFoundException"):
            _refuse(error)
        for secret in found:
            if "SecretString" not in secret:
                raise ConfigError(f"the secret {secret['Name']} is binary", hint="An environment holds text only.")
        return {by: each["SecretString"] for each in found for by in (each["Name"], each["ARN"], each["ARN"][:-7])}


def _values(page: Answer) -> Sequence[Answer]:
    """The secrets of an answer; where it has errors, there may be none."""
    found: Sequence[Answer] = page.get("SecretValues", ()) if page.get("Errors") else page["SecretValues"]
    return found


def _refuse(error: Answer) -> None:
    from botocore.exceptions import ClientError  # noqa: PLC0415  as in aws.faults

    with asking("secretsmanager:GetSecretValue", f"secret {error['SecretId']}"):
        answer = {"Error": {"Code": error["ErrorCode"], "Message": error.get("Message", "")}}
        raise ClientError(answer, "BatchGetSecretValue")


def pages(call: Callable[..., Answer], request: Answer, got: str, sent: str) -> Iterator[Answer]:
    """Every page of an answer; what is *got* in one is *sent* to get the next."""
    page = call(**request)
    yield page
    while page.get(got):
        page = call(**request, **{sent: page[got]})
        yield page


def asking(action: str, resource: str, **particular: aws.Meaning) -> AbstractContextManager[None]:
    """Raises AWS's errors as ConfigError; *particular* holds sentence and hint of codes with a meaning of their own."""
    return aws.asking(ConfigError, action, resource, particular=particular)
