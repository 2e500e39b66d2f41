"""What bakes the base AMI, on a machine with systemd and Docker at work; and an app over an upgrade of Docker."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from box import Box, Instance
from fixtures_box import busy_apt

PACKER = Path(__file__).parent.parent / "packaging/packer"
MIRRORS = 'Dir::Etc { sourcelist "/srv/mirrors.list"; sourceparts "/dev/null"; };'


@pytest.fixture
def stock_box(box_base: Path) -> Iterator[Box]:
    """A Debian before the bake, with systemd and Docker running."""
    with Box(box_base) as box:
        box.boot()
        box.until(lambda: box.run("docker", "version", check=False).returncode == 0, "Docker answers")
        yield box


@pytest.fixture
def registry(stock_box: Box, tmp_path: Path) -> Iterator[str]:
    """A registry at the box's loopback."""
    address = "127.0.0.1:5000"
    configuration = tmp_path / "registry.yml"
    storage = {"filesystem": {"rootdirectory": str(tmp_path)}}
    configuration.write_text(json.dumps({"version": 0.1, "http": {"addr": address}, "storage": storage}))
    with (tmp_path / "registry.log").open("w") as log:
        with stock_box.network():
            process = subprocess.Popen(["docker-registry", "serve", configuration], stdout=log, stderr=log)
        with process:
            yield address
            process.kill()


def test_base_images_are_there_and_docker_runs_as_configured(stock_box: Box, registry: str, deb: Path) -> None:
    """A registry that is out, or has had enough of us, ends each boot; or Docker does not start at all."""
    image = f"{registry}/base:1"
    stock_box.run("sh", "-c", f"tar -c -C / etc/os-release | docker import - {image}")
    stock_box.until(lambda: stock_box.run("docker", "push", image, check=False).returncode == 0, "the registry answers")
    stock_box.run("docker", "rmi", image)
    stock_box.disk.write("srv/adf-agent.deb", deb.read_bytes())
    for script in PACKER.glob("*.sh"):
        stock_box.disk.write(f"srv/{script.name}", script.read_bytes())
    stock_box.run("cp", "/srv/adf-agent.deb", "/tmp")
    stock_box.run("systemctl", "stop", "docker.socket", "docker")  # as one that was installed a moment ago
    stock_box.run("env", f"BASE_IMAGES={image}", "bash", "/srv/install.sh")
    assert stock_box.run("docker", "images", "--format={{.Repository}}:{{.Tag}}").stdout.split() == [image]
    running = "{{.LiveRestoreEnabled}} {{.LoggingDriver}}"
    assert stock_box.run("docker", "info", f"--format={running}").stdout.split() == ["true", "local"]
    assert stock_box.run("systemctl", "is-enabled", "adf-agent").stdout.split() == ["enabled"]
    assert stock_box.run("systemctl", "is-active", "adf-agent", check=False).stdout.split() == ["inactive"]
    assert stock_box.run("cat", "/etc/docker/key.json").stdout
    stock_box.run("bash", "/srv/clean.sh")
    assert stock_box.run("systemctl", "is-active", "docker", check=False).stdout.split() == ["inactive"]
    checked = stock_box.run("bash", "/srv/check.sh", check=False).stdout.splitlines()
    assert "✓ Docker has no id" in checked


def test_a_bake_waits_for_apts_own_timer_and_for_mirrors(stock_box: Box) -> None:
    """A stock image's first boot is when apt's timers fire: one bake in some fails, and nobody knows why."""
    mirrors = stock_box.disk.root / "srv/mirrors.list"
    mirrors.write_text("deb [trusted=yes] http://127.0.0.1:9/ ./\n")  # where nobody answers
    stock_box.disk.write("etc/apt/apt.conf.d/99-mirrors", MIRRORS)
    stock_box.disk.write("srv/install.sh", (PACKER / "install.sh").read_bytes())
    stock_box.run("dpkg", "--purge", "amazon-ecr-credential-helper")

    def said(words: str) -> int:
        return stock_box.run("journalctl", "--unit=bake").stdout.count(words)

    with busy_apt(stock_box):
        stock_box.run("systemd-run", "--unit=bake", "bash", "/srv/install.sh")
        stock_box.until(lambda: said("Could not get lock"), "the lock is met")
    stock_box.until(lambda: said("Failed to fetch") > 1, "it is tried again")
    mirrors.write_text("")
    stock_box.until(lambda: said("Unable to locate package amazon-ecr-credential-helper"), "it has gone on")
    assert stock_box.run("systemctl", "is-active", "apt-daily.timer", check=False).stdout == "inactive\n"


def test_an_upgrade_of_docker_leaves_the_app_alone_and_watched(box: Instance) -> None:
    """Unattended upgrades restart Docker all over a fleet: every app goes down, or is looked after no more."""
    configuration = re.findall(r"<<'JSON'\n(.*)\nJSON\n", (PACKER / "install.sh").read_text(), re.DOTALL)[0]
    place = box.disk.root / "etc/docker/daemon.json"
    place.write_text(json.dumps({**json.loads(place.read_text()), **json.loads(configuration)}))
    box.user_data(RELEASE_URL=box.release(), ADF_PUBLISH="8080:8000")
    box.boot()
    box.reach("in service")
    [before] = box.containers()
    box.run("systemctl", "restart", "docker")
    [after] = box.containers()
    assert (after["Id"], after["State"]) == (before["Id"], before["State"])
    box.run("docker", "kill", after["Id"])
    box.until(lambda: [each["State"]["Running"] for each in box.containers()] == [True], "the app is started again")
    box.reach("in service")
