"""What people do to a machine that the agent serves on: upgrades, commands by root, an agent.env by hand, removal."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from box import OWN_BOOT_ID, Instance
from test_box import config, environment

BUILD = Path(__file__).parents[1] / "packaging/deb/build"
LIBRARY = "usr/lib/adf-agent"


@pytest.fixture(scope="module")
def moved(unpacked: Path) -> Iterator[Path]:
    """A next version's package, in which no file of boto's or of Docker's SDK is where it was."""
    with TemporaryDirectory(prefix="adf-") as name:
        tree = Path(name, "tree")
        gone = shutil.ignore_patterns("boto*", "docker*", "requests*", "urllib3*", "needrestart", "__pycache__")
        shutil.copytree(unpacked, tree, ignore=gone)
        (tree / "etc/adf-agent/docker").mkdir()
        (tree / LIBRARY / "adf_agent/__init__.py").write_text('__version__ = "99"\n')
        made = subprocess.run([BUILD, tree, name], check=True, capture_output=True, text=True)
        yield Path(made.stdout.strip())


def target_group(box: Instance) -> str:
    """A target group's ARN; the box is an instance that may be its target."""
    with box.network():
        ec2, elb = box.cloud.client("ec2"), box.cloud.client("elbv2")
        vpc = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
        [group] = elb.create_target_group(Name="web", Protocol="HTTP", Port=8000, VpcId=vpc)["TargetGroups"]
        [launched] = ec2.run_instances(ImageId=box.cloud.imds.instance.image_id, MinCount=1, MaxCount=1)["Instances"]
    box.cloud.imds.instance.instance_id = launched["InstanceId"]
    arn: str = group["TargetGroupArn"]
    return arn


def crash(box: Instance) -> None:
    """`kill -9` of the agent."""
    box.run("systemctl", "kill", "--signal=SIGKILL", "--kill-who=main", "adf-agent")


def failed_units(box: Instance) -> str:
    return box.run("systemctl", "list-units", "--failed", "--plain", "--no-legend").stdout


def test_an_upgrade_takes_nothing_away_that_the_running_agent_leaves_by(box: Instance, moved: Path) -> None:
    """An unattended upgrade, and weeks later a reboot that cuts requests off, with success as its result."""
    box.user_data(RELEASE_URL=box.release(), ADF_TARGET_GROUPS=target_group(box))
    box.drop_in("test", "RestartSec=100ms")
    box.boot()
    box.reach("in service")
    pid = box.unit("MainPID")
    crash(box)
    box.until(lambda: box.unit("MainPID") not in ("0", pid), "there is another one")
    box.reach("in service")
    box.install(moved)
    box.run("systemctl", "stop", "adf-agent")
    assert (box.unit("Result"), box.unit("ExecMainStatus")) == ("success", "0"), box.story()
    steps = [event["step"] for event in box.events("drain.step")]
    assert steps == ["deregistered from target group web", "drained by target group web", "container stopped"]
    assert box.containers() == []


def test_what_root_booted_by_hand_is_gone_on_with_by_the_unit(box: Instance) -> None:
    """A `sudo adf-agent boot` after which the unit finds files that it can't read, and starts all over again."""
    config(box, GREETING="hello")
    box.user_data(RELEASE_URL=box.release(), ADF_APP="web")
    box.boot()
    box.reach("in service")
    box.run("systemctl", "stop", "adf-agent")
    box.run("env", f"AWS_ENDPOINT_URL={box.cloud.endpoint}", "adf-agent", "boot")
    before = box.life()
    folders = ("/var/lib/adf-agent", "/run/adf-agent")
    others = box.run("find", *folders, "!", "-user", "adf-agent", "!", "-name", "lock").stdout
    assert others == "", "the lock is only opened to be read"
    box.run("systemctl", "start", "adf-agent")
    box.reach("in service")
    assert box.life() == before


def test_agent_env_is_read_by_the_agent_alone(box: Instance) -> None:
    """A line that systemd takes otherwise than `adf-agent settings` shows it: a comment in a proxy's address."""
    config(box, GREETING="hello")
    box.user_data(RELEASE_URL=box.release(), ADF_APP="web")
    box.drop_in("sandbox", OWN_BOOT_ID)
    lines = [
        f'export AWS_ENDPOINT_URL="{box.cloud.endpoint}" # the emulated one',
        "HTTP_PROXY=http://127.0.0.1:9 # nobody is there, and nobody is to be asked for credentials",
        "ADF_LOG_DRIVER='json-file' # for a person",
    ]
    box.disk.write("etc/adf-agent/agent.env", "\n".join(lines))
    box.boot()
    box.reach("in service")
    assert "GREETING=hello" in environment(box)
    assert box.containers()[0]["HostConfig"]["LogConfig"]["Type"] == "json-file"
    assert box.run("adf-agent", "config").stdout.split()[0] == "GREETING"
    assert "127.0.0.1:9" not in box.run("systemctl", "show", "--property=Environment", "adf-agent").stdout


def test_a_removal_leaves_no_app_that_nobody_looks_after(box: Instance) -> None:
    """An app that serves on for months, with the config of that day, as its agent had failed before it was removed."""
    box.user_data(RELEASE_URL=box.release())
    box.drop_in("test", "Restart=no")
    box.boot()
    box.reach("in service")
    crash(box)
    box.until(lambda: "adf-agent" in failed_units(box), "the unit has failed")
    assert len(box.containers()) == 1
    box.run("dpkg", "--remove", "adf-agent")
    assert box.containers() == []
    assert failed_units(box) == ""


def test_a_purge_takes_the_agents_own_and_nothing_else(box: Instance) -> None:
    """An image that its owner had tagged, deleted; a package that dpkg can neither remove nor forget."""
    box.user_data(RELEASE_URL=box.release())
    box.boot()
    box.reach("in service")
    [image] = re.findall(r"adf/release:\w+", box.run("docker", "images", "--format={{.Repository}}:{{.Tag}}").stdout)
    box.run("docker", "tag", image, "mine:kept")
    box.run("sh", "-c", "setpriv --reuid=adf-agent --regid=adf-agent --clear-groups sleep 300 >/dev/null 2>&1 &")
    box.run("dpkg", "--purge", "adf-agent")
    assert box.run("docker", "images", "--format={{.Repository}}:{{.Tag}}").stdout == "mine:kept\n"
    assert box.containers() == []
    assert box.run("find", "/etc/adf-agent", "/var/lib/adf-agent", "/run/adf-agent", check=False).stdout == ""
    assert failed_units(box) == ""
