import io
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import docker
import pytest
from fixtures_agent import BASE, Files, tarball
from test_build import build, marked

from adf_agent import archive, container, engine, image, location
from adf_agent.build import Builder
from adf_agent.deadline import Deadline
from adf_agent.engine import Engine
from adf_agent.errors import ImageError
from adf_agent.manifest import Build, Manifest
from adf_agent.mask import Mask
from adf_agent.notation import Limits, Port
from adf_agent.release import Release
from adf_agent.root import Root
from adf_agent.state import Ledger, prepare

HUGE = 1 << 60  # bytes, more than any disk has


@pytest.fixture
def reached(docker_client: docker.DockerClient, base_image: str) -> Engine:
    assert base_image
    return engine.connect(lambda _: docker_client, Deadline(10, threading.Event()))


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    prepare(Root(tmp_path))
    return Ledger(Root(tmp_path))


Makes = Callable[..., str]


@pytest.fixture
def makes(docker_client: docker.DockerClient, base_image: str) -> Iterator[Makes]:
    """`makes(lines)` gives the tag of an image with these lines in its Dockerfile; none is left after the test."""
    label = f"adf-test={os.urandom(6).hex()}"

    def make(lines: str = "") -> str:
        name = image.tag(os.urandom(32).hex())
        dockerfile = f"FROM {base_image}\nLABEL {label} n={os.urandom(6).hex()}\n{lines}\n"
        files = io.BytesIO(tarball({"Dockerfile": dockerfile}))
        docker_client.images.build(fileobj=files, custom_context=True, encoding="gzip", tag=name, rm=True)
        return name

    yield make
    for left in marked(docker_client, label):
        docker_client.images.remove(left, force=True)


def released(folder: Path, files: Files) -> Release:
    """A release of *files*, downloaded and verified."""
    path = folder / "release.tar"
    path.write_bytes(tarball(files))
    checked = archive.inspect(path, Limits())
    at = location.parse("https://dl.example.com/v1.tar.gz")
    return Release(at, "v1", os.urandom(32).hex(), checked.manifest, checked, path.stat().st_size)


def sized(unpacked: int) -> Release:
    """A release that needs that many bytes twice."""
    at = location.parse("https://dl.example.com/v1.tar.gz")
    checked = archive.Archive(Path("/nowhere"), "", 1, unpacked, Manifest(), ())
    return Release(at, "v1", "0" * 64, Manifest(), checked)


@pytest.mark.parametrize("builder", ["buildkit", "classic"])
def test_an_image_is_built_once_tagged_by_its_release_and_reused(
    reached: Engine, ledger: Ledger, tmp_path: Path, builder: str
) -> None:
    """An image of an earlier release in service; minutes of building what is there already."""
    release = released(tmp_path, {"Dockerfile": f"FROM {BASE}\nEXPOSE 8000\nCOPY page /page\n", "page": os.urandom(9)})
    chosen = Builder.choose(builder, reached, tmp_path)
    deadline = Deadline(60, threading.Event())
    made = image.provide(reached, release, lambda: chosen, ledger, Mask(), deadline)
    assert (made.tag, made.how, made.ports) == (f"adf/release:{release.digest}", "built", (Port(8000, 8000),))
    assert (ledger.state.image, ledger.state.images) == (made.tag, (made.tag,))
    assert not chosen.iid_file.exists()
    again = image.provide(reached, release, refuse, ledger, Mask(), deadline)
    assert (again.id, again.how) == (made.id, "reused")
    assert "reused adf/release:" in again.fact
    reached.client.images.remove(made.tag)


def test_an_image_that_is_gone_before_it_has_its_tag_is_built_again(
    reached: Engine, ledger: Ledger, tmp_path: Path
) -> None:
    """Two agents on one engine whose images are the same, and the boot of the one fails as the other's is removed."""
    release = released(tmp_path, {"Dockerfile": f"FROM {BASE}\nCOPY page /page\n", "page": os.urandom(9)})
    builds: list[str] = []

    class Robbed(Builder):
        def build(self, *arguments: Any) -> str:
            builds.append(super().build(*arguments))
            if len(builds) == 1:
                self.client.api.remove_image(builds[0])
            return builds[-1]

    chosen = Builder.choose("buildkit", reached, tmp_path)
    robbed = Robbed(chosen.client, chosen.command, chosen.folder)
    made = image.provide(reached, release, lambda: robbed, ledger, Mask(), Deadline(60, threading.Event()))
    assert (made.id, len(builds)) == (builds[1], 2)
    reached.client.images.remove(made.tag)


def refuse() -> Builder:
    pytest.fail("no builder is needed for an image that is there")


def test_a_build_that_fails_leaves_no_tag_and_nothing_in_the_ledger(
    reached: Engine, ledger: Ledger, tmp_path: Path
) -> None:
    """A restart that takes a half-built image for the release's."""
    release = released(tmp_path, {"Dockerfile": f"FROM {BASE}\nRUN exit 3\n"})
    chosen = Builder.choose("auto", reached, tmp_path)
    with pytest.raises(ImageError):
        image.provide(reached, release, lambda: chosen, ledger, Mask(), Deadline(60, threading.Event()))
    assert image.find(reached.client, image.tag(release.digest)) is None
    assert (ledger.state.image, ledger.state.images) == ("", ())


def test_what_a_build_prints_is_kept_without_what_the_boot_knows_to_be_secret(
    reached: Engine, ledger: Ledger, tmp_path: Path
) -> None:
    """The registry's password, or the config's, in the log of a build that got it from the registry's own words."""
    tell = "RUN echo hunter2-of-the-config; echo $NPM_TOKEN; exit 3\n"
    release = released(tmp_path, {"Dockerfile": f"FROM {BASE}\nARG NPM_TOKEN\n{tell}"})
    release = replace(release, manifest=Manifest(build=Build(args={"NPM_TOKEN": "hunter3-of-the-build"})))
    hide = Mask()
    hide.add(["hunter2-of-the-config"])
    chosen = Builder.choose("auto", reached, tmp_path)
    with pytest.raises(ImageError) as caught:
        image.provide(reached, release, lambda: chosen, ledger, hide, Deadline(60, threading.Event()))
    said = (tmp_path / "build.log").read_text() + "".join(caught.value.log_tail)
    assert said.count("***") >= 2
    assert "hunter" not in said
    assert hide("hunter3-of-the-build") == "***", "also in what is written later"


@pytest.mark.parametrize(
    ("lines", "ports", "healthcheck"),
    [
        ("", (), False),
        ("EXPOSE 9000 8000 53/udp", (Port(53, 53, "udp"), Port(8000, 8000), Port(9000, 9000)), False),
        ("EXPOSE 3868/sctp 8000", (Port(8000, 8000),), False),
        ("HEALTHCHECK CMD true", (), True),
        ("HEALTHCHECK CMD true\nHEALTHCHECK NONE", (), False),
    ],
)
def test_what_an_image_says_of_itself(
    reached: Engine, makes: Makes, lines: str, ports: tuple[Port, ...], healthcheck: bool
) -> None:
    """An app published on no port, or judged by a HEALTHCHECK that it has not."""
    found = image.find(reached.client, makes(lines))
    assert found is not None
    assert (found.ports, found.healthcheck) == (ports, healthcheck)
    assert found.size > 0


def test_an_image_that_was_built_and_never_tagged_is_discarded(
    reached: Engine, makes: Makes, ledger: Ledger, tmp_path: Path
) -> None:
    """A disk that fills with what crashes left; the last good image taken for that, as it is the same one."""
    assert ledger.state.images == ()
    builder = Builder.choose("auto", reached, tmp_path)
    built = build(builder, {"Dockerfile": f"FROM {BASE}\nLABEL n={os.urandom(6).hex()}\n"})
    image.discard_unfinished(reached.client, builder.folder)
    assert image.find(reached.client, built) is None
    assert not builder.iid_file.exists()
    image.discard_unfinished(reached.client, builder.folder)  # nothing to do: no crash
    good = makes()
    builder.iid_file.write_text(reached.client.images.get(good).id)
    image.discard_unfinished(reached.client, builder.folder)
    assert image.find(reached.client, good) is not None


def test_old_images_are_pruned_and_never_the_running_or_the_last_good_one(
    reached: Engine, makes: Makes, ledger: Ledger
) -> None:
    """A build that fails on a disk full of former releases; a fallback that was pruned."""
    old, running, good, newest = (makes() for _ in range(4))
    gone = image.tag(os.urandom(32).hex())
    ledger.note(images=(old, gone, running, good, newest), image=running, last_good=good)
    with pytest.raises(ImageError, match="MiB free") as caught:
        image.make_room(reached, sized(HUGE), ledger)
    assert (caught.value.cause, caught.value.exit_code, bool(caught.value.hint)) == ("host", 14, True)
    assert ledger.state.images == (running, good)
    assert [name for name in (old, running, good, newest) if image.find(reached.client, name)] == [running, good]


def test_nothing_is_pruned_while_there_is_room(reached: Engine, makes: Makes, ledger: Ledger) -> None:
    """A rollback that has to build anew what was there."""
    old = makes()
    ledger.note(images=(old,))
    image.make_room(reached, sized(0), ledger)
    assert image.find(reached.client, old) is not None
    elsewhere = Engine(reached.client, "20.10", "overlay2", Path("/nowhere/docker"), None)
    image.make_room(elsewhere, sized(HUGE), ledger)  # an engine on another machine: its disk is not ours to see


def test_an_image_that_some_container_uses_stays_and_costs_no_boot(
    reached: Engine, makes: Makes, ledger: Ledger
) -> None:
    """A boot that crashes on `conflict`, as an operator looked into a former release with `docker run`."""
    used, old = makes(), makes()
    looked_into = reached.client.containers.create(used, ["true"])
    ledger.note(images=(used, old))
    with pytest.raises(ImageError, match="MiB free"):
        image.make_room(reached, sized(HUGE), ledger)
    container.remove(reached.client, looked_into.id)
    assert ledger.state.images == (used,)
    assert image.find(reached.client, used) is not None


def test_a_build_does_not_begin_without_memory(
    reached: Engine, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A build that runs the host out of memory, and takes the agent with it (dokku/dokku#5286)."""
    meminfo = tmp_path / "meminfo"
    monkeypatch.setattr(image, "MEMINFO", meminfo)  # no test can use up the machine's own memory
    meminfo.write_text("MemTotal:       500000 kB\nMemFree:         90000 kB\nMemAvailable:     65535 kB\n")
    with pytest.raises(ImageError, match="only 63 MiB of memory") as caught:
        image.make_room(reached, sized(0), ledger)
    assert caught.value.cause == "host"
    meminfo.write_text("MemTotal:       500000 kB\nMemAvailable:     65536 kB\n")
    image.make_room(reached, sized(0), ledger)
