"""A file system on top of others: what is written to it is kept apart, and gone with it."""

import subprocess
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

DISK = "/var/tmp"  # Docker's layers need a real one, which /tmp may not be


def call(*command: str) -> None:
    """Runs a command that has to go well."""
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


class Layer:
    """A file system of *layers*, the uppermost first, at *root*; *changes* is what was written, a layer itself."""

    def __init__(self, *layers: Path) -> None:
        self._layers = layers
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.folder = Path(stack.enter_context(TemporaryDirectory(prefix="adf-box-", dir=DISK)))
            self.folder.chmod(0o755)
            self.root, self.changes = self.folder / "root", self.folder / "changes"
            for folder in (self.root, self.changes, self.folder / "work"):
                folder.mkdir()
            lower = ":".join(map(str, self._layers))
            places = f"lowerdir={lower},upperdir={self.changes},workdir={self.folder}/work"
            call("mount", "-t", "overlay", "-o", places, "adf-box", str(self.root))
            stack.callback(self.unmount)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def unmount(self) -> None:
        if self.root.is_mount():
            call("umount", str(self.root))

    def write(self, path: str, text: str | bytes) -> None:
        """A file in it."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text.encode() if isinstance(text, str) else text)
