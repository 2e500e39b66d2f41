"""What an operator may set: one table of settings, and their values from user-data, tags and agent.env."""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from ipaddress import ip_address
from typing import Any, Literal

from adf_agent import location, signature, userdata
from adf_agent.errors import SettingsError
from adf_agent.folders import Folders
from adf_agent.location import Location
from adf_agent.mask import SECRETIVE, urls
from adf_agent.notation import Limits, Port, Probe, brief, duration
from adf_agent.signature import Key
from adf_agent.sources import ANY, Sources

Source = Literal["user-data", "tag", "agent.env", "default"]
LOG_OPTION = "ADF_LOG_OPT_"


@dataclass(frozen=True)
class Setting:
    """A row of the table: *parse* makes the value from a text and raises ValueError or SettingsError.

    An empty *default* is none: the value is then *unset*. A *guard* protects the AMI and is read from agent.env only.
    """

    parse: Callable[[str], Any]
    meaning: str
    default: str = ""
    unset: Any = None
    guard: bool = False


def _setting(parse: Callable[[str], Any], meaning: str, default: str = "", **more: Any) -> Any:
    return field(metadata={"setting": Setting(parse, meaning, default, **more)})


def _matching(pattern: str, what: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if not re.fullmatch(pattern, text, re.ASCII):
            raise ValueError(f"must be {what}")
        return text

    return parse


def _one_of(*words: str) -> Callable[[str], str]:
    return _matching("|".join(words), " or ".join(words))


def _each(parse: Callable[[str], Any]) -> Callable[[str], tuple[Any, ...]]:
    return lambda text: tuple(parse(part) for part in text.replace(",", " ").split())


def _switch(text: str) -> bool:
    if text.lower() not in ("on", "true", "yes", "1", "off", "false", "no", "0"):
        raise ValueError("must be on or off")
    return text.lower() in ("on", "true", "yes", "1")


def _address(text: str) -> str:
    try:
        return str(ip_address(text))
    except ValueError as error:
        raise ValueError("must be an IP address of the host, such as 127.0.0.1") from error


def _wait(text: str) -> float:
    if not (seconds := duration(text)):
        raise ValueError("must be more than 0 seconds")
    return seconds


_name = _matching(location.NAME, "1 to 100 of A-Z a-z 0-9 . _ -")
_table = _matching(r"[\w.-]{3,255}", "a DynamoDB table's name")
_reference = _matching(
    r"ssm:[\w./:-]+|secretsmanager:[\w/+=.@:-]+",
    "a reference, ssm:/path or secretsmanager:id, and never the token itself",
)
_group = _matching(r"arn:[\w-]+:elasticloadbalancing:[\w-]+:\d{12}:targetgroup/[\w-]+/\w+", "target groups' ARNs")
_balancer = _matching(r"[A-Za-z0-9-]{1,32}", "names of classic load balancers")
_hook = _matching(r"[\w/-]{1,255}", "a lifecycle hook's name")
_driver = _matching(r"[\w./:-]+", "the name of a Docker log driver")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Every setting, its value in the type that the stages take; a field is named as its setting without `ADF_`.

    *sources* has every setting as text that may be printed, with where it is from; durations are in seconds.
    """

    release_url: Location = _setting(  # noqa: RUF009  a field, as of dataclasses
        location.parse, "the tarball: https://, s3://, file:///, http:// with #sha256=<hex>; or an image: docker://"
    )
    app: str | None = _setting(_name, "the config partition, such as web-production; without it no config is read")
    release: str = _setting(_name, "the release's name, where the tag, ref or file of RELEASE_URL is not")
    config_table: str = _setting(_table, "the config's DynamoDB table", "adf-config")
    release_token: str | None = _setting(_reference, "ssm:/path or secretsmanager:id of a token for GitHub downloads")
    publish: tuple[Port, ...] | None = _setting(
        _each(Port.parse), "ports, such as 80:8000,443:8443; the image's EXPOSE"
    )
    publish_address: str = _setting(_address, "the host address that ports are published on", "0.0.0.0")  # noqa: S104
    health: Probe | None = _setting(  # noqa: RUF009  a field, as of dataclasses
        Probe.parse,
        "http://:8000/health, tcp://:8000 or docker; adf.toml's, else HEALTHCHECK, else TCP on the first port",
    )
    target_groups: tuple[str, ...] = _setting(_each(_group), "ARNs of target groups to register with", unset=())
    load_balancers: tuple[str, ...] = _setting(_each(_balancer), "classic load balancers to register with", unset=())
    launch_hook: str = _setting(_hook, "our launch hook; else the group's only one", "adf-launch")
    terminate_hook: str = _setting(_hook, "our terminate hook; else the group's only one", "adf-terminate")
    boot_timeout: float = _setting(_wait, "from start to in service", "15m")
    unhealthy_after: float = _setting(
        duration, "how long a release that was in service may fail before it is reported Unhealthy", "10m"
    )
    on_failure: str = _setting(_one_of("replace", "hold"), "replace the instance or hold it for a person", "replace")
    log_driver: str = _setting(_driver, f"Docker's log driver; its options are {LOG_OPTION}…", "local")
    log_opts: Mapping[str, str]
    log_tail: bool = _setting(_switch, "whether the fleet record has the app's last lines", "on")
    builder: str = _setting(_one_of("auto", "buildkit", "classic"), "what builds the image", "auto")
    rebalance: str = _setting(_one_of("report", "drain"), "what to do on a rebalance recommendation", "report")
    release_keys: tuple[Key, ...] = _setting(
        signature.keys, "keys of minisign's: only releases that one of them signed are taken", unset=(), guard=True
    )
    release_sources: Sources = _setting(  # noqa: RUF009  a field, as of dataclasses
        Sources.parse, "URL prefixes: releases are taken from nowhere else", unset=ANY, guard=True
    )
    archive_limit: Limits = _setting(  # noqa: RUF009  a field, as of dataclasses
        Limits.parse, "the most that a tarball may hold", "members=200000,bytes=10g,ratio=250", guard=True
    )
    volumes: Folders = _setting(  # noqa: RUF009  a field, as of dataclasses
        Folders.parse, "folders of the host below which a release may mount; none", unset=Folders(), guard=True
    )
    sources: Mapping[str, tuple[str | None, Source]]
    warnings: tuple[str, ...]

    def shown(self) -> dict[str, dict[str, str | None]]:
        """What `adf-agent settings --json` prints: `{"RELEASE_URL": {"value": …, "source": "user-data"}, …}`."""
        return {name: {"value": value, "source": source} for name, (value, source) in self.sources.items()}


TABLE: dict[str, Setting] = {
    key.name.upper() if key.name == "release_url" else f"ADF_{key.name.upper()}": key.metadata["setting"]
    for key in fields(Settings)
    if key.metadata
}


def agent_env(data: bytes) -> dict[str, str]:
    """The KEY=VALUE lines of agent.env. Raises SettingsError, which names the line."""
    return userdata.key_values(data, "agent.env")


def resolve(user_data: Mapping[str, str], tags: Mapping[str, str], agent_env: Mapping[str, str]) -> Settings:
    """The settings in force. Raises SettingsError, which names the setting and where it is from."""
    given: dict[Source, Mapping[str, str]] = {"user-data": user_data, "tag": tags, "agent.env": agent_env}
    warnings = tuple(_strays(given))
    options = sorted({name for values in given.values() for name in values if _is_option(name)})
    texts = {name: _text(name, given) for name in (*TABLE, *options)}
    if not texts["RELEASE_URL"][0]:
        raise _missing(given)
    values = {name: _value(name, *texts[name]) for name in TABLE}
    release_url: Location = values["RELEASE_URL"]
    values["ADF_RELEASE"] = release = values["ADF_RELEASE"] or release_url.name
    if not release:
        raise SettingsError("RELEASE_URL gives no name for the release", hint="Set ADF_RELEASE.")
    printed = {name: (_masked(name, text), source) for name, (text, source) in texts.items()}
    printed["RELEASE_URL"] = release_url.shown, texts["RELEASE_URL"][1]
    printed["ADF_RELEASE"] = release, texts["ADF_RELEASE"][1]
    return Settings(
        **{name.removeprefix("ADF_").lower(): value for name, value in values.items()},
        log_opts={_option(name): texts[name][0] for name in options if texts[name][0]},
        sources=printed,
        warnings=warnings,
    )


def _strays(given: Mapping[Source, Mapping[str, str]]) -> Iterable[str]:
    """A warning for each key that may not stand where it does, so that a stray tag can't stop a fleet.

    Raises SettingsError where it is in user-data, which belongs to the launch.
    """
    for source, values in given.items():
        for name, text in values.items():
            shown = f"{name[:80]!r} from {source}"
            if not (stray := _stray(name, text, source)):
                continue
            if source == "user-data":
                raise SettingsError(f"{shown} {stray}", hint="Mend the user-data and launch anew.")
            yield f"{shown} {stray}"


def _stray(name: str, text: str, source: Source) -> str:
    if name in TABLE:
        return "is read from agent.env only" if TABLE[name].guard and text.strip() and source != "agent.env" else ""
    if not name.startswith("ADF_") or _is_option(name):
        return ""
    return f"is no setting; the nearest one is {difflib.get_close_matches(name[:80], TABLE, n=1, cutoff=0)[0]}"


def _is_option(name: str) -> bool:
    return re.fullmatch(rf"{LOG_OPTION}[A-Z0-9_]+", name) is not None


def _option(name: str) -> str:
    return name.removeprefix(LOG_OPTION).lower().replace("_", "-")


def _text(name: str, given: Mapping[Source, Mapping[str, str]]) -> tuple[str, Source]:
    setting = TABLE.get(name)
    for source, values in given.items():
        text = values.get(name, "").strip()
        if text and not (setting and setting.guard and source != "agent.env"):
            if not text.isprintable():
                raise SettingsError(f"{name} from {source} holds a character that can't be printed", hint="Retype it.")
            return text, source
    return setting.default if setting else "", "default"


def _value(name: str, text: str, source: Source) -> Any:
    setting = TABLE[name]
    if not text:
        return setting.unset
    try:
        return setting.parse(text)
    except SettingsError as error:
        raise SettingsError(f"{error.sentence} (from {source})", hint=error.hint) from error
    except ValueError as error:
        raise SettingsError(f"{name} from {source}: {brief(error)}", hint=f"{name} is {setting.meaning}.") from error


def _missing(given: Mapping[Source, Mapping[str, str]]) -> SettingsError:
    slips = [
        f" {source} has {name!r}: was RELEASE_URL meant?"
        for source, values in given.items()
        for name in values
        if name != "RELEASE_URL" and difflib.get_close_matches(name[:80].upper(), ["RELEASE_URL"], cutoff=0.8)
    ]
    return SettingsError(
        "RELEASE_URL is set nowhere: not in user-data, not as an instance tag, not in agent.env",
        hint="Set it in the launch template's user-data." + "".join(slips),
    )


def _masked(name: str, text: str) -> str | None:
    return "***" if text and SECRETIVE.search(name.partition(LOG_OPTION)[2]) else urls(text) or None
