"""What an operator gives a key, as items of the table: plain values, references, secrets (never an argument)."""

import getpass
import sys
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from adf_agent import secret
from adf_agent.errors import ConfigError
from adf_agent.ops.app import App
from adf_agent.table import Attributes

MOST_BYTES = 4096  # https://docs.aws.amazon.com/kms/latest/APIReference/API_Encrypt.html
Entries = Mapping[str, Attributes]  # by key


class Encrypts(Protocol):
    def encrypt(self, **request: Any) -> Any: ...


def pairs(texts: Sequence[str]) -> dict[str, str]:
    """What stands before and after the first `=` of each. Raises ConfigError."""
    found: list[tuple[str, str]] = []
    for at, text in enumerate(texts, 1):
        name, equals, value = text.partition("=")
        if not equals:  # not shown: it may be a secret in the wrong place
            raise ConfigError(f"there is no = in the {at}. of what is to be set", hint="Write NAME=VALUE.")
        found.append((name, value))
    check_once([name for name, _ in found])
    return dict(found)


def check_once(names: Sequence[str]) -> None:
    """Raises ConfigError where a name is among *names* twice."""
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigError(f"{', '.join(sorted(twice))} is given twice", hint="Give it once.")


def plain(texts: Mapping[str, str]) -> Entries:
    """As they lie in the table, for everybody who may read it."""
    return {name: {"Value": {"S": text}} for name, text in texts.items()}


def referred(texts: Mapping[str, str]) -> Entries:
    """Of `ssm:/…` and `secretsmanager:…`. Raises ConfigError."""
    for name, reference in texts.items():
        secret.check_reference(name, reference)
    return {name: {"Ref": {"S": reference}} for name, reference in texts.items()}


def chosen(texts: Mapping[str, str], names: Collection[str]) -> dict[str, str]:
    """Those of *texts* that *names* names. Raises ConfigError where one is not among them."""
    if missing := [name for name in names if name not in texts]:
        raise ConfigError(f"the file has no {', '.join(missing)}", hint="--secret names keys of the file.")
    return {name: texts[name] for name in names}


def ask(names: Sequence[str]) -> dict[str, str]:
    """The texts of *names*: asked for at a terminal, else standard input without its last line end.

    Raises ConfigError.
    """
    if not names:
        return {}
    if sys.stdin is None:
        raise ConfigError("there is no standard input to read a secret from", hint="Pipe it in, or use a terminal.")
    if sys.stdin.isatty():
        return {name: getpass.getpass(f"{name}: ") for name in names}
    if len(names) > 1:
        raise ConfigError(
            "one standard input can't hold several secrets", hint="Set them one by one, or `import` them."
        )
    content = sys.stdin.buffer.read(MOST_BYTES + 3)  # with the line end, and as it came: a certificate may have \r\n
    return {names[0]: content.removesuffix(b"\n").removesuffix(b"\r").decode(errors="surrogateescape")}


def encrypted(app: App, texts: Mapping[str, str], key: str) -> Entries:
    """Encrypted by the KMS *key*, bound to the app and their names. Raises ConfigError."""
    call = app.deadline.retry
    return {name: {"Secret": {"B": call(partial(_encrypt, app, name, text, key))}} for name, text in texts.items()}


def _encrypt(app: App, name: str, text: str, key: str) -> bytes:
    region = app.table.region
    try:
        plain = text.encode()
    except UnicodeEncodeError:  # it holds the secret: nothing is raised from it
        plain = b"\0"
    if b"\0" in plain:
        raise ConfigError(
            f"the secret {name} is not UTF-8 text, or holds a NUL", hint="An environment holds text only."
        )
    if not plain:
        raise ConfigError(f"the secret {name} is empty", hint="Type it, or pipe it in; KMS encrypts one byte at least.")
    if len(plain) > MOST_BYTES:
        hint = "Keep what is larger in Parameter Store or Secrets Manager, and set it by --ref."
        raise ConfigError(f"the secret {name} is {len(plain):,} bytes, of {MOST_BYTES:,} allowed", hint=hint)
    make = f"Make it (aws kms create-key; aws kms create-alias --alias-name {key} …), or name another by --kms-key."
    missing = f"there is no KMS key {key} in {region}", make
    with secret.asking("kms:Encrypt", f"the key {key} in {region}", NotFoundException=missing):
        context = secret.encryption_context(app.name, name)
        kms: Encrypts = app.account.client("kms")
        cipher: bytes = kms.encrypt(KeyId=key, Plaintext=plain, EncryptionContext=context)["CiphertextBlob"]
    return cipher
