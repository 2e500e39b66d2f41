"""What nobody is shown: credentials and signatures in URLs, and the texts of secrets."""

import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from adf_agent import location

URL = re.compile(r"(?<![A-Za-z0-9+.-])[A-Za-z][A-Za-z0-9+.-]{0,15}://[^\s'\"<>\\]+")
# A name whose value is nobody's to see: of a variable, a setting, or an option of a log driver (`splunk-token`).
SECRETIVE = re.compile(
    r"TOKEN|SECRET|PASSW|PASSPHRASE|[-_]PWD|CREDENTIAL|LICENSE|PRIVATE|(?:API|ACCESS)[-_]?KEY|[-_]KEY$",
    re.IGNORECASE,
)
LEAST_LINE = 8  # characters; of a secret of several lines (a private key), each that is no mere bracket is masked


def urls(text: str) -> str:
    """*text* with the user, password and query of each URL in it masked."""
    return URL.sub(lambda found: _shown(found[0]), text)


def _shown(url: str) -> str:
    try:
        return location.masked(urlsplit(url))
    except ValueError:
        return "***"


class Mask:
    """Masks URLs' credentials, and the secrets that it has been told of."""

    def __init__(self) -> None:
        self._texts: list[str] = []

    def add(self, secrets: Iterable[str]) -> None:
        lines = {line for secret in secrets for line in (secret, *_lines(secret)) if line}
        self._texts = sorted({*self._texts, *lines}, key=len, reverse=True)  # one may be part of another

    def __call__(self, text: str) -> str:
        for secret in self._texts:
            text = text.replace(secret, "***")
        return urls(text)


def _lines(secret: str) -> Iterable[str]:
    return (line for line in secret.splitlines() if len(line) >= LEAST_LINE)
