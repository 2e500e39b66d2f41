"""What several checks need to know of this instance: asked for once, at the same time, while the checks wait."""

import json
import os
import pwd
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from adf_agent import config, group, launch, secret, settings, status, userdata
from adf_agent.config import AppConfig
from adf_agent.deadline import Deadline
from adf_agent.doctor.check import Shared, Skipped
from adf_agent.engine import Engine, connect
from adf_agent.errors import AgentError, SettingsError
from adf_agent.group import Group
from adf_agent.host import Host
from adf_agent.instance import ENDPOINT, Identity, Metadata
from adf_agent.launch import Launch
from adf_agent.root import Root, boot_id, started
from adf_agent.screen import part
from adf_agent.state import State

ENGINE_SECONDS = 2.5  # for Docker to answer one call
LEAST_ENGINE_SECONDS = 1.0  # on a machine so busy that less is left
METADATA_SECONDS = 2.0  # for one question to IMDS: one try at a silent one, several at one that is busy
RETRY_SECONDS = 1.5  # in which what AWS throttles is tried again; a try may take a second longer, with the SDK's own
MARGIN = 0.4  # seconds: for what is asked to say why it gave up, before who waits for it gives up
AGENT = ("root", "adf-agent")
ROLES = "/latest/meta-data/iam/security-credentials/"
NO_PROFILE = "the instance has no instance profile, and no other AWS credentials are here"


@dataclass(frozen=True)
class Role:
    """The instance profile's, with its credentials' *document* as IMDS has it."""

    name: str
    document: Mapping[str, Any]


class Case:
    """This instance, as *host* reaches it. *record* is the agent's status record, *state* what it keeps to itself.

    What is asked tries again until *deadline*; who needs the answer waits a little longer.
    """

    def __init__(self, host: Host, record: Mapping[str, Any] | None, state: State | None, deadline: Deadline) -> None:
        self.root: Root = host.root
        self.host, self.record, self.state, self.deadline = host, record or {}, state, deadline
        self.waiting = deadline.lasting(deadline.seconds + MARGIN)
        self.endpoint = os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or ENDPOINT
        self.skews: list[float] = []  # seconds that IMDS' clock is ahead of this machine's, by each of its answers
        wait = self.waiting
        self.identity: Shared[Identity] = Shared("IMDS can't be read", self._identity, wait)
        self.engine: Shared[Engine] = Shared("Docker does not answer", self._engine, wait)
        who = (self.identity,)
        self.launched: Shared[Launch] = Shared("the settings can't be read", self._launched, wait, who)
        self.region: Shared[str] = Shared("there are no AWS credentials", self._region, wait, who)
        both = (self.launched, self.region)
        self.role: Shared[Role | None] = Shared("IMDS has no role's credentials", self._role, wait, who)
        self.token: Shared[str] = Shared("ADF_RELEASE_TOKEN can't be resolved", self._token, wait, both)
        self.place: Shared[Group | None] = Shared("the Auto Scaling group can't be asked for", self._place, wait, both)
        self.config: Shared[AppConfig | None] = Shared("the config can't be read", self._config, wait, both)

    @property
    def running(self) -> bool:
        """Whether the agent that wrote the record runs."""
        known = isinstance(self.record.get("agent"), dict)  # else it is another program's
        return known and status.alive(self.record, boot_id(), started)

    @property
    def container_name(self) -> str:
        """Our container's; "" where it is not known which of the agents below an ADF_ROOT this one is."""
        if self.root.whole_machine:  # without waiting for IMDS
            return self.root.container("")
        known = self.identity.seen()
        instance_id = known.instance_id if known else part(self.record, "instance").get("id")
        return self.root.container(instance_id) if instance_id else ""

    @property
    def error(self) -> Mapping[str, Any]:
        """Why the agent's boot failed; empty where it did not."""
        error = self.record.get("error")
        return error if self.record.get("phase") in status.ENDED and isinstance(error, dict) else {}

    def metadata(self) -> Metadata:
        """A client of IMDS, whose answers tell the time too."""
        return Metadata(self.endpoint, self.deadline.within(METADATA_SECONDS), self._take_time)

    def user_data(self) -> dict[str, str]:
        """The settings in user-data. Raises SettingsError."""
        self.identity.need()
        return userdata.parse(self.metadata().user_data())

    def _take_time(self, headers: Mapping[str, str]) -> None:
        self.skews += skew(headers.get("Date", ""), time.time())

    def _identity(self) -> Identity:
        return self.metadata().identity()

    def _engine(self) -> Engine:
        reached = connect(lambda _: self.host.docker(ENGINE_SECONDS), self.deadline.within(ENGINE_SECONDS))
        # Connect's is for a boot; and a call that hangs is to say so before who waits for it gives up.
        reached.client.api.timeout = min(ENGINE_SECONDS, max(LEAST_ENGINE_SECONDS, self.deadline.remaining()))
        return reached

    def _role(self) -> Role | None:
        metadata = self.metadata()
        name = (metadata.get(ROLES) or b"").decode(errors="replace").strip().split("\n")[0]
        return Role(name, json.loads(metadata.get(ROLES + name) or b"{}")) if name else None

    def _token(self) -> str:
        """What ADF_RELEASE_TOKEN leads to; "" where it is not set."""
        reference = self.launched.need().settings.release_token
        if not reference:
            return ""
        clients = self.host.config(self.region.need())
        window = self.deadline.within(RETRY_SECONDS)
        return secret.release_token(reference, clients, window)

    def _launched(self) -> Launch:
        self.identity.need()
        return launch.read(self.root, self.metadata(), self._ec2, None, self.deadline)

    def _ec2(self, region: str) -> Any:
        try:
            return self.host.ec2(region)
        except AgentError as error:  # another kind than launch tells a permission that may be missing from
            raise SettingsError(error.sentence, hint=error.hint, cause=error.cause) from error

    def _region(self) -> str:
        """The region, once AWS credentials are there."""
        region = self.identity.need().region
        try:
            self.host.config(region)
        except AgentError as error:
            raise Skipped(error.sentence if isinstance(error, SettingsError) else NO_PROFILE) from error
        return region

    def _place(self) -> Group | None:
        launched = self.launched.need()
        if launched.target is None:
            return None
        return group.find(self.host.autoscaling(self.region.need()), launched.identity.instance_id)

    def _config(self) -> AppConfig | None:
        given = self.launched.need().settings
        if given.app is None:
            return None
        clients = self.host.config(self.region.need())
        return config.read(given.app, given.release, given.config_table, clients, self.deadline.within(RETRY_SECONDS))


def is_ordinary() -> bool:
    """Whether this user is neither root nor the agent's own, and so what he may not do says nothing of the agent."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name not in AGENT
    except KeyError:  # a number without a name
        return True


def is_given(launched: Launch, name: str) -> bool:
    """Whether the setting *name* was set by anybody."""
    return name in settings.TABLE and launched.settings.sources[name][1] != "default"


def skew(date: str, now: float) -> list[float]:
    """The seconds that an HTTP *date* is ahead of *now* (epoch seconds); none where it is no date."""
    try:
        return [parsedate_to_datetime(date).timestamp() - now]
    except ValueError:
        return []
