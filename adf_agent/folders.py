"""Which of the host's folders a release may mount: those of ADF_VOLUMES, and never what no list opens."""

import os
import posixpath
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from adf_agent.errors import ReleaseError
from adf_agent.notation import Volume

# The kernel's, and where sockets and the state of Docker and the agent are: who may write there has the machine.
SYSTEM = (
    *("/proc", "/sys", "/dev", "/run", "/var/run", "/etc/docker", "/var/lib/docker", "/var/lib/containerd"),
    *("/etc/adf-agent", "/var/lib/adf-agent"),
)
FORM = "folders of the host, such as /srv/web: without .. in them, and neither / nor the system's, such as /run or /dev"
NAMED = "Or mount a named volume, name:/target."


@dataclass(frozen=True)
class Folders:
    """The folders of the host below which a release may mount; without any, none."""

    allowed: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> "Folders":
        """From ADF_VOLUMES. Raises ValueError."""
        parts = [part.rstrip("/") for part in text.replace(",", " ").split()]
        plain = [
            part for part in parts if re.match("/[^/]", part) and part == os.path.normpath(part) and ":" not in part
        ]
        if not parts or plain != parts or part_of_any(parts, SYSTEM):
            raise ValueError(f"must be {FORM}")
        return cls(tuple(parts))

    def opened(self, volumes: Iterable[Volume], closed: Iterable[str]) -> tuple[Volume, ...]:
        """*volumes* with the folders that they come to when links are followed, none of which is one of *closed*.

        Raises ReleaseError where one may not be mounted.
        """
        shut = {*SYSTEM, *closed}
        shut |= {os.path.realpath(place) for place in shut}
        return tuple(replace(each, source=self._opened(each.source, shut)) if each.host else each for each in volumes)

    def _opened(self, source: str, shut: Iterable[str]) -> str:
        self._check(source, source, self.allowed, shut)
        try:
            real = os.path.realpath(source, strict=True)
        except OSError as error:
            raise ReleaseError(
                f"adf.toml mounts {source} of the host, which the agent can't look at: {error.strerror}",
                hint=f"Have the AMI bring it; the agent sees nothing of /home, /root, /tmp and /var/tmp. {NAMED}",
            ) from error
        self._check(real, f"{source}, that is {real},", map(os.path.realpath, self.allowed), shut)
        if Path(real).is_socket():
            raise ReleaseError(
                f"adf.toml mounts {source} of the host, which is a socket",
                hint=f"Who may talk to it may do what its server does: no release may mount one. {NAMED}",
            )
        return real

    def _check(self, path: str, shown: str, allowed: Iterable[str], shut: Iterable[str]) -> None:
        what = f"adf.toml mounts {shown} of the host"
        if not part_of_any([path], allowed):
            below = f"nothing but what is below {', '.join(self.allowed)}" if self.allowed else "none of its folders"
            hint = f"Whoever makes the AMI may list it in agent.env (ADF_VOLUMES). {NAMED}"
            raise ReleaseError(f"{what}, and this AMI lets a release mount {below}", hint=hint)
        if place := next((each for each in sorted(shut) if overlap(path, each)), None):
            hint = f"It is Docker's, the agent's or the kernel's, which ADF_VOLUMES can't open. {NAMED}"
            raise ReleaseError(f"{what}, and no release may mount {place}, part of it or what holds it", hint=hint)


def part_of_any(paths: Iterable[str], folders: Iterable[str]) -> bool:
    """Whether one of *paths* is one of *folders* or lies below it, by whole parts; links are not looked for."""
    known = tuple(folders)
    return any(posixpath.commonpath([path, folder]) == folder for path in paths for folder in known)


def overlap(path: str, place: str) -> bool:
    """Whether one of both is the other, or holds it."""
    return posixpath.commonpath([path, place]) in (path, place)


def unmoved(sources: Iterable[str]) -> bool:
    """Whether each of *sources* that is a folder of the host is where it was when links in it were followed."""
    try:
        return all(os.path.realpath(source, strict=True) == source for source in sources if source.startswith("/"))
    except OSError:
        return False
