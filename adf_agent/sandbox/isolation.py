"""A sandbox's environment: the real AWS taken out of it, before what looks there is imported."""

import os
import shlex
from collections.abc import Mapping

PROXIES = {"http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"}
LOOPBACK = "127.0.0.1,localhost"


def direct(before: Mapping[str, str], addresses: str = LOOPBACK) -> dict[str, str]:
    """What keeps requests for *addresses* away from the proxy that *before* names; nothing where it names none."""
    if not PROXIES & before.keys():
        return {}
    listed = ",".join(filter(None, [before.get("no_proxy") or before.get("NO_PROXY"), addresses]))
    return {"NO_PROXY": listed, "no_proxy": listed}


def isolate() -> None:
    """Takes the real AWS out of this process's environment, and the proxy out of its way to the loopback.

    A profile, keys or an endpoint there would outrank what `environment` says, for moto and an agent alike.
    """
    os.environ.update(direct(os.environ))
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]


def shell(given: Mapping[str, str], before: Mapping[str, str]) -> str:
    """Lines for the eval of a shell whose environment is *before*: *given* set, other variables of AWS unset."""
    gone = sorted(name for name in before if name.startswith("AWS_") and name not in given)
    lines = [f"export {name}={shlex.quote(value)}" for name, value in sorted({**given, **direct(before)}.items())]
    return "\n".join([*([f"unset {' '.join(gone)}"] if gone else []), *lines])
