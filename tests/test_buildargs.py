"""What every user of the machine may read of a build's arguments."""

from pathlib import Path

import pytest

from adf_agent import buildargs
from adf_agent.manifest import Build


@pytest.mark.parametrize(
    ("name", "value", "hidden"),
    [
        ("NPM_TOKEN", "x", True),
        ("PIP_INDEX_URL", "https://me:pw@pypi.example/simple", True),
        ("DATABASE_DSN", "postgres://me:pw@db/app", True),
        ("GOPROXY", "https://me:pw@proxy.example", True),
        ("TOKEN_URL", "https://me:pw@example.com", True),
        ("TOKEN_URL", "https://example.com", False),
        ("HTTPS_PROXY", "http://me:pw@proxy:3128", False),
        ("https_proxy", "http://me:pw@proxy:3128", False),
        ("SOMETHING", "http://me:pw@example.com", False),
        ("FROM_THE_MACHINE_TOKEN", "x", False),
        ("HTTPS_PROXY", "http://proxy:3128", False),
        ("VERSION", "1.0", False),
        ("PATH", "/somewhere", False),
        ("LD_PRELOAD", "/somewhere.so", False),
        ("AWS_SHARED_CREDENTIALS_FILE", "/somewhere", False),
        ("AWS_ENDPOINT_URL", "https://me:pw@example.com", False),
        ("AWS_SECRET_ACCESS_KEY", "x", False),
        ("DOCKER_AUTH_TOKEN", "x", False),
        ("GOOGLE_APPLICATION_CREDENTIALS", "/somewhere", False),
        ("PASSWORD_STORE_EXTENSIONS_DIR", "/somewhere", False),
        ("GOOGLE_API_KEY", "x", True),
        ("AZURE_CLIENT_SECRET", "x", False),
        ("AZURE_DEVOPS_TOKEN", "x", True),
        ("GIT_TOKEN", "x", True),
        ("GIT_REPO", "https://me:pw@example.com", True),
        ("GIT_SSH_COMMAND_URL", "https://me:pw@example.com", False),
        ("SSH_PRIVATE_KEY", "x", True),
        ("SSH_ASKPASS", "/somewhere", False),
        ("SSL_CERT_FILE", "/somewhere", False),
        ("XDG_SECRET", "x", False),
        ("GODEBUG", "https://me:pw@example.com", False),
        ("DOCKER_HOST", "tcp://me:pw@example.com:1", False),
        ("no-name-of-a-TOKEN", "x", False),
    ],
)
def test_what_is_nobodys_to_see_is_not_in_the_command(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, *, hidden: bool
) -> None:
    """A token in `ps`; or a release whose argument has the docker command ask its proxy, or run its own code."""
    monkeypatch.setenv("FROM_THE_MACHINE_TOKEN", "y")
    options = Build(args={name: value})
    assert buildargs.hidden(options.args) == ({name: value} if hidden else {})
    [word] = [each for each in buildargs.words(options, Path("/x")) if each.startswith("--build-arg")]
    assert word == f"--build-arg={name}" + ("" if hidden else f"={value}")
