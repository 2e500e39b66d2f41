"""The environment that clients are made in: the machine's own, agent.env's lines for it, and mistakes in either."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from fixtures_agent import Machine, app
from test_boot import free_port, table

from adf_agent import launch
from adf_agent.clients import Clients
from adf_agent.errors import AgentError
from adf_agent.root import Root

TOKEN = "a-session-token-of-aws"
PROXY = "http://127.0.0.1:9"
PROXIED = """
import sys
from pathlib import Path
from adf_agent.clients import Clients
from adf_agent.root import Root
Clients(Root(Path(sys.argv[1])))
from botocore.utils import get_environ_proxies
print(*(bool(get_environ_proxies(f"http://{place}/")) for place in sys.argv[2:]))
"""
ASKING = """
import sys
from pathlib import Path
from adf_agent.clients import Clients
from adf_agent.errors import AgentError
from adf_agent.root import Root
try:
    Clients(Root(Path(sys.argv[1]))).s3("eu-west-1")
except AgentError as error:
    print(type(error).__name__, error.sentence)
"""
METADATA = ("169.254.169.254", "[fd00:ec2::254]")


@pytest.mark.parametrize(
    ("environment", "baked", "others"),
    [
        ({"HTTP_PROXY": PROXY}, "", "True True"),
        ({"http_proxy": PROXY, "NO_PROXY": ".example.com, 10.0.0.1"}, "", "False True"),
        ({"http_proxy": PROXY, "no_proxy": "example.com", "NO_PROXY": "10.0.0.1"}, "", "False True"),
        ({"HTTP_PROXY": PROXY, "no_proxy": "*"}, "", "False False"),
        ({}, f"HTTP_PROXY={PROXY}\nNO_PROXY=.example.com # the metadata service was forgotten", "False True"),
    ],
    ids=["alone", "with exceptions", "lower case first", "for nobody", "from agent.env"],
)
def test_no_proxy_is_asked_for_the_instances_credentials(
    tmp_path: Path, environment: dict[str, str], baked: str, others: str
) -> None:
    """A fleet behind a proxy whose instances have no credentials, or hand those of the proxy's own machine around."""
    (tmp_path / "etc/adf-agent").mkdir(parents=True)
    (tmp_path / "etc/adf-agent/agent.env").write_text(baked)
    places = (*METADATA, "s3.example.com", "dynamodb.eu-west-1.amazonaws.com")
    bare = {name: text for name, text in os.environ.items() if not name.lower().endswith("_proxy")}
    done = subprocess.run(
        [sys.executable, "-c", PROXIED, tmp_path, *places],
        env={**bare, **environment},
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == f"False False {others}"


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"AWS_PROFILE": "none"}, "profile (none)"),
        ({"AWS_REGION": "eu west 1"}, "eu west 1"),
        ({"AWS_ENDPOINT_URL": "no:address"}, "no:address"),
        ({"AWS_ACCESS_KEY_ID": "half"}, "AWS_SECRET_ACCESS_KEY"),
        ({"AWS_DEFAULTS_MODE": "none"}, "none"),
    ],
    ids=["profile", "region", "endpoint", "half a key", "mode"],
)
def test_a_mistake_in_the_environment_is_a_setting_to_mend(
    machine: Machine, environment: dict[str, str], named: str
) -> None:
    """A typing error in agent.env that is called a fault of the agent's, every five seconds for a night."""
    table(machine, GREETING="hi")
    machine.environment = {name: text for name, text in machine.environment.items() if name not in environment}
    machine.agent_env(**environment)
    booted = machine.boot(RELEASE_URL=machine.release(app()), ADF_APP="web")
    assert booted.code == 10, booted.log
    assert named in booted.error["sentence"]
    assert "agent.env" in booted.error["hint"]


def test_credentials_that_are_no_texts_are_no_end_of_the_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A boot that ends in the mask, by a credential process whose keys are numbers to it."""
    process = tmp_path / "credentials"
    keys = {"Version": 1, "AccessKeyId": "ASIA", "SecretAccessKey": 12345678901234567, "SessionToken": TOKEN}
    process.write_text(f"#!/bin/sh\necho '{json.dumps(keys)}'\n")
    process.chmod(0o755)
    (tmp_path / "config").write_text(f"[default]\ncredential_process = {process}\n")
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))  # which would be set, also for the tests after this
    hidden: list[str] = []
    assert Clients(Root(tmp_path), hidden.extend).s3("eu-west-1")
    assert hidden == [TOKEN]


def test_a_profile_that_asks_a_person_is_a_setting_to_mend(tmp_path: Path) -> None:
    """A fault of the agent's own, as a profile with mfa_serial waits for a number that nobody types."""
    profile = "role_arn = arn:aws:iam::123456789012:role/x\nsource_profile = base\nmfa_serial = arn:aws:iam::1:mfa/me"
    base = "aws_access_key_id = x\naws_secret_access_key = y"
    (tmp_path / "config").write_text(f"[default]\n{profile}\n[profile base]\n{base}\n")
    bare = {name: text for name, text in os.environ.items() if not name.startswith("AWS_")}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ASKING, tmp_path],
        env={**bare, "AWS_CONFIG_FILE": str(tmp_path / "config")},
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # without a terminal, as an agent is
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("SettingsError no AWS client can be made: its profile asks a person"), done.stdout


def test_an_error_of_who_is_told_the_secrets_is_not_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The secret key in the status, as the mistake in the environment that it was taken for."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", TOKEN)

    def hide(secrets: Iterable[str]) -> None:
        raise ValueError(*secrets)

    with pytest.raises(ValueError, match=TOKEN) as caught:
        Clients(Root(tmp_path), hide).s3("eu-west-1")
    assert not isinstance(caught.value, AgentError)


@pytest.mark.parametrize("command", ["settings", "config", "boot"])
def test_agent_env_brings_the_environment_to_every_command(machine: Machine, command: str) -> None:
    """A config that the agent reads from another endpoint than the operator who looks at it by `adf-agent config`."""
    table(machine, GREETING="hi")
    machine.user_data(RELEASE_URL=machine.release(app()), ADF_APP="web", ADF_PUBLISH=f"{free_port()}:8000")
    own = machine.environment
    machine.agent_env(**{name: text for name, text in own.items() if name != "ADF_ROOT"})
    machine.environment = {"ADF_ROOT": own["ADF_ROOT"]}
    done = machine.run(command)
    assert done.code == 0, done.log
    machine.agent_env(AWS_EC2_METADATA_SERVICE_ENDPOINT="http://127.0.0.1:9")
    assert machine.run(command, **own).code == 0, "what it was started with comes first"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("export HTTPS_PROXY='http://p:1' # a proxy\nno_proxy=a,b\n", {"HTTPS_PROXY": "http://p:1", "no_proxy": "a,b"}),
        (
            "RELEASE_URL=docker://a/b:c\nADF_APP=web\nADF_LOG_OPT_TAG=x\nADF_ROOT=/x\nADF_NO=1\nAWS_REGION=r",
            {"AWS_REGION": "r"},
        ),
        ("A=a\0b\nB=b", {"B": "b"}),
        ("HTTPS_PROXY", {}),
        ("", {}),
    ],
    ids=["as the agent reads lines", "no settings", "what no environment holds", "broken", "empty"],
)
def test_what_is_no_setting_is_for_the_environment(tmp_path: Path, text: str, expected: dict[str, str]) -> None:
    """An agent that ends at its first line for a slip in agent.env, which the settings stage would have named."""
    folder = tmp_path / "etc/adf-agent"
    folder.mkdir(parents=True)
    (folder / "agent.env").write_text(text)
    assert launch.environment(Root(tmp_path)) == expected


@pytest.mark.parametrize(
    ("name", "text", "shown"),
    [
        ("RELEASE_URL", "me:pw@host/a?key=b", "***host/a?***"),
        ("RELEASE_URL", "https://me:pw@host/a?key=b", "https://***@host/a?key=***"),
        ("RELEASE_URL", "https://host/a b", "***"),
        ("ADF_APP", "a@b@c/d@e", "***c/***e"),
        ("ADF_APP", "web", "web"),
        ("ADF_LOG_OPT_TAG", "web", "web"),
        ("ADF_LOG_OPT_API_KEY", "x", "***"),
        ("OTHER", "x", "***"),
    ],
)
def test_a_setting_that_may_be_wrong_is_shown_without_what_may_be_secret(name: str, text: str, shown: str) -> None:
    """A password in the journal, as no scheme stood before it."""
    assert launch.hidden(name, text) == shown


def test_a_setting_without_end_is_shown_at_once() -> None:
    """An `adf-agent settings` that says nothing for hours, where user-data is megabytes of letters."""
    assert launch.hidden("ADF_APP", "a" * 2_000_000).endswith("a")  # a quadratic search: the test's time-out
