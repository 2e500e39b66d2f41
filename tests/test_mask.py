"""What nobody is shown."""

import base64
import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote, quote_plus

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
        ("[curl http://me:pw@host/x?a=b]: failed", "[curl http://***@host/x?a=*** failed"),
        ("[curl http://me:pw@host]: failed", "[curl http://***@host]: failed"),
        ("'POST\n/\n\nx-amz-security-token:IQoJ/b3+Jp==\n'", "'POST\n/\n\nx-amz-security-token:***\n'"),
        ("Credential=ASIA1/2026/s3, Signature=0f0f", "Credential=***, Signature=***"),
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


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("PIN=no DEBUG=no", "PIN=*** DEBUG=***"),
        ('{"PIN":"no","A":1} {\'PIN\': \'no\'} PIN="no"', '{"PIN":"***","A":1} {\'PIN\': \'***\'} PIN="***"'),
        ('{"PIN": "no", "no": 1}', '{"PIN": "***", "no": 1}'),
        ("no news, as nobody knows: PIN=note", "no news, as nobody knows: PIN=note"),
        ("PASS=four, four", "PASS=***, ***"),
    ],
)
def test_a_secret_that_other_words_are_made_of_is_masked_where_it_is_a_value(text: str, shown: str) -> None:
    """A log of nothing but asterisks, each of which tells where the three letters of a password stand."""
    hide = Mask()
    hide.add(["no", "four", ""])
    assert hide(text) == shown


def test_no_secret_is_forgotten_where_two_threads_tell_theirs() -> None:
    """A password of the config in the log, as the registry's became known in the same moment."""
    usual = sys.getswitchinterval()
    hide, secrets = Mask(), [f"secret-{number:03}-of-many" for number in range(200)]
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda secret: hide.add([secret]), secrets))
    finally:
        sys.setswitchinterval(usual)
    assert {hide(secret) for secret in secrets} == {"***"}


RELEASES = """
from adf_agent import mask
made = []

class Counted(mask.Mask):
    def __init__(self):
        made.append(self)
        super().__init__()

mask.Mask = Counted
from adf_agent.ops.release.cli import main
assert main(["verify", "file:///nowhere.tar"])
print(len(made))
"""


def test_adf_release_learns_once_what_is_to_be_hidden() -> None:
    """A build whose every line has Docker's logins read anew, and each secret put into all its forms."""
    ran = subprocess.run([sys.executable, "-c", RELEASES], capture_output=True, text=True, timeout=60, check=True)
    assert len(ran.stderr.splitlines()) > 1, "a sentence and a hint"
    assert ran.stdout.split()[-1] == "1"


SECRET = 'two words & "quoted\\" ü+/='
FORMS: dict[str, Callable[[str], str]] = {
    "json": json.dumps,
    "json in UTF-8": lambda text: json.dumps(text, ensure_ascii=False),
    "python": repr,
    "a URL": lambda text: quote(text, safe=""),
    "a form": quote_plus,
    "a login": lambda text: base64.b64encode(f"me:{text}".encode()).decode(),
    "another login": lambda text: base64.b64encode(f"you:{text}".encode()).decode(),
    "a token": lambda text: base64.urlsafe_b64encode(text.encode()).decode(),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_secret_is_masked_in_each_form_that_programs_write(form: Callable[[str], str]) -> None:
    """A password that the app's log has as JSON, or in an Authorization header, and so nobody knows as one."""
    hide = Mask()
    hide.add([SECRET])
    shown = hide(f"before {form(SECRET)} after")
    assert shown.startswith("before ")
    assert shown.endswith(" after")
    assert "***" in shown
    assert not any(part in shown for part in ("words", base64.b64encode(b"words ").decode()[:6], "quoted"))


def test_a_secret_that_is_no_text_is_masked_all_the_same() -> None:
    """A boot that ends at a byte of its credentials that is no UTF-8, and by nothing but the mask."""
    hide = Mask()
    hide.add(["hunter2\udcffhunter2"])
    assert hide("it is hunter2\udcffhunter2, or hunter2%3Fhunter2") == "it is ***, or ***"


def test_a_name_tells_a_secret_and_of_a_url_the_password_is_one() -> None:
    """A password that the config has as a plain value, in the fleet record; or a word of it that garbles all else."""
    values = {
        "DB_PASSWORD": "hunter2hunter2",
        "DATABASE_URL": "postgres://webapp:pass%40word@db/production?sslmode=require",
        "API_KEY": "short",
        "GITHUB_TOKEN": "ssm:/web/token",
        "GREETING": "hello world",
        "BROKEN": "http://[me:password@x",
    }
    assert {*mask.secretive(values)} == {"hunter2hunter2", "pass%40word", "pass@word"}


def test_a_line_without_end_is_masked_at_once() -> None:
    """An app that prints megabytes of letters and so hangs the agent, past its deadline and deaf to SIGTERM."""
    assert mask.urls("a" * 2_000_000).endswith("a")  # a quadratic search takes hours of it: the test's time-out
