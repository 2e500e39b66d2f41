"""The clients of this machine, real ones: the one place where they are made."""

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from adf_agent.errors import AgentError, SettingsError
from adf_agent.root import Root

if TYPE_CHECKING:
    from adf_agent.deadline import Deadline


MADE_BY_AWS = 16  # characters; a shorter secret is a sandbox's, and a word
PROXIES = {"http_proxy", "https_proxy", "all_proxy"}
METADATA = ("169.254.169.254", "fd00:ec2::254", "[fd00:ec2::254]")  # the last as urllib compares it


class Clients:
    """The clients of this machine: boot's Host. One session of AWS's SDK, each client made when it is first asked for.

    The session is botocore's: boto3's has resources and transfers too, 2 MB and a fifth of the SDK's start.

    *hide* is told the secrets of the credentials that they use.
    """

    def __init__(self, root: Root, hide: Callable[[Iterable[str]], object] = lambda _: None) -> None:
        self.root = root
        self._hide = hide
        self._session: Any = None
        self._made: dict[str, Any] = {}
        self._lock = threading.Lock()
        from adf_agent import launch  # noqa: PLC0415

        for name, text in launch.environment(root).items():
            os.environ.setdefault(name, text)
        _spare_metadata()
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
        """A client of *service*, for AWS_REGION or the instance's *region*.

        Raises AgentError without credentials, SettingsError where the environment is wrong.
        """
        from botocore.config import Config  # noqa: PLC0415

        with self._lock:  # making a client is not safe among threads
            self._hide_secrets(self._credentials(region))
            with _environment():
                if service not in self._made:
                    config = Config(retries={"mode": "standard"}, connect_timeout=5, read_timeout=20)
                    self._made[service] = self._session.create_client(service, config=config)
                return self._made[service]

    def _credentials(self, region: str) -> Any:
        """Those of now: a role's are renewed."""
        import botocore.session  # noqa: PLC0415

        with _environment():
            if self._session is None:
                self._session = botocore.session.get_session()
                self._session.set_config_variable("region", os.environ.get("AWS_REGION") or region)
            credentials = self._session.get_credentials()
            if credentials is None:
                self._session = None  # it would not look again
                raise AgentError(
                    "there are no AWS credentials",
                    hint="Attach an instance profile to the instance.",
                    cause="dependency",
                    transient=True,  # a profile's reach IMDS some seconds after the start
                )
            return credentials.get_frozen_credentials()

    def _hide_secrets(self, used: Any) -> None:
        """Outside of what is said of the environment, whose errors are quoted; and no reason to have no client."""
        texts = (getattr(used, name, None) for name in ("secret_key", "token"))
        self._hide(text for text in texts if isinstance(text, str) and len(text) >= MADE_BY_AWS)


def _spare_metadata() -> None:
    """No proxy is asked for the instance's credentials, as the SDK would: they are not the proxy's to see."""
    if any(text for name, text in os.environ.items() if name.lower() in PROXIES):
        former = os.environ.get("no_proxy") or os.environ.get("NO_PROXY", "")
        if former.strip() != "*":  # alone, it is everything
            listed = [each.strip() for each in former.split(",") if each.strip()]
            former = ",".join(dict.fromkeys([*listed, *METADATA]))
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = former


@contextmanager
def _environment() -> Iterator[None]:
    """Raises what the SDK finds wrong in the environment, or in its own files, as an AgentError."""
    from adf_agent import aws, mask  # noqa: PLC0415

    wrong: tuple[type[Exception], ...] = (*aws.faults(), ValueError, OSError, EOFError)
    try:
        yield
    except wrong as error:
        what = mask.urls(str(error)) or "its profile asks a person, as for the number of mfa_serial"
        sentence = f"no AWS client can be made: {what}"
        if aws.fault(error, AgentError, "", "").transient:
            raise AgentError(sentence, hint="It may pass.", cause="dependency", transient=True) from error
        hint = "See AWS_… and the proxies in the unit's environment and in agent.env, and ~/.aws of its user."
        raise SettingsError(sentence, hint=hint) from error
