"""Canaries: texts that nobody may see, and all that the agent writes or sends, to look for them in."""

import base64
import contextlib
import io
import json
import os
import stat
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from adf_agent.sandbox.front import Front

RUN = os.urandom(4).hex().upper()  # the engine's cache may hold those of another run
LEAST = 8  # characters of a line of a secret that count as a part of it


def canary(name: str) -> str:
    """A text of its own for *name*: no JSON, URL or shell would write it otherwise."""
    return f"cnry{name}{RUN}"


# The secrets of the app's config, by key; each with what some form of output writes in another way.
CONFIG = {
    "KMS_PASSWORD": canary("kms"),
    "SSM_TOKEN": canary("ssm") + '"\\quoted\\"',
    "MANAGER_REGEX": canary("manager") + ".*[a-z]+(?P<x>$^|",
    "PEM": f"-----BEGIN KEY-----\n{canary('pemone')}\n{canary('pemtwo')}\n}}\n-----END KEY-----\n",
    "URLISH": canary("urlish") + "/a b&c=d%",
    "UMLAUT": canary("umlaut") + "ü€",
    "PLAIN_PASSWORD": canary("plain"),  # no secret to the table, but by its name
}
TOKEN = canary("github")  # what ADF_RELEASE_TOKEN leads to
LOGIN, PASSWORD = canary("user"), canary("password")  # of RELEASE_URL
QUERY, SIGNATURE = canary("query"), canary("signature")  # of RELEASE_URL, and of where it is redirected to
PROXY = canary("proxy")  # the proxy's password
REGISTRY = canary("registry")  # the password at a registry
PROBE = canary("probe")  # in the query of ADF_HEALTH
ROLE_KEY, ROLE_SECRET, ROLE_TOKEN = f"ASIA{canary('id').upper()}", canary("rolesecret"), canary("roletoken")
LOG_OPTION = canary("logopt")
ARGUMENT = canary("argument")  # of a build
STRAY = canary("stray")  # of lines that are none of ours

CANARIES: dict[str, str] = {
    **CONFIG,
    **{name: value for name, value in list(globals().items()) if isinstance(value, str) and RUN in value},
}
del CANARIES["RUN"]


def forms(text: str) -> set[str]:
    """*text*, each of its lines, and how JSON, Python, a URL and base64 write them."""
    lines = {line for line in (text, *text.splitlines()) if len(line) >= LEAST}
    quoted = {json.dumps(each, ensure_ascii=ascii_only)[1:-1] for each in lines for ascii_only in (True, False)}
    encoded = {_inside(each.encode(), place) for each in lines for place in range(3)}
    return lines | quoted | {repr(each)[1:-1] for each in lines} | {quote(each, safe="") for each in lines} | encoded


def _inside(data: bytes, place: int) -> str:
    """What base64 makes of *data* behind *place* other bytes, without what its neighbours have a part in."""
    digits = base64.b64encode(b"\0" * place + data).decode()
    return digits[(place * 8 + 5) // 6 : (len(data) + place) * 8 // 6]


FORMS = {name: [form.encode() for form in forms(text)] for name, text in CANARIES.items()}


@dataclass
class Places:
    """What was written or sent, by where. `places.leaks(…)` are the canaries in it, as `PEM in status.json`."""

    texts: list[tuple[str, bytes]] = field(default_factory=list)

    def put(self, place: str, text: str | bytes) -> None:
        self.texts.append((place, text.encode() if isinstance(text, str) else text))

    def leaks(self, allowed: Mapping[tuple[str, str], str]) -> set[str]:
        """But for those of *allowed*: a canary's name, or "" for any, and the place's beginning."""
        found = set()
        for place, text in self.texts:
            for name, looks in FORMS.items():
                if any(look in text for look in looks) and not any(
                    name.startswith(each) and place.startswith(where) for each, where in allowed
                ):
                    found.add(f"{name} in {place}")
        return found

    def has(self, place: str, text: str) -> bool:
        """Whether *text* is in a place that begins so: that nothing is found must not be as nothing was looked at."""
        return any(text.encode() in data for where, data in self.texts if where.startswith(place))

    def folder(self, root: Path, inputs: Iterable[Path]) -> None:
        """Every file below *root*, its mode in the place's name; but for the test's own *inputs*."""
        given = {*inputs}
        for path in sorted(root.rglob("*")):
            if path.is_file() and not given & {path, *path.parents}:
                data = path.read_bytes()
                self.put(f"file {path.name} {stat.S_IMODE(path.stat().st_mode):o}", data)

    def archive(self, place: str, data: bytes) -> None:
        """Every member of a tar, those of tars in it too."""
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            for member in tar.getmembers():
                content = tar.extractfile(member) if member.isfile() else None
                if content is None:
                    continue
                inner = content.read()
                self.put(f"{place} {member.name}", inner)
                with contextlib.suppress(tarfile.TarError):
                    self.archive(f"{place} {member.name}", inner)


class Listening(Front):
    """AWS, which keeps what it is asked: the method, the path, headers but for those that sign, and the body."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[tuple[str, bytes]] = []
        self.signed: list[str] = []  # the headers that sign

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        headers = {name: str(value) for name, value in environ.items() if name.startswith(("HTTP_", "CONTENT_"))}
        signs = [headers.pop(name, "") for name in ("HTTP_AUTHORIZATION", "HTTP_X_AMZ_SECURITY_TOKEN")]
        if ROLE_KEY in signs[0]:  # the agent's, not those of who prepares the cloud
            self.signed += signs
            asked = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}?{environ['QUERY_STRING']} {headers}"
            self.heard.append((headers.get("HTTP_X_AMZ_TARGET", environ["REQUEST_METHOD"]), asked.encode() + body))
        return super().__call__(environ, start_response)


@contextlib.contextmanager
def docker_that_tells(folder: Path, real: Path) -> Iterator[Path]:
    """A folder for the PATH with a `docker` that writes down its arguments and environment and becomes *real*."""
    folder.mkdir()
    command = folder / "docker"
    command.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" >>{folder}/arguments\nenv >>{folder}/environment\nexec {real} "$@"\n'
    )
    command.chmod(0o755)
    yield folder
