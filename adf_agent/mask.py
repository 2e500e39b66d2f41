"""What nobody is shown: credentials and signatures in URLs and of AWS's requests, and the texts of secrets."""

import base64
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from urllib.parse import parse_qsl, quote, quote_plus, unquote, urlsplit

from adf_agent import location

URL = re.compile(r"(?<![A-Za-z0-9+.-])[A-Za-z][A-Za-z0-9+.-]{0,15}://[^\s'\"<>\\]+")
# What AWS quotes of a request whose signature it does not take: the canonical string has the role's session token.
# https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-troubleshooting.html
SIGNED = re.compile(r"((?:x-amz-security-token:|\bCredential=|\bSignature=)\s*)[\w%+/=.~-]+", re.IGNORECASE)
# A name whose value is nobody's to see: of a variable, a setting, or an option of a log driver (`splunk-token`).
SECRETIVE = re.compile(
    r"TOKEN|SECRET|PASSW|PASSPHRASE|[-_]PWD|CREDENTIAL|LICENSE|PRIVATE|(?:API|ACCESS)[-_]?KEY|[-_]KEY$",
    re.IGNORECASE,
)
LEAST = 6  # characters of a text that is taken for a secret by its place alone, or looked for in other forms
LEAST_LINE = 8  # characters; of a secret of several lines (a private key), each that is no mere bracket is masked


def urls(text: str) -> str:
    """*text* with the user, password and query of each URL in it masked, and what AWS quotes of a signature."""
    return SIGNED.sub(r"\1***", URL.sub(lambda found: _shown(found[0]), text))


def _shown(url: str) -> str:
    for end in (len(url), len(url.rstrip("])}.,;:"))):  # of the sentence around it, as in `[curl http://host]:`
        with suppress(ValueError):
            return location.masked(urlsplit(url[:end])) + url[end:]
    return "***"


def url_secrets(url: str) -> Iterator[str]:
    """User and password of *url*, and the values of its query, but for an S3 version."""
    parts = urlsplit(url)
    named = [(parts.username or ""), (parts.password or "")]
    named += [value for name, value in parse_qsl(parts.query) if name != "versionId"]
    yield from (text for text in named if len(text) >= LEAST)


def each(settings: Mapping[str, Mapping[str, str | None]]) -> dict[str, dict[str, str | None]]:
    """*settings*, by name, with the URLs in their texts masked (a probe's, a log driver's)."""
    return {name: {key: text and urls(text) for key, text in parts.items()} for name, parts in settings.items()}


def setting(name: str, text: str, known: Collection[str]) -> str:
    """What is shown of a setting that may be wrong: a signature may stand where no URL has one; of none, nothing."""
    ours = name in known or name.startswith("ADF_LOG_OPT_")
    if text and (not ours or SECRETIVE.search(name) or (name == "RELEASE_URL" and len(text.split()) > 1)):
        return "***"
    return urls(text) if "://" in text else re.sub(r"[^/]*@|(?<=\?).*", "***", text)


def secretive(values: Mapping[str, str]) -> Iterator[str]:
    """Those of *values* whose names say that they are nobody's to see, and the passwords in those that are URLs."""
    for name, value in values.items():
        if SECRETIVE.search(name) and len(value) >= LEAST and not value.startswith(("ssm:", "secretsmanager:")):
            yield value
        with suppress(ValueError):
            password = urlsplit(value).password or ""
            yield from (each for each in {password, unquote(password)} if len(each) >= LEAST)


class Mask:
    """Masks URLs' credentials, and the secrets that it has been told of, in each form that a program may write."""

    def __init__(self) -> None:
        self._secrets: set[str] = set()
        self._texts: list[str] = []

    def add(self, secrets: Iterable[str]) -> None:
        if fresh := {*secrets} - self._secrets:
            self._secrets |= fresh
            texts = {form for secret in fresh for form in _forms(secret) if form}
            self._texts = sorted({*self._texts, *texts}, key=len, reverse=True)  # one may be part of another

    def __call__(self, text: str) -> str:
        for secret in self._texts:
            text = text.replace(secret, "***")
        return urls(text)


def _forms(secret: str) -> Iterator[str]:
    """*secret* and its lines, as they are and as JSON, Python, a URL and base64 have them."""
    for text in (secret, *(line for line in secret.splitlines() if len(line) >= LEAST_LINE)):
        yield text
        yield from (json.dumps(text, ensure_ascii=ascii_only)[1:-1] for ascii_only in (True, False))
        yield repr(text)[1:-1]
        if len(text) >= LEAST:
            yield from (quote(text), quote(text, safe=""), quote_plus(text))
            yield from _encoded(text.encode(errors="replace"))


def _encoded(data: bytes) -> Iterator[str]:
    """What base64 makes of *data*, alone or within other bytes (`user:password`): there are three ways to fall."""
    for before in range(3):
        digits = base64.b64encode(b"\0" * before + data).decode()
        inside = digits[(before * 8 + 5) // 6 : (before + len(data)) * 8 // 6]  # where no neighbour has a part
        yield from (inside, inside.translate({ord("+"): "-", ord("/"): "_"}))
