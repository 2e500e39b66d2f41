"""The release stage alone, in a process of its own: python3 stage.py PACKAGES URL FOLDER.

Downloads and checks the release at URL and streams it as a build context to nowhere, by the agent in PACKAGES. Prints
the seconds of both and the peak memory in kB.
"""

import re
import sys
import threading
import time
from pathlib import Path


def main(packages: str, url: str, folder: str) -> None:
    """As said above."""
    sys.path.insert(0, packages)
    from adf_agent import archive, location, release, store  # noqa: PLC0415  from *packages*
    from adf_agent.deadline import Deadline  # noqa: PLC0415
    from adf_agent.notation import Limits  # noqa: PLC0415

    where, deadline = location.parse(url), Deadline(300, threading.Event())
    source = store.source(where, lambda: None, None)
    began = time.perf_counter()
    found = release.obtain(where, "bench", source, Path(folder), Limits(), deadline)
    checked = time.perf_counter()
    assert found.archive is not None
    for _ in archive.context(found.archive):
        pass
    streamed = time.perf_counter()
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert peak is not None
    print(checked - began, streamed - checked, peak[1])


main(*sys.argv[1:])
