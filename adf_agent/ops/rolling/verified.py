"""A release looked at as instances will, before any of them is told to boot it."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from adf_agent import location
from adf_agent.deadline import Deadline
from adf_agent.errors import AgentError, Withheld
from adf_agent.location import Location
from adf_agent.notation import Limits
from adf_agent.ops.release import fetch


@dataclass(frozen=True)
class Verified:
    """What is known of the release that instances are to boot.

    *error*: why they would refuse it; *unseen*: why it can't be looked at from here. *memory* is its container's limit
    in bytes, None without one. *pin* is what the URL lacks to mean these bytes for ever.
    """

    error: str = ""
    unseen: str = ""
    hint: str = ""
    memory: int | Literal["unknown"] | None = "unknown"
    pin: str = ""


def verified(url: str, deadline: Deadline) -> Verified:
    """The release at *url*, verified as an instance does it, but for what its AMI alone knows. Raises Stopped."""
    try:
        at = location.parse(url)
        if at.path and not at.path.exists():
            return Verified(unseen=f"{at.shown} is not on this machine", hint="An instance's own file shows at boot.")
        return _image(at, deadline) if at.scheme == "docker" else _tarball(at, deadline)
    except AgentError as error:
        if error.transient or error.cause in ("dependency", "host") or isinstance(error, Withheld):
            return Verified(unseen=error.sentence, hint=error.hint)
        return Verified(error=error.sentence, hint=error.hint)


def _tarball(at: Location, deadline: Deadline) -> Verified:
    """Whether it is signed by whom the AMI trusts is the AMI's to know: see `adf-release verify --key`."""
    with fetch.root() as root:
        found = fetch.obtain(at, root.var, Limits(), deadline)
    if found.note:  # it names an image; what RELEASE_URL pins is the note
        return dataclasses.replace(_image(found.location, deadline), pin=f"#sha256={found.note}")
    return Verified(memory=found.manifest.container.memory, pin=f"#sha256={found.digest}")


def _image(at: Location, deadline: Deadline) -> Verified:
    from adf_agent.ops.release import registry  # noqa: PLC0415  a tarball needs no Docker

    with registry.connected(deadline) as engine:
        found = registry.find(engine.client, at.reference, deadline)
    if found is None:
        return Verified(error=f"the registry has no {at.reference}", hint="See its tags.")
    return Verified(pin=f"@sha256:{found.digest}")  # there is no adf.toml that could limit its memory
