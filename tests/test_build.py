import io
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.errors import APIError
from fixtures_agent import BASE, Files, tarball

from adf_agent import engine
from adf_agent.build import CANCEL_SECONDS, KEPT_BYTES, TAIL_LINES, Builder, Output
from adf_agent.deadline import Deadline
from adf_agent.engine import Engine
from adf_agent.errors import ImageError, ReleaseError, Stopped
from adf_agent.manifest import Build

BUILDERS = ["buildkit", "classic"]


@pytest.fixture
def reached(docker_client: docker.DockerClient, base_image: str) -> Engine:
    assert base_image
    return engine.connect(lambda _: docker_client, Deadline(10, threading.Event()))


@pytest.fixture
def mark(docker_client: docker.DockerClient) -> Iterator[str]:
    """A LABEL for a test's own images; what bears it is gone after the test."""
    label = f"adf-test={os.urandom(6).hex()}"
    yield label
    limit = time.monotonic() + 30
    while left := marked(docker_client, label):  # a build that was left behind may still run a step of it
        assert time.monotonic() < limit, "it is still in use"
        for image in left:
            with suppress(APIError):
                docker_client.images.remove(image, force=True)
        threading.Event().wait(0.1)


def marked(client: docker.DockerClient, mark: str) -> list[str]:
    return [str(image.id) for image in client.images.list(filters={"label": mark})]


def context(files: Files, size: int = 4096) -> Iterator[bytes]:
    stream = io.BytesIO(tarball(files))
    while chunk := stream.read(size):
        yield chunk


def build(
    builder: Builder,
    files: Files | Iterator[bytes],
    options: Build | None = None,
    deadline: Deadline | None = None,
    output: Output | None = None,
) -> str:
    sent = files if isinstance(files, Iterator) else context(files)
    output = output or Output(builder.folder / "build.log")
    return builder.build(options or Build(), sent, output, deadline or Deadline(60, threading.Event()))


@pytest.mark.parametrize("name", BUILDERS)
def test_a_build_gives_an_image_that_has_no_tag_yet(reached: Engine, mark: str, tmp_path: Path, name: str) -> None:
    """An image that is taken for the release's though its build was broken off."""
    builder = Builder.choose(name, reached, tmp_path)
    built = build(builder, {"Dockerfile": f"FROM {BASE}\nLABEL {mark}\nCOPY page /page\nRUN echo hi\n", "page": "x"})
    facts = reached.client.api.inspect_image(built)
    assert (facts["Id"], facts["RepoTags"]) == (built, [])
    assert builder.iid_file.read_text() == built, "for the next start, should the agent end before there is a tag"
    assert "hi" in (tmp_path / "build.log").read_text()


@pytest.mark.parametrize("name", BUILDERS)
def test_a_release_says_how_it_is_built(reached: Engine, mark: str, tmp_path: Path, name: str) -> None:
    """An image made of the wrong Dockerfile or stage, or without its arguments, that nobody notices."""
    dockerfile = (
        f"FROM {BASE} AS first\nARG SPEED=slow\nARG HOME\nLABEL {mark} speed=$SPEED home=$HOME\n"
        f"FROM {BASE}\nLABEL {mark} speed=second\n"
    )
    files = {"Dockerfile": "FROM nowhere\n", "docker/web.Dockerfile": dockerfile}
    options = Build(dockerfile="docker/web.Dockerfile", target="first", args={"SPEED": "very fast", "HOME": "$x"})
    built = build(Builder.choose(name, reached, tmp_path), files, options)
    labels = reached.client.api.inspect_image(built)["Config"]["Labels"]
    assert (labels["speed"], labels["home"]) == ("very fast", "$x")


def test_buildkit_takes_what_dockerfiles_of_today_ask_for(reached: Engine, mark: str, tmp_path: Path) -> None:
    """A real user's Dockerfile that builds everywhere but here."""
    run = "RUN --mount=type=cache,target=/cache echo cached >>/cache/x && cp /cache/x /x\n"
    built = build(Builder.choose("buildkit", reached, tmp_path), {"Dockerfile": f"FROM {BASE}\nLABEL {mark}\n{run}"})
    assert built in marked(reached.client, mark)


def test_a_builder_is_chosen_by_what_there_is(reached: Engine, tmp_path: Path) -> None:
    """ADF_BUILDER=buildkit that builds with the classic builder, unnoticed; or auto that fails without BuildKit."""
    without = Engine(reached.client, "20.10", "overlay2", tmp_path, buildkit=None)
    assert Builder.choose("auto", reached, tmp_path).command == reached.buildkit
    assert Builder.choose("classic", reached, tmp_path).command is None
    assert Builder.choose("auto", without, tmp_path).command is None
    with pytest.raises(ImageError, match="ADF_BUILDER is buildkit") as caught:
        Builder.choose("buildkit", without, tmp_path)
    assert "docker-buildx" in caught.value.hint
    assert "classic builder" in without.fact


@pytest.mark.parametrize("name", BUILDERS)
def test_a_context_that_breaks_off_builds_nothing(reached: Engine, mark: str, tmp_path: Path, name: str) -> None:
    """An image without half of its files: a context that is cut between two members builds silently."""
    whole = list(context({"Dockerfile": f"FROM {BASE}\nLABEL {mark}\n", "rest": os.urandom(50_000)}))

    def broken() -> Iterator[bytes]:
        yield from whole[:-2]
        raise ReleaseError("the release's file can't be read")

    with pytest.raises((ReleaseError, ImageError), match="can't be read"):
        build(Builder.choose(name, reached, tmp_path), broken())
    assert marked(reached.client, mark) == []


def children(words: str) -> list[Path]:
    """The processes whose command line holds *words*."""
    found = []
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if words in each.read_bytes().decode(errors="replace"):
                found.append(each)
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
    return found


def test_a_stopped_build_leaves_no_image_and_no_process(reached: Engine, mark: str, tmp_path: Path) -> None:
    """A SIGTERM in the middle of a build that goes on, to its end, without its agent."""
    builder, stop, began = Builder.choose("buildkit", reached, tmp_path), threading.Event(), time.monotonic()
    output, told = Output(tmp_path / "build.log"), list[float]()

    def stop_when_it_runs() -> None:
        while not any("RUN" in line for line in list(output.tail)) and time.monotonic() < began + 30:
            threading.Event().wait(0.02)
        told.append(time.monotonic())
        stop.set()

    watching = threading.Thread(target=stop_when_it_runs)
    watching.start()
    with pytest.raises(Stopped):
        build(
            builder,
            {"Dockerfile": f"FROM {BASE}\nLABEL {mark}\nRUN sleep 60\n"},
            deadline=Deadline(50, stop),
            output=output,
        )
    watching.join()
    assert time.monotonic() - told[0] < CANCEL_SECONDS + 5
    assert children(str(builder.iid_file)) == []
    assert marked(reached.client, mark) == []
    assert not builder.iid_file.exists()


@pytest.mark.parametrize("name", BUILDERS)
def test_a_build_that_takes_too_long_says_so(reached: Engine, mark: str, tmp_path: Path, name: str) -> None:
    """A boot that ends at its deadline with `Docker did not answer`, and is tried again for ever."""
    dockerfile = f"FROM {BASE}\nLABEL {mark}\nRUN echo hello && sleep 5\n"
    with pytest.raises(ImageError, match="not finished when the boot's time was over") as caught:
        build(
            Builder.choose(name, reached, tmp_path), {"Dockerfile": dockerfile}, deadline=Deadline(2, threading.Event())
        )
    assert (caught.value.exit_code, "ADF_BOOT_TIMEOUT" in caught.value.hint) == (14, True)


Fake = Callable[[str], Builder]


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    """`fake(script)` builds with a docker command that is this script, as a real one can't be made to fail so."""

    def make(script: str) -> Builder:
        command = tmp_path / "docker"
        command.write_text(f"#!/bin/bash\n{script}\n")
        command.chmod(0o755)
        return Builder(None, command, tmp_path)

    return make


def test_a_stop_reaches_the_docker_commands_plug_in(fake: Fake, tmp_path: Path) -> None:
    """A buildx that goes on building after the docker command above it has ended."""
    builder = fake(f"bash -c 'echo $$ >{tmp_path}/plug-in; echo started; exec sleep 600'; exit 1")
    stop = threading.Event()
    output = Output(tmp_path / "build.log")

    def stop_when_it_runs() -> None:
        limit = time.monotonic() + 20
        while not output.tail and time.monotonic() < limit:
            threading.Event().wait(0.02)
        stop.set()

    watching = threading.Thread(target=stop_when_it_runs)
    watching.start()
    with pytest.raises(Stopped):
        build(builder, {"Dockerfile": ""}, deadline=Deadline(30, stop), output=output)
    watching.join()
    plug_in = Path("/proc") / (tmp_path / "plug-in").read_text().strip() / "status"
    limit = time.monotonic() + 10
    while plug_in.exists() and "zombie" not in plug_in.read_text():
        assert time.monotonic() < limit, "it still runs"
        threading.Event().wait(0.02)


@pytest.mark.parametrize(
    ("said", "sentence", "cause", "transient"),
    [
        (
            '#5 make: not found\nERROR: process "/bin/sh -c make" did not complete successfully: exit code: 127',
            'the build failed: process "/bin/sh -c make" did not complete successfully: exit code: 127',
            "build",
            False,
        ),
        (
            "executor failed running [/bin/sh -c curl http://x]: exit code: 7 connection refused",
            "the build failed: executor failed running",
            "build",
            False,
        ),
        ("The command '/bin/sh -c x' returned a non-zero code: 137", "the build ran out of memory", "host", False),
        ("ERROR: failed to solve: toomanyrequests: slow down", "the build failed: failed", "dependency", True),
        ("ERROR: failed to copy: unexpected status: 503 Service Unavailable", "the build failed", "dependency", True),
        ("dial tcp: lookup registry-1.docker.io: no such host", "the build failed: dial tcp", "dependency", True),
        ("ERROR: docker.io/library/nowhere:9: not found", "the build failed: docker.io/library", "build", False),
        ("the --mount option requires BuildKit.", "the build failed: the --mount option", "build", False),
        ("ERROR: the reason\n------\n >", "the build failed: the reason", "build", False),
        ("cannot write image ID file: write 7.iid: no space left on device", "the build failed: cannot", "host", False),
        ("", "the build failed: no output", "build", False),
    ],
)
def test_a_failed_builds_last_line_says_why(fake: Fake, said: str, sentence: str, cause: str, transient: bool) -> None:
    """An instance lost to a registry's hiccup; a step's own failure tried again; `exit code 1` as a reason."""
    builder = fake(f"cat >/dev/null; cat <<'END'\n{said}\nEND\nexit 1")
    with pytest.raises(ImageError) as caught:
        build(builder, {"Dockerfile": ""})
    assert caught.value.sentence.startswith(sentence)
    assert (caught.value.cause, caught.value.transient) == (cause, transient)
    assert caught.value.hint, "an error says what to do next"
    assert caught.value.log_tail == tuple(line for line in said.splitlines() if line.strip())


def test_a_docker_command_that_does_not_read_its_context_is_no_crash(fake: Fake) -> None:
    """A traceback about a broken pipe in place of what the build said."""
    with pytest.raises(ImageError, match="refused at once"):
        build(fake("echo refused at once; exit 1"), {"Dockerfile": "", "big": os.urandom(4 << 20)})


def written(lines: Iterator[str], path: Path) -> tuple[bytes, list[str]]:
    output = Output(path)
    for line in lines:
        output.add(line)
    output.close()
    return path.read_bytes(), list(output.tail)


def test_a_builds_output_is_bounded_and_its_end_kept(tmp_path: Path) -> None:
    """A disk filled by a build that talks too much; a log that ends before the failure."""
    path = tmp_path / "build.log"
    log, tail = written((f"line {number:090}\n\n" for number in range(50_000)), path)
    assert KEPT_BYTES // 2 <= len(log) <= KEPT_BYTES
    assert log.endswith(f"line {49_999:090}\n".encode())
    assert tail == [f"line {number:090}" for number in range(50_000 - TAIL_LINES, 50_000)]
    assert path.stat().st_mode & 0o777 & ~0o640 == 0
    log, _ = written(iter(["another build\r\nsays é"]), path)
    assert log.decode() == "another build\nsays é\n"


def test_a_log_that_cannot_be_written_costs_no_build(tmp_path: Path) -> None:
    """A build that would have succeeded, ended by a full disk's log of it."""
    output = Output(tmp_path / "build.log")
    full: Any = open("/dev/full", "r+b", buffering=0)  # noqa: SIM115, PTH123  closed by close()
    output._file.close()  # noqa: SLF001  a full disk needs a file system of its own, and that root
    output._file = full  # noqa: SLF001
    output.add("the last line")
    assert list(output.tail) == ["the last line"]
    output.close()
