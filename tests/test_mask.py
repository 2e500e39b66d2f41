"""What nobody is shown."""

import pytest

from adf_agent import mask
from adf_agent.mask import Mask


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:pw@host/a?X-Amz-Signature=abc&versionId=7", "https://***@host/a?X-Amz-Signature=***&versionId=7"),
        ("see postgres://app:secret@db:5432/app, then go on", "see postgres://***@db:5432/app, then go on"),
        ("no URL at all: a://", "no URL at all: a://"),
        ("http://[broken", "***"),
        ("https://host/path#sha256=00", "https://host/path#sha256=00"),
    ],
)
def test_credentials_in_urls_are_masked(text: str, shown: str) -> None:
    """A presigned URL or a database's password in the journal, where every operator reads it."""
    assert mask.urls(text) == shown


def test_secrets_are_masked_the_longest_first_and_line_by_line() -> None:
    """A secret whose beginning is another one; a private key of which the log shows a few lines."""
    hide = Mask()
    hide.add(["pass", "password-long", "-----BEGIN-----\nMIIEvQIBADANBgkq\n}\n"])
    assert hide("password-long pass MIIEvQIBADANBgkq }") == "*** *** *** }"


def test_a_line_without_end_is_masked_at_once() -> None:
    """An app that prints megabytes of letters and so hangs the agent, past its deadline and deaf to SIGTERM."""
    assert mask.urls("a" * 2_000_000).endswith("a")  # a quadratic search takes hours of it: the test's time-out
