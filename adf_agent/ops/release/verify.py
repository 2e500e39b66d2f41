"""adf-release verify: what an instance would refuse of a release, found before one is told to boot it."""

import json
from typing import Any

from adf_agent import location
from adf_agent.archive import Archive
from adf_agent.deadline import Deadline
from adf_agent.errors import ImageError
from adf_agent.location import Location
from adf_agent.notation import Limits, in_words
from adf_agent.ops.release import fetch
from adf_agent.release import Release
from adf_agent.signature import Key

Facts = dict[str, Any]


def verify(url: str, limits: Limits, keys: tuple[Key, ...], deadline: Deadline, *, as_json: bool) -> None:
    """Prints what is known of the release at *url*, which one of *keys* must have signed, where there are any.

    Raises the AgentError that the agent's stage would raise.
    """
    at = location.parse(url)
    facts = _image(at, deadline) if at.scheme == "docker" and not keys else _fetched(at, limits, keys, deadline)
    if as_json:
        print(json.dumps(facts, indent=1))
        return
    for name, value in facts.items():
        print(f"{name:<12}{_shown(name, value)}")


def _fetched(at: Location, limits: Limits, keys: tuple[Key, ...], deadline: Deadline) -> Facts:
    with fetch.root() as root:
        released = fetch.obtain(at, root.var, limits, deadline, keys)
    facts = _tarball(at, released, released.archive) if released.archive else _noted(at, released, deadline)
    if signature := released.signature:
        comment = "".join(each if each.isprintable() else " " for each in signature.shown)
        facts["signed"] = f"by {signature.id}: {comment}"
    return facts


def _tarball(at: Location, released: Release, archive: Archive) -> Facts:
    return {
        "name": at.name or None,
        "url": at.shown,
        "digest": released.digest,
        "size": released.size,
        "members": archive.members,
        "unpacked": archive.unpacked,
        "dockerfile": archive.manifest.build.dockerfile,
        **_pinned(at, released.digest),
    }


def _noted(at: Location, released: Release, deadline: Deadline) -> Facts:
    image = _image(released.location, deadline)
    return {**image, "name": at.name, "url": at.shown, "image": image["url"], **_pinned(at, released.note)}


def _pinned(at: Location, digest: str) -> Facts:
    pin = f"#sha256={digest}"
    return {} if at.sha256 else {"pinned": f"{at.shown}{pin}" if at.shown == at.url else f"add {pin}"}


def _image(at: Location, deadline: Deadline) -> Facts:
    from adf_agent.ops.release import registry  # noqa: PLC0415  a tarball needs no Docker

    with registry.connected(deadline) as engine:
        found = registry.find(engine.client, at.reference, deadline)
    if found is None:
        raise ImageError(
            f"the registry has no {at.reference}",
            hint="See its tags; an image may be cleared away once it has none.",
            cause="release",
        )
    pinned = {} if "@" in at.reference else {"pinned": f"{at.url}@sha256:{found.digest}"}
    return {"name": at.name or None, "url": at.shown, "digest": found.digest, "platforms": found.platforms, **pinned}


def _shown(name: str, value: Any) -> str:
    if name in ("size", "unpacked"):
        return in_words(value)
    if value is None:
        return "none: set ADF_RELEASE"
    return ", ".join(value) if isinstance(value, tuple) else str(value)
