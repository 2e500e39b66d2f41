"""What nobody is shown: credentials and signatures in URLs and of AWS's requests, and the texts of secrets."""

import base64
import json
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
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
SHORT = 4  # characters; a shorter secret stands in other words, which would tell it: masked where it is a name's value
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
        self._lock = threading.Lock()  # stages overlap, and each knows secrets
        self._secrets: set[str] = set()
        self._texts: list[str] = []
        self._short = _as_value(())

    def add(self, secrets: Iterable[str]) -> None:
        given = {*secrets} - {""}
        with self._lock:
            if fresh := given - self._secrets:
                self._secrets |= fresh
                texts = {form for secret in fresh if len(secret) >= SHORT for form in _forms(secret)}
                self._texts = sorted({*self._texts, *texts}, key=len, reverse=True)  # one may be part of another
                self._short = _as_value([secret for secret in self._secrets if len(secret) < SHORT])

    def __call__(self, text: str) -> str:
        for secret in self._texts:
            text = text.replace(secret, "***")
        return urls(self._short.sub(lambda found: f"{found[1] or found[2]}***", text))


def _as_value(short: Iterable[str]) -> re.Pattern[str]:
    """Where one of *short* is all of a name's value, as in `NAME=no` and `"NAME": "no"`, after a group."""
    one = "|".join(sorted(map(re.escape, short), key=len, reverse=True)) or "(?!)"
    quoted = rf"(\w(?:=|[\"'] ?: ?)[\"'])(?:{one})(?=[\"'])"
    return re.compile(rf"{quoted}|(\w=)(?:{one})(?=[\s\"']|\Z)")


def _forms(secret: str) -> Iterator[str]:
    """*secret* and its lines, as they are and as JSON, Python, a URL and base64 have them."""
    for text in (secret, *(line for line in secret.splitlines() if len(line) >= LEAST_LINE)):
        yield text
        yield from (json.dumps(text, ensure_ascii=ascii_only)[1:-1] for ascii_only in (True, False))
        yield repr(text)[1:-1]
        if len(text) >= LEAST:
            yield from (
                as_url(text, safe=safe, errors="replace") for as_url in (quote, quote_plus) for safe in ("/", "")
            )
            yield from _encoded(text.encode(errors="replace"))


def _encoded(data: bytes) -> Iterator[str]:
    """What base64 makes of *data*, alone or within other bytes (`user:password`): there are three ways to fall."""
    for before in range(3):
        digits = base64.b64encode(b"\0" * before + data).decode()
        inside = digits[(before * 8 + 5) // 6 : (before + len(data)) * 8 // 6]  # where no neighbour has a part
        yield from (inside, inside.translate({ord("+"): "-", ord("/"): "_"}))
