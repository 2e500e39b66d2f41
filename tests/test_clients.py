"""The environment that clients are made in: the machine's own, agent.env's lines for it, and mistakes in either."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fixtures_agent import Machine, app
from test_boot import free_port, table

from adf_agent import launch
from adf_agent.root import Root

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


@pytest.mark.parametrize("command", ["settings", "config", "boot"])
def test_agent_env_brings_the_environment_to_every_command(machine: Machine, command: str) -> None:
    """A config that the agent reads from another endpoint than the operator who looks at it by `adf-agent config`."""
    table(machine, GREETING="hi")
    machine.user_data(RELEASE_URL=machine.release(app()), ADF_APP="web", ADF_PUBLISH=f"{free_port()}:8000")
    own = machine.environment
    machine.agent_env(**{name: text for name, text in own.items() if name != "ADF_ROOT"})
    machine.environment = {"ADF_ROOT": own["ADF_ROOT"]}
    assert machine.run(command).code == 0
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
