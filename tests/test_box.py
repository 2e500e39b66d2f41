"""The unit on a machine of its own: systemd as PID 1, reboots, a Docker engine, the strict IMDS."""

import urllib.request
from pathlib import Path

import pytest
from box import Instance, app

from adf_agent import leave
from adf_agent.sandbox.front import AwsFault

SOON = "RestartSec=100ms"
STAGES = ["settings", "docker", "release", "config", "image", "container", "health", "report"]


def config(box: Instance, **keys: str) -> None:
    """Sets *keys* of the app web, in a table that is made where there is none."""
    with box.network():
        client = box.cloud.client("dynamodb")
        if not client.list_tables()["TableNames"]:
            names = {"App": "HASH", "Name": "RANGE"}
            client.create_table(
                TableName="adf-config",
                BillingMode="PAY_PER_REQUEST",
                AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in names],
                KeySchema=[{"AttributeName": name, "KeyType": kind} for name, kind in names.items()],
            )
        for name, value in keys.items():
            client.put_item(
                TableName="adf-config", Item={"App": {"S": "web"}, "Name": {"S": name}, "Value": {"S": value}}
            )


def page(box: Instance) -> str:
    with box.network(), urllib.request.urlopen("http://127.0.0.1:8000/", timeout=5) as answer:
        text: str = answer.read().decode()
        return text


def environment(box: Instance) -> list[str]:
    """The environment of the app."""
    [container] = box.containers()
    found: list[str] = container["Config"]["Env"]
    return found


def test_what_was_installed_boots_by_itself_and_holds_nothing_up(bare_box: Instance, deb: Path) -> None:
    """An instance that sits there with its agent off, or one whose own boot waits for a build or a dependency."""
    box = bare_box
    box.boot()
    box.install(deb)
    assert box.run("systemctl", "is-enabled", "adf-agent").stdout == "enabled\n"
    assert (box.unit("ActiveState"), box.unit("ExecMainStartTimestamp")) == ("inactive", "")
    assert "docker" in box.run("id", "--name", "--groups", "adf-agent").stdout.split()
    verified = box.run("systemd-analyze", "verify", "adf-agent.service")
    assert (verified.stdout, verified.stderr) == ("", "")
    config(box, GREETING="hello")
    box.cloud.faults = [AwsFault("dynamodb:*", "ThrottlingException")]
    box.user_data(RELEASE_URL=box.release(), ADF_APP="web")
    box.reboot()
    assert box.run("systemctl", "is-system-running", "--wait").stdout == "running\n"
    box.until(lambda: box.unit("StatusText") == "booting: config", "it waits for its config")
    assert box.run("adf-agent", "status", check=False, user="nobody").returncode == 4
    box.cloud.faults = []
    box.reach("in service")
    assert page(box) == "hello"
    assert 'Status: "in service"' in box.run("systemctl", "status", "adf-agent").stdout
    assert box.run("adf-agent", "status", user="nobody").stdout.startswith("i-0123456789abcdef0")
    assert "BuildKit" in next(stage["fact"] for stage in box.status()["stages"] if stage["name"] == "docker")
    for told in (box.journal(), box.console()):
        ended = [line for line in told.splitlines() if '"stage.finished"' in line]
        assert all(any(f'"stage": "{stage}"' in line for line in ended) for stage in STAGES)


def test_a_reboot_and_a_reload_bring_new_config_in(box: Instance) -> None:
    """A changed value that never reaches the app, though the instance was restarted for it."""
    config(box, GREETING="first")
    box.user_data(RELEASE_URL=box.release(), ADF_APP="web")
    box.boot()
    box.reach("in service")
    assert "GREETING=first" in environment(box)
    config(box, GREETING="second")
    box.reboot()
    box.reach("in service")
    assert "GREETING=second" in environment(box)
    assert [event["step"] for event in box.events("drain.step")] == ["container stopped"], "Docker was there until then"
    config(box, GREETING="third")
    box.run("systemctl", "reload", "adf-agent")
    box.until(lambda: (box.status().get("reload") or {}).get("error") == "", "the reload has ended")
    assert "GREETING=third" in environment(box)


def test_an_order_is_roots_to_give(box: Instance) -> None:
    """An operator on the machine whose drain does not reach the agent, or a stranger's that does."""
    box.user_data(RELEASE_URL=box.release())
    box.boot()
    box.reach("in service")
    refused = box.run("adf-agent", "drain", check=False, user="nobody")
    assert "sudo adf-agent drain" in refused.stderr
    assert len(box.containers()) == 1
    box.run("adf-agent", "hold", "1h")
    assert "drained" in box.run("adf-agent", "drain").stdout
    assert box.containers() == []
    box.run("adf-agent", "reload")
    assert box.status()["phase"] == "in service"


@pytest.mark.parametrize(("number", "result"), [("SIGKILL", "signal"), ("SIGSTOP", "watchdog")])
def test_an_agent_that_was_killed_or_hangs_is_back_and_the_app_never_noticed(
    box: Instance, number: str, result: str
) -> None:
    """An app that nobody looks after any more, or one that is restarted whenever its agent is."""
    box.user_data(RELEASE_URL=box.release())
    box.drop_in("test", SOON, "WatchdogSec=2s")
    box.boot()
    box.reach("in service")
    before, pid = box.life(), box.unit("MainPID")
    box.run("systemctl", "kill", f"--signal={number}", "--kill-who=main", "adf-agent")
    box.until(lambda: box.unit("MainPID") not in ("0", pid), "there is another one")
    box.reach("in service")
    assert box.life() == before
    assert f"Failed with result '{result}'" in box.journal()


def test_stop_drains_and_ends_well_within_its_time(box: Instance) -> None:
    """A stop that cuts requests off, is killed half-way, or leaves a unit that failed."""
    with box.network():
        vpc = box.cloud.client("ec2").describe_vpcs()["Vpcs"][0]["VpcId"]
        elb = box.cloud.client("elbv2")
        [group] = elb.create_target_group(Name="web", Protocol="HTTP", Port=8000, VpcId=vpc)["TargetGroups"]
        [launched] = box.cloud.client("ec2").run_instances(
            ImageId=box.cloud.imds.instance.image_id, MinCount=1, MaxCount=1
        )["Instances"]
    box.cloud.imds.instance.instance_id = launched["InstanceId"]
    box.user_data(RELEASE_URL=box.release(), ADF_TARGET_GROUPS=group["TargetGroupArn"])
    box.boot()
    box.reach("in service")
    box.run("systemctl", "stop", "adf-agent")
    assert (box.unit("Result"), box.unit("ActiveState"), box.unit("ExecMainStatus")) == ("success", "inactive", "0")
    steps = [event["step"] for event in box.events("drain.step")]
    assert steps == ["deregistered from target group web", "drained by target group web", "container stopped"]
    assert box.events("drain.started")[0]["budget"] <= leave.STOP_SECONDS
    assert box.containers() == []
    assert box.status()["phase"] == "stopped"


@pytest.mark.parametrize(
    ("dockerfile", "digest", "code", "reason"),
    [
        (app()["Dockerfile"], "0" * 64, "12", "RELEASE_URL pins"),
        ('FROM scratch\nCOPY busybox /bin/busybox\nRUN ["/bin/busybox", "false"]\n', "", "14", "the build failed"),
    ],
    ids=["wrong digest", "build fails"],
)
def test_what_can_not_pass_by_itself_stays_failed_with_its_reason(
    box: Instance, dockerfile: str, digest: str, code: str, reason: str
) -> None:
    """A broken release that is built again and again, or an instance that failed and nobody can tell why."""
    release = box.release({**app(), "Dockerfile": dockerfile})
    box.user_data(RELEASE_URL=f"{release}#sha256={digest}" if digest else release)
    box.drop_in("test", SOON)
    box.boot()
    box.until(lambda: box.unit("ActiveState") == "failed", "it has failed")
    assert (box.unit("SubState"), box.unit("NRestarts"), box.unit("ExecMainStatus")) == ("failed", "0", code)
    [failed] = box.events("boot.failed")
    assert reason in failed["sentence"]
    told = box.run("adf-agent", "status", check=False, user="nobody")
    assert told.returncode == 1
    assert failed["sentence"] in told.stdout
    box.until(lambda: failed["sentence"] in box.console(), "the console has it too")
    tail = box.run("stat", "--format=%U:%G %a", "/var/lib/adf-agent/last-lines").stdout
    assert tail == "adf-agent:adm 640\n", "for root, adm and the agent"
    assert failed["sentence"] in box.run("systemctl", "status", "--full", "adf-agent", check=False).stdout


def test_what_a_dependency_was_down_for_is_tried_until_it_is_back(box: Instance) -> None:
    """A night's outage after which every instance has to be started by hand."""
    config(box, GREETING="hello")
    box.cloud.faults = [AwsFault("dynamodb:*", "ThrottlingException")]
    box.user_data(RELEASE_URL=box.release(), ADF_APP="web", ADF_BOOT_TIMEOUT="5s")
    box.drop_in("test", SOON)
    box.boot()
    box.until(lambda: int(box.unit("NRestarts")) > 0, "it is started again")
    assert {event["exit_code"] for event in box.events("boot.failed")} == {75}
    box.cloud.faults = []
    box.reach("in service")
