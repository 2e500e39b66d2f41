"""adf-release build: the agent's own image stage, run once; its image pushed for the whole fleet to pull.

A repository gets two tags of an image: the release's name, for people, and `adf-<sha256>` of the tarball, which says
what it was made of. No build gives the same image twice, so what is there already is used again and never replaced:
a registry may clear away an image that lost its tag, while instances are told to pull it by its digest.
"""

import functools
import re
from collections.abc import Callable

from adf_agent import image, location, release
from adf_agent.build import Builder
from adf_agent.deadline import Deadline
from adf_agent.engine import Engine
from adf_agent.errors import AgentError, ImageError, SettingsError
from adf_agent.location import Location
from adf_agent.mask import Mask
from adf_agent.notation import Limits
from adf_agent.ops.release import fetch, registry
from adf_agent.ops.release.registry import Found
from adf_agent.release import Release
from adf_agent.state import Ledger

Chooser = Callable[[], Builder]


def build(url: str, push: str, builder: str, limits: Limits, deadline: Deadline) -> str:
    """The docker:// URL, pinned, of the image of the release at *url* in the repository *push*. Raises AgentError.

    The engine is left as it was, but for the builder's cache.
    """
    repository, source = _repository(push), _source(url)
    try:
        with fetch.root() as root, registry.connected(deadline) as engine:
            released = fetch.obtain(source, root.var, limits, deadline)
            fetch.say(f"release {released.fact}{'' if source.sha256 else '; RELEASE_URL pins no digest'}")
            choose = functools.partial(Builder.choose, builder, engine, root.var)
            digest = _digest(engine, released, repository, choose, Ledger(root), deadline)
            return f"docker://{repository}:{released.name}@sha256:{digest}"
    except AgentError as error:
        for line in error.log_tail:
            fetch.say(f"  | {line}")
        if "ADF_BOOT_TIMEOUT" in error.hint:  # there is no boot here
            error.hint = "Give it more time: --timeout."
        raise


def _digest(
    engine: Engine, released: Release, repository: str, choose: Chooser, ledger: Ledger, deadline: Deadline
) -> str:
    """The digest of the image that *repository* has under the release's name, or has from now on."""
    made, named = (
        registry.find(engine.client, f"{repository}:{tag}", deadline) for tag in (_mark(released), released.name)
    )
    if named is None:
        return _delivered(engine, released, repository, made, choose, ledger, deadline)
    if made is None or made.digest != named.digest:
        raise _taken(f"{repository}:{released.name}", named)
    fetch.say(f"{repository}:{released.name} is there, built of this release: nothing is pushed")
    return made.digest


def _delivered(
    engine: Engine,
    released: Release,
    repository: str,
    made: Found | None,
    choose: Chooser,
    ledger: Ledger,
    deadline: Deadline,
) -> str:
    """The digest of the image that is pushed under the release's name: that *made* before, else a new one."""
    wanted, tags = released, [_mark(released), released.name]  # what it was made of is known before it has a name
    if made:  # under another name, or a push that broke off
        at = location.parse(f"docker://{repository}@sha256:{made.digest}")
        wanted, tags = release.of_registry(at, released.name), [released.name]
    digest = ""
    with registry.left_as_found(engine.client, [*(f"{repository}:{tag}" for tag in tags), image.tag(wanted.digest)]):
        fetch.say(f"with Docker {engine.fact}, {'pulling' if made else 'building'}")
        provided = image.provide(engine, wanted, choose, ledger, Mask(), deadline)
        fetch.say(f"image {provided.fact}")
        for tag in tags:
            fetch.say(f"pushing {repository}:{tag}")
            engine.client.api.tag(provided.id, repository, tag)
            digest = registry.push(engine.client, repository, tag, deadline)
    fetch.say(f"pushed sha256 {digest[:12]}")
    return digest


def _mark(released: Release) -> str:
    return f"adf-{released.digest}"


def _taken(reference: str, found: Found) -> ImageError:
    return ImageError(
        f"{reference} is there already, and not known to be built of this release (sha256 {found.digest[:12]})",
        hint="A name is given once: name the release otherwise, push to another repository, or delete that tag.",
        cause="release",
    )


def _repository(push: str) -> str:
    form = re.fullmatch(location.REFERENCE, push, re.ASCII)
    if form is None or form["tag"] or form["digest"]:
        raise SettingsError(
            f"--push {push!r} is no registry/repository, or has a tag or digest",
            hint="Write registry.example.com/team/web in lower case; the tag will be the release's name.",
        )
    return push


def _source(url: str) -> Location:
    source = location.parse(url)
    if source.scheme == "docker" or source.is_note:
        raise SettingsError(
            "RELEASE_URL is that of an image: there is nothing to build",
            hint="Give the instances this URL; `adf-release verify` tells whether the registry has it.",
        )
    if not re.fullmatch(r"\w[\w.-]*", source.name, re.ASCII):
        raise SettingsError(
            f"RELEASE_URL gives the release a name that can't be an image's tag: {source.name!r}",
            hint="Begin the file's name with a letter or digit.",
        )
    return source
