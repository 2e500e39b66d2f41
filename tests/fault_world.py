"""An instance in its group, behind its load balancers, on an engine of its own: to be broken, and looked at after."""

import hashlib
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta

import dependencies
from dependencies import Dependency, Host, whole
from engine_front import EngineFront
from fixtures_agent import BASE, Daemon, Machine, app, tarball
from fixtures_engine import OwnEngine
from gate import Gate, gated
from matrix import ANSWERS, SOUND_SECONDS, Cell, Fault
from test_boot import free_port, page, table

from adf_agent.sandbox.balancer import Balancer
from adf_agent.sandbox.group import Group
from adf_agent.sandbox.member import Hook

STOP = "[container]\nstop_timeout = 1\n"
HOOKS = (Hook("adf-launch", "launch"), Hook("adf-terminate", "terminate"))
HOUR = timedelta(hours=1)
# What the agent keeps in the state folder.
KEPT = {"state.json", "config.json", "boots.json", "build.log", "buildx", "last-lines"}
EATS = "httpd -p 8000 -h /www; while sleep 0.1; do test -e /eat && rm /eat && exec tail /dev/zero; done"
STATUSES: Mapping[Fault, str] = {"5xx": "503 busy", "throttled": "429 slowly", "denied": "403 no"}


def dockerfile(command: str, *steps: str) -> str:
    run = "".join(f"RUN {step}\n" for step in steps)
    return f"FROM {BASE}\nCOPY www /www\n{run}EXPOSE 8000\nSTOPSIGNAL SIGKILL\nCMD {command}\n"


@dataclass
class World:
    machine: Machine
    engine: OwnEngine
    front: EngineFront
    balancer: Balancer
    port: int = field(default_factory=free_port)
    groups: int = 0
    instance: ExitStack = field(default_factory=ExitStack)
    settings: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.attached, self.own = (self.balancer.target_group(name, self.port) for name in ("web", "own"))
        self.table = dependencies.Aws(self.machine.cloud, "dynamodb:*")
        self.host = Host(self.machine.web, strange=tarball(app("another")))
        table(self.machine, GREETING="hi")
        self.launch()

    # An instance

    def launch(self) -> None:
        """A new instance of the group, with nothing on its disk."""
        self.instance.close()
        self.groups += 1
        root = self.machine.root.parent / f"{self.groups}"
        root.mkdir()
        self.machine.root = root
        self.machine.environment["ADF_ROOT"] = str(root)
        group = Group(self.machine.cloud, f"web{self.groups}", HOOKS, (self.attached.arn,))
        self.group = self.instance.enter_context(group)
        self.group.launch()
        self.give()

    def give(self, seconds: float = SOUND_SECONDS, **settings: object) -> None:
        """What it is launched with: a sound release, but for *settings*."""
        given = {
            "RELEASE_URL": self.machine.release(app(adf_toml=STOP)),
            "ADF_PUBLISH": f"{self.port}:8000",
            "ADF_APP": "web",
            "ADF_TARGET_GROUPS": self.own.arn,
        }
        self.settings = given | settings
        self.take(seconds)

    def take(self, seconds: float) -> None:
        """Its boot may take so long."""
        timeout = {"ADF_BOOT_TIMEOUT": f"{seconds:.0f}s"}
        self.machine.agent_env(**timeout)
        self.machine.user_data(**self.settings | timeout)

    # What is wrong with it

    def prepare(self, cell: Cell) -> None:
        """Has the instance depend on what is to fail."""
        given: dict[str, object] = {}
        if cell.stage == "release" and cell.fault in (*ANSWERS, "cut"):
            data = tarball({**app(adf_toml=STOP), "more": os.urandom(100_000)})
            cut = len(data) * cell.tenth // 10 if cell.fault == "cut" else None
            digest = hashlib.sha256(data).hexdigest()
            given["RELEASE_URL"] = f"{self.host.serve('/v1.tar.gz', whole(data, cut))}#sha256={digest}"
        if cell.stage == "image" and cell.fault in (*ANSWERS, "cut"):
            given["RELEASE_URL"] = dependencies.registry(
                self.host, "hello", cell.tenth if cell.fault == "cut" else None
            )
        if cell.stage == "image" and cell.fault == "memory":
            files = app(Dockerfile=dockerfile('["httpd"]', "sh -c 'kill -9 $$'; exit $?"))  # as the kernel does it
            given["RELEASE_URL"] = self.machine.release(files, "v0.tar.gz")
        if cell.stage == "health" and cell.fault in (*ANSWERS, "memory"):
            given |= self._unwell(cell.fault)
        if cell.stage in ("in service", "drain") and cell.fault == "memory":
            command = f'["sh", "-c", "{EATS}"]'
            files = app(Dockerfile=dockerfile(command), adf_toml=f'{STOP}memory = "8m"\n')
            given["RELEASE_URL"] = self.machine.release(files, "v0.tar.gz")
        self.give(cell.boot_seconds, **given)

    def _unwell(self, fault: Fault) -> dict[str, object]:
        """A release that answers so when it is asked how it is."""
        commands = {
            "memory": '["tail", "/dev/zero"]',
            "wrong answer": '["nc", "-ll", "-p", "8000", "-e", "echo", "nonsense"]',
        }
        command = commands.get(fault, '["/bin/httpd", "-f", "-p", "8000", "-h", "/www"]')
        say = f"printf 'Status: {STATUSES.get(fault)}\\r\\n\\r\\n'" if fault in STATUSES else "sleep 1000"
        limits = 'memory = "6m"\n' if fault == "memory" else ""
        files = {
            **app(Dockerfile=dockerfile(command), adf_toml=f"{STOP}{limits}[health]\nstart_timeout = 4\ntimeout = 1\n"),
            "www/cgi-bin/health": f"#!/bin/sh\n{say}\n",
        }
        return {"RELEASE_URL": self.machine.release(files, "v0.tar.gz"), "ADF_HEALTH": "http://:8000/cgi-bin/health"}

    def dependency(self, cell: Cell) -> Dependency:
        """What the stage asks. An app is broken as it is built: see `prepare`."""
        cloud = self.machine.cloud
        path = "/latest/meta-data/autoscaling" if cell.stage == "in service" else "/"
        made: dict[str, Dependency] = {
            "settings": dependencies.Imds(cloud, path),
            "docker": dependencies.Docker(self.front),
            "release": self.host,
            "config": self.table,
            "image": self.host,
            "container": dependencies.Docker(self.front, r"POST .*/containers/(create|.*/start)"),
            "health": Sound(),
            "report": dependencies.Aws(cloud, "elasticloadbalancing:*"),
            "in service": dependencies.Imds(cloud, path),
            "drain": dependencies.Aws(cloud, "*"),
        }
        return made[cell.stage]

    def start(self, point: str = "", **environment: str) -> Gate:
        """An agent that stands still at *point* of its log, if one is named."""
        return gated(self.machine, point, **environment)

    # What is left of it

    def images(self) -> set[str]:
        """Tags, or ids, of what is on the engine, but for what the tests build on."""
        found = self.engine.client.images.list()
        return {name for each in found for name in (each.tags or [each.id])} - {BASE}

    def left(self, *, serving: bool) -> list[str]:
        """What should not be there any more."""
        state, containers = self.machine.state(), self.engine.client.containers.list(all=True)
        mine = [state.get("container_id")] if serving else []
        found = [f"container {each.name}" for each in containers if each.id not in mine]
        found += [f"image {each}" for each in self.images() - {*state.get("images", ())}]
        folder = self.machine.root / "var/lib/adf-agent"
        names = {each.name for each in folder.iterdir()} if folder.is_dir() else set()
        found += [f"file {each}" for each in names - KEPT - {"filler"}]
        run = self.machine.root / "run/adf-agent"
        found += [f"file {each.name}" for each in run.iterdir() if each.name.endswith(".part")] if run.is_dir() else []
        return found

    def serves(self, agent: Daemon) -> None:
        """In service, once, with everybody knowing, and nothing left of what was before."""
        agent.reach("in service", 90)
        self.group.wait_for("InService", 30)
        agent.until(lambda: (self.own.state, self.attached.state) == ("healthy", "healthy"), "both call it healthy")
        assert page(self.port) == "hello"
        agent.until(lambda: not self.left(serving=True), "nothing else is left", 10)
        assert [result for hook, result in self.group.completed if hook == "adf-launch"] == ["CONTINUE"]

    def clear(self) -> None:
        """The disk of an instance that is gone goes with it."""
        for container in self.engine.client.containers.list(all=True):
            container.remove(force=True, v=True)
        for each in self.images():
            self.engine.client.images.remove(each, force=True)


class Sound:
    """A dependency that is broken in another way."""

    def fail(self, fault: Fault) -> None: ...

    def mend(self) -> None: ...
