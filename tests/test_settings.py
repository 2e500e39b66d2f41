import json
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adf_agent import settings
from adf_agent.errors import ReleaseError, SettingsError
from adf_agent.folders import Folders
from adf_agent.notation import Limits, Port, Probe, Volume
from adf_agent.settings import Settings

URL = "https://dl.example.com/web-1.2.tgz"
GROUP = "arn:aws:elasticloadbalancing:eu-west-1:123456789012:targetgroup/web/0123456789abcdef"


def resolved(**user_data: str) -> Settings:
    """What user-data alone comes to, with a RELEASE_URL where it gives none."""
    return settings.resolve({"RELEASE_URL": URL, **user_data}, {}, {})


def refused(
    user_data: Mapping[str, str], tags: Mapping[str, str] | None = None, agent_env: Mapping[str, str] | None = None
) -> SettingsError:
    """The error that these sources come to."""
    with pytest.raises(SettingsError) as caught:
        settings.resolve(user_data, tags or {}, agent_env or {})
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize(
    ("name", "field", "text", "value"),
    [
        ("ADF_APP", "app", "web-production", "web-production"),
        ("ADF_RELEASE", "release", "v7", "v7"),
        ("ADF_CONFIG_TABLE", "config_table", "my.table_1-x", "my.table_1-x"),
        ("ADF_RELEASE_TOKEN", "release_token", "ssm:/web/token", "ssm:/web/token"),
        ("ADF_RELEASE_TOKEN", "release_token", "secretsmanager:arn:aws:x:y:z", "secretsmanager:arn:aws:x:y:z"),
        ("ADF_PUBLISH", "publish", "80:8000, 53:53/udp", (Port(80, 8000), Port(53, 53, "udp"))),
        ("ADF_PUBLISH_ADDRESS", "publish_address", "127.0.0.1", "127.0.0.1"),
        ("ADF_PUBLISH_ADDRESS", "publish_address", "::", "::"),
        ("ADF_HEALTH", "health", "http://:8000/up", Probe("http", 8000, "/up")),
        ("ADF_TARGET_GROUPS", "target_groups", f"{GROUP},{GROUP}", (GROUP, GROUP)),
        ("ADF_LOAD_BALANCERS", "load_balancers", "web,web-2", ("web", "web-2")),
        ("ADF_LAUNCH_HOOK", "launch_hook", "team/up", "team/up"),
        ("ADF_TERMINATE_HOOK", "terminate_hook", "down_1", "down_1"),
        ("ADF_BOOT_TIMEOUT", "boot_timeout", "90s", 90.0),
        ("ADF_UNHEALTHY_AFTER", "unhealthy_after", "2h", 7200.0),
        ("ADF_ON_FAILURE", "on_failure", "hold", "hold"),
        ("ADF_LOG_DRIVER", "log_driver", "awslogs", "awslogs"),
        ("ADF_LOG_TAIL", "log_tail", "Off", False),
        ("ADF_LOG_TAIL", "log_tail", "true", True),
        ("ADF_BUILDER", "builder", "classic", "classic"),
        ("ADF_REBALANCE", "rebalance", "drain", "drain"),
    ],
)
def test_a_setting_is_taken_from_user_data(name: str, field: str, text: str, value: object) -> None:
    """A setting that is read but never taken leaves the operator with the default and no word."""
    found = resolved(**{name: f" {text} "})
    assert getattr(found, field) == value
    assert found.shown()[name] == {"value": text, "source": "user-data"}


def test_the_guards_of_the_image_come_from_agent_env_only() -> None:
    """Whoever may write user-data or tags could else let in what the AMI keeps out."""
    name, text = "ADF_ARCHIVE_LIMIT", "members=7"
    found = settings.resolve({"RELEASE_URL": URL, name: ""}, {name: "members=1"}, {name: text})
    assert found.archive_limit == Limits(members=7)
    assert found.shown()[name] == {"value": text, "source": "agent.env"}
    assert found.warnings == (f"'{name}' from tag is read from agent.env only",)
    assert f"'{name}' from user-data is read from agent.env only" in refused({"RELEASE_URL": URL, name: text}).sentence


PUBLIC = "RWQHA8ggSfBn0SEii3GLjfwE5rvnzW+8/CY27wxhyqkQ5XcMK2jZGdwo"


@pytest.mark.parametrize("between", [",", " ", ", ", " ,,"])
def test_whom_the_image_trusts_comes_from_agent_env_only(between: str) -> None:
    """Whoever may write user-data could else sign releases, name their own server, or mount /etc."""
    names = {
        "ADF_RELEASE_KEYS": (PUBLIC, PUBLIC),
        "ADF_RELEASE_SOURCES": ("https://h.example/a", "s3://bucket"),
        "ADF_VOLUMES": ("/srv/a", "/srv/b"),
    }
    baked = {name: between.join(values) for name, values in names.items()}
    found = settings.resolve({"RELEASE_URL": URL}, dict.fromkeys(names, "x"), baked)
    assert [key.id for key in found.release_keys] == ["D167F04920C80307"] * 2
    assert [place.host for place in found.release_sources.prefixes] == ["h.example", "bucket"]
    assert found.volumes.allowed == names["ADF_VOLUMES"]
    assert [found.sources[name] for name in names] == [(text, "agent.env") for text in baked.values()]
    assert found.warnings == tuple(f"{name!r} from tag is read from agent.env only" for name in names)
    for name, text in baked.items():
        assert "is read from agent.env only" in refused({"RELEASE_URL": URL, name: text}).sentence


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("ADF_RELEASE_KEYS", PUBLIC[:-4], "must be public keys of minisign's"),
        ("ADF_RELEASE_KEYS", f"{PUBLIC},hunter2", "must be public keys of minisign's"),
        ("ADF_RELEASE_KEYS", ",", "must be public keys of minisign's"),
        ("ADF_RELEASE_SOURCES", "releases.example", "must be URL prefixes"),
        ("ADF_RELEASE_SOURCES", "s3://bucket,https://me:hunter2@h.example/", "must be URL prefixes"),
        ("ADF_RELEASE_SOURCES", ",", "must be URL prefixes"),
        ("ADF_VOLUMES", "/srv/hunter2/..", "must be folders of the host"),
        ("ADF_VOLUMES", "/", "must be folders of the host"),
    ],
)
def test_a_guard_that_is_not_understood_is_no_open_door(name: str, text: str, said: str) -> None:
    """An AMI that takes every release, as a character of its key was lost."""
    error = refused({"RELEASE_URL": URL}, {}, {name: text})
    assert error.sentence.startswith(f"{name} from agent.env: {said}")
    assert "hunter2" not in error.sentence + error.hint


def test_the_defaults_are_those_of_the_contract() -> None:
    """A default that moves changes every fleet that relies on it."""
    found = resolved()
    assert {name: setting["value"] for name, setting in found.shown().items() if setting["value"]} == {
        "RELEASE_URL": URL,
        "ADF_RELEASE": "web-1.2",
        "ADF_CONFIG_TABLE": "adf-config",
        "ADF_PUBLISH_ADDRESS": "0.0.0.0",  # noqa: S104
        "ADF_LAUNCH_HOOK": "adf-launch",
        "ADF_TERMINATE_HOOK": "adf-terminate",
        "ADF_BOOT_TIMEOUT": "15m",
        "ADF_UNHEALTHY_AFTER": "10m",
        "ADF_ON_FAILURE": "replace",
        "ADF_LOG_DRIVER": "local",
        "ADF_LOG_TAIL": "on",
        "ADF_BUILDER": "auto",
        "ADF_REBALANCE": "report",
        "ADF_ARCHIVE_LIMIT": "members=200000,bytes=10g,ratio=250",
    }
    assert {setting["source"] for name, setting in found.shown().items() if name != "RELEASE_URL"} == {"default"}
    assert list(found.shown()) == list(settings.TABLE)
    assert (found.app, found.publish, found.health, found.release_token) == (None, None, None, None)
    assert (found.target_groups, found.load_balancers, found.release_keys, found.log_opts) == ((), (), (), {})
    assert (found.release_sources.prefixes, found.volumes.allowed) == ((), ())
    assert (found.boot_timeout, found.unhealthy_after, found.log_tail) == (900, 600, True)
    assert found.archive_limit == Limits()


def test_user_data_outranks_tags_and_tags_outrank_agent_env() -> None:
    """A tag that is changed later must not change what a reboot runs."""
    sources = {"user-data": {"ADF_APP": "a"}, "tag": {"ADF_APP": "b"}, "agent.env": {"ADF_APP": "c"}}
    for blank in ("", "  "):
        given = {source: dict(values) for source, values in sources.items()}
        given["agent.env"]["RELEASE_URL"] = URL
        for source in sources:
            found = settings.resolve(*given.values())
            assert found.sources["ADF_APP"] == (sources[source]["ADF_APP"], source)
            assert found.app == sources[source]["ADF_APP"]
            assert found.sources["RELEASE_URL"] == (URL, "agent.env")
            given[source]["ADF_APP"] = blank  # an empty value is not set
        assert settings.resolve(*given.values()).app is None


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("ADF_APP", "web production", "1 to 100 of"),
        ("ADF_APP", "web@v1", "1 to 100 of"),
        ("ADF_RELEASE", "v" * 101, "1 to 100 of"),
        ("ADF_CONFIG_TABLE", "t", "a DynamoDB table's name"),
        ("ADF_RELEASE_TOKEN", "ghp_hunter2", "never the token itself"),
        ("ADF_PUBLISH", "80:http", "is no port to publish"),
        ("ADF_PUBLISH_ADDRESS", "localhost", "an IP address of the host"),
        ("ADF_HEALTH", "http://localhost:8000/", "is no probe"),
        ("ADF_TARGET_GROUPS", "web", "target groups' ARNs"),
        ("ADF_LOAD_BALANCERS", "web_1", "names of classic load balancers"),
        ("ADF_LAUNCH_HOOK", "a b", "a lifecycle hook's name"),
        ("ADF_BOOT_TIMEOUT", "15 minutes", "is no duration"),
        ("ADF_BOOT_TIMEOUT", "0s", "must be more than 0 seconds"),
        ("ADF_UNHEALTHY_AFTER", "never", "is no duration"),
        ("ADF_ON_FAILURE", "retry", "replace or hold"),
        ("ADF_LOG_DRIVER", "a b", "the name of a Docker log driver"),
        ("ADF_LOG_TAIL", "maybe", "on or off"),
        ("ADF_BUILDER", "kaniko", "auto or buildkit or classic"),
        ("ADF_REBALANCE", "on", "report or drain"),
        ("ADF_APP", "hunter2\0", "can't be printed"),
        ("ADF_APP", "hunter2\ud800", "can't be printed"),
    ],
)
@pytest.mark.parametrize("source", ["user-data", "tag", "agent.env"])
def test_a_wrong_value_names_the_setting_its_source_and_what_it_must_be(
    source: str, name: str, text: str, said: str
) -> None:
    """Without the source the operator mends the launch template while a tag is wrong."""
    given = {"user-data": {"RELEASE_URL": URL}, "tag": {}, "agent.env": {}}
    given[source][name] = text
    error = refused(*given.values())
    assert error.sentence.startswith(f"{name} from {source}")
    assert said in error.sentence
    assert "hunter2" not in error.sentence + error.hint


def test_a_wrong_archive_limit_names_agent_env() -> None:
    """A limit that is not understood must not be no limit."""
    error = refused({"RELEASE_URL": URL}, {}, {"ADF_ARCHIVE_LIMIT": "files=1"})
    assert error.sentence.startswith("ADF_ARCHIVE_LIMIT from agent.env: 'files=1' is no archive limit")


def test_a_wrong_release_url_names_its_source_and_hides_its_value() -> None:
    """A presigned URL that is cut short must not put its signature on the console."""
    error = refused({}, {"RELEASE_URL": "ftp://bob:hunter2@dl.example.com/a.tgz"})
    assert error.sentence.startswith("RELEASE_URL starts with none of https://")
    assert error.sentence.endswith("(from tag)")
    assert "hunter2" not in error.sentence + error.hint


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("ADF_PUBLSH", "ADF_PUBLISH"),
        ("ADF_APPS", "ADF_APP"),
        ("ADF_LOG_OPT_", "ADF_LOG_"),
        ("ADF_ROOT", "ADF_"),
        ("ADF_\n", "ADF_"),
    ],
)
def test_an_unknown_setting_stops_a_launch_but_a_stray_tag_stops_no_fleet(name: str, nearest: str) -> None:
    """A slip in user-data is seen at the first launch; a tag may be put on a thousand instances at once."""
    error = refused({"RELEASE_URL": URL, name: "hunter2"})
    assert f"{name!r} from user-data is no setting; the nearest one is {nearest}" in error.sentence
    assert "hunter2" not in error.sentence + error.hint
    found = settings.resolve({"RELEASE_URL": URL, "FOO": "x"}, {name: "x", "Name": "web"}, {"AWS_REGION": "x"})
    assert len(found.warnings) == 1
    assert found.warnings[0].startswith(f"{name!r} from tag is no setting; the nearest one is {nearest}")


def test_agent_env_may_hold_the_environment_of_libraries_too() -> None:
    """A proxy beside the settings must not make a fleet degraded; ADF_ROOT there would count for nothing."""
    found = settings.resolve({"RELEASE_URL": URL}, {}, {"ADF_ROOT": "/srv", "HTTPS_PROXY": "x", "ADF_ROT": "/srv"})
    assert [warning.split()[0] for warning in found.warnings] == ["'ADF_ROOT'", "'ADF_ROT'"]


@pytest.mark.parametrize("empty", [{}, {"RELEASE_URL": " "}])
def test_no_release_url_says_where_it_was_looked_for(empty: dict[str, str]) -> None:
    """'No RELEASE_URL' alone sends the operator to the wrong one of three places."""
    error = refused(empty, empty, empty)
    assert all(place in error.sentence for place in ("user-data", "instance tag", "agent.env"))
    assert "meant" not in error.hint
    error = refused({"RELEASE_ULR": "hunter2"}, empty, {"release_url": URL})
    assert "user-data has 'RELEASE_ULR': was RELEASE_URL meant?" in error.hint
    assert "agent.env has 'release_url': was RELEASE_URL meant?" in error.hint
    assert "hunter2" not in error.sentence + error.hint


def test_the_releases_name_is_derived_unless_it_is_set() -> None:
    """The name picks the config overlay: without one the release would get another's config."""
    assert resolved(ADF_RELEASE="v7").sources["ADF_RELEASE"] == ("v7", "user-data")
    assert resolved().sources["ADF_RELEASE"] == ("web-1.2", "default")
    nameless = "https://dl.example.com/"
    assert "gives no name" in refused({"RELEASE_URL": nameless}).sentence
    assert settings.resolve({"RELEASE_URL": nameless, "ADF_RELEASE": "v7"}, {}, {}).release == "v7"


def test_log_options_are_dockers_and_come_from_every_source() -> None:
    """Logs that go nowhere are missed on the day that they are needed."""
    found = settings.resolve(
        {"RELEASE_URL": URL, "ADF_LOG_OPT_AWSLOGS_GROUP": "web", "ADF_LOG_OPT_TAG": ""},
        {"ADF_LOG_OPT_AWSLOGS_GROUP": "other", "ADF_LOG_OPT_TAG": "{{.Name}}"},
        {"ADF_LOG_OPT_MAX_SIZE": "1m", "ADF_LOG_OPT_MODE": ""},
    )
    assert found.log_opts == {"awslogs-group": "web", "tag": "{{.Name}}", "max-size": "1m"}
    assert found.sources["ADF_LOG_OPT_TAG"] == ("{{.Name}}", "tag")
    assert found.warnings == ()


def test_what_is_shown_holds_no_secret_and_is_json() -> None:
    """`adf-agent settings` is what operators paste into tickets."""
    found = resolved(
        RELEASE_URL="https://hunter2@dl.example.com/a.tgz?token=hunter2", ADF_LOG_OPT_SPLUNK_TOKEN="hunter2"
    )
    shown = json.loads(json.dumps(found.shown()))
    assert shown["RELEASE_URL"] == {"value": "https://***@dl.example.com/a.tgz?token=***", "source": "user-data"}
    assert shown["ADF_LOG_OPT_SPLUNK_TOKEN"] == {"value": "***", "source": "user-data"}
    assert found.log_opts == {"splunk-token": "hunter2"}
    assert "hunter2" not in json.dumps(shown)


def test_a_folder_that_is_not_there_is_explained_by_all_that_the_unit_hides() -> None:
    """An operator who looks for what is plainly there, in /var/tmp."""
    wanted = [Volume.parse("/srv/that-is-not-there:/x")]
    with pytest.raises(ReleaseError) as caught:
        Folders.parse("/srv").opened(wanted, ())
    assert "the agent sees nothing of /home, /root, /tmp and /var/tmp" in caught.value.hint


def test_agent_env_is_read_as_lines() -> None:
    """The image's file is baked by shell scripts, which append to it."""
    assert settings.agent_env(b"# baked\nADF_APP=a\nexport ADF_APP='b'\n") == {"ADF_APP": "b"}


@given(st.dictionaries(st.sampled_from([*settings.TABLE, "ADF_LOG_OPT_X"]), st.text(max_size=20) | st.just(URL)))
def test_any_values_are_settings_or_refused(values: dict[str, str]) -> None:
    """An exception of another kind would end the boot as a fault of the agent, with no hint."""
    try:
        found = settings.resolve({}, values, values)
    except SettingsError:
        return
    assert all(source != "user-data" for _, source in found.sources.values())
