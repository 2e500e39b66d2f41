"""What must not leave the instance in an archive: every secret that is known here, and what looks like one."""

import base64
import binascii
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

from adf_agent import launch
from adf_agent.doctor import release
from adf_agent.doctor.case import ROLES, Case
from adf_agent.doctor.check import Skipped
from adf_agent.errors import AgentError
from adf_agent.mask import Mask

SECRETIVE = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|API_?KEY|ACCESS_KEY|PRIVATE", re.IGNORECASE)
PLAIN = re.compile(r"ADF_\w+|AWS_REGION|PATH|PORT|HOME|HOSTNAME|LANG|TZ")  # what the agent or an image sets itself
LEAST = 6  # characters of a text that is taken for a secret by its place alone: shorter ones are words
# For what nobody here knows of, as it came with a release or in an app's output.
LOOKS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"), "***"),  # AWS
    (re.compile(r"\b(?:gh[pousr]_\w{20,}|github_pat_\w{20,})"), "***"),
    (re.compile(r"\beyJ[\w-]{10,}\.[\w-]+\.[\w-]*"), "***"),  # a JSON web token
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL), "***"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{8,}"), r"\1 ***"),
    (
        re.compile(
            r"(?i)\b(\w*(?:token|secret|passw(?:or)?d|api_?key|access_key)\w*[\"']?\s*[=:]\s*[\"']?)"
            r"(?!ssm:|secretsmanager:|\*)[^\s\"',{}\[\]]{4,}"
        ),
        r"\1***",
    ),
)


class Redactor:
    """Masks *secrets* in every form that a log or JSON may write them in, and what looks like one."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._mask = Mask()
        self._mask.add(form for secret in secrets if secret for form in _forms(secret))

    def __call__(self, text: str) -> str:
        text = self._mask(text)
        for look, instead in LOOKS:
            text = look.sub(instead, text)
        return text


def _forms(secret: str) -> set[str]:
    lines = {secret, *(line for line in secret.splitlines() if len(line) >= LEAST)}
    escaped = {json.dumps(each, ensure_ascii=ascii_only)[1:-1] for each in lines for ascii_only in (True, False)}
    encoded = {base64.b64encode(secret.encode()).decode(), quote(secret, safe=""), quote(secret)}
    return lines | escaped | (encoded if len(secret) >= LEAST else set())


def secrets(case: Case, environment: Iterable[str]) -> set[str]:
    """Every secret known here. *environment* is that of our container, `NAME=value` each.

    All of the app's environment counts, whatever its name: it is the config, and a ticket needs none of its values.
    """
    sources: tuple[Callable[[], Iterable[str]], ...] = (
        lambda: _values(pair for pair in environment if not PLAIN.match(pair.partition("=")[0])),
        lambda: _config(case),
        lambda: _last_config(case),
        lambda: _role(case),
        lambda: [release.token(case)] if case.launched.need().settings.release_token else (),
        lambda: _settings(case),
        lambda: _secretive(os.environ),
        lambda: _secretive(launch.baked(case.root)),
        lambda: _logins(case),
    )
    found: set[str] = set()
    for source in sources:
        with suppress(AgentError, Skipped, TimeoutError, OSError, ValueError, TypeError, LookupError, AttributeError):
            found.update(source())
    return found - {""}


def _values(pairs: Iterable[str]) -> Iterator[str]:
    return (value for value in (pair.partition("=")[2] for pair in pairs) if len(value) >= LEAST)


def _config(case: Case) -> Iterable[str]:
    read = case.config.need()
    if read is None:
        return ()
    return [*read.secrets(), *(text for text in read.environment().values() if len(text) >= LEAST)]


def _last_config(case: Case) -> Iterable[str]:
    """Of the last config that worked, whichever app's and release's it is."""
    parts = json.loads((case.root.var / "config.json").read_bytes())
    return [str(text) for text, secret, _ in parts["values"].values() if secret or len(text) >= LEAST]


def _role(case: Case) -> Iterable[str]:
    """The role's credentials, which an app's output may hold."""
    metadata = case.metadata()
    role = (metadata.get(ROLES) or b"").decode().split("\n")[0]
    document = json.loads(metadata.get(ROLES + role) or b"{}")
    return [str(document[key]) for key in ("AccessKeyId", "SecretAccessKey", "Token") if len(document[key]) >= LEAST]


def _settings(case: Case) -> Iterator[str]:
    """RELEASE_URL's credentials and signature, and what log options name a token."""
    given = case.launched.need().settings
    yield from url_secrets(given.release_url.url)
    yield from _secretive(given.log_opts)


def url_secrets(url: str) -> Iterator[str]:
    """User and password of *url*, and the values of its query, but for an S3 version."""
    parts = urlsplit(url)
    named = [(parts.username or ""), (parts.password or "")]
    named += [value for name, value in parse_qsl(parts.query) if name != "versionId"]
    yield from (text for text in named if len(text) >= LEAST)


def _secretive(values: Mapping[str, str]) -> Iterator[str]:
    for name, value in values.items():
        if SECRETIVE.search(name) and len(value) >= LEAST and not value.startswith(("ssm:", "secretsmanager:")):
            yield value
        if "://" in value and name != "RELEASE_URL":
            yield from url_secrets(value)


def _logins(case: Case) -> Iterator[str]:
    """Docker's logins at registries."""
    path = os.path.join(os.environ.get("DOCKER_CONFIG") or case.root.etc / "docker", "config.json")  # noqa: PTH118
    with open(path, "rb") as file:  # noqa: PTH123
        logins: Mapping[str, Any] = json.load(file)
    for login in (logins.get("auths") or {}).values():
        yield from (str(value) for value in login.values() if len(str(value)) >= LEAST)
        with suppress(binascii.Error, UnicodeDecodeError):
            yield base64.b64decode(login.get("auth", "")).decode().partition(":")[2]
