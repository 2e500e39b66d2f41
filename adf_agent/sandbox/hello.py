"""examples/hello as a release: the app of the demo, which needs no registry."""

import hashlib
import io
import shutil
import subprocess
import tarfile
import time
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from adf_agent.errors import AgentError

FAILS = "echo starting; echo DATABASE_URL is not set; exit 7"  # a script for `dockerfile`


def folder() -> Path:
    """examples/hello, as the wheel carries it."""
    return Path(str(resources.files("adf_agent.sandbox") / "hello"))


def static_busybox() -> Path:
    """This machine's busybox, with no library to load at its start. Raises AgentError."""
    found = shutil.which("busybox")
    # ldd (1) fails for a file that needs no library.
    if not found or subprocess.run(["ldd", found], capture_output=True, check=False).returncode == 0:
        raise AgentError(
            "the sandbox's app is made of a static busybox, and this machine has none",
            hint="Install it: apt-get install busybox-static",
        )
    return Path(found).resolve()


def dockerfile(script: str) -> str:
    """The app's Dockerfile, but that it runs *script* (a shell's, without quotes)."""
    kept = [line for line in (folder() / "Dockerfile").read_text().splitlines() if not line.startswith("CMD")]
    return "\n".join([*kept, f'CMD ["/bin/busybox", "sh", "-c", "{script}"]', ""])


def pack(path: Path, changed: Mapping[str, str]) -> str:
    """Makes *path* a release's tarball of the app, less what is *changed* (name → content); returns its SHA-256.

    Raises AgentError.
    """
    busybox, top = static_busybox(), path.name.partition(".tar")[0]

    def ours(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.mode = 0o755
        # To a fraction of a second: each one's digest, and with it the image, is its own to remove.
        member.mtime = time.time()
        return member

    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for file in sorted(folder().rglob("*")):
            name = str(file.relative_to(folder()))
            if file.is_file() and name not in changed:
                archive.add(file, f"{top}/{name}", filter=ours)
        archive.add(busybox, f"{top}/busybox", filter=ours)
        for name, text in changed.items():
            _add(archive, ours(tarfile.TarInfo(f"{top}/{name}")), text)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _add(archive: tarfile.TarFile, member: tarfile.TarInfo, text: str) -> None:
    content = text.encode()
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))
