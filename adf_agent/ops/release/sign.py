"""A release's signature, by minisign itself: the secret key and its password are nobody else's business."""

import subprocess
import sys
from pathlib import Path

from adf_agent.deadline import Deadline
from adf_agent.errors import ReleaseError
from adf_agent.ops.release.attempt import attempt
from adf_agent.ops.release.package import File
from adf_agent.signature import LARGEST, RELEASE, SUFFIX, Signature

MINISIGN = ("minisign", "-SH")


def signed(file: File, name: str, key: Path, deadline: Deadline) -> File:
    """The signature of *file*, the release *name*'s, by the secret key in the file *key*. Raises ReleaseError, Stopped.

    The same release and key give the same bytes: there is no time in it.
    """
    if not key.is_file():
        hint = "Give the file that `minisign -G` made, ~/.minisign/minisign.key."
        raise ReleaseError(f"--sign {key} is no file", hint=hint, cause="settings")
    path = file.path.with_name(file.name + SUFFIX)
    comments = ("-c", f"signature of the release {name}", "-t", f"{RELEASE}{name}")
    # Standard output is for the command's answer; what minisign asks for, it asks of whoever is at the terminal.
    command = [*MINISIGN, "-s", str(key), "-m", str(file.path), "-x", str(path), *comments]
    try:
        with subprocess.Popen(command, stdout=sys.stderr.fileno()) as process:
            try:
                code = attempt(process.wait, deadline)
            except BaseException:
                process.kill()
                raise
    except FileNotFoundError as error:
        raise ReleaseError("minisign is missing on this machine", hint="Install minisign.", cause="host") from error
    deadline.check()  # Ctrl-C ends minisign too
    if code:
        hint = "What it says stands above: a wrong password, or a file that is no secret key."
        raise ReleaseError("minisign has not signed the release", hint=hint, cause="settings")
    Signature.parse(path.read_bytes()[:LARGEST])
    return File.of(path, "text/plain")
