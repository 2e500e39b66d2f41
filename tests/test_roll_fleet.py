"""adf-roll on a fleet of real agents behind a load balancer, under traffic."""

import subprocess
import sys
from pathlib import Path

import pytest
from test_demo import nothing_left, serves, until, up

from adf_agent.sandbox.traffic import Traffic

ROLL = [str(Path(sys.executable).with_name("adf-roll"))]
__all__ = ["nothing_left"]


@pytest.mark.parametrize(("size", "options"), [(1, []), (2, ["--canary", "100%", "--batch", "100%"])])
def test_a_group_that_is_replaced_whole_loses_no_request(nothing_left: Path, size: int, options: list[str]) -> None:
    """A group of one that answers nobody, from when its old instance goes until the load balancer knows the new one."""
    with up(nothing_left, "--instances", str(size)) as (process, environment):
        until(lambda: serves(environment, "says v1 on i-"), "the fleet serves")
        roll = [*ROLL, "start", "hello", "s3://releases/v2.tar.gz", "--bake", "1s", "--yes", *options]
        with Traffic(environment["FLEET"]) as traffic:
            done = subprocess.run(roll, env=environment, capture_output=True, text=True, timeout=120, check=False)
            until(lambda: not serves(environment, "says v1 on i-"), "v1 has left")
        process.terminate()
        process.communicate(timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert traffic.failed == []
    assert "Hello World, tells you v2" in traffic.answers
