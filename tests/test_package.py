import inspect
import os
import re
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from layer import Layer

import adf_agent
from adf_agent import clients, settings
from adf_agent.settings import TABLE

REPOSITORY = Path(__file__).parents[1]
PACKAGING = REPOSITORY / "packaging"
LIBRARY = "usr/lib/adf-agent"
INSTALL = {"deb": ("dpkg", "--force-confold", "--install"), "rpm": ("rpm", "--nodeps", "--upgrade")}
REMOVE = {"deb": ("dpkg", "--remove"), "rpm": ("rpm", "--nodeps", "--erase")}
UNCHECKED_HASH = 0b01  # PEP 552's flags of bytecode that is taken whatever its source says

MAKE_EVERY_CLIENT = """
import sys
sys.path.insert(0, LIBRARY)
from pathlib import Path
import certifi, docker
from adf_agent.clients import Clients
from adf_agent.root import Root
clients = Clients(Root(Path(LIBRARY)))
config = clients.config("eu-west-1")
made = [getattr(clients, name)("eu-west-1") for name in ("autoscaling", "ec2", "elb", "elbv2", "s3")]
for client in (*made, config.dynamodb, config.kms(), config.secretsmanager(), config.ssm()):
    print(client.meta.service_model.service_name)
clients.ec2("eu-west-1").get_paginator("describe_tags")
clients._aws("sts", "eu-west-1")  # botocore's own, for credentials
for module in list(sys.modules.values()):
    place = getattr(module, "__file__", None) or LIBRARY
    assert place.startswith((LIBRARY, sys.base_prefix + "/lib")) and "-packages" not in place, place
assert certifi.where().startswith(LIBRARY)
"""


def pythons() -> Iterator[str]:
    """The interpreters on this machine that the agent supports: the distribution's own, and those that answer."""
    for name in ("/usr/bin/python3", "python3.11", "python3.12", "python3.13"):
        path = shutil.which(name)
        if path and not subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode:
            yield path


PYTHONS = tuple(dict.fromkeys(pythons()))


def examples() -> dict[str, str]:
    """The settings of agent.env with the examples uncommented, as the agent's own parser reads them."""
    text = (PACKAGING / "agent.env").read_text()
    return settings.agent_env(re.sub(r"^#(?=\w+=)", "", text, flags=re.MULTILINE).encode())


def output(*command: str | Path, **environment: str) -> str:
    """What *command* prints; it must succeed."""
    done = subprocess.run(command, check=False, capture_output=True, text=True, env={**os.environ, **environment})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def upgrades(unpacked: Path) -> Iterator[Path]:
    """Packages of a next version: agent.env shows more, and bytecode is for no Python that any machine has.

    Without boto, which is most of it: what is asked of them is how they are installed.
    """
    with TemporaryDirectory(prefix="adf-") as name:
        folder = Path(name)
        tree = folder / "tree"
        shutil.copytree(
            unpacked, tree, ignore=shutil.ignore_patterns("__pycache__", "boto*", "s3transfer*", "needrestart")
        )
        (tree / LIBRARY / "adf_agent/__init__.py").write_text('__version__ = "99"\n')
        (tree / LIBRARY / "bytecode").write_text("")
        with (tree / "etc/adf-agent/agent.env").open("a") as example:
            example.write("#ADF_NEW=1\n")
        for kind in INSTALL:
            output(PACKAGING / kind / "build", tree, folder)
        yield folder


def test_no_file_is_for_one_architecture_or_for_root_alone(unpacked: Path) -> None:
    """The agent, which is no root, fails at an import: on arm64 only, or on every instance."""
    for path in unpacked.rglob("*"):
        assert path.is_dir() or path.read_bytes()[:4] != b"\x7fELF", path
        assert path.stat().st_mode & 0o7777 == (0o755 if path.is_dir() or path.parent.name == "bin" else 0o644), path


def test_it_holds_the_agent_without_what_operators_and_tests_use(unpacked: Path) -> None:
    """An emulated AWS and a roller of whole fleets have no business on an instance."""
    source, agent = Path(adf_agent.__file__).parent, unpacked / LIBRARY / "adf_agent"
    apart = {source / "ops", source / "sandbox"}
    kept = {path.relative_to(source) for path in source.rglob("*.py") if not apart & {*path.parents}}
    assert {path.relative_to(agent) for path in agent.rglob("*.py")} == kept
    assert not {"moto", "rich", "pip", "pytest", "bin"} & {path.name for path in (unpacked / LIBRARY).iterdir()}


def test_every_library_comes_with_its_licence(unpacked: Path) -> None:
    """Whoever ships an image with the package has to show what it is licensed under."""
    distributions = list((unpacked / LIBRARY).glob("*.dist-info"))
    pinned = re.findall(r"^[\w.-]+==[\d.post]+ \\$", (REPOSITORY / "requirements.txt").read_text(), re.MULTILINE)
    assert len(distributions) == len(pinned)  # without what is for one system only
    for distribution in distributions:
        assert [path for path in distribution.rglob("*") if "LICEN" in path.name.upper()], distribution
    assert (unpacked / "usr/share/doc/adf-agent/copyright").exists()


@pytest.mark.parametrize(
    "path",
    [
        "man/man1/adf-agent.1.gz",
        "bash-completion/completions/adf-agent",
        "fish/vendor_completions.d/adf-agent.fish",
        "zsh/site-functions/_adf-agent",
        "zsh/vendor-completions/_adf-agent",
    ],
)
def test_page_and_completions_are_where_they_are_looked_for(path: str, unpacked: Path, rpm: Path) -> None:
    """Who is on the instance at night has no browser at hand."""
    assert (unpacked / "usr/share" / path).stat().st_size
    assert f"/usr/share/{path}" in output("rpm", "-qpl", rpm).split("\n")


def test_bytecode_is_complete_and_taken_unchecked(unpacked: Path) -> None:
    """Bytecode is out of date to Python where the files have one time, that of the build: each start compiles again."""
    tags = (unpacked / LIBRARY / "bytecode").read_text().split()
    assert tags
    for source in (unpacked / LIBRARY).rglob("*.py"):
        for tag in tags:
            compiled = source.parent / "__pycache__" / f"{source.stem}.{tag}.pyc"
            assert struct.unpack_from("<I", compiled.read_bytes(), 4) == (UNCHECKED_HASH,), compiled


@pytest.mark.parametrize("python", PYTHONS)
def test_the_command_runs_beside_what_would_break_it(python: str, unpacked: Path, tmp_path: Path) -> None:
    """An operator's PYTHONPATH, or another package's older boto3, ends the agent at its next start."""
    for name in ("json.py", "boto3.py", "adf_agent.py", "sitecustomize.py"):
        (tmp_path / name).write_text("raise SystemExit(99)")
    root = {"ADF_ROOT": str(tmp_path), "PYTHONPATH": str(tmp_path), "PYTHONHOME": "/nowhere"}
    launcher = unpacked / "usr/bin/adf-agent"
    shebang, option = launcher.read_text().partition("\n")[0].split()
    assert shebang == "#!/usr/bin/python3"
    link = tmp_path / "adf-agent"
    link.symlink_to(launcher)

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = (python, option, str(link), *arguments)
        return subprocess.run(
            command, cwd=tmp_path, env={**os.environ, **root}, capture_output=True, text=True, check=False
        )

    assert run("--version").stdout == f"adf-agent {adf_agent.__version__}\n"
    assert "usage: adf-agent" in run("--help").stdout
    status = run("status")
    assert (status.returncode, status.stderr) == (3, "")


@pytest.mark.parametrize("python", PYTHONS)
def test_each_of_the_agents_clients_is_made_from_the_package_alone(python: str, unpacked: Path) -> None:
    """A model of AWS that was left out is missed when an instance must leave its load balancer."""
    library = str((unpacked / LIBRARY).resolve())
    credentials = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    code = MAKE_EVERY_CLIENT.replace("LIBRARY", repr(library))
    made = output(python, "-BISc", code, **credentials).split()
    assert sorted(made) == sorted(re.findall(r'_aws\("(\w+)"', inspect.getsource(clients)))


def test_what_verifies_signatures_comes_with_it(deb: Path, rpm: Path) -> None:
    """An AMI that asks for signatures, and boots nothing as it has nothing to verify them with."""
    assert "openssl (>= 3)" in output("dpkg-deb", "--field", deb, "Depends")
    assert "openssl >= 1:3\n" in output("rpm", "-qp", "--requires", rpm)


def test_agent_env_shows_every_setting_that_it_may_hold() -> None:
    """A setting that nobody can find is set nowhere."""
    shown = {name for name in examples() if name.startswith("ADF_") or name in TABLE}
    options = {name for name in shown if name.startswith(settings.LOG_OPTION)}
    assert options
    assert shown - options == set(TABLE)


def test_each_example_of_agent_env_is_one_that_the_agent_takes() -> None:
    """An example that is refused ends the boot of every instance whose operator has trusted it."""
    found = settings.resolve({}, {}, examples())
    assert not found.warnings
    assert {found.sources[name][1] for name in set(TABLE)} == {"agent.env"}


def test_agent_env_sets_nothing_by_itself() -> None:
    """An example that counts is the same release on every instance in the world."""
    assert settings.agent_env((PACKAGING / "agent.env").read_bytes()) == {}


def test_the_scripts_have_no_known_fault() -> None:
    """A maintainer script that fails leaves a package that can neither be configured nor removed."""
    scripts = [path for path in (*PACKAGING.iterdir(), *PACKAGING.glob("[dr]*/*")) if _is_shell(path)]
    assert len(scripts) == 7
    output("shellcheck", *scripts)


def _is_shell(path: Path) -> bool:
    return path.is_file() and re.match(rb"#!/bin/(ba)?sh\n", path.read_bytes()) is not None


def test_the_rpm_asks_for_what_it_runs_on(rpm: Path) -> None:
    """On Amazon Linux 2023 python3 is 3.9: the agent would be installed, and not start."""
    required = output("rpm", "-qp", "--requires", rpm).split("\n")
    assert {"python3.11", "systemd"} <= set(required)
    assert output("rpm", "-qp", "--qf", "%{ARCH}", rpm) == "noarch"
    assert output("rpm", "-qp", "--configfiles", rpm) == "/etc/adf-agent/agent.env\n"


@pytest.mark.parametrize("kind", INSTALL)
def test_an_upgrade_leaves_what_was_set_up_and_brings_its_own_bytecode(
    kind: str, deb: Path, rpm: Path, upgrades: Path, box_base: Path
) -> None:
    """An agent that was switched off is back, the AMI's guards are gone, or new sources are run by old bytecode."""
    package = {"deb": deb, "rpm": rpm}[kind]
    with Layer(box_base) as layer:
        root = f"--root={layer.root}"
        library = layer.root / LIBRARY
        baked = layer.root / "etc/adf-agent/agent.env"
        link = layer.root / "etc/systemd/system/multi-user.target.wants/adf-agent.service"

        output(*INSTALL[kind], root, package)
        assert link.is_symlink()
        assert output("chroot", layer.root, "id", "-nG", "adf-agent").split() == ["adf-agent", "docker"]
        assert output("chroot", layer.root, "adf-agent", "--version") == f"adf-agent {adf_agent.__version__}\n"

        baked.write_text("ADF_APP=web\n")
        output("chroot", layer.root, "systemctl", "disable", "adf-agent")
        output(*INSTALL[kind], root, next(upgrades.glob(f"*.{kind}")))
        assert not link.is_symlink()
        assert baked.read_text() == "ADF_APP=web\n"
        assert output("chroot", layer.root, "adf-agent", "--version") == "adf-agent 99\n"
        assert len([*library.rglob("*.pyc")]) == len([*library.rglob("*.py")])  # for the box's one Python

        output(*REMOVE[kind], root, "adf-agent")
        assert not library.exists()
        output(*INSTALL[kind], root, package)
        assert link.is_symlink()
