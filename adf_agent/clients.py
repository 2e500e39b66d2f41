"""The clients of this machine, real ones: the one place where they are made."""

import os
import threading
from typing import TYPE_CHECKING, Any

from adf_agent.errors import AgentError
from adf_agent.root import Root

if TYPE_CHECKING:
    from adf_agent.deadline import Deadline


class Clients:
    """The clients of this machine: boot's Host. One boto3 session, each client made when it is first asked for."""

    def __init__(self, root: Root) -> None:
        self.root = root
        self._session: Any = None
        self._made: dict[str, Any] = {}
        self._lock = threading.Lock()
        # Registry logins and credential helpers are Docker's own; the SDK and the docker command read the same ones.
        os.environ.setdefault("DOCKER_CONFIG", str(root.etc / "docker"))

    def metadata(self, deadline: "Deadline") -> Any:
        from adf_agent.instance import ENDPOINT, Metadata  # noqa: PLC0415

        return Metadata(os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or ENDPOINT, deadline)

    def docker(self, timeout: float) -> Any:
        import docker  # noqa: PLC0415

        return docker.DockerClient.from_env(timeout=timeout)

    def ec2(self, region: str) -> Any:
        return self._aws("ec2", region)

    def s3(self, region: str) -> Any:
        return self._aws("s3", region)

    def autoscaling(self, region: str) -> Any:
        return self._aws("autoscaling", region)

    def elb(self, region: str) -> Any:
        return self._aws("elb", region)

    def elbv2(self, region: str) -> Any:
        return self._aws("elbv2", region)

    def config(self, region: str) -> Any:
        from adf_agent.config import Clients as ConfigClients  # noqa: PLC0415

        return ConfigClients(
            region=region,
            dynamodb=self._aws("dynamodb", region),
            kms=lambda: self._aws("kms", region),
            ssm=lambda: self._aws("ssm", region),
            secretsmanager=lambda: self._aws("secretsmanager", region),
        )

    def _aws(self, service: str, region: str) -> Any:
        """A client of *service*, for AWS_REGION or the instance's *region*. Raises AgentError without credentials."""
        import boto3  # noqa: PLC0415
        from botocore.config import Config  # noqa: PLC0415

        with self._lock:  # making a client is not safe among threads
            self._session = self._session or boto3.session.Session(region_name=os.environ.get("AWS_REGION") or region)
            if self._session.get_credentials() is None:
                self._session = None  # it would not look again
                raise AgentError(
                    "there are no AWS credentials",
                    hint="Attach an instance profile to the instance.",
                    cause="dependency",
                    transient=True,  # a profile's reach IMDS some seconds after the start
                )
            if service not in self._made:
                config = Config(retries={"mode": "standard"}, connect_timeout=5, read_timeout=20)
                self._made[service] = self._session.client(service, config=config)
            return self._made[service]
