"""What the docker command is told of a build, and where: every user of the machine reads a command's arguments."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from adf_agent.manifest import Build
from adf_agent.mask import SECRETIVE, urls

# Names of places, whose URL may hold a login. Not each URL is hidden: by HTTPS_PROXY, and by other names that only its
# makers know, the docker command itself would go.
_PLACE = re.compile(r"(?:\w+_)?(?:DSN|FEED|INDEX|MIRROR|REGISTRY|REPO|REPOSITORY|SOURCE|UR[IL])|GOPROXY", re.IGNORECASE)
_NO_SECRET = re.compile(r"\w+_(?:FILE|PATH|UR[IL])", re.IGNORECASE)
# Names of what steers the docker command, or whatever logs in for it: the release has no say in that.
_STEERING = re.compile(
    r"(?:ADF|AWS|BUILDKIT|BUILDX|CLOUDSDK|DOCKER|DYLD|LD|OTEL|PASSWORD_STORE|XDG)_\w+"
    r"|AZURE_(?:AUTHORITY|CLIENT|CONFIG|FEDERATED|PASSWORD|TENANT|USERNAME)\w*|GOOGLE_(?:APPLICATION|CLOUD|EXTERNAL)\w*"
    r"|GIT_(?:ASKPASS|CONFIG|DIR|EXEC|PROXY|SSH|SSL|TEMPLATE|TRACE|WORK)\w*|SSH_(?:AUTH_SOCK|ASKPASS\w*)|SSL_CERT_\w+"
    r"|GO(?!PROXY$)[A-Z]*|GNUPGHOME|\w+_PROXY|HOME|PATH",
    re.IGNORECASE,
)


def words(options: Build, iid_file: Path) -> list[str]:
    """The docker command's arguments for a build whose context comes on standard input."""
    target = ["--target", options.target] if options.target else []
    seen = {name: f"={value}" for name, value in options.args.items() if not _is_hidden(name, value)}
    args = [f"--build-arg={name}{seen.get(name, '')}" for name in options.args]
    return ["build", "--progress=plain", f"--iidfile={iid_file}", f"--file={options.dockerfile}", *target, *args, "-"]


def hidden(args: Mapping[str, str]) -> dict[str, str]:
    """Those of *args* that the docker command finds in its environment, as every user reads its arguments.

    None of them changes what it does: neither one that it may go by, nor one that it has from the machine.
    """
    return {name: value for name, value in args.items() if _is_hidden(name, value)}


def _is_hidden(name: str, value: str) -> bool:
    if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):  # none of an environment
        return False
    if name in os.environ or _STEERING.fullmatch(name):
        return False
    if SECRETIVE.search(name) and not _NO_SECRET.fullmatch(name):
        return True
    return bool(_PLACE.fullmatch(name)) and urls(value) != value
