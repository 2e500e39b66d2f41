"""The quickstart is typed, line by line, as it stands in the documentation."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from test_boot import free_port
from test_demo import nothing_left

__all__ = ["nothing_left"]

REPOSITORY = Path(__file__).parents[1]
QUICKSTART = (REPOSITORY / "docs/quickstart.md").read_text()
GIT = {f"GIT_{who}_{what}": "somebody" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


def typed(heading: str) -> str:
    """All shell lines below *heading*, in order."""
    found = re.search(rf"^## {heading}\n(.*?)^## ", QUICKSTART, re.DOTALL | re.MULTILINE)
    assert found
    return "".join(re.findall(r"^```sh\n(.*?)^```", found[1], re.DOTALL | re.MULTILINE))


def test_what_is_on_this_machine_can_be_typed(nothing_left: Path) -> None:
    """Somebody's first quarter of an hour with this, spent on a line that never worked."""
    here = nothing_left / "clone"
    shutil.copytree(REPOSITORY / "examples", here / "examples")
    port = free_port()
    lines = typed("On this machine").replace("127.0.0.1:8000", f"127.0.0.1:{port}").replace("--bake 10s", "--bake 1s")
    lines = lines.replace(r"ADF_APP=hello\n", rf"ADF_APP=hello\nADF_PUBLISH={port}:8000\n")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    shell = subprocess.run(
        ["bash", "-e"],
        cwd=here,
        env={**os.environ, **GIT, "PATH": path, "TMPDIR": str(nothing_left)},
        input=lines,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert shell.returncode == 0, shell.stdout + shell.stderr
    shutil.rmtree(here)
    instance = re.search(r"  instance (\S+), its ", shell.stderr)
    assert instance, shell.stderr
    for line in (
        f"Hello World, says v1 on {instance[1]}\n",
        f"Hello Everybody, tells you v2 on {instance[1]}\n",
        "revision 4: hello@v1: -NAME",
        "Hello World, tells you v2 on i-",
    ):
        assert line in shell.stdout, shell.stdout + shell.stderr
    assert shell.stderr.count("it is down") == 2, shell.stderr
