"""An image registry, asked and filled through the Docker engine, with Docker's own logins."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from threading import Event
from typing import Any, TypeVar

import docker
from docker.errors import APIError, NotFound

from adf_agent import engine, image, mask
from adf_agent.background import Task
from adf_agent.deadline import Deadline
from adf_agent.engine import Engine, asking, passing
from adf_agent.errors import AgentError, ImageError
from adf_agent.ops.release import fetch

T = TypeVar("T")
ENGINE_SECONDS = 10.0  # a person waits for it, not a boot
ANSWER_SECONDS = 60.0  # for a registry's first answer: a mistyped name is not to be tried until the end
UNDO_SECONDS = 15.0  # for what is taken away at the end, also where Docker hangs
HINTS = (
    (
        r"denied|unauthorized|no basic auth|authentication required",
        "Log in as a user who may push there: docker login, or a credential helper.",
    ),
    (r"name unknown|does not exist", "Make the repository first: this registry makes none by itself."),
    ("", "See that the registry's name is right, and that the Docker engine can reach it."),
)


@dataclass(frozen=True)
class Found:
    """An image of a registry: its *digest* (64 hex digits) and what it runs on, such as `linux/amd64`."""

    digest: str
    platforms: tuple[str, ...]


@contextmanager
def connected(deadline: Deadline) -> Iterator[Engine]:
    """The engine at DOCKER_HOST, for as long as this lasts. Raises DockerError."""
    brief = deadline.within(ENGINE_SECONDS)
    reached = Task(lambda: engine.connect(lambda seconds: docker.from_env(timeout=seconds), brief)).result(deadline)
    with closing(reached.client):
        yield reached


def find(client: Any, reference: str, deadline: Deadline) -> Found | None:
    """The image *reference* as its registry has it, None where it has none. Raises ImageError.

    https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Distribution
    """

    def ask() -> Found | None:
        with asking(f"looking for {reference}", ImageError):
            try:
                facts = client.api.inspect_distribution(reference)
            except NotFound:
                return None
            except APIError as error:
                raise _refusal(f"{reference} can't be looked for", str(error.explanation)) from error
        platforms = [f"{each['os']}/{each['architecture']}" for each in facts["Platforms"] or []]
        return Found(_digits(facts["Descriptor"]["digest"]), tuple(dict.fromkeys(platforms)))

    return _tried(ask, f"looking for {reference}", deadline.within(ANSWER_SECONDS))


def push(client: Any, repository: str, tag: str, deadline: Deadline) -> str:
    """Pushes the engine's image *repository*:*tag*; returns the digest that the registry gives it (64 hex digits).

    Raises ImageError.
    """
    reference = f"{repository}:{tag}"

    def run() -> str:
        digest = ""
        with asking(f"pushing {reference}", ImageError):
            for event in client.api.push(repository, tag, stream=True, decode=True):
                if "error" in event:
                    raise _refusal(f"{reference} can't be pushed", event["error"])
                digest = event.get("aux", {}).get("Digest", digest)
        return _digits(digest)

    return _tried(run, f"pushing {reference}", deadline)


@contextmanager
def left_as_found(client: Any, names: Sequence[str]) -> Iterator[None]:
    """Gives the tags *names* of the engine back to the images that had them before; those of none go, however it ends.

    With the last tag in a repository goes the digest that a push noted there, with the last of all the image.
    """
    before = {name: _id(client, name) for name in names}
    try:
        yield
    finally:
        try:
            Task(lambda: _give_back(client, before)).result(Deadline(UNDO_SECONDS, Event()))
        except (AgentError, TimeoutError) as error:  # how the build ended is what counts
            fetch.say(f"not all of {', '.join(names)} could be taken out of the Docker engine again: {error}")


def _give_back(client: Any, before: Mapping[str, str]) -> None:
    for name, former in before.items():
        if _id(client, name) == former:
            continue
        with asking(f"removing {name}", ImageError):
            with suppress(NotFound):
                client.api.remove_image(name)
            if former:
                client.api.tag(former, *name.rsplit(":", 1))


def _id(client: Any, name: str) -> str:
    found = image.find(client, name)
    return found.id if found else ""


def _tried(call: Callable[[], T], doing: str, deadline: Deadline) -> T:
    """The answer of *call*, tried until *deadline* in threads of its own: a registry may be silent for long."""

    def attempt() -> T:
        try:
            return Task(call).result(deadline)
        except TimeoutError as error:
            raise ImageError(
                f"Docker was not done with {doing} in time", hint=HINTS[-1][1], cause="dependency", transient=True
            ) from error

    return deadline.retry(attempt)


def _refusal(what: str, said: str) -> ImageError:
    """What a registry, or the engine on its behalf, answers."""
    may_pass = passing(said)
    hint = next(hint for pattern, hint in HINTS if re.search(pattern, said, re.IGNORECASE))
    return ImageError(f"{what}: {mask.urls(said)}", hint=hint, cause="dependency", transient=may_pass)


def _digits(digest: str) -> str:
    return digest.removeprefix("sha256:")
