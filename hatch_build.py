"""Has man pages and completions made, from the commands' own parsers, when the wheel is built."""

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Words(BuildHookInterface):
    """Puts what packaging/words makes below the share/ of where the wheel is installed."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Makes them; an editable install, whose words may change, goes without."""
        if version == "editable":
            return
        self.made = TemporaryDirectory()
        subprocess.run([sys.executable, str(Path(self.root, "packaging/words")), self.made.name], check=True)
        share = Path(self.made.name, "share")
        build_data["shared_data"][str(share)] = "share"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002
        """Takes the originals away, once they are in the wheel."""
        if version != "editable":
            self.made.cleanup()
