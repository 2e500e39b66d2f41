"""What a base image saves of a cold boot where it is baked into the AMI."""

import io
import os
import socket
import statistics
import subprocess
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import releases
import sides
from docker.errors import ImageNotFound
from measures import spread
from releases import MB
from report import Row
from world import World, free_port

SIZE = 250 * MB  # unpacked and, as most of it can't be compressed, packed
RUNS = 3
START_SECONDS = 30.0


def row(world: World) -> Row:
    """Cold boots with and without the base image in the engine; the registry is on loopback, so a pull costs least."""
    with registry(world) as address:
        base = f"{address}/base:1"
        size = _push(world, base)
        world.offer(releases.based(world.served, base), config=True)
        try:
            pairs = [(_boot(world, base, baked=False), _boot(world, base, baked=True)) for _ in range(RUNS)]
        finally:
            _forget(world, base)
    fetched, baked = zip(*pairs, strict=True)
    saved = statistics.median(without - within for without, within in pairs)
    figure = f"{spread(baked, ' s')}; {spread(fetched, ' s')} where it is pulled: {saved:.1f} s saved"
    return Row(f"cold boot, base image of {size / MB:.0f} MB in the AMI", "", figure, None, (*baked, *fetched))


def _boot(world: World, base: str, *, baked: bool) -> float:
    """Nothing of the build is left but, where it is *baked*, the base image."""
    _forget(world, base)
    world.clear()
    if baked:
        world.engine.images.pull(base)
        os.sync()
    return sides.agent(world).seconds


def _forget(world: World, base: str) -> None:
    with suppress(ImageNotFound):
        world.engine.images.remove(base, force=True)


def _push(world: World, base: str) -> int:
    """Makes the image, in the registry and here; returns its size."""
    path = world.folder / "base.tar"
    with tarfile.open(path, "w") as layer:
        for number, content in enumerate(releases.ballast(SIZE)):
            member = tarfile.TarInfo(f"usr/lib/base/{number % 100}/{number}")
            member.size = len(content)
            layer.addfile(member, io.BytesIO(content))
    repository, _, tag = base.rpartition(":")
    world.engine.api.import_image(str(path), repository=repository, tag=tag)
    path.unlink()
    for line in world.engine.images.push(repository, tag=tag, stream=True, decode=True):
        if "error" in line:
            raise SystemExit(f"bench: {line['error']}")
    return int(world.engine.images.get(base).attrs["Size"])


@contextmanager
def registry(world: World) -> Iterator[str]:
    """A registry on loopback; yields its address."""
    address = f"127.0.0.1:{free_port()}"
    configuration = world.folder / "registry.yml"
    configuration.write_text(
        f"version: 0.1\nlog: {{level: error}}\nhttp: {{addr: '{address}'}}\n"
        f"storage:\n  filesystem: {{rootdirectory: {world.folder}/registry}}\n"
    )
    command = ("docker-registry", "serve", configuration)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _answers(address)
            yield address
        finally:
            process.terminate()


def _answers(address: str) -> None:
    host, _, port = address.partition(":")
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        try:
            socket.create_connection((host, int(port)), 1).close()
        except ConnectionRefusedError:
            time.sleep(0.05)
        else:
            return
    raise SystemExit("bench: the registry does not answer")
