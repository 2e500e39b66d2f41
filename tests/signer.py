"""Somebody who signs releases, by the real minisign."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

from adf_agent.signature import Key


@dataclass(frozen=True)
class Signer:
    """Somebody with the key pair `minisign.pub` and `minisign.key` in *folder*, without a password."""

    folder: Path

    @property
    def secret(self) -> Path:
        return self.folder / "minisign.key"

    @property
    def public(self) -> str:
        """The line for ADF_RELEASE_KEYS."""
        return (self.folder / "minisign.pub").read_text().splitlines()[1]

    @property
    def key(self) -> Key:
        return Key.parse(self.public)

    def sign(self, path: Path, *options: str) -> Path:
        """Signs *path* as `minisign -S` does it; returns the signature's file."""
        minisign("-S", "-s", self.secret, "-m", path, *options)
        return path.with_name(f"{path.name}.minisig")

    def takes(self, path: Path) -> str:
        """What minisign says of *path*, which it must take for this key's."""
        return minisign("-V", "-P", self.public, "-m", path)


def minisign(*words: str | Path) -> str:
    done = subprocess.run(["minisign", *words], check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def signer_in(folder: Path) -> Signer:
    """A new key pair, in *folder*."""
    minisign("-G", "-W", "-p", folder / "minisign.pub", "-s", folder / "minisign.key")
    return Signer(folder)
