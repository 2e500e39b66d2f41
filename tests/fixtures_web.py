"""The hosts of the internet, as one proxy on loopback that is all of them."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from web import Web

HOSTS = (
    "github.com", "api.github.com", "uploads.github.com", "codeload.github.com", "objects.example", "releases.example",
    "other.example",
)  # fmt: skip


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of its own authority for HOSTS, and its key, in one file."""
    folder = tmp_path_factory.mktemp("certificate")
    names = ",".join(f"DNS:{host}" for host in HOSTS)
    key = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout key.pem -out crt.pem"
    extensions = f"-subj /CN=test -addext subjectAltName={names} -addext keyUsage=critical,digitalSignature,keyCertSign"
    subprocess.run([*key.split(), *extensions.split()], cwd=folder, check=True, capture_output=True)
    pem = folder / "both.pem"
    pem.write_bytes((folder / "key.pem").read_bytes() + (folder / "crt.pem").read_bytes())
    return pem


@pytest.fixture
def internet(certificate: Path) -> Iterator[Web]:
    """The hosts of HOSTS, by a proxy that is all of them."""
    with Web(certificate) as server:
        yield server


def plain() -> requests.Session:
    """A session that knows nothing of this machine's proxies, certificates and logins."""
    session = requests.Session()
    session.trust_env = False
    return session


def surfer(internet: Web) -> requests.Session:
    """A session that takes *internet* for the internet."""
    session = plain()
    session.proxies = {"http": internet.url, "https": internet.url}
    session.verify = str(internet.certificate)
    return session
