"""The packages as `make deb rpm` has built them: what an AMI gets is what is tested. And the unit, as it is written."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

import adf_agent

REPOSITORY = Path(__file__).parents[1]
DIST = REPOSITORY / "dist"
UNIT = REPOSITORY / "systemd/adf-agent.service"


def _built(name: str) -> Path:
    path = DIST / name
    if not path.exists():
        pytest.fail(f"there is no {path}: make deb rpm", pytrace=False)
    return path


@pytest.fixture(scope="session")
def deb() -> Path:
    """The package for Debian and Ubuntu."""
    return _built(f"adf-agent_{adf_agent.__version__}_all.deb")


@pytest.fixture(scope="session")
def rpm() -> Path:
    """The package for Amazon Linux."""
    return _built(f"adf-agent-{adf_agent.__version__}-1.noarch.rpm")


@pytest.fixture(scope="session")
def unpacked(deb: Path) -> Iterator[Path]:
    """The files of the .deb below a folder."""
    with TemporaryDirectory(prefix="adf-") as folder:
        subprocess.run(["dpkg-deb", "--extract", deb, folder], check=True)
        yield Path(folder)


@pytest.fixture(scope="session")
def unit() -> dict[str, list[str]]:
    """The unit's directives, name → the value of each of its lines."""
    found: dict[str, list[str]] = {}
    for name, value in re.findall(r"^(\w+)=(.*)$", UNIT.read_text(), re.MULTILINE):
        found.setdefault(name, []).append(value)
    return found
