"""What both sides boot against: one engine, one emulated AWS, one metadata service, one file server."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import docker
from docker.errors import APIError, NotFound
from releases import PORT, Release

from adf_agent.engine import find_buildkit
from adf_agent.sandbox.cloud import Cloud
from adf_agent.sandbox.imds import Instance

APP, TABLE = "bench", "adf-config"
KEYS = 20  # of config, as an app of some size has
FLOOR = "adf-bench-floor"  # its image and its container


@dataclass(frozen=True)
class World:
    """*folder* is ours alone, *files* the file server's address, *address* where the app is published on loopback."""

    folder: Path
    engine: Any
    docker: Path
    cloud: Cloud
    files: str
    port: int
    offered: list[Release] = field(default_factory=list)

    @property
    def served(self) -> Path:
        return self.folder / "served"

    @property
    def root(self) -> Path:
        """The agent's ADF_ROOT."""
        return self.folder / "root"

    def environment(self) -> dict[str, str]:
        """For both sides: AWS is the emulated one, and the first docker command is one that has BuildKit."""
        kept = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("AWS_", "ADF_")) and not key.lower().endswith("_proxy")
        }
        path = f"{self.docker.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        own = {"PATH": path, "TMPDIR": str(self.folder), "ADF_ROOT": str(self.root), "DOCKER_BUILDKIT": "1"}
        return {**kept, **self.cloud.environment(), **own}

    @property
    def keys(self) -> dict[str, str]:
        """What an operator's command takes itself for."""
        region = self.cloud.imds.instance.region
        return {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench", "AWS_DEFAULT_REGION": region}

    def offer(self, release: Release, *, config: bool, **more: str) -> None:
        """Makes *release* the one that the instance is launched with, by these and *more* settings."""
        self.offered.append(release)
        lines = {
            "RELEASE_URL": f"{self.files}/{release.file}#sha256={release.digest}",
            "ADF_PUBLISH": f"{self.port}:{PORT}",
            "ADF_PUBLISH_ADDRESS": "127.0.0.1",
            "ADF_HEALTH": f"http://:{PORT}/",
            **({"ADF_APP": APP} if config else {}),
            **more,
        }
        self.cloud.imds.instance.user_data = "".join(f"{key}={value}\n" for key, value in lines.items()).encode()

    @property
    def containers(self) -> tuple[str, ...]:
        return FLOOR, f"adf-app-{self.cloud.imds.instance.instance_id}"

    def clear(self) -> None:
        """As on a new instance: no state, and neither side's container, image or build cache; the disk is at rest."""
        shutil.rmtree(self.root, ignore_errors=True)
        self.root.mkdir()
        api = self.engine.api
        for name in self.containers:
            _until_gone(partial(api.remove_container, name, force=True, v=True))
        for image in (FLOOR, *{release.image for release in self.offered}):
            _until_gone(partial(api.remove_image, image, force=True))
        api.prune_builds(all=True)
        os.sync()


def _until_gone(remove: Callable[[], object]) -> None:
    """Repeats *remove* until nothing is left to remove: one that was interrupted goes on inside the engine."""
    until = time.monotonic() + 30
    with suppress(NotFound):
        while time.monotonic() < until:
            try:
                remove()
            except APIError as error:
                if error.status_code != HTTPStatus.CONFLICT:
                    raise
                time.sleep(0.05)


@contextmanager
def world() -> Iterator[World]:
    """Everything on loopback, gone with the context: processes, folders and what Docker holds."""
    engine = docker.from_env(timeout=300)
    command = find_buildkit(os.environ.get("PATH", os.defpath))
    if command is None:
        raise SystemExit("bench: no docker command here has BuildKit; run: make setup")
    instance = Instance(instance_id="i-0be7c40be7c40be7c", tags={"Name": "bench"})
    with TemporaryDirectory(prefix="adf-bench-") as name, Cloud(instance) as cloud:
        (Path(name) / "served").mkdir()
        with _file_server(Path(name) / "served") as files:
            made = World(Path(name), engine, command, cloud, files, free_port())
            _write_config(cloud)
            try:
                yield made
            finally:
                made.clear()
    engine.close()


@contextmanager
def _file_server(folder: Path) -> Iterator[str]:
    """A process of its own: what it costs, it costs both sides."""
    command = [sys.executable, "-u", "-m", "http.server", "--bind", "127.0.0.1", "--directory", str(folder), "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
            assert found
            yield found[0]
        finally:
            process.terminate()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def _write_config(cloud: Cloud) -> None:
    table = cloud.client("dynamodb")
    schema = (("App", "HASH"), ("Name", "RANGE"))
    table.create_table(
        TableName=TABLE,
        KeySchema=[{"AttributeName": name, "KeyType": kind} for name, kind in schema],
        AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name, _ in schema],
        BillingMode="PAY_PER_REQUEST",
    )
    for number in range(KEYS):
        item = {"App": {"S": APP}, "Name": {"S": f"KEY_{number}"}, "Value": {"S": f"value {number}"}}
        table.put_item(TableName=TABLE, Item=item)
    table.put_item(TableName=TABLE, Item={"App": {"S": APP}, "Name": {"S": "#revision"}, "Revision": {"N": "1"}})
