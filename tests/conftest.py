"""What every test may ask for: the Docker engine, and a user without rights."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import docker
import pytest
from docker.errors import DockerException

pytest_plugins = [
    "fixtures_agent",
    "fixtures_box",
    "fixtures_cloud",
    "fixtures_engine",
    "fixtures_operator",
    "fixtures_package",
    "fixtures_repository",
    "fixtures_roll",
    "fixtures_web",
]

NOBODY = 65534

# The clone may lie where only root can look, so the environment $1 is bound to $2 in a mount namespace that ends with
# the command ($5 and on), which runs as user $3 with group $4 alone.
AS_USER = 'mount --bind "$1" "$2" && exec setpriv --reuid="$3" --regid="$4" --clear-groups -- "${@:5}"'


@dataclass(frozen=True)
class Unprivileged:
    """Runs the virtual environment's Python as a user whose only right is the group of Docker's socket.

    *folder* is that user's own, for state and input files. Processes still running when the test ends are killed.
    """

    folder: Path
    command: tuple[str, ...]
    running: ExitStack

    def __call__(self, *arguments: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Start `python ARGUMENTS…` (`"-m", "adf_agent", "boot"`) with *env* added, its output in pipes."""
        process = subprocess.Popen(
            [*self.command, *arguments],
            cwd=self.folder,
            env={**os.environ, "HOME": str(self.folder), **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.running.enter_context(process)
        self.running.callback(process.kill)
        return process


def pytest_configure() -> None:
    """Keep the source tree out of every Python started by a test here: what is tested is the installed wheel."""
    os.environ["PYTHONSAFEPATH"] = "1"


@pytest.fixture(scope="session")
def docker_client() -> Iterator[docker.DockerClient]:
    """A client of the real engine at DOCKER_HOST. None there is a failure, never a skipped test."""
    try:
        client = docker.from_env(timeout=60)
        client.ping()
    except DockerException as error:
        pytest.fail(f"no Docker engine answers, run the tests with `make test`: {error}", pytrace=False)
    yield client
    client.close()


@pytest.fixture
def unprivileged() -> Iterator[Unprivileged]:
    """`unprivileged("-m", "adf_agent", …)` runs the agent as systemd does: without root, in the group docker."""
    with TemporaryDirectory(prefix="adf-") as name, ExitStack() as running:
        folder = Path(name)
        if os.geteuid() != 0:
            yield Unprivileged(folder, (sys.executable,), running)
            return
        folder.chmod(0o755)
        environment, home = folder / "venv", folder / "home"
        environment.mkdir()
        home.mkdir()
        group = _docker_group()
        os.chown(home, NOBODY, group)
        shell = ("unshare", "--mount", "bash", "-c", AS_USER, "as-user")
        place = (sys.prefix, str(environment), str(NOBODY), str(group), str(environment / "bin" / "python"))
        yield Unprivileged(home, (*shell, *place), running)


def _docker_group() -> int:
    """The group that may use the engine's socket; none where the engine is reached by TCP."""
    host = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    socket = Path(host.removeprefix("unix://"))
    return socket.stat().st_gid if socket.is_socket() else NOBODY
