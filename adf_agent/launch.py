"""What this instance was launched with: its identity and its settings, each value with its source."""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import unquote

from adf_agent import instance, settings, userdata
from adf_agent.deadline import Deadline
from adf_agent.errors import AgentError, SettingsError
from adf_agent.instance import DescribesTags, Identity, Metadata
from adf_agent.mask import SECRETIVE, urls
from adf_agent.notation import Volume, duration
from adf_agent.root import Root
from adf_agent.settings import Settings


@dataclass(frozen=True)
class Launch:
    identity: Identity
    settings: Settings
    warnings: tuple[str, ...]
    described: Mapping[str, str] | None  # tags as EC2 told them, where IMDS has none
    target: str | None = None  # the state that its Auto Scaling group moves it to; None outside a group

    @property
    def warm(self) -> bool:
        """Whether it is to wait in a warm pool: built, and nothing running."""
        return (self.target or "").startswith("Warmed:")

    def mounts(self, volumes: Iterable[Volume], root: Root) -> tuple[Volume, ...]:
        """A release's *volumes* as this AMI lets it mount them, links in them followed. Raises ReleaseError."""
        docker = socket_of(os.environ.get("DOCKER_HOST", "")), os.environ.get("DOCKER_CONFIG", "")
        closed = *map(str, (root.etc, root.var, root.run)), *(place for place in docker if place.startswith("/"))
        return self.settings.volumes.opened(volumes, closed)

    @property
    def fact(self) -> str:
        source = self.settings.sources["RELEASE_URL"][1]
        return f"{self.identity.instance_id} in {self.identity.region}, RELEASE_URL from {source}"


def socket_of(host: str) -> str:
    """The path of the socket that a DOCKER_HOST is, however many slashes it begins with: Docker's SDK minds none."""
    form = re.fullmatch(r"(?:(?:http\+)?unix:)?/*(.+)", host)
    return "/" + unquote(form[1]) if form and re.match("(?:http[+])?unix:|/", host) else ""


def baked(root: Root) -> dict[str, str]:
    """The settings of agent.env, which the AMI brings; none without it. Raises SettingsError."""
    path = root.etc / "agent.env"
    try:
        return settings.agent_env(path.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as error:
        denied = isinstance(error, PermissionError)
        hint = "As root: sudo adf-agent settings" if denied else "See its owner and mode."
        raise SettingsError(f"{path} can't be read: {error.strerror}", hint=hint) from error


def environment(root: Root) -> dict[str, str]:
    """The lines of agent.env that are no settings: the environment of libraries and commands, such as HTTPS_PROXY."""
    try:
        lines = baked(root)
    except SettingsError:  # the settings stage says what is wrong with it
        return {}
    ours = ("ADF_", "RELEASE_URL")
    return {name: text for name, text in lines.items() if not name.startswith(ours) and text.isprintable()}


def patience(root: Root) -> float:
    """Seconds that a boot may take as far as the AMI says: until user-data can be read, nothing else can."""
    try:
        return duration(baked(root).get("ADF_BOOT_TIMEOUT") or settings.TABLE["ADF_BOOT_TIMEOUT"].default)
    except ValueError:  # the settings stage says what is wrong with it
        return duration(settings.TABLE["ADF_BOOT_TIMEOUT"].default)


def read(
    root: Root,
    metadata: Metadata,
    ec2: Callable[[str], DescribesTags],
    remembered: Mapping[str, str] | None,
    deadline: Deadline,
) -> Launch:
    """Identity and settings, from IMDS and agent.env.

    Where IMDS has no tags, those *remembered* since the machine's boot count, else those that *ec2* (given the region)
    tells. Raises SettingsError.
    """
    agent_env = baked(root)
    identity = metadata.identity()
    user_data = userdata.parse(metadata.user_data())
    tags = metadata.tags()
    warnings: list[str] = []
    described: Mapping[str, str] | None = None
    if tags is None and remembered is None:
        remembered, warnings = _described(identity, ec2, deadline, needed="RELEASE_URL" not in user_data)
    if tags is None:
        tags = described = dict(remembered or {})
    resolved = settings.resolve(user_data, tags, agent_env)
    _check_region(resolved, identity)
    return Launch(identity, resolved, (*warnings, *resolved.warnings), described, metadata.lifecycle_target())


def given(root: Root, metadata: Metadata) -> Iterator[tuple[str, str, str]]:
    """Name, source and text of all that is given, where it makes no sense together: what may be shown of it."""
    sources: dict[str, Callable[[], Mapping[str, str] | None]] = {
        "agent.env": lambda: baked(root),
        "user-data": lambda: userdata.parse(metadata.user_data()),
        "tag": metadata.tags,
    }
    for source, read_source in sources.items():
        try:
            found = read_source() or {}
        except AgentError as error:
            yield f"({error.sentence})", source, ""
        else:
            yield from ((name, source, hidden(name, text)) for name, text in found.items())


def hidden(name: str, text: str) -> str:
    """What is shown of a *text* that may be wrong, as a signature may stand anywhere; of no setting, nothing."""
    ours = name in settings.TABLE or name.startswith(settings.LOG_OPTION)
    if text and (not ours or SECRETIVE.search(name) or (name == "RELEASE_URL" and len(text.split()) > 1)):
        return "***"
    return urls(text) if "://" in text else re.sub(r"(?<![^/])[^/]*@|(?<=\?).*", "***", text)


def _check_region(resolved: Settings, identity: Identity) -> None:
    for arn in resolved.target_groups:
        if (region := arn.split(":")[3]) != identity.region:
            raise SettingsError(
                f"ADF_TARGET_GROUPS names a target group in {region}, and this instance is in {identity.region}: {arn}",
                hint="Name one of the instance's own region.",
            )


def _described(
    identity: Identity, ec2: Callable[[str], DescribesTags], deadline: Deadline, *, needed: bool
) -> tuple[dict[str, str], list[str]]:
    """The tags as EC2 tells them, and a warning where it may not: with RELEASE_URL in user-data, none may be meant."""
    try:
        return deadline.retry(lambda: instance.describe_tags(ec2(identity.region), identity.instance_id)), []
    except SettingsError as error:
        if needed or error.transient:
            raise
        return {}, [f"instance tags were not read: {error.sentence}"]
