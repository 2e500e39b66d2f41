"""The daemon in an Auto Scaling group and behind load balancers that really balance."""

import json
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from fixtures_agent import BASE, Daemon, Machine, app
from load import Load
from test_boot import free_port, page, reboot, table

from adf_agent.sandbox.balancer import Balancer
from adf_agent.sandbox.front import AwsFault
from adf_agent.sandbox.group import Group
from adf_agent.sandbox.member import Hook
from adf_agent.sandbox.pool import Pool

LAUNCH, TERMINATE = Hook("adf-launch", "launch"), Hook("adf-terminate", "terminate")
NEVER = '[health]\nprobe = "http://:8000/never"\nstart_timeout = 1\n'
# Busybox's httpd answers from a process a connection: one that is told to end lets those under way be cut. A pause
# in each answer makes a cut seen.
SLOW = f"""FROM {BASE}
COPY www /www
EXPOSE 8000
STOPSIGNAL SIGKILL
CMD ["/bin/httpd", "-f", "-p", "8000", "-h", "/www"]
"""
CGI = "#!/bin/sh\nsleep 0.2\nprintf 'Content-Type: text/plain\\r\\n\\r\\nslow'\n"


@dataclass
class Place:
    """A machine, what it is behind, and the group around it."""

    machine: Machine
    balancer: Balancer
    port: int
    stack: ExitStack

    def group(self, *hooks: Hook, target_groups: tuple[str, ...] = (), load_balancers: tuple[str, ...] = ()) -> Group:
        group = Group(self.machine.cloud, "web", hooks, target_groups, load_balancers)
        self.stack.enter_context(group)
        return group

    def launch(self, **settings: object) -> None:
        files = settings.pop("files", None) or {"Dockerfile": SLOW, "www/index.html": "hello", "www/cgi-bin/slow": CGI}
        url = self.machine.release(files)  # type: ignore[arg-type]
        self.machine.user_data(RELEASE_URL=url, ADF_PUBLISH=f"{self.port}:8000", **settings)


@pytest.fixture
def place(machine: Machine, tmp_path: Path) -> Iterator[Place]:
    with ExitStack() as stack:
        balancer = stack.enter_context(Balancer(machine.cloud, tmp_path / "haproxy"))
        yield Place(machine, balancer, free_port(), stack)
        machine.clean()


class Spare(BaseHTTPRequestHandler):
    """Another instance of the group: it serves while ours is away."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"spare")

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def spare() -> Iterator[str]:
    """The address of another instance."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Spare) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,)).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def served(place: Place, spare: str = "", **settings: object) -> tuple[Group, Daemon, Pool]:
    """An agent in service in a group with both hooks, behind an attached target group."""
    pool = place.balancer.target_group("web", place.port, spare=spare)
    group = place.group(LAUNCH, TERMINATE, target_groups=(pool.arn,))
    place.launch(**settings)
    group.launch()
    agent = place.machine.daemon()
    agent.reach("in service")
    group.wait_for("InService")
    agent.until(lambda: pool.state == "healthy", "the target is healthy")
    return group, agent, pool


def test_the_launch_hook_is_continued_only_when_the_load_balancer_calls_the_target_healthy(place: Place) -> None:
    """InService before the app is ready: requests to an instance that can't answer them."""
    own, classic = place.balancer.target_group("own", place.port), place.balancer.classic("old", place.port)
    group = place.group(LAUNCH)
    place.launch(ADF_TARGET_GROUPS=own.arn, ADF_LOAD_BALANCERS="old")
    group.launch()
    place.machine.cloud.calls.clear()
    agent = place.machine.daemon()
    agent.reach("in service")
    group.wait_for("InService")
    assert group.completed == [("adf-launch", "CONTINUE")]
    assert (own.state, classic.state) == ("healthy", "healthy")
    assert place.machine.status()["group"] == "web"
    calls = {name: count for name, count in place.machine.cloud.calls.items() if "DescribeTargetHealth" not in name}
    assert sum(calls.values()) - calls["elasticloadbalancing:DescribeInstanceHealth"] <= 12, calls


def test_a_failed_boot_abandons_the_launch_and_the_instance_is_not_booted_again(place: Place) -> None:
    """A broken release that waits an hour for its hook to time out; an instance that boots itself to death."""
    group = place.group(LAUNCH, TERMINATE)
    place.launch(files=app(adf_toml=NEVER))
    group.launch()
    agent = place.machine.daemon()
    assert agent.ended() == 16, agent.log()
    assert group.completed[:1] == [("adf-launch", "ABANDON")]
    again = place.machine.daemon()
    again.until(lambda: place.machine.status()["phase"] in ("failed", "drained"), "it stays away")
    assert place.machine.containers() == []


def test_without_a_hook_a_failed_boot_is_reported_unhealthy_within_the_grace_period(place: Place) -> None:
    """A broken instance that stays for its grace period, which may be hours."""
    group = place.group()
    place.launch(files=app(adf_toml=NEVER))
    group.launch()
    assert place.machine.daemon().ended() == 16
    assert group.unhealthy == [False]


def test_several_hooks_and_none_named_ours_is_an_error_and_no_hook_is_touched(place: Place) -> None:
    """Another tool's hook that is completed for it, before its work is done."""
    group = place.group(Hook("codedeploy", "launch"), Hook("audit", "launch"))
    place.launch()
    group.launch()
    agent = place.machine.daemon()
    assert agent.ended() == 17, agent.log()
    assert "ADF_LAUNCH_HOOK" in place.machine.status()["error"]["hint"]
    assert (group.completed, group.unhealthy) == ([], [False])
    assert place.machine.containers() == []


def test_other_tools_hooks_are_left_alone(place: Place) -> None:
    """A deployment tool whose hook was completed before it had deployed."""
    group = place.group(LAUNCH, Hook("codedeploy", "launch"))
    place.launch()
    group.launch()
    place.machine.daemon().reach("in service")
    assert group.completed == [("adf-launch", "CONTINUE")]
    assert group.state == "Pending:Wait"


def test_a_long_boot_is_kept_waiting_by_heartbeats(place: Place) -> None:
    """A slow build whose hook times out, so that the instance is replaced by another one that builds as slowly."""
    group = place.group(Hook("adf-launch", "launch", heartbeat_timeout=2))
    files = {**app(), "adf.toml": '[health]\nprobe = "http://:8000/late"\n', "www/index.html": "hello"}
    files["Dockerfile"] = (
        f"FROM {BASE}\nCOPY www /www\nEXPOSE 8000\nSTOPSIGNAL SIGKILL\n"
        'CMD ["sh", "-c", "(sleep 5; echo x > /www/late) & exec httpd -f -p 8000 -h /www"]\n'
    )
    place.launch(files=files)
    group.launch()
    agent = place.machine.daemon()
    agent.reach("in service")
    assert group.completed == [("adf-launch", "CONTINUE")]
    assert group.heartbeats["adf-launch"] >= 2
    beats = group.heartbeats["adf-launch"]
    agent.until(
        lambda: place.machine.cloud.imds.requests["/latest/meta-data/autoscaling/target-lifecycle-state"] > 4, ""
    )
    assert group.heartbeats["adf-launch"] == beats, "none after the boot"


def under_load(agent: Daemon, pool: Pool, act: Callable[[], object], over: Callable[[], object]) -> Load:
    """Keeps asking while *act* is done, until *over*, and for a while after it."""
    with Load(f"{pool.url}/cgi-bin/slow") as load:
        load.serve(30)
        act()
        agent.until(over, "what was done is over")
        load.serve(30)
    return load


def test_a_scale_in_under_load_loses_no_request_and_proves_its_order(place: Place, spare: str) -> None:
    """502s at each scale-in: the container stopped while the load balancer still sends."""
    group, agent, pool = served(place, spare)
    load = under_load(agent, pool, group.terminate, lambda: agent.events("drain.finished"))
    assert load.failed == []
    group.wait_for("Terminated")
    assert group.completed == [("adf-launch", "CONTINUE"), ("adf-terminate", "CONTINUE")]
    agent.reach("drained")
    assert place.machine.containers() == []
    steps = [event["step"] for event in agent.events("drain.step")]
    assert steps[-3:] == ["drained by target group web", "container stopped", "adf-terminate completed"]
    assert place.machine.cloud.calls["elasticloadbalancing:DeregisterTargets"] == 0, "the group does that itself"
    assert agent.end() == 0


def test_a_reload_under_load_loses_no_request(place: Place, spare: str) -> None:
    """A change of config that costs requests on every instance it reaches."""
    table(place.machine, GREETING="one")
    group, agent, pool = served(place, spare, ADF_APP="web")
    table(place.machine, GREETING="two")

    def reload() -> None:
        assert place.machine.run("reload").code == 0

    load = under_load(agent, pool, reload, lambda: pool.state == "healthy")
    assert load.failed == []
    assert group.state == "InService"
    assert "GREETING=two" in place.machine.containers()[0].attrs["Config"]["Env"]
    assert place.machine.status()["phase"] == "in service"


def test_a_spot_notice_under_load_loses_no_request_within_its_two_minutes(place: Place, spare: str) -> None:
    """Requests that go to an instance which EC2 takes away: the group deregisters nothing by itself then."""
    place.machine.cloud.imds.instance.life_cycle = "spot"
    _, agent, pool = served(place, spare)

    def notice() -> None:
        ends = datetime.now(UTC) + timedelta(seconds=120)
        place.machine.cloud.imds.instance.spot_action = {"action": "terminate", "time": f"{ends:%Y-%m-%dT%H:%M:%SZ}"}

    load = under_load(agent, pool, notice, lambda: agent.events("drain.finished"))
    assert load.failed == []
    assert pool.state == "unused"
    assert place.machine.containers() == []
    [began] = agent.events("drain.started")
    assert began["why"] == "spot"
    assert 100 < began["budget"] <= 120


def test_sigterm_under_load_loses_no_request_and_the_next_start_joins_again(place: Place, spare: str) -> None:
    """A reboot that cuts what was under way; and one after which nobody sends anything any more."""
    group, agent, pool = served(place, spare)
    load = under_load(agent, pool, lambda: agent.process.send_signal(signal.SIGTERM), lambda: agent.ended() == 0)
    assert load.failed == []
    assert pool.state == "unused"
    reboot(place.machine)
    again = place.machine.daemon()
    again.reach("in service")
    again.until(lambda: pool.state == "healthy", "it is registered again")
    assert group.state == "InService"


def test_standby_keeps_the_container_and_ends_when_the_group_says_so(place: Place, spare: str) -> None:
    """An instance taken aside to be looked at, and restarted, or served to, all the same."""
    group, agent, pool = served(place, spare)
    [before] = place.machine.containers()
    load = under_load(agent, pool, group.standby, lambda: place.machine.status()["phase"] == "standby")
    assert load.failed == []
    group.wait_for("Standby")
    assert place.machine.run("status").code == 0
    group.exit_standby()
    agent.reach("in service")
    agent.until(lambda: pool.state == "healthy", "it serves again")
    [after] = place.machine.containers()
    assert (after.id, after.attrs["State"]["Pid"]) == (before.id, before.attrs["State"]["Pid"])


def test_a_warm_pool_holds_a_built_image_and_nothing_running(place: Place, spare: str) -> None:
    """An app that serves, or takes jobs, in an instance that is only kept ready; one that is not ready when wanted."""
    table(place.machine, GREETING="old")
    pool = place.balancer.target_group("web", place.port, spare=spare)
    group = place.group(LAUNCH, TERMINATE, target_groups=(pool.arn,))
    place.launch(ADF_APP="web")
    group.launch(warm="Warmed:Running")
    agent = place.machine.daemon()
    agent.reach("warmed")
    group.wait_for("Warmed:Running")
    assert place.machine.containers() == []
    assert group.completed == [("adf-launch", "CONTINUE")]
    table(place.machine, GREETING="new")
    group.leave_pool()
    agent.reach("in service")
    group.wait_for("InService")
    assert "GREETING=new" in place.machine.containers()[0].attrs["Config"]["Env"]
    agent.until(lambda: pool.state == "healthy", "it serves")
    load = under_load(agent, pool, group.return_to_pool, lambda: place.machine.status()["phase"] == "warmed")
    assert load.failed == []
    group.wait_for("Warmed:Running")
    assert place.machine.containers() == []
    assert group.completed[-1] == ("adf-terminate", "CONTINUE")
    image = place.machine.state()["image"]
    assert place.machine.engine.images.get(image), "kept for the next time"


def test_a_kill_on_the_way_back_to_the_pool_ends_in_the_pool(place: Place) -> None:
    """An instance that is never kept ready again, as the hook of its way back waits to time out."""
    group, agent, _ = served(place)
    agent.kill()
    group.return_to_pool()
    again = place.machine.daemon()
    again.reach("warmed")
    group.wait_for("Warmed:Running")
    assert group.completed[-1] == ("adf-terminate", "CONTINUE")
    assert place.machine.containers() == []
    again.kill()
    path = place.machine.root / "var/lib/adf-agent/state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "standing": ""}))
    group.leave_pool()
    group.return_to_pool()
    third = place.machine.daemon()
    third.reach("warmed")
    group.wait_for("Warmed:Running")


def test_a_rebalance_recommendation_is_acted_on_only_where_that_is_wished(place: Place, spare: str) -> None:
    """A fleet that leaves all at once on a mere recommendation."""
    place.machine.cloud.imds.instance.life_cycle = "spot"
    place.machine.cloud.imds.instance.rebalance = {"noticeTime": "2026-01-01T00:00:00Z"}
    _, agent, pool = served(place, spare)
    agent.until(lambda: any(event["rebalance"] for event in agent.events("notice")), "it was seen")
    assert any("rebalance" in reason for reason in place.machine.status()["degraded"])
    assert place.machine.status()["phase"] == "in service"
    assert agent.end() == 0
    place.launch(ADF_REBALANCE="drain")
    leaving = place.machine.daemon()
    leaving.reach("drained")
    assert pool.state == "unused"


def test_the_fleet_record_tells_how_the_boot_went_and_why_it_failed(place: Place) -> None:
    """An instance that is gone before anybody could look, and nothing says why."""
    table(place.machine, GREETING="hi")
    group = place.group(LAUNCH)
    dockerfile = f'FROM {BASE}\nEXPOSE 8000\nCMD ["sh", "-c", "echo no database; exit 7"]\n'
    place.launch(files={"Dockerfile": dockerfile}, ADF_APP="web")
    group.launch()
    assert place.machine.daemon().ended() == 16
    key = {"App": {"S": "web#fleet"}, "Name": {"S": place.machine.cloud.imds.instance.instance_id}}
    item = place.machine.cloud.client("dynamodb").get_item(TableName="adf-config", Key=key)["Item"]
    assert item["Phase"] == {"S": "failed"}
    assert item["Stage"] == {"S": "health"}
    assert item["Group"] == {"S": "web"}
    assert "exited with code 7" in item["Error"]["S"]
    assert "no database" in item["LogTail"]["S"]


def test_a_scale_in_of_a_drained_instance_completes_its_hook(place: Place) -> None:
    """An instance drained by hand or by a rebalance, whose group then waits an hour for its hook."""
    group, agent, _ = served(place)
    assert place.machine.run("drain").code == 0
    group.terminate()
    group.wait_for("Terminated", 20)
    assert group.completed[-1] == ("adf-terminate", "CONTINUE")
    assert agent.end() == 0


def test_sigterm_in_a_long_drain_shortens_it(place: Place) -> None:
    """A machine shut down in the middle of a drain, whose agent systemd has to kill."""
    pool = place.balancer.target_group("web", place.port, deregistration_delay=600, settle=600)
    group = place.group(LAUNCH, TERMINATE, target_groups=(pool.arn,))
    place.launch()
    group.launch()
    agent = place.machine.daemon()
    agent.reach("in service")
    group.wait_for("InService")
    agent.process.send_signal(signal.SIGUSR1)
    agent.until(lambda: agent.events("drain.started"), "the drain began")
    agent.process.send_signal(signal.SIGTERM)
    agent.until(lambda: [event["why"] for event in agent.events("drain.started")] == ["drain", "stop"], "it hurries")
    assert agent.events("drain.started")[-1]["budget"] <= 345
    agent.kill()


def test_a_restart_while_the_load_balancer_still_drains_registers_again(place: Place) -> None:
    """An agent restarted too soon after its stop: its target drains away, and nothing is ever sent again."""
    pool = place.balancer.target_group("web", place.port, deregistration_delay=600, settle=600)
    group = place.group(LAUNCH, TERMINATE, target_groups=(pool.arn,))
    place.launch()
    group.launch()
    agent = place.machine.daemon()
    agent.reach("in service")
    group.wait_for("InService")
    agent.process.send_signal(signal.SIGTERM)
    agent.until(lambda: pool.state == "draining", "it drains")
    agent.kill()
    again = place.machine.daemon()
    again.reach("in service")
    again.until(lambda: pool.state == "healthy", "it is registered again")


def test_a_reload_follows_a_change_of_target_groups(place: Place) -> None:
    """A target group added by a tag and reloaded, to which nothing is ever registered."""
    _, agent, _ = served(place)
    own = place.balancer.target_group("own", place.port)
    place.machine.cloud.imds.instance.tags = {"ADF_TARGET_GROUPS": own.arn}
    assert place.machine.run("reload").code == 0
    assert own.state == "healthy"
    place.machine.cloud.imds.instance.tags = {}
    assert place.machine.run("reload").code == 0
    assert own.state == "unused"
    agent.reach("in service")


def test_a_dependency_out_of_reach_never_replaces_an_app_that_runs(place: Place) -> None:
    """An outage of ELB's API, or a lost permission, by which a whole fleet of healthy apps is replaced."""
    own = place.balancer.target_group("own", place.port)
    group = place.group(LAUNCH)
    place.launch(ADF_TARGET_GROUPS=own.arn, ADF_UNHEALTHY_AFTER="1s")
    group.launch()
    agent = place.machine.daemon()
    agent.reach("in service")
    agent.kill()
    path = place.machine.root / "var/lib/adf-agent/state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "standing": "leaving"}))
    place.machine.cloud.faults = [AwsFault("elasticloadbalancing:RegisterTargets", "AccessDenied", 403)]
    again = place.machine.daemon()
    again.until(lambda: place.machine.cloud.calls["elasticloadbalancing:RegisterTargets"] > 4, "it tries again")
    assert page(place.port) == "hello"
    assert any("RegisterTargets" in reason for reason in place.machine.status()["degraded"])
    assert group.unhealthy == []
    place.machine.cloud.faults = []
    again.reach("in service", 60)


def test_a_reload_may_drain_for_longer_than_a_boot_may_take(place: Place) -> None:
    """A load balancer with a long deregistration delay, by which every reload ends in a failure."""
    table(place.machine, GREETING="one")
    pool = place.balancer.target_group("web", place.port, deregistration_delay=12, settle=12)
    group = place.group(LAUNCH, target_groups=(pool.arn,))
    place.launch(ADF_APP="web", ADF_BOOT_TIMEOUT="10s")
    group.launch()
    agent = place.machine.daemon()
    agent.reach("in service")
    group.wait_for("InService")
    table(place.machine, GREETING="two")
    reloaded = place.machine.run("reload")
    assert reloaded.code == 0, reloaded.log
    assert "GREETING=two" in place.machine.containers()[0].attrs["Config"]["Env"]


def test_unhealthy_is_told_until_it_was_heard(place: Place) -> None:
    """A broken instance that stays for ever, as the one call that tells of it was denied."""
    group, agent, _ = served(place, ADF_UNHEALTHY_AFTER="1s")
    place.machine.cloud.faults = [AwsFault("autoscaling:SetInstanceHealth", "AccessDenied", 403, times=1)]
    [container] = place.machine.containers()
    with ExitStack() as stack:
        container.kill()

        def take() -> bool:
            try:
                stack.enter_context(socket.create_server(("127.0.0.1", place.port)))
            except OSError:
                return False
            return True

        agent.until(take, "the port is taken from it")
        agent.until(lambda: group.unhealthy, "it is told", 60)
    assert group.unhealthy == [False]
