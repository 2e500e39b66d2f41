"""One run of a builder, BuildKit or classic: a clean context goes in, an image id comes out."""

import os
import re
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from docker.errors import APIError

from adf_agent import buildargs
from adf_agent.background import Task
from adf_agent.deadline import Deadline
from adf_agent.engine import BUILDKIT_PACKAGES, FAULTS, Engine, asking, passing
from adf_agent.errors import ImageError
from adf_agent.manifest import Build
from adf_agent.mask import urls
from adf_agent.state import hand_over

KEPT_BYTES = 2 << 20  # of a build's output; what failed stands at the end
TAIL_LINES = 50
IID_SUFFIX = ".iid"
PIPE_BYTES = 1 << 20  # Linux' most for a user; with its usual 64 KiB a large context waits at each step
CANCEL_SECONDS = 2.0  # for the docker command to end; 20.10's waits for a RUN step, which ends with it all the same
_STEP = re.compile(r"did not complete successfully|executor failed running|returned a non-zero code")
_WRITTEN = re.compile(r"#\d+ writing image (sha256:[0-9a-f]{64})")  # a step's own words come behind their time
_WANTS_BUILDKIT = re.compile(r"requires BuildKit|Unknown flag", re.IGNORECASE)


class Output:
    """A build's output: all of it up to KEPT_BYTES in *path*, its end beyond that; the last lines at hand.

    Each line is kept as *hide* shows it.
    """

    def __init__(self, path: Path, hide: Callable[[str], str] = urls) -> None:
        self._hide = hide
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        path.unlink(missing_ok=True)
        self._file: BinaryIO = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o640), "r+b", buffering=0)
        hand_over(self._file.fileno(), path.parent)

    def add(self, text: str) -> None:
        for line in self._hide(text).splitlines():
            if not line.strip():
                continue
            self.tail.append(line.rstrip())
            with suppress(OSError):  # a full disk ends the build by itself, if at all
                self._file.write(f"{line.rstrip()}\n".encode())
                if self._file.tell() > KEPT_BYTES:
                    self._halve()

    def _halve(self) -> None:
        self._file.seek(-KEPT_BYTES // 2, os.SEEK_END)
        end = self._file.read()
        self._file.seek(0)
        self._file.write(end)
        self._file.truncate()

    def close(self) -> None:
        self._file.close()


@dataclass(frozen=True)
class Builder:
    """What runs a build: *command* is a docker command with BuildKit, None for the engine's classic builder."""

    client: Any
    command: Path | None
    folder: Path  # of the agent's state: the image id file and BuildKit's own state lie in it

    @classmethod
    def choose(cls, wanted: str, engine: Engine, folder: Path) -> "Builder":
        """The builder of `ADF_BUILDER` *wanted* (auto, buildkit, classic). Raises ImageError where it is missing."""
        if wanted == "buildkit" and engine.buildkit is None:
            raise ImageError(
                "ADF_BUILDER is buildkit, but no docker command here builds with BuildKit",
                hint=f"Install {BUILDKIT_PACKAGES} into the AMI.",
                cause="host",
            )
        return cls(engine.client, None if wanted == "classic" else engine.buildkit, folder)

    @property
    def iid_file(self) -> Path:
        """Holds the id of an image that was built and may not be tagged yet.

        One a process: the docker command of an agent that was killed goes on, and may write its own late.
        """
        return self.folder / f"{os.getpid()}{IID_SUFFIX}"

    def build(self, options: Build, context: Iterator[bytes], output: Output, deadline: Deadline) -> str:
        """The id of the image built from *context*, a tar in chunks; it has no tag yet.

        Raises ImageError with the build's last lines, transient where a base image's registry was out of reach.
        """
        try:
            if self.command:
                return self._buildkit(self.command, options, context, output, deadline)
            return self._classic(options, context, output, deadline)
        except TimeoutError as error:
            raise ImageError(
                "the build was not finished when the boot's time was over",
                hint="Raise ADF_BOOT_TIMEOUT, or build once with the build server and pull the image.",
                log_tail=output.tail,
            ) from error
        finally:
            output.close()

    def _buildkit(
        self, command: Path, options: Build, context: Iterator[bytes], output: Output, deadline: Deadline
    ) -> str:
        self.iid_file.unlink(missing_ok=True)
        process = subprocess.Popen(
            [command, *buildargs.words(options, self.iid_file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self._environment(options),
            start_new_session=True,  # Ctrl-C is ours to handle
            pipesize=PIPE_BYTES,
        )
        feeding = Task(lambda: _feed(process, context))
        reading = Task(lambda: _read(process, output))
        try:
            reading.result(deadline)
            code = process.wait()
            feeding.result(deadline)  # first, as a context that broke off may build all the same
        except BaseException:
            _cancel(process)
            raise
        if code != 0:
            for built in filter(None, map(_WRITTEN.match, output.tail)):  # a full disk, which did not take its id
                discard(self.client, built[1])
            raise _failure(output)
        return self.iid_file.read_text().strip()

    def _environment(self, options: Build) -> dict[str, str]:
        return {
            "BUILDX_CONFIG": str(self.folder / "buildx"),  # DOCKER_CONFIG may be read-only, buildx keeps state
            **os.environ,
            **buildargs.hidden(options.args),
            "DOCKER_BUILDKIT": "1",
        }

    def _classic(self, options: Build, context: Iterator[bytes], output: Output, deadline: Deadline) -> str:
        def run() -> str:
            image = ""
            with asking("building the image", ImageError):
                for event in self._events(options, context):
                    output.add(event.get("stream") or event.get("error") or event.get("status") or "")
                    if "error" in event:
                        raise _failure(output)
                    image = event.get("aux", {}).get("ID", image)
            self.iid_file.write_text(image)
            return image

        try:
            return Task(run).result(deadline)
        except ImageError as error:
            if not isinstance(error.__cause__, APIError):
                raise
            output.add(str(error.__cause__.explanation))
            raise _failure(output) from error

    def _events(self, options: Build, context: Iterator[bytes]) -> Iterator[dict[str, Any]]:
        events: Iterator[dict[str, Any]] = self.client.api.build(
            fileobj=context,
            custom_context=True,
            dockerfile=options.dockerfile,
            target=options.target,
            buildargs=dict(options.args),
            rm=True,
            forcerm=True,
            decode=True,
            timeout=None,  # a step may be silent for as long as the deadline allows
        )
        return events


def discard(client: Any, name: str) -> None:
    """Removes the image *name*, as it was built and never tagged; where Docker fails, it stays."""
    with suppress(*FAULTS):
        if not client.api.inspect_image(name)["RepoTags"]:
            client.api.remove_image(name)


def _feed(process: "subprocess.Popen[bytes]", context: Iterator[bytes]) -> None:
    assert process.stdin is not None  # noqa: S101  PIPE above
    try:
        for chunk in context:
            process.stdin.write(chunk)
    except BrokenPipeError:
        return  # the build failed early; its exit code says so
    except BaseException:
        _signal(process, signal.SIGKILL)  # before its input ends: half a context builds too
        raise
    finally:
        with suppress(BrokenPipeError):
            process.stdin.close()


def _read(process: "subprocess.Popen[bytes]", output: Output) -> None:
    assert process.stdout is not None  # noqa: S101  PIPE above
    with process.stdout:
        for line in process.stdout:
            output.add(line.decode(errors="replace"))


def _cancel(process: "subprocess.Popen[bytes]") -> None:
    _signal(process, signal.SIGTERM)
    try:
        process.wait(CANCEL_SECONDS)
    except subprocess.TimeoutExpired:
        _signal(process, signal.SIGKILL)
        process.wait()


def _signal(process: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # it has ended
        os.killpg(process.pid, number)  # its plug-in too


def _failure(output: Output) -> ImageError:
    """The error that a failed build's *output* tells of."""
    last = next((line for line in reversed(output.tail) if line.strip("-> ")), "no output")
    said: Callable[[str], ImageError] = lambda hint: ImageError(  # noqa: E731
        f"the build failed: {last.removeprefix('ERROR: ')}", hint=hint, log_tail=output.tail
    )
    if re.search(r"(exit code:|non-zero code:) 137", last):
        return ImageError(
            "the build ran out of memory (a step was killed with exit code 137)",
            hint="Use an instance type with more memory, or build once on a build server and pull the image.",
            cause="host",
            log_tail=output.tail,
        )
    if not _STEP.search(last) and "no space left on device" in last:
        error = said("Give the instance a larger volume, or see what fills it: df -h, docker system df.")
        error.cause = "host"
        return error
    if _WANTS_BUILDKIT.search(last):
        return said(f"This Dockerfile needs BuildKit: install {BUILDKIT_PACKAGES} into the AMI.")
    if not _STEP.search(last) and passing(last):
        error = said("The registry of a base image could not be reached.")
        error.cause, error.transient = "dependency", True
        return error
    return said("Mend the Dockerfile, by the build's last lines; an instance has all in build.log in its state folder.")
