"""Boxes to boot: their file system, of the machine's own Debian packages, made once; and one with the agent in it."""

import fcntl
import hashlib
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from box import Box, Instance
from layer import Layer

CACHE = Path(__file__).parents[1] / "build/box"
PACKAGES = (
    "amazon-ecr-credential-helper,busybox-static,ca-certificates,cloud-init,dbus,docker.io,iproute2,iptables,"
    "libpam-systemd,procps,python3,systemd,systemd-sysv"
)
# A container manager leaves the controllers read-only, and Docker in it needs a cgroup for each of its containers.
DOCKER_DROP_IN = """\
[Service]
ExecStartPre=/bin/sh -c 'for each in /sys/fs/cgroup/*; do mount -o remount,bind,rw $each 2>/dev/null || :; done'
"""
BOOT_ID = "C /run/boot_id - - - - /proc/sys/kernel/random/boot_id\n"  # for a mount namespace that has another /proc


@pytest.fixture(scope="session")
def box_base() -> Path:
    """The file system of a box without the agent: a folder that no test may change."""
    made = CACHE / hashlib.sha256((PACKAGES + DOCKER_DROP_IN + BOOT_ID).encode()).hexdigest()[:16]
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests run in several processes
        if not made.exists():
            with TemporaryDirectory(dir=CACHE) as folder:
                _make(Path(folder, "root"))
                Path(folder, "root").rename(made)
    return made


@pytest.fixture(scope="session")
def box_installed(box_base: Path, deb: Path) -> Iterator[Path]:
    """What the .deb adds, installed as into an image: with nothing running."""
    with Layer(box_base) as layer:
        shutil.copy(deb, layer.root / "tmp/agent.deb")
        _run("chroot", str(layer.root), "dpkg", "--install", "/tmp/agent.deb")
        layer.unmount()
        yield layer.changes


@pytest.fixture
def bare_box(box_base: Path) -> Iterator[Instance]:
    """A box without the agent, not booted yet."""
    with Instance(box_base) as box:
        yield box


@pytest.fixture
def box(box_installed: Path, box_base: Path) -> Iterator[Instance]:
    """A box with the agent's package in it, not booted yet: an instance before its first boot."""
    with Instance(box_installed, box_base) as box:
        yield box


@contextmanager
def busy_apt(box: Box) -> Iterator[None]:
    """Somebody else is at the package lists of *box* meanwhile, as apt's own timer is soon after a first boot."""
    with (box.disk.root / "var/lib/apt/lists/lock").open("a") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        yield


def _make(root: Path) -> None:
    what = ("--variant=apt", f"--include={PACKAGES}", _codename())
    _run("mmdebstrap", "--quiet", *what, str(root), *_debian_sources())
    (root / "etc/cloud/cloud-init.disabled").touch()
    drop_in = root / "etc/systemd/system/docker.service.d/box.conf"
    drop_in.parent.mkdir(parents=True)
    drop_in.write_text(DOCKER_DROP_IN)
    (root / "etc/tmpfiles.d/box.conf").write_text(BOOT_ID)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _codename() -> str:
    found = re.search(r"^VERSION_CODENAME=(\w+)", Path("/etc/os-release").read_text(), re.MULTILINE)
    assert found, "/etc/os-release names no release of the distribution"
    return found[1]


def _debian_sources() -> list[str]:
    """The files that this machine's own packages come from."""
    files = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    suite = re.compile(rf"^(?!#).*\s{_codename()}\s.*", re.MULTILINE)
    return [
        str(file)
        for file in files
        if file.suffix in (".list", ".sources") and file.is_file() and suite.search(file.read_text())
    ]
