"""The base AMI: packer's template is checked, and what it runs on an instance runs in packer's docker builder."""

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import docker
import pytest
from docker.errors import ContainerError
from layer import Layer

PACKER = Path(__file__).parent.parent / "packaging/packer"
# Debian's Packer is 1.6, with a plugin for Amazon inside that knows neither of these, and gp3 by all its figures only.
NEWER = (
    r'  imds_support += "v2.0".*\n',
    r"\n  metadata_options \{.*\n(?:    \w+ += .*\n)+  \}\n",
    r'      volume_type += "gp3"\n',
)
IN_DOCKER = """\
source "docker" "base" {
  pull        = false
  commit      = true
  run_command = ["-d", "-i", "-t", "--network", "none", "--entrypoint=/bin/sh", "--", "{{.Image}}"]
}

build {
  source "docker.base" {
    name  = "debian-12"
    image = "%s"
  }
"""
# One user, who is root.
SUDO = '#!/bin/sh\nexec "$@"\n'
# Half of the file system, of no use to the build: Docker's engine, which can't run there, lists, languages.
LEFT_OUT = (
    "usr/bin/containerd*",
    "usr/sbin/dockerd",
    "usr/share/doc",
    "usr/share/locale",
    "var/cache/apt",
    "var/lib/apt/lists/*_*",
)
# What a host has that bakes.
OF_ITS_OWN = (
    "etc/docker/key.json",
    "etc/machine-id",
    "etc/ssh/ssh_host_ed25519_key",
    "home/admin/.ssh/authorized_keys",
    "root/.bash_history",
    "var/lib/adf-agent/state.json",
    "var/lib/apt/lists/mirror",
    "var/lib/cloud/instance/user-data.txt",
    "var/lib/docker/engine-id",
    "var/log/syslog",
)

Look = Callable[[str], str]


def template() -> str:
    """The template without what Debian's Packer does not know."""
    text = (PACKER / "adf-agent.pkr.hcl").read_text()
    for each in NEWER:
        text, found = re.subn(each, "", text)
        assert found, f"{each} is not in the template"
    return text


def packer(folder: Path, text: str, *command: str, deb: Path | None = None) -> "subprocess.CompletedProcess[str]":
    """Runs `packer COMMAND…` on *text*, in a copy of the template's folder."""
    for script in PACKER.glob("*.sh"):
        (folder / script.name).write_bytes(script.read_bytes())
    (folder / "adf-agent.pkr.hcl").write_text(text)
    package = deb or folder / "adf-agent.pkr.hcl"
    return subprocess.run(
        ["packer", *command, f"-var=deb={package}", f"-var=rpm={package}", folder],
        env={**os.environ, "CHECKPOINT_DISABLE": "1", "HOME": str(folder), "AWS_REGION": "eu-west-1"},
        capture_output=True,
        text=True,
        check=False,
    )


def run(client: docker.DockerClient, image: str, line: str) -> str:
    """What a line of shell prints in a container of *image*; the template's folder is /packer there."""
    place = {str(PACKER): {"bind": "/packer", "mode": "ro"}}
    entry = ["bash", "-c"]  # in place of packer's
    said = client.containers.run(image, [line], entrypoint=entry, network_mode="none", volumes=place, remove=True)
    return str(said.decode()).strip()


@pytest.fixture(scope="module")
def stock(box_base: Path, docker_client: docker.DockerClient) -> Iterator[str]:
    """An image of a Debian before the bake."""
    tag = f"adf-test/stock:{os.getpid()}"
    with Layer(box_base) as layer:
        layer.write("usr/local/bin/sudo", SUDO)
        (layer.root / "usr/local/bin/sudo").chmod(0o755)
        for path in OF_ITS_OWN:
            layer.write(path, "the baking host's")
        tar = ["tar", "--create", "--one-file-system", *(f"--exclude=./{each}" for each in LEFT_OUT)]
        tar += [f"--directory={layer.root}", "."]
        with subprocess.Popen(tar, stdout=subprocess.PIPE) as archive:
            subprocess.run(["docker", "import", "-", tag], stdin=archive.stdout, check=True, capture_output=True)
    yield tag
    docker_client.images.remove(tag, force=True)


@pytest.fixture(scope="module")
def baked(
    stock: str, deb: Path, docker_client: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The image that the template's own provisioners make of it."""
    sources, _, provisioners = template().partition('  provisioner "file"')
    variables = sources[: sources.index('source "amazon-ebs"')]
    text = f'{variables}{IN_DOCKER % stock}\n  provisioner "file"{provisioners}'
    folder = tmp_path_factory.mktemp("packer")
    done = packer(folder, text, "build", "-machine-readable", deb=deb)
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r",artifact,0,id,(sha256:\w+)", done.stdout)
    assert found, done.stdout
    yield found[1]
    docker_client.images.remove(found[1], force=True)


@pytest.fixture(scope="module")
def look(baked: str, docker_client: docker.DockerClient) -> Look:
    """What a line of shell prints in the image; one that fails is a failure."""
    return partial(run, docker_client, baked)


def test_the_template_is_valid(tmp_path: Path) -> None:
    """A slip in the template is found by whoever has an AMI to bake, that is when a fix is urgent."""
    done = packer(tmp_path, template(), "validate")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("slip", "said"),
    [("-var=architecture=x86", "x86"), ("-var=base_image=node", "base_image"), ("-var=encrypt=si", "encrypt")],
)
def test_a_slip_in_a_variable_is_refused(slip: str, said: str, tmp_path: Path) -> None:
    """The AMI is baked without what was asked for, and nobody is told."""
    done = packer(tmp_path, template(), "validate", slip)
    assert done.returncode != 0
    assert said in done.stdout + done.stderr


def test_the_plugin_is_named_for_packers_that_have_none_inside() -> None:
    """A current Packer has no plugin for Amazon and says `unknown source`; Debian's does not know the block."""
    assert 'source  = "github.com/hashicorp/amazon"' in (PACKER / "plugins.pkr.hcl").read_text()
    assert "required_plugins" not in template()


def test_the_agent_is_enabled_and_was_not_started(look: Look) -> None:
    """Each instance has to be told to start the agent; or all of them share the state of the one that baked."""
    assert look("systemctl is-enabled adf-agent docker") == "enabled\nenabled"
    assert look("find /var/lib/adf-agent /run/adf-agent -mindepth 1 2>/dev/null; true") == ""
    assert look("adf-agent status || echo $?").endswith("3")


def test_docker_keeps_containers_over_an_upgrade_and_its_logs_small(look: Look) -> None:
    """An unattended upgrade of Docker stops the app; a talkative app fills the disk."""
    configuration = json.loads(look("cat /etc/docker/daemon.json"))
    assert configuration["live-restore"] is True
    assert configuration["log-driver"] == "local"
    assert set(configuration["log-opts"]) == {"max-size", "max-file"}


def test_images_come_from_ecr_by_the_instances_role(look: Look) -> None:
    """Logins to ECR last twelve hours: one that is baked is over when the AMI is used."""
    become = "setpriv --reuid=adf-agent --regid=adf-agent --clear-groups"
    assert json.loads(look(f"{become} cat /etc/adf-agent/docker/config.json")) == {"credsStore": "ecr-login"}
    assert "not found" in look("echo registry.example | docker-credential-ecr-login get || true")


def test_nothing_that_must_be_an_instances_own_is_in_the_image(look: Look) -> None:
    """Hosts that share a key or a machine id; or cloud-init, which takes a new instance for the old one rebooted."""
    kept = look("cd / && find " + " ".join(OF_ITS_OWN) + " /tmp -type f -printf '%p %s\\n' 2>/dev/null || true")
    assert kept.splitlines() == ["etc/machine-id 0", "var/log/syslog 0"]


@pytest.mark.parametrize(
    ("sabotage", "claim"),
    [
        ("rm /usr/bin/adf-agent", "the agent runs"),
        ("systemctl disable adf-agent", "its unit is enabled"),
        ("gpasswd --delete adf-agent docker", "it may use Docker"),
        ("mkdir -p /var/lib/adf-agent; touch /var/lib/adf-agent/state.json", "it has no state"),
        ("chmod 700 /etc/adf-agent/docker", "it can read Docker's logins"),
        ("rm /usr/bin/docker-credential-ecr-login", "logins to ECR can be had"),
        ("systemctl disable docker", "Docker is enabled"),
        ("echo '{,' >/etc/docker/daemon.json", "Docker's configuration is JSON"),
        ("rm /usr/bin/docker", "Docker builds with BuildKit"),
        ("mkdir -p /var/lib/docker; touch /var/lib/docker/engine-id", "Docker has no id"),
        ("systemd-machine-id-setup", "the machine has no id"),
        ("touch /etc/ssh/ssh_host_rsa_key", "the host has no keys"),
        ("mkdir -p /home/admin/.ssh; touch /home/admin/.ssh/authorized_keys", "nobody has a key"),
        ("mkdir -p /var/lib/cloud/instance", "cloud-init has not run"),
    ],
)
def test_a_bake_that_went_wrong_fails(sabotage: str, claim: str, look: Look) -> None:
    """An AMI that boots no release is baked, and rolled out."""
    said = look(f"({sabotage}) >/dev/null 2>&1; bash /packer/check.sh; echo $?").splitlines()
    assert [line for line in said if line.startswith("✗")] == [f"✗ {claim}"]
    assert said[-1] == "1"


def test_a_distribution_that_is_not_known_is_refused(stock: str, docker_client: docker.DockerClient) -> None:
    """Half of an installation looks like a whole one until an instance boots from it."""
    line = "echo 'ID=arch PRETTY_NAME=Arch' >/etc/os-release; bash /packer/install.sh"
    with pytest.raises(ContainerError, match="Arch is not known here"):
        run(docker_client, stock, line)
