"""A Docker engine of a test's own, to be stopped, killed and hung."""

import io
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import docker
import pytest
from fixtures_agent import BASE, BASE_DOCKERFILE, tarball

START_SECONDS = 60


class OwnEngine:
    """dockerd in *folder*, on a bridge of its own, so that it stays out of the way of any other."""

    def __init__(self, folder: Path, bridge: str) -> None:
        self.host = f"unix://{folder}/docker.sock"
        self.client = docker.DockerClient(base_url=self.host, version="1.41")  # not asked yet
        self._folder, self._bridge = folder, bridge
        self._process: subprocess.Popen[bytes] | None = None
        self._containerd: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> Path:
        return self._folder / "docker.sock"

    @property
    def data(self) -> Path:
        """Its data root."""
        return self._folder / "data"

    def start(self) -> None:
        """Returns when it answers."""
        (self._folder / "daemon.json").write_text("{}")
        # containerd apart, as on a real system: it outlives a Docker that is killed.
        self._containerd = self._containerd or self._run("containerd", root="c-root", state="c-state", address="c.sock")
        self._process = self._run(
            *("dockerd", "--bridge", self._bridge, "--iptables=false", "--ip-masq=false", "--host", self.host),
            **{"data-root": "data", "exec-root": "exec", "pidfile": "pid"},
            **{"config-file": "daemon.json", "containerd": "c.sock"},
        )
        deadline = time.monotonic() + START_SECONDS
        while subprocess.run(["docker", "--host", self.host, "version"], capture_output=True, check=False).returncode:
            assert time.monotonic() < deadline, (self._folder / "log").read_text()[-2000:]
            time.sleep(0.05)
        self.client.close()
        self.client = docker.DockerClient(base_url=self.host, timeout=30)

    def _run(self, *command: str, **places: str) -> "subprocess.Popen[bytes]":
        options = [part for name, place in places.items() for part in (f"--{name}", str(self._folder / place))]
        with (self._folder / "log").open("ab") as log:
            return subprocess.Popen(
                [*command, *options], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def send(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Returns when it has ended."""
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(60)

    def end(self) -> None:
        """Whatever state it is in: containers, process and mounts go."""
        if self._process and self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            for container in self.client.containers.list(all=True):
                container.remove(force=True, v=True)
            self.stop()
        if self._containerd:
            self._containerd.terminate()
            self._containerd.wait(60)
        self.client.close()
        mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        for mount in sorted((each for each in mounts if each.startswith(f"{self._folder}/")), reverse=True):
            subprocess.run(["umount", "--lazy", mount], check=False)


@contextmanager
def engine(bridge: str, network: str, data_bytes: int = 0) -> Iterator[OwnEngine]:
    """An engine with the base image, started, its data in memory where *data_bytes* are given; only root can."""
    if os.geteuid() != 0:
        pytest.fail("an engine of its own needs root: sudo make test", pytrace=False)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="adf-engine-")))
        if data_bytes:
            data = folder / "data"
            data.mkdir()
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={data_bytes}", "tmpfs", str(data)], check=True)
            stack.callback(subprocess.run, ["umount", "--lazy", str(data)], check=False, capture_output=True)
        for command in (["add", bridge, "type", "bridge"], ["set", bridge, "up"]):
            subprocess.run(["ip", "link", *command], check=True)
        stack.callback(subprocess.run, ["ip", "link", "del", bridge], check=False)
        subprocess.run(["ip", "address", "add", network, "dev", bridge], check=True)
        made = OwnEngine(folder, bridge)
        stack.callback(made.end)
        made.start()
        files = tarball({"Dockerfile": BASE_DOCKERFILE, "busybox": Path("/bin/busybox").read_bytes()})
        made.client.images.build(fileobj=io.BytesIO(files), custom_context=True, encoding="gzip", tag=BASE, rm=True)
        yield made


@pytest.fixture
def own_engine() -> Iterator[OwnEngine]:
    """An engine with the base image, started; only root can start one."""
    # RFC 2544: for tests, and nobody's network
    with engine(f"adf{os.getpid() % 100000}", f"198.18.{os.getpid() % 250}.1/24") as made:
        yield made
