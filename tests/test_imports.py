"""The order in which the agent's modules may know each other, and that the wheel is what the tests run."""

import ast
import sys
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import adf_agent

if TYPE_CHECKING:
    from conftest import Unprivileged

# Data flows one way: a module imports only from those that stand before it.
ORDER = [
    "errors", "console", "deadline", "background", "aws", "balancer", "group", "fleetrecord", "fleet", "location",
    "sources", "signature", "mask", "log", "notation", "folders", "manifest", "userdata", "settings", "instance",
    "root", "state", "hold", "history", "record", "launch", "dockerignore", "tarball", "archive", "download", "note",
    "reach", "web", "store", "release", "secret", "table", "config", "lastgood", "engine", "buildargs", "build",
    "image", "spec", "container", "probing", "health", "host", "member", "report", "stages", "undo", "serving", "boot",
    "leave", "notices", "phases", "works", "vitals", "notify", "supervise", "screen", "watch", "status", "timeline",
    "waterfall", "analyze", "logs", "order", "clients", "layout", "doctor", "commands", "cli", "__main__",
]  # fmt: skip
APART = {"ops", "sandbox"}
EDGE = {"clients"} | APART  # where clients are made
CLIENTS = {"boto3", "create_client", "DockerClient", "APIClient", "from_env"}

PACKAGE = Path(adf_agent.__file__).parent
REPOSITORY = Path(__file__).parents[1]
SOURCES = {path.relative_to(PACKAGE).with_suffix("").as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}
MODULES = [name for name in SOURCES if name != "__init__" and name.split("/")[0] not in APART]


def imported(tree: ast.AST) -> Iterator[str]:
    """The parts of adf_agent that *tree* imports, anywhere in it: `settings`, `sandbox`."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = f"adf_agent.{node.module or ''}".rstrip(".") if node.level else str(node.module)
            names = [f"{module}.{alias.name}" for alias in node.names]
        yield from (name.split(".")[1] for name in names if name.startswith("adf_agent."))


def named(tree: ast.AST) -> set[str]:
    """Every name, attribute and imported module or name in *tree*."""
    found: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name):
                found.add(name)
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                found.update(part for alias in aliases for part in alias.name.split("."))
        if isinstance(node, ast.ImportFrom):
            found.update((node.module or "").split("."))
    return found


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_those_before_it(module: str) -> None:
    """A circle of imports breaks the boot of every instance at its first line."""
    room, *inside = module.split("/")
    assert room in ORDER, f"give {module}.py its place in ORDER"
    allowed = {*ORDER[: ORDER.index(room)], "__version__", *([room] if inside else [])}
    assert set(imported(ast.parse(SOURCES[module].read_text()))) <= allowed


@pytest.mark.parametrize("module", [name for name in MODULES if name not in EDGE])
def test_clients_are_made_at_the_edge_only(module: str) -> None:
    """A client made inside has its own time-outs and region: the hang that no test can bring about."""
    assert not named(ast.parse(SOURCES[module].read_text())) & CLIENTS


@pytest.mark.parametrize(
    "source",
    [
        "import boto3",
        "def late():\n    import boto3.session",
        "from boto3 import client",
        "import docker\ndocker.from_env()",
        "from docker import DockerClient as Engine",
        "docker.api.client.APIClient()",
        "import botocore.session\nbotocore.session.get_session().create_client('s3')",
    ],
)
def test_a_client_is_seen_in_every_form(source: str) -> None:
    """A check that overlooks a form lets the hidden client in."""
    assert named(ast.parse(source)) & CLIENTS


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import adf_agent.boot", {"boot"}),
        ("from adf_agent.boot import run", {"boot"}),
        ("from adf_agent import boot, state", {"boot", "state"}),
        ("def late():\n    from . import boot", {"boot"}),
        ("from .sandbox.cli import main", {"sandbox"}),
        ("import json, adf_agents.boot", set()),
    ],
)
def test_an_import_is_seen_in_every_form(source: str, expected: set[str]) -> None:
    """A check that overlooks a form lets the circle in."""
    assert set(imported(ast.parse(source))) == expected


def test_the_installed_wheel_is_tested() -> None:
    """A file that the wheel lacks is noticed on the first instance, when the tests ran on the source tree."""
    assert PACKAGE.is_relative_to(sys.prefix)
    assert str(REPOSITORY) not in sys.path
    source = {path.relative_to(REPOSITORY / "adf_agent") for path in (REPOSITORY / "adf_agent").rglob("*.py")}
    assert {path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py")} == source
    assert (PACKAGE / "py.typed").exists()


@pytest.mark.parametrize("command", ["adf-agent", "adf-config", "adf-release", "adf-roll", "adf-sandbox"])
def test_a_command_has_something_to_start(command: str) -> None:
    """A unit file that starts a command pointing nowhere is an instance that never boots."""
    (script,) = distribution("adf-agent").entry_points.select(group="console_scripts", name=command)
    assert callable(script.load())


def test_the_agent_can_be_read_by_a_user_without_rights(unprivileged: "Unprivileged") -> None:
    """The agent runs as adf-agent: tests that are root's alone would miss a file that only root can read."""
    process = unprivileged("-c", "import adf_agent.errors, os, sys; print(os.geteuid(), *os.getgroups(), sys.prefix)")
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    user, *_ = output.split()
    assert int(user) != 0
