"""What the README has people type works as it stands there."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from test_boot import free_port

REPOSITORY = Path(__file__).parents[1]
GIT = {f"GIT_{who}_{what}": "somebody" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


def typed(heading: str) -> str:
    """The shell lines below *heading*."""
    found = re.search(
        rf"^## {heading}\n.*?^```sh\n(.*?)^```", (REPOSITORY / "README.md").read_text(), re.DOTALL | re.MULTILINE
    )
    assert found
    return found[1]


@pytest.mark.usefixtures("docker_client")
def test_the_six_steps_can_be_typed(tmp_path: Path) -> None:
    """Somebody's first quarter of an hour with this, spent on a line that never worked."""
    shutil.copytree(REPOSITORY / "examples", tmp_path / "examples")
    port = free_port()
    lines = typed("The six steps").replace("127.0.0.1:8000", f"127.0.0.1:{port}").replace("clean v1", "clean v1 --yes")
    lines = lines.replace(r"ADF_APP=hello\n", rf"ADF_APP=hello\nADF_PUBLISH={port}:8000\n")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    log = tmp_path / "log"
    with log.open("w") as file:
        shell = subprocess.Popen(
            ["bash", "-e"],
            cwd=tmp_path,
            env={**os.environ, **GIT, "PATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
            start_new_session=True,
        )
        out, _ = shell.communicate(lines, timeout=120)
    said = re.search(r"  instance (\S+), its .*kill (\d+)", log.read_text(), re.DOTALL)
    assert said, log.read_text()
    os.kill(int(said[2]), signal.SIGTERM)
    assert shell.returncode == 0, log.read_text() + out
    assert f"Hello World, says v1 on {said[1]}\n" in out
    assert f"Hello Everybody, tells you v2 on {said[1]}\n" in out
    assert "revision 4: hello@v1: -NAME" in out
    with subprocess.Popen(["tail", f"--pid={said[2]}", "-f", "/dev/null"]) as ended:  # it is no child of ours
        assert ended.wait(60) == 0
    assert "AWS and metadata are gone" in log.read_text()
