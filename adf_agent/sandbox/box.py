"""What an instance of a fleet runs on: a real `adf-agent run` with its own metadata service, folders and address."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from adf_agent.errors import AgentError
from adf_agent.root import Root
from adf_agent.sandbox import isolation, machine
from adf_agent.sandbox.cloud import Cloud
from adf_agent.sandbox.imds import Imds, Instance

HOST = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
SOCKET = HOST.removeprefix("unix://") if HOST.startswith("unix://") else ""
LONGEST = 108  # bytes of a socket's path: unix(7)
SHUTDOWN_SECONDS = 60.0  # as long as an operating system waits for its services at most


class Box:
    """Boots when it is made. Its files, the agent's log among them, are in a folder of its own below *folder*."""

    def __init__(self, cloud: Cloud, instance: Instance, folder: Path, client: Any) -> None:
        self.instance, self._client = instance, client
        self.folder = folder / instance.instance_id
        self._root = Root(self.folder)
        self._stack = ExitStack()
        self.imds = self._stack.enter_context(Imds(instance, instance.private_ip))
        self._bake()
        self._docker = self.folder / "docker"  # a link to the engine's socket, so that it can seem to hang
        self._environment = {
            **os.environ,
            **cloud.environment(),
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": self.imds.endpoint,
            "ADF_ROOT": str(self.folder),
            **isolation.direct(os.environ, instance.private_ip),
        }
        if SOCKET and len(str(self._docker)) < LONGEST:
            self._docker.symlink_to(SOCKET)
            self._environment["DOCKER_HOST"] = f"unix://{self._docker}"
        self.process = self._run()

    @property
    def log(self) -> Path:
        return self.folder / "agent.log"

    def end(self) -> None:
        """As an instance ends: its services are told, and cut off after a while; what is left of it goes.

        https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/how-ec2-instance-termination-works.html
        """
        self.process.terminate()
        try:
            self.process.wait(SHUTDOWN_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._stack.close()
        machine.clear(self._client, self.instance.instance_id, None)  # others may be about to run its image

    def hang_docker(self) -> None:
        """From now on its Docker takes connections, and says nothing. Raises AgentError where it is not a socket's."""
        if not self._docker.is_symlink():
            raise AgentError("only a Docker at a unix socket can seem to hang, and not where TMPDIR is long")
        hung = self._stack.enter_context(socket.socket(socket.AF_UNIX))
        silent = self.folder / "silent"
        silent.unlink(missing_ok=True)
        hung.bind(str(silent))
        hung.listen()
        self._link(silent)

    def free_docker(self) -> None:
        if self._docker.is_symlink():
            self._link(Path(SOCKET))

    def _link(self, target: Path) -> None:
        new = self.folder / "new"
        new.symlink_to(target)
        new.replace(self._docker)

    def clear(self) -> list[str]:
        """Removes what its agent left in Docker; returns the names."""
        return machine.clear(self._client, self.instance.instance_id, self._root)

    def _bake(self) -> None:
        """What an AMI has: the agent's own settings. On one machine each instance publishes on its own address."""
        self._root.etc.mkdir(parents=True)
        (self._root.etc / "agent.env").write_text(f"ADF_PUBLISH_ADDRESS={self.instance.private_ip}\n")

    def _run(self) -> "subprocess.Popen[bytes]":
        with self.log.open("wb") as log:
            # Told when the sandbox ends, however that ends. A session of its own: a Ctrl-C is for the sandbox, which
            # passes it on. -P: not what the current folder may hold.
            return subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", sys.executable, "-P", "-m", "adf_agent", "run"],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )


class Boxes:
    """Makes the boxes of a fleet and remembers them: a launcher."""

    def __init__(self, cloud: Cloud, folder: Path, client: Any) -> None:
        self.folder = folder
        self._make: Callable[[Instance], Box] = lambda instance: Box(cloud, instance, folder, client)
        self.made: list[Box] = []

    def __call__(self, instance: Instance) -> Box:
        self.made.append(box := self._make(instance))
        return box

    def of(self, instance_id: str) -> list[Box]:
        """The running one of that name; all running ones where none is named. Raises AgentError."""
        running = [box for box in self.made if box.process.poll() is None]
        found = [box for box in running if instance_id in ("", box.instance.instance_id)]
        if not found:
            names = ", ".join(box.instance.instance_id for box in running) or "none"
            raise AgentError(f"no instance {instance_id} runs here", hint=f"Those that do: {names}.")
        return found

    def clear(self) -> list[str]:
        """Removes what all of them left in Docker, once they have ended: their images. Returns the names."""
        return sorted({name for box in self.made for name in box.clear()})
