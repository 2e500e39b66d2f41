"""Twelve broken instances: `status` and `doctor` each name the true cause, and what they say to do mends it."""

import json
import shlex
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from socket import create_server
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from conftest import Unprivileged
from fixtures_agent import BASE, Daemon, Machine, app
from test_boot import digest, free_port, table
from test_doctor import doctor
from test_host_faults import fill

from adf_agent.sandbox.balancer import Balancer
from adf_agent.sandbox.front import AwsFault, Front, error, identify
from adf_agent.sandbox.group import Group
from adf_agent.sandbox.member import Hook
from adf_agent.status import FAILED, IN_SERVICE, NO_AGENT, UNDER_WAY

HOUR = timedelta(hours=1)
TOLERANCE = timedelta(minutes=5)  # of AWS, for the time of a signature
STOP = "[container]\nstop_timeout = 1\n"
UNBUILDABLE = f"FROM {BASE}\nRUN echo no compiler here && exit 4\n"
# In service for a moment; then at its end as soon as it is started, until its config says how long it may live.
CRASHING = (
    'test -e /ran && test -z "$LIFE" && echo no database && exit 3; '
    "touch /ran; httpd -p 8000 -h /www; sleep ${LIFE:-0.5}; exit 3"
)
Broken = Iterator[None]


@dataclass(frozen=True)
class Place:
    """An instance to break, which any user may look at. What is entered into *stack* ends with the test."""

    machine: Machine
    unprivileged: Unprivileged
    stack: ExitStack
    fixture: Callable[[str], Any]
    port: int

    def launch(self, **settings: object) -> None:
        """The user-data that an instance should have, but for *settings*."""
        given = {"RELEASE_URL": self.url(), "ADF_PUBLISH": f"{self.port}:8000", "ADF_APP": "web"} | settings
        self.machine.user_data(**given)

    def url(self) -> str:
        """Of a release that is well. Its bytes are the same each time."""
        path = self.machine.root / "v1.tar.gz"
        return f"file://{path}" if path.exists() else self.machine.release(app(adf_toml=STOP))

    def serve(self) -> Daemon:
        """`sudo systemctl start adf-agent`, until it is in service."""
        agent = self.machine.daemon()
        agent.reach("in service")
        return agent

    def fail(self, code: int) -> None:
        """The same, until it has ended."""
        agent = self.machine.daemon()
        assert agent.ended() == code, agent.log()

    def status(self) -> tuple[int, str]:
        """Exit code and screen of `adf-agent status`, as an ordinary user sees it."""
        # By the true time: libfaketime leaves a semaphore behind where a program turns into another one.
        environment = {**self.machine.environment, "LD_PRELOAD": ""}
        with self.unprivileged("-m", "adf_agent", "status", env=environment) as process:
            out, log = process.communicate(timeout=60)
        assert not log
        return process.returncode, out


@pytest.fixture
def place(machine: Machine, unprivileged: Unprivileged, request: pytest.FixtureRequest) -> Iterator[Place]:
    with ExitStack() as stack:
        machine.root = Path(stack.enter_context(TemporaryDirectory(prefix="adf-")))
        machine.root.chmod(0o755)
        machine.environment["ADF_ROOT"] = str(machine.root)
        table(machine, GREETING="hi")
        yield Place(machine, unprivileged, stack, request.getfixturevalue, free_port())
        machine.clean()
        machine.closing.clear()  # the machine cleans once more, and its folder is gone then


# Each breaks the instance, and, told to go on, does what `status` and `doctor` said.


def no_release_url(place: Place) -> Broken:
    place.machine.user_data(ADF_APP="web")
    place.fail(10)
    yield
    place.launch()
    place.serve()


def denied_table(place: Place) -> Broken:
    place.launch()
    place.machine.cloud.faults = [AwsFault("dynamodb:Query", "AccessDeniedException", message="as ordered")]
    place.fail(13)
    yield
    place.machine.cloud.faults = []
    place.serve()


def wrong_digest(place: Place) -> Broken:
    url = place.url()
    place.launch(RELEASE_URL=f"{url}#sha256={'0' * 64}")
    place.fail(12)
    yield
    place.launch(RELEASE_URL=f"{url}#sha256={digest(Path(url.removeprefix('file://')).read_bytes())}")
    place.serve()


def build_failure(place: Place) -> Broken:
    place.launch(RELEASE_URL=place.machine.release({"Dockerfile": UNBUILDABLE}, "v0.tar.gz"))
    place.fail(14)
    yield
    assert "no compiler here" in place.machine.run("logs", "--build").out
    place.launch()
    place.serve()


def crash_loop(place: Place) -> Broken:
    command = json.dumps(["sh", "-c", CRASHING])
    dockerfile = f"FROM {BASE}\nCOPY www /www\nEXPOSE 8000\nSTOPSIGNAL SIGKILL\nCMD {command}\n"
    place.launch(RELEASE_URL=place.machine.release(app(Dockerfile=dockerfile, adf_toml=STOP)))
    agent = place.machine.daemon()
    agent.until(lambda: place.machine.status().get("restarts", 0) > 2, "it falls again and again")
    yield
    assert "no database" in place.machine.run("logs", "--app").out
    table(place.machine, LIFE="600")
    assert place.machine.run("reload").code == 0
    agent.reach("in service")


def port_clash(place: Place) -> Broken:
    with create_server(("127.0.0.1", place.port)):
        place.launch()
        place.fail(15)
        yield
    place.serve()


def full_disk(place: Place) -> Broken:
    disk = place.machine.root / "var/lib/adf-agent"
    disk.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(disk)], check=True)
    place.stack.callback(subprocess.run, ["umount", "--lazy", str(disk)], check=False)
    fill(disk / "filler")
    place.launch()
    place.fail(1)
    yield
    (disk / "filler").unlink()
    place.serve()


def docker_stopped(place: Place) -> Broken:
    engine = place.fixture("own_engine")
    place.machine.environment["DOCKER_HOST"] = engine.host
    engine.stop()
    place.launch(ADF_BOOT_TIMEOUT="1s")
    place.fail(75)
    yield
    engine.start()
    place.launch()
    place.serve()


def hook_gone(place: Place) -> Broken:
    group = place.stack.enter_context(Group(place.machine.cloud, "web", [Hook("adf-terminate", "terminate")]))
    place.launch(ADF_LAUNCH_HOOK="ours")
    group.launch()
    place.serve()
    yield
    aws, service, action, *options = shlex.split(doctor(place.machine).worst()[0]["fix"])
    assert (aws, service, action) == ("aws", "autoscaling", "put-lifecycle-hook")
    names = ("".join(map(str.title, each.split("-"))) for each in options[::2])
    given = {name: int(value) if value.isdecimal() else value for name, value in zip(names, options[1::2], strict=True)}
    place.machine.cloud.client("autoscaling").put_lifecycle_hook(**given)


def target_unhealthy(place: Place) -> Broken:
    balancer = place.stack.enter_context(Balancer(place.machine.cloud, place.machine.root / "haproxy"))
    group = balancer.target_group("own", place.port).arn
    place.launch(ADF_TARGET_GROUPS=group, ADF_PUBLISH=f"{free_port()}:8000", ADF_BOOT_TIMEOUT="5s")
    place.fail(17)
    yield
    place.launch(ADF_TARGET_GROUPS=group)
    place.serve()


def clock_off(place: Place) -> Broken:
    place.fixture("monkeypatch").setattr(Front, "_application", timely(Front._application))  # noqa: SLF001
    wrong = clock(HOUR)
    place.machine.environment |= wrong
    place.launch()
    place.fail(13)
    yield
    for name in wrong:
        del place.machine.environment[name]
    place.serve()


def clock(ahead: timedelta) -> dict[str, str]:
    """An environment in which it is so much later; the monotonic clock goes on, as where somebody sets the time."""
    command = ["faketime", "-m", "-f", f"+{ahead.total_seconds():.0f}s", "env"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    made = dict(line.split("=", 1) for line in said.splitlines() if line.startswith(("LD_PRELOAD=", "FAKETIME=")))
    return {**made, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


def timely(answered: Callable[[Front, dict[str, Any]], Any]) -> Callable[[Front, dict[str, Any]], Any]:
    """As *answered*, but signatures are looked at for their time, as AWS does and moto does not."""

    def answer(front: Front, environ: dict[str, Any]) -> Any:
        call, now = identify(environ), datetime.now(UTC)
        if call is None:
            return answered(front, environ)
        signed = datetime.strptime(environ["HTTP_X_AMZ_DATE"], "%Y%m%dT%H%M%S%z")
        if signed - now <= TOLERANCE:
            return answered(front, environ)
        # https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-troubleshooting.html
        first, second, third = (f"{each:%Y%m%dT%H%M%SZ}" for each in (signed, now + TOLERANCE, now))
        said = f"Signature not yet current: {first} is still later than {second} ({third} + 5 min.)"
        return error(call, "InvalidSignatureException", said, 400)

    return answer


def agent_killed(place: Place) -> Broken:
    place.launch()
    place.serve().kill()
    yield
    place.serve()


@dataclass(frozen=True)
class Case:
    """What `status` says: its exit code, the cause and the next step; and `doctor`, by its first fail."""

    broken: Callable[[Place], Broken]
    code: int
    status: tuple[str, str]
    doctor: tuple[str, str, str]  # the check; words of its sentence and of the fix


NEXT = "once it is mended: sudo systemctl start adf-agent"
CASES = {
    "no RELEASE_URL": Case(
        no_release_url,
        FAILED,
        ("RELEASE_URL is set nowhere", "Set it in the launch template's user-data"),
        ("settings", "RELEASE_URL is set nowhere", "Set it in the launch template's user-data"),
    ),
    "denied table": Case(
        denied_table,
        FAILED,
        ("dynamodb:Query on table adf-config in eu-west-1 is denied", "Allow dynamodb:Query on table adf-config"),
        ("config", "dynamodb:Query on table adf-config in eu-west-1 is denied", "Allow dynamodb:Query on table"),
    ),
    "wrong digest": Case(
        wrong_digest,
        FAILED,
        (f"RELEASE_URL pins {'0' * 64}", "mend #sha256="),
        ("release", f"RELEASE_URL pins {'0' * 64}", "mend #sha256="),
    ),
    "build failure": Case(
        build_failure,
        FAILED,
        ("echo no compiler here && exit 4]: exit code: 4", "→ adf-agent logs --build"),
        ("agent", "the build failed", "Mend the Dockerfile"),
    ),
    "crash loop": Case(
        crash_loop,
        UNDER_WAY,
        ("the app exited with code 3, 3 in a row", "→ adf-agent logs"),
        ("agent", "the app exited with code 3, 3 in a row", "Mend the config and `sudo adf-agent reload`"),
    ),
    "port clash": Case(
        port_clash,
        FAILED,
        ("of the host is taken by another process", "and stop it, or publish on another port"),
        ("ports", "of the host is taken by python", "and stop it, or publish on another port"),
    ),
    "full disk": Case(
        full_disk,
        FAILED,
        ("No space left on device", "See what fills it: du -xh "),
        ("disk", "the disk is full", "see what fills it: du -xh "),
    ),
    "Docker stopped": Case(
        docker_stopped,
        FAILED,
        ("docker.sock does not answer", "sudo systemctl start docker"),
        ("docker", "docker.sock does not answer", "systemctl start docker"),
    ),
    "hook gone": Case(
        hook_gone,
        IN_SERVICE,
        ("web has no launch hook ours", "→ sudo adf-agent doctor"),
        ("hooks", "web has no launch hook ours", "put-lifecycle-hook"),
    ),
    "target unhealthy": Case(
        target_unhealthy,
        FAILED,
        ("target group own does not find it so: unhealthy, Target.FailedHealthChecks", "its port against ADF_PUBLISH"),
        ("agent", "target group own does not find it so: unhealthy", "its port against ADF_PUBLISH"),
    ),
    "clock off by an hour": Case(
        clock_off,
        FAILED,
        ("the clock of this machine is wrong", "timedatectl set-ntp true"),
        ("clock", " s ahead of AWS's", "timedatectl set-ntp true"),
    ),
    "agent killed": Case(
        agent_killed,
        NO_AGENT,
        ("no agent running; it was in service", "→ sudo systemctl start adf-agent"),
        ("agent", "it was killed, or crashed", "systemctl start adf-agent"),
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_status_and_doctor_name_the_cause_and_what_mends_it(place: Place, case: Case) -> None:
    """An operator at night who is sent to the wrong place, or does as he is told and nothing is better."""
    broken = case.broken(place)
    next(broken)
    code, screen = place.status()
    found = doctor(place.machine)
    first, (check, sentence, fix) = found.worst()[0], case.doctor
    assert (code, [words for words in case.status if words not in screen]) == (case.code, []), screen
    assert (NEXT in screen) is (case.code == FAILED), "as it ended, somebody has to start it"
    assert found.findings[0] == first
    assert (first["check"], sentence in first["sentence"], fix in first["fix"]) == (check, True, True), found.findings
    next(broken, None)
    code, screen = place.status()
    assert (code, "in service for" in screen) == (IN_SERVICE, True), screen
    assert doctor(place.machine).worst() == []
