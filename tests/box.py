"""An instance that is a machine of its own: systemd as PID 1, a Docker engine, AWS at its link-local address."""

import ctypes
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import pytest
from fixtures_agent import Files, tarball
from layer import Layer, call

from adf_agent.sandbox.cloud import Cloud

IMDS = "169.254.169.254"
REBOOT = 133  # what systemd-nspawn ends with when the machine in it wants to be started again
CLONE_NEWNET = 0x40000000
DOCKERFILE = """\
FROM scratch
COPY busybox /bin/busybox
COPY www /www
EXPOSE 8000
STOPSIGNAL SIGKILL
CMD ["/bin/busybox", "httpd", "-f", "-p", "8000", "-h", "/www"]
"""
# $1 is the box's own cgroup, in whichever hierarchies systemd may be at home here.
START = """\
for each in /sys/fs/cgroup /sys/fs/cgroup/systemd /sys/fs/cgroup/unified; do
    [ ! -e $each/cgroup.procs ] || { mkdir -p $each/$1 && echo $$ >$each/$1/cgroup.procs; } || exit
done
shift
exec "$@"
"""
NSPAWN = (
    "systemd-nspawn --quiet --register=no --keep-unit --boot --console=read-only --capability=all "
    "--system-call-filter='add_key keyctl bpf'"
)
# A box has its boot id by a mount over the kernel's, which the agent's own /proc would be without; see fixtures_box.
OWN_BOOT_ID = "BindReadOnlyPaths=/run/boot_id:/proc/sys/kernel/random/boot_id"
NAMESPACES = ("--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--")
_libc = ctypes.CDLL(None, use_errno=True)


def app(page: str = "hello", **files: str) -> Files:
    """As fixtures_agent.app, for an engine that holds no base image."""
    more = {name.replace("_", "."): text for name, text in files.items()}
    return {"Dockerfile": DOCKERFILE, "busybox": Path("/bin/busybox").read_bytes(), "www/index.html": page, **more}


def _join(network: int) -> None:
    """Moves this thread into the network namespace; in os only from Python 3.12 on."""
    if _libc.setns(network, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


class Box:
    """A machine on *layers*, as Layer's; what it writes is gone with it. A context manager.

    Its network is its loopback alone. AWS and instance metadata are *cloud*, which outlives a reboot of the box.
    """

    cloud: Cloud

    def __init__(self, *layers: Path) -> None:
        self.name = f"adfbox{os.getpid()}x{time.monotonic_ns() % 10**9:x}"
        self.disk = Layer(*layers)
        self._stack = ExitStack()
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._leader = 0

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self.disk)
            (self.disk.folder / "docker").mkdir()
            self._make_network(stack)
            stack.callback(self._clear_cgroups)
            with self.network():
                self.cloud = stack.enter_context(Cloud(address=IMDS, imds_port=80))
            self.cloud.imds.instance.tags = {}
            self.disk.write("etc/docker/daemon.json", json.dumps({"cgroup-parent": f"{self.name}.slice"}))
            self.drop_in("sandbox", f"Environment=AWS_ENDPOINT_URL={self.cloud.endpoint}", OWN_BOOT_ID)
            stack.callback(self.off)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @contextmanager
    def network(self) -> Iterator[None]:
        """What this thread connects to meanwhile is the box's, and that of the threads that it starts."""
        with Path("/proc/thread-self/ns/net").open() as home, Path("/run/netns", self.name).open() as away:
            _join(away.fileno())
            try:
                yield
            finally:
                _join(home.fileno())

    def drop_in(self, name: str, *lines: str) -> None:
        """Adds *lines* to the unit's [Service]; systemd reads them when the box boots, or at a daemon-reload."""
        self.disk.write(f"etc/systemd/system/adf-agent.service.d/{name}.conf", "\n".join(["[Service]", *lines, ""]))

    def release(self, files: Files | None = None, name: str = "v1.tar.gz") -> str:
        """A release of *files* on the box's disk; returns its file:// URL."""
        self.disk.write(f"srv/{name}", tarball(files or app()))
        return f"file:///srv/{name}"

    def user_data(self, **settings: object) -> None:
        """What the box is launched with."""
        self.cloud.imds.instance.user_data = "".join(f"{key}={value}\n" for key, value in settings.items()).encode()

    def boot(self) -> None:
        """Starts the box, up to where systemd takes commands."""
        disk = (f"--directory={self.disk.root}", f"--bind={self.disk.folder}/docker:/var/lib/docker")
        place = (f"--machine={self.name}", f"--network-namespace-path=/run/netns/{self.name}")
        with (self.disk.folder / "console").open("ab") as console:
            self._nspawn = subprocess.Popen(
                ["sh", "-c", START, "sh", self.name, *shlex.split(NSPAWN), *disk, *place],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
            )
        self.until(self._find_leader, "systemd is up")

    def reboot(self) -> None:
        """Shuts the box down as an instance is, and starts it again."""
        assert self._nspawn
        self.run("systemctl", "reboot")
        assert self._nspawn.wait(60) == REBOOT, self.console()
        self.boot()

    def off(self) -> None:
        """Takes the power away."""
        if self._nspawn:
            with suppress(ProcessLookupError):
                os.kill(self._leader or self._nspawn.pid, signal.SIGKILL)
            self._nspawn.wait(30)
            self._nspawn, self._leader = None, 0

    def run(self, *command: str, check: bool = True, user: str = "") -> "subprocess.CompletedProcess[str]":
        """Runs *command* in the box, as root or *user*; where *check*, it has to succeed."""
        become = ("runuser", "-u", user, "--") if user else ()
        done = subprocess.run(
            ["nsenter", f"--target={self._leader}", *NAMESPACES, *become, *command],
            env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if check and done.returncode != 0:
            pytest.fail(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}{self.story()}")
        return done

    def until(self, condition: Callable[[], object], what: str, seconds: float = 60.0) -> None:
        """Waits until *condition* holds; fails with what the box said where it does not."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"{seconds} s before {what}:\n{self.story()}")
            time.sleep(0.05)

    def console(self) -> str:
        """What went to the serial console, in all boots of the box."""
        return (self.disk.folder / "console").read_text(errors="replace")

    def journal(self, *options: str) -> str:
        """What the agent's unit said, in all boots of the box."""
        return self.run("journalctl", "--no-pager", "--unit=adf-agent", *options, check=False).stdout

    def story(self) -> str:
        """All of it, for a person who has to find out."""
        return "\n".join([self.console()[-3000:], self.journal()[-10000:] if self._leader else "the box is off"])

    def _find_leader(self) -> bool:
        """Whether the box's PID 1 is there, and systemd that listens."""
        assert self._nspawn
        if self._nspawn.poll() is not None:
            pytest.fail(f"the box did not start:\n{self.console()}")
        children = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children").read_text().split()
        with suppress(OSError):
            for each in children:
                first = re.search(r"^NSpid:.*\t1$", Path(f"/proc/{each}/status").read_text(), re.MULTILINE)
                if first and Path(f"/proc/{each}/root/run/dbus/system_bus_socket").is_socket():
                    self._leader = int(each)
                    return True
        return False

    def _make_network(self, stack: ExitStack) -> None:
        call("ip", "netns", "add", self.name)
        stack.callback(call, "ip", "netns", "delete", self.name)
        call("ip", "-n", self.name, "link", "set", "lo", "up")
        call("ip", "-n", self.name, "address", "add", f"{IMDS}/32", "dev", "lo")

    def _clear_cgroups(self) -> None:
        for folder, _, _ in os.walk("/sys/fs/cgroup", topdown=False):
            if f"/{self.name}" in folder:
                Path(folder).rmdir()
        shutil.rmtree(Path("/run/systemd/nspawn/propagate", self.name), ignore_errors=True)


class Instance(Box):
    """A box that the agent is installed in."""

    def status(self) -> Mapping[str, Any]:
        """What `adf-agent status` tells an ordinary user."""
        found = self.run("adf-agent", "status", "--json", check=False, user="nobody")
        status: Mapping[str, Any] = json.loads(found.stdout)
        return status

    def reach(self, phase: str, seconds: float = 60.0) -> Mapping[str, Any]:
        """Waits until an agent that runs is in this phase; its status."""
        self.until(lambda: (found := self.status())["running"] and found["phase"] == phase, phase, seconds)
        return self.status()

    def unit(self, name: str) -> str:
        """A property of the agent's unit, such as MainPID."""
        return self.run("systemctl", "show", "--value", f"--property={name}", "adf-agent").stdout.strip()

    def containers(self) -> list[Any]:
        """What `docker inspect` tells of each container, running or not."""
        names = self.run("docker", "ps", "--all", "--quiet").stdout.split()
        found: list[Any] = json.loads(self.run("docker", "inspect", *names).stdout) if names else []
        return found

    def life(self) -> tuple[str, str, int]:
        """What tells a container, and one run of it, from any other: its id, when it started, its process."""
        [container] = self.containers()
        return container["Id"], container["State"]["StartedAt"], container["State"]["Pid"]

    def install(self, package: Path) -> None:
        """Installs the .deb, or upgrades to it."""
        shutil.copy(package, self.disk.root / "srv/agent.deb")
        self.run("dpkg", "--install", "/srv/agent.deb")

    def events(self, name: str) -> list[dict[str, Any]]:
        """The agent's events of this name in the journal, oldest first."""
        lines = [line for line in self.journal("--output=cat").splitlines() if line.startswith("{")]
        return [event for event in map(json.loads, lines) if event["event"] == name]
