"""The whole delivery on one machine: six steps, two releases, a fleet under traffic. All commands are the real ones."""

import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from adf_agent.background import Task
from adf_agent.deadline import Deadline
from adf_agent.errors import AgentError
from adf_agent.sandbox import hello, machine
from adf_agent.sandbox.cloud import Cloud
from adf_agent.sandbox.fleet import NAME, Fleet, user_data
from adf_agent.sandbox.traffic import Traffic

ARTICLE_SECONDS = 108  # "Software Delivery via Amazon Docker Work Flow", 2013: from nothing to "Hello World"
DEMO_SECONDS = 960.0
STOP_SECONDS = 30.0  # for a command that was told to stop
COMMANDS = {"adf-release": "release.cli", "adf-config": "configure.cli", "adf-roll": "rolling.cli"}
GIT = ["-c", "user.name=demo", "-c", "user.email=demo@example.com", "-c", "commit.gpgsign=false"]


@dataclass(frozen=True)
class Desk:
    """Where the operator sits: the clone of the app's repository, and the environment of the shell there."""

    clone: Path
    environment: Mapping[str, str]
    deadline: Deadline

    def git(self, *words: str) -> None:
        """Raises AgentError."""
        done = subprocess.run(["git", *GIT, *words], cwd=self.clone, capture_output=True, text=True, check=False)
        if done.returncode:
            raise AgentError(f"git {words[0]} failed: {done.stderr.strip()}")

    def tag(self, release: str) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", release)
        self.git("tag", release)

    def types(self, *words: str) -> int:
        """The exit code of the command, which says what it has to say itself. Raises Stopped, with it stopped."""
        return self._run(words, None)[0]

    def told(self, *words: str) -> str:
        """What the command answers, shown as well. Raises AgentError where it fails."""
        code, answer = self._run(words, subprocess.PIPE)
        if code:
            raise AgentError(f"{words[0]} {words[1]} ended with {code}")
        _show(answer)
        return answer

    def _run(self, words: tuple[str, ...], out: int | None) -> tuple[int, str]:
        _show(f"$ {shlex.join(words)}")
        main = f"import sys; from adf_agent.ops.{COMMANDS[words[0]]} import main; sys.exit(main())"
        # -P: not what the current folder may hold. A session of its own: a Ctrl-C is for the demo, which passes it on.
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", main, *words[1:]],
            cwd=self.clone,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            text=True,
            start_new_session=True,
        )
        try:
            answer, _ = Task(process.communicate).result(self.deadline)
        except TimeoutError as error:
            raise AgentError(f"{words[0]} did not end in time") from error
        finally:
            _end(process)
        return process.returncode, (answer or "").strip()


def run(size: int, stop: threading.Event, began: float, *, broken: bool) -> int:
    """Shows it all and takes it away again. Returns adf-roll's exit code, 1 where a request was lost.

    *began* is when there was nothing yet (monotonic). Raises AgentError, Stopped.
    """
    deadline, client, busybox = Deadline(DEMO_SECONDS, stop), machine.engine(), hello.static_busybox()
    with ExitStack() as stack:
        stack.callback(client.close)
        folder = stack.enter_context(machine.folder())
        cloud = stack.enter_context(Cloud(machine.instance()))
        machine.furnish(cloud)
        fleet = Fleet(cloud, folder, client)
        stack.callback(lambda: _say("removed", ", ".join([*fleet.removed, "every agent, haproxy, AWS and all files"])))
        stack.enter_context(fleet)
        desk = _desk(cloud, folder, deadline, busybox)
        _say("AWS", "Auto Scaling, load balancer, DynamoDB, S3 and instance metadata, emulated on 127.0.0.0/8")
        url = _first(desk)
        pool = fleet.group(user_data(url), size)
        _say("fleet", f"{size} instances of the group {NAME}, each an adf-agent with this user-data:")
        _show("", *(f"    {line}" for line in user_data(url).splitlines()), "")
        fleet.wait(pool, deadline)
        _say(
            "serving",
            f"{time.monotonic() - began:.1f} s after there was nothing (the article of 2013: {ARTICLE_SECONDS} s)",
        )
        with Traffic(pool.url) as traffic:
            code = _second(desk, broken=broken)
            if code == 0:
                fleet.wait(pool, deadline)  # the last of v1 has left
                code = desk.types("adf-config", "clean", "v1", "--yes")
    _report(traffic)
    return code or (1 if traffic.failed else 0)


def _desk(cloud: Cloud, folder: Path, deadline: Deadline, busybox: Path) -> Desk:
    clone = folder / NAME
    shutil.copytree(hello.folder(), clone)
    shutil.copy(busybox, clone / "busybox")
    environment = {**os.environ, **machine.environment(cloud, folder / "nowhere"), "ADF_APP": NAME}
    desk = Desk(clone, environment, deadline)
    desk.git("init", "--quiet")
    return desk


def _first(desk: Desk) -> str:
    """Steps 1 to 3 of the first release; its RELEASE_URL."""
    desk.tag("v1")
    desk.told("adf-config", "init")
    desk.told("adf-config", "set", "GREETING=Hello")
    desk.told("adf-config", "set", "-r", "v1", "NAME=World")
    return desk.told("adf-release", "create", "--to", f"s3://{machine.BUCKET}").partition("=")[2]


def _second(desk: Desk, *, broken: bool) -> int:
    """Steps 1 to 5 of the second one, with users on the first; the roll's exit code."""
    page = desk.clone / "www/cgi-bin/index.cgi"
    page.write_text(page.read_text().replace("says", "tells you"))
    if broken:
        (desk.clone / "Dockerfile").write_text(hello.dockerfile(hello.FAILS))
    desk.tag("v2")
    desk.told("adf-config", "set", "-r", "v2", "NAME=Everybody")
    url = desk.told("adf-release", "create", "--to", f"s3://{machine.BUCKET}").partition("=")[2]
    return desk.types("adf-roll", "start", NAME, url, "--bake", "5s", "--batch", "50%", "--yes")


def _report(traffic: Traffic) -> None:
    for answer, count in traffic.answers.items():
        _say("answered", f"{count} times: {answer}")
    for why in traffic.failed[:5]:
        _say("failed", why)
    _show(f"{traffic.served} requests served, {len(traffic.failed)} failed")


def _say(what: str, text: str) -> None:
    _show(f"{what:<9} {text}")


def _show(*lines: str) -> None:
    print(*lines, sep="\n", flush=True)


def _end(process: "subprocess.Popen[str]") -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
