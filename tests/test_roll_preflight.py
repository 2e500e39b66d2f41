"""What an operator is told of a roll before it starts: every trap of this group, and none of another's."""

import json
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import docker
import pytest
from fixtures_agent import app, tarball
from fixtures_operator import Operator
from test_bad_input import registry
from web import Answer, Web

from adf_agent import notation
from adf_agent.deadline import Deadline
from adf_agent.ops import preflight
from adf_agent.ops.rolling import preferences
from adf_agent.ops.rolling.change import Change
from adf_agent.ops.rolling.facts import Group, Member, Template
from adf_agent.ops.rolling.finding import Finding
from adf_agent.ops.rolling.verified import Verified, verified
from adf_agent.ops.rolling.wishes import Wishes
from adf_agent.sandbox.front import AwsFault

OLD, NEW = (f"s3://releases/web/{name}.tar.gz#sha256={digit * 64}" for name, digit in (("v41", "a"), ("v42", "b")))
WISHES = Wishes("web", url=NEW)
CHANGE = Change(OLD, NEW, "v41", "v42", "ami-1", "ami-1", "web", "adf-config", {"UserData": "…"})
SAME = replace(CHANGE, url_after=OLD, release_after="v41", data={})
MEMBERS = tuple(Member(f"i-{number}", 7, "InService") for number in range(10))
GROUP = Group(
    name="web",
    desired=10,
    smallest=1,
    largest=20,
    version="7",
    template=Template("lt-1", "web", 7, image="ami-1"),
    members=MEMBERS,
    launch_hooks=("adf-launch",),
    target_groups=("arn:web",),
    maintenance=(100, 110),
)
ALIAS = "resolve:ssm:/base"
LIMITED = Verified(memory=2**29)


def found(
    group: Group = GROUP,
    change: Change = CHANGE,
    wishes: Wishes = WISHES,
    release: Verified = LIMITED,
    refresh: str | None = None,
    alarms: Mapping[str, str] = {},
) -> list[Finding]:
    return preflight.findings(group, change, wishes, release, refresh, alarms)


def some(*first: Mapping[str, Any]) -> tuple[Member, ...]:
    """MEMBERS, the first ones with other facts."""
    return tuple(replace(each, **more) for each, more in zip(MEMBERS, [*first, *[{}] * 10], strict=False))


def test_a_group_without_a_trap_is_not_talked_about() -> None:
    """Warnings that are always there, and that nobody reads when one counts."""
    assert found() == []


@pytest.mark.parametrize(
    ("more", "level", "sentence"),
    [
        ({"suspended": frozenset({"Launch"})}, "refuse", "the process Launch is suspended: nothing would be replaced"),
        (
            {"suspended": frozenset({"InstanceRefresh"})},
            "refuse",
            "the process InstanceRefresh is suspended: nothing would be replaced",
        ),
        (
            {"suspended": frozenset({"AddToLoadBalancer"})},
            "refuse",
            "the process AddToLoadBalancer is suspended: no new instance would get a request",
        ),
        (
            {"suspended": frozenset({"HealthCheck", "AZRebalance"})},
            "warn",
            "the process HealthCheck is suspended: an instance that fails would stay",
        ),
        ({"version": "$Latest"}, "note", "web has version $Latest: it is pinned to 7 first"),
        (
            {"template": replace(GROUP.template, image=ALIAS)},
            "refuse",
            f"the AMI of version 7 is the alias {ALIAS}: AWS can't roll back to it",
        ),
        (
            {"mixed": {"LaunchTemplate": {"Overrides": [{"InstanceRequirements": {"VCpuCount": {"Min": 2}}}]}}},
            "refuse",
            "web has instance types by their attributes: AWS refuses to roll it to a version",
        ),
        (
            {"unrecognised": "so it is"},
            "warn",
            "when its load balancers call an instance healthy is not known: so it is",
        ),
        ({"largest": 10}, "note", "up to 11 instances run at once, above the group's maximum of 10"),
        (
            {"mixed": {"LaunchTemplate": {"Overrides": [{"WeightedCapacity": "1"}, {"WeightedCapacity": "4"}]}}},
            "warn",
            "instance types are weighted: 10 is a number of units, and so are canary and batch",
        ),
        (
            {"members": some(*[{"protected": True}] * 7)},
            "warn",
            "protected from scale-in, and not replaced: i-0, i-1, i-2, i-3, i-4 and 2 more",
        ),
        (
            {"members": some(*[{"protected": True}] * 10)},
            "refuse",
            "every instance is protected from scale-in or in Standby: none would be replaced",
        ),
        (
            {"members": some({"healthy": False}, {"state": "Pending:Wait"})},
            "warn",
            "8 of 10 instances are healthy and in service (i-0, i-1)",
        ),
        ({"members": MEMBERS[:9]}, "warn", "9 of 10 instances are healthy and in service"),
        (
            {"members": some(*[{"version": 5}] * 10)},
            "warn",
            "no instance runs version 7, which a rollback goes to",
        ),
        (
            {"launch_hooks": ()},
            "warn",
            "web has no launch hook: an instance is in service before its app is ready",
        ),
        ({"launch_hooks": ("a", "b")}, "warn", "none of the launch hooks a, b is adf-launch"),
        (
            {"warm_pool": True},
            "note",
            "the warm pool is replaced too: its instances are not judged before they leave it",
        ),
        (
            {"grace": 0, "health_check": "ELB"},
            "warn",
            "the health check grace period is 0: an instance may be replaced while its app starts",
        ),
        (
            {"maintenance": None},
            "warn",
            "web has no instance maintenance policy: one that fails is ended before its successor starts",
        ),
        (
            {"tags": {"aws:cloudformation:stack-name": "prod"}},
            "warn",
            "the stack prod owns web: its next change may undo the roll",
        ),
        (
            {"tags": {"ManagedBy": "Terraform"}},
            "note",
            "web has a tag of Terraform's: its next apply may undo the roll",
        ),
    ],
)
def test_a_trap_of_the_group_is_named(more: Mapping[str, Any], level: str, sentence: str) -> None:
    """A roll that hangs for an hour on what could be read in the group's own description."""
    [trap] = found(replace(GROUP, **more))
    assert (trap.level, trap.sentence) == (level, sentence)
    assert trap.hint or more.get("warm_pool")


@pytest.mark.parametrize(
    ("version", "says"),
    [("$Latest", "after one that went back it is what failed"), ("$Default", "would undo the roll")],
)
def test_what_a_moving_version_would_do_afterwards_is_told(version: str, says: str) -> None:
    """A group that is given $Latest again, and launches at night what was rolled back by day."""
    [trap] = found(replace(GROUP, version=version))
    assert says in trap.hint


@pytest.mark.parametrize(
    "more",
    [
        {"suspended": frozenset({"AlarmNotification", "AZRebalance", "ScheduledActions"})},
        {"grace": 0},  # the hook holds it until it is healthy
        {"launch_hooks": ("another",)},  # the group's only one is ours
        {"members": some({"version": 0}, {"version": 5})},
        {"target_groups": (), "suspended": frozenset({"AddToLoadBalancer"})},
    ],
)
def test_what_does_no_harm_is_not_talked_about(more: Mapping[str, Any]) -> None:
    """A roll that is refused for a setting that it does not need."""
    assert found(replace(GROUP, **more)) == []


def test_an_instance_in_standby_is_let_alone_and_said_so() -> None:
    """A machine under repair that is terminated below a colleague's hands; one that comes back with the old release."""
    traps = found(replace(GROUP, members=some({"state": "Standby", "protected": True})))
    assert [trap.sentence for trap in traps] == [
        "in Standby, and not replaced: i-0",
        "9 of 10 instances are healthy and in service (i-0)",
    ]


def test_a_warm_pool_without_a_hook_is_warned_of() -> None:
    """Instances stopped in the middle of a build, that take the first requests of a busy evening."""
    traps = found(replace(GROUP, launch_hooks=(), warm_pool=True))
    assert "the warm pool has no launch hook: its instances are stopped in the middle of a build" in {
        trap.sentence for trap in traps
    }


@pytest.mark.parametrize(
    ("size", "wishes", "sentences"),
    [
        (0, {}, ["web has no instance: nothing could show that the release works"]),
        (1, {"batch": 100}, ["the canary is the whole group (1): it is judged when nothing else is left"]),
        (2, {"batch": 50}, []),
        (
            2,
            {"batch": 50, "canary": "3"},
            ["the canary is the whole group (2): it is judged when nothing else is left"],
        ),
        (6, {}, ["--batch 10% of 6 is less than one instance: it goes one at a time, 17%"]),
        (6, {"batch": 20}, []),
        (6, {"batch": 20, "canary": "10%"}, ["--canary 10% of 6 instances is one of them, 17%"]),
        (10, {"canary": "10%"}, []),
        (250, {"canary": "1"}, ["--canary 1 is 3 of 250: a checkpoint is a whole percentage"]),
        (10, {"bake": 200_000}, ["a bake of 200000 s is longer than AWS allows: 172800 s, two days"]),
    ],
)
def test_rounding_is_foretold(size: int, wishes: Mapping[str, Any], sentences: list[str]) -> None:
    """Ten percent of six instances that turn out to be all of them, or none."""
    members = tuple(Member(f"i-{number}", 7, "InService") for number in range(size))
    traps = found(replace(GROUP, desired=size, largest=999, members=members), wishes=replace(WISHES, **wishes))
    assert [trap.sentence for trap in traps] == sentences


@pytest.mark.parametrize(
    ("change", "members", "level", "sentences"),
    [
        (CHANGE, MEMBERS, "", []),
        (
            replace(CHANGE, app=""),
            MEMBERS,
            "refuse",
            ["--clean: no ADF_APP is seen in user-data or tags"],
        ),
        (replace(CHANGE, release_after="v41"), MEMBERS, "refuse", ["--clean: both releases are named v41"]),
        (replace(CHANGE, release_before=""), MEMBERS, "refuse", ["--clean: no former release is seen"]),
        (
            CHANGE,
            some({"protected": True}),
            "warn",
            ["--clean has to wait for what is not replaced, and gives up: i-0"],
        ),
    ],
)
def test_a_clean_up_that_can_not_be_is_known_before(
    change: Change, members: tuple[Member, ...], level: str, sentences: list[str]
) -> None:
    """The config of the release that was just rolled out is removed; a command that waits for a quarter of an hour."""
    traps = found(replace(GROUP, members=members), change, replace(WISHES, clean=True))
    of_cleaning = [trap for trap in traps if trap.sentence.startswith("--clean")]
    assert [trap.sentence for trap in of_cleaning] == sentences
    assert {trap.level for trap in of_cleaning} <= {level}


@pytest.mark.parametrize(
    ("wishes", "refused"),
    [
        (Wishes("web", url=OLD), True),
        (Wishes("web", version=7), True),
        (Wishes("web", replace=True), False),
        (Wishes("web", version=5), False),
    ],
)
def test_a_roll_to_what_is_there_is_refused(wishes: Wishes, *, refused: bool) -> None:
    """A bad release that is rolled back to itself."""
    sentences = [trap.sentence for trap in found(change=SAME, wishes=wishes)]
    assert sentences == (["nothing would change: web has v41 already"] if refused else [])


def test_a_new_image_or_name_is_a_change() -> None:
    """A new AMI that can't be rolled, as the release is the same."""
    assert found(change=replace(SAME, image_after="ami-2")) == []
    assert found(change=replace(SAME, release_after="v41-b")) == []


def test_an_alias_as_the_new_image_is_refused() -> None:
    """An automatic rollback that AWS does not do."""
    [trap] = found(change=replace(CHANGE, image_after=ALIAS))
    assert (trap.level, trap.sentence) == (
        "refuse",
        f"{ALIAS} is an alias: AWS can't roll back what is launched from it",
    )


def test_a_refresh_under_way_is_joined_and_not_disturbed() -> None:
    """Two rolls of one group, each of which waits for the other."""
    [trap] = found(refresh="InProgress")
    assert trap == Finding("refuse", "a refresh of web is under way: InProgress", "adf-roll watch web")


@pytest.mark.parametrize(
    ("alarms", "level", "sentence"),
    [
        ({}, "refuse", "there is no alarm 5xx here"),
        ({"5xx": "ALARM"}, "refuse", "the alarm 5xx is in ALARM already: the roll would go back at once"),
        ({"5xx": "INSUFFICIENT_DATA"}, "refuse", "the alarm 5xx has no data: AWS starts no refresh with it"),
    ],
)
def test_an_alarm_that_guards_nothing_is_named(alarms: Mapping[str, str], level: str, sentence: str) -> None:
    """A roll that nobody watches, as the alarm's name was a typo."""
    wishes = replace(WISHES, alarms=("5xx",))
    [trap] = found(wishes=wishes, alarms=alarms)
    assert (trap.level, trap.sentence) == (level, sentence)
    assert found(wishes=wishes, alarms={"5xx": "OK"}) == []


@pytest.mark.parametrize(
    ("group", "wishes", "level", "sentence"),
    [
        (GROUP, {}, "warn", ": the load balancer alone will judge the canary"),
        (GROUP, {"check": "true"}, "warn", ": the load balancer and --check alone will judge the canary"),
        (replace(GROUP, target_groups=()), {}, "warn", ": the launch hook alone will judge the canary"),
        (
            replace(GROUP, launch_hooks=(), target_groups=()),
            {},
            "refuse",
            ", and there is no load balancer, hook, alarm or --check: nothing judges the canary",
        ),
    ],
)
def test_what_judges_the_canary_is_known(group: Group, wishes: Mapping[str, Any], level: str, sentence: str) -> None:
    """A canary that is well since nobody looks at it."""
    trap = found(group, replace(CHANGE, app=""), replace(WISHES, **wishes))[0]
    assert (trap.level, trap.sentence) == (level, f"no ADF_APP is seen in user-data or tags{sentence}")


@pytest.mark.parametrize(
    ("release", "level", "sentence"),
    [
        (Verified(error="no Dockerfile"), "refuse", "the release does not verify: no Dockerfile"),
        (Verified(unseen="Docker does not answer"), "warn", "the release was not verified: Docker does not answer"),
        (
            Verified(memory=None),
            "warn",
            "the release has no memory limit: a leak takes the whole instance down, the agent with it",
        ),
    ],
)
def test_a_bad_release_is_found_before_an_instance_boots_it(release: Verified, level: str, sentence: str) -> None:
    """A canary that fails after five minutes by what could have been known in one second."""
    [trap] = found(release=release)
    assert (trap.level, trap.sentence) == (level, sentence)


@pytest.mark.parametrize(
    ("url", "pinned"),
    [
        (NEW, True),
        (NEW.partition("#")[0], False),
        ("s3://releases/web/v42.tar.gz?versionId=1", True),
        ("https://releases.example/v42.tar.gz", False),
        ("docker://registry.example/web:v42", False),
        (f"docker://registry.example/web:v42@sha256:{'a' * 64}", True),
        ("file:///srv/v42.tar.gz", True),
    ],
)
def test_a_url_that_may_change_its_mind_is_named(url: str, *, pinned: bool) -> None:
    """A scale-out at night that boots what was uploaded in the evening."""
    traps = found(change=replace(CHANGE, url_after=url), release=replace(LIMITED, pin="#sha256=c0ffee"))
    assert [trap.hint for trap in traps] == ([] if pinned else ["Add #sha256=c0ffee to the URL."])


def test_the_worst_comes_first() -> None:
    """A refusal that nobody sees behind ten notes."""
    group = replace(GROUP, largest=10, maintenance=None, suspended=frozenset({"Launch"}))
    assert [trap.level for trap in found(group)] == ["refuse", "warn", "note"]


def deadline(seconds: float = 10) -> Deadline:
    return Deadline(seconds, threading.Event())


def file(folder: Path, **files: str) -> str:
    (folder / "v42.tar.gz").write_bytes(tarball(app(**files)))
    return f"file://{folder}/v42.tar.gz"


def test_a_release_is_verified_as_an_instance_does(tmp_path: Path) -> None:
    """A typo in adf.toml that the whole fleet is told to boot."""
    url = file(tmp_path, adf_toml="[container]\nmemory = '64m'\n")
    release = verified(url, deadline())
    assert (release.error, release.unseen, release.memory) == ("", "", 64 * 2**20)
    assert verified(url + release.pin, deadline()) == release
    assert "pins" in verified(f"{url}#sha256={'a' * 64}", deadline()).error
    assert verified(file(tmp_path), deadline()).memory is None
    assert "memroy" in verified(file(tmp_path, adf_toml="[container]\nmemroy = '64m'\n"), deadline()).error
    assert "starts with none of" in verified("ftp://v1.tar.gz", deadline()).error


def test_an_image_is_asked_of_its_registry(docker_client: docker.DockerClient, base_image: str, tmp_path: Path) -> None:
    """A tag that was cleared away, and that the canary is told to pull."""
    with registry(tmp_path) as address:
        name = f"{address}/web"
        docker_client.api.tag(base_image, name, "v3")
        docker_client.api.push(name, "v3")
        docker_client.images.remove(f"{name}:v3")
        release = verified(f"docker://{name}:v3", deadline())
        assert (release.error, release.unseen, release.memory) == ("", "", "unknown")
        assert verified(f"docker://{name}:v3{release.pin}", deadline()) == release
        assert verified(f"docker://{name}:v4", deadline()).error == f"the registry has no {name}:v4"


def test_what_can_not_be_looked_at_from_here_is_no_bad_release(internet: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """A roll that is refused since the operator's laptop has no Docker, or no way to the fleet's own network."""
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    monkeypatch.setenv("HTTPS_PROXY", internet.url)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(internet.certificate))
    internet.serve("https://releases.example/v1.tar.gz", Answer(503))
    image = verified("docker://registry.example/web:v1", deadline(0.3))
    assert (image.error, bool(image.unseen)) == ("", True)
    missing = verified("file:///srv/nowhere/v1.tar.gz", deadline())
    assert (missing.error, missing.unseen) == ("", "file:///srv/nowhere/v1.tar.gz is not on this machine")
    down = verified("https://releases.example/v1.tar.gz", deadline(0.3))
    assert (down.error, bool(down.unseen)) == ("", True)
    gone = verified("https://releases.example/v2.tar.gz", deadline())
    assert "404" in gone.error


@pytest.mark.parametrize("status", [401, 403, 404])
@pytest.mark.parametrize("token", ["", "secret"])
def test_what_a_laptop_may_not_see_is_no_bad_release(
    internet: Web, monkeypatch: pytest.MonkeyPatch, status: int, token: str
) -> None:
    """A roll of a private release that is refused to whoever has no token of the fleet's."""
    monkeypatch.setenv("HTTPS_PROXY", internet.url)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(internet.certificate))
    monkeypatch.delenv("GITHUB_TOKEN", raising=False)
    monkeypatch.setenv("GH_TOKEN", token)
    url = "https://github.com/acme/web/archive/v1.tar.gz"
    internet.serve(url, Answer(status))
    found = verified(url, deadline())
    assert (str(status) in found.error, str(status) in found.unseen) == (bool(token), not token)


def test_an_archive_that_others_may_take_is_no_bad_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A roll that is refused for a limit that agent.env raises on the fleet."""
    monkeypatch.setattr("adf_agent.ops.rolling.verified.Limits", lambda: notation.Limits(members=1))
    found = verified(file(tmp_path), deadline())
    assert (found.error, "more than 1 members" in found.unseen) == ("", True)


def test_a_bucket_that_a_laptop_may_not_read_is_no_bad_release(operator: Operator) -> None:
    """A roll that is refused since people may not read what instances may."""
    operator.cloud.faults = [AwsFault("s3:GET", "AccessDenied", 403)]
    found = verified("s3://releases/v1.tar.gz", deadline())
    assert (found.error, "s3:GetObject on releases/v1.tar.gz is denied" in found.unseen) == ("", True)


def test_the_plan_says_what_happens_in_which_order() -> None:
    """An operator who says yes to something else than what happens."""
    group = replace(GROUP, desired=6, version="$Latest")
    planned = preferences.plan(group, replace(CHANGE, image_after="ami-2"), replace(WISHES, alarms=("5xx",)), 60)
    assert [*planned.lines] == [
        "web: 6 instances, version 7 of launch template web",
        f"  RELEASE_URL  {OLD} → {NEW}",
        "  release      v41 → v42",
        "  AMI          ami-1 → ami-2",
        "  1. pin the group to version 7, in place of $Latest",
        "  2. make a new version of 7",
        "  3. 1 canary, judged for 2 minutes",
        "  4. 5 more, 1 at a time at most (6 steps in all)",
        "  5. watch the alarms for another 2 minutes",
        "  about 10 minutes",
    ]
    assert json.loads(json.dumps(planned.as_json))["batches"] == [1, 1, 1, 1, 1, 1]


def test_the_plan_of_a_way_back_is_told_too() -> None:
    """A release in a private URL shown to everybody; a time that nobody can know."""
    secret = replace(CHANGE, url_after="https://me:hunter2@releases.example/v42.tar.gz?token=hunter2")
    planned = preferences.plan(replace(GROUP, desired=2), secret, Wishes("web", version=5, canary="2"))
    assert [*planned.lines] == [
        "web: 2 instances, version 7 of launch template web",
        f"  RELEASE_URL  {OLD} → https://***@releases.example/v42.tar.gz?token=***",
        "  release      v41 → v42",
        "  1. make a new version of 5, to go back to that",
        "  2. 2 canary instances, judged for 2 minutes",
        "  how long is not known: no boot was seen",
    ]
    assert "hunter2" not in json.dumps(planned.as_json)


def test_a_group_without_instances_has_a_plan_too() -> None:
    """A traceback in place of the sentence that refuses it."""
    assert preferences.plan(replace(GROUP, desired=0, members=()), CHANGE, WISHES, 60).batches == ()


@pytest.mark.parametrize(
    ("more", "seconds"),
    [
        ({}, 10 * 60 + 120),
        ({"launch_hooks": ()}, 10 * (60 + 300) + 120),
        ({"launch_hooks": (), "warmup": 0}, 10 * 60 + 120),
    ],
)
def test_a_warm_up_takes_its_time(more: Mapping[str, Any], seconds: float) -> None:
    """A roll that was to take twelve minutes, and takes an hour."""
    assert preferences.plan(replace(GROUP, **more), CHANGE, WISHES, 60).seconds == seconds
