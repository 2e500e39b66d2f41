"""What the docker command is told of a build, and where: every user of the machine reads a command's arguments."""

import re
from collections.abc import Mapping
from pathlib import Path

from adf_agent.manifest import Build
from adf_agent.mask import SECRETIVE, urls

# Names of what steers the docker command, or whatever logs in for it: the release has no say in that.
_NO_SECRET = re.compile(r"\w+_(?:FILE|PATH|URI|URL)", re.IGNORECASE)
_STEERING = re.compile(r"(?:AWS|BUILDKIT|BUILDX|DOCKER|LD|OTEL)_\w+")


def words(options: Build, iid_file: Path) -> list[str]:
    """The docker command's arguments for a build whose context comes on standard input."""
    target = ["--target", options.target] if options.target else []
    seen = {name: f"={value}" for name, value in options.args.items() if not _is_hidden(name, value)}
    args = [f"--build-arg={name}{seen.get(name, '')}" for name in options.args]
    return ["build", "--progress=plain", f"--iidfile={iid_file}", f"--file={options.dockerfile}", *target, *args, "-"]


def hidden(args: Mapping[str, str]) -> dict[str, str]:
    """Those of *args* that the docker command finds in its environment, as every user reads its arguments."""
    return {name: value for name, value in args.items() if _is_hidden(name, value)}


def _is_hidden(name: str, value: str) -> bool:
    if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):  # none of an environment
        return False
    if SECRETIVE.search(name):
        return not _NO_SECRET.fullmatch(name)
    return urls(value) != value and not _STEERING.fullmatch(name)
