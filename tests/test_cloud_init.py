"""Under cloud-init, in a box: it has the user-data from its disk, the agent the same from instance metadata."""

import hashlib
import re
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from pathlib import Path

import pytest
from box import Instance
from fixtures_box import busy_apt

USER_DATA = Path(__file__).parent.parent / "packaging/cloud-init/user-data.yaml"
NO_MIRRORS = 'Dir::Etc { sourcelist "/dev/null"; sourceparts "/dev/null"; };'
# What would take a network that a box does not have, or seconds that say nothing about the agent.
QUICK = """\
datasource_list: [NoCloud]
network: {config: disabled}
locale: false
"""


def launch(box: Instance, user_data: bytes) -> None:
    """Boots the box for the first time, with *user_data* from both places."""
    box.cloud.imds.instance.user_data = user_data
    box.disk.write("var/lib/cloud/seed/nocloud/user-data", user_data)
    box.disk.write("var/lib/cloud/seed/nocloud/meta-data", "instance-id: i-0123456789abcdef0\n")
    box.disk.write("etc/cloud/cloud.cfg.d/99-quick.cfg", QUICK)
    (box.disk.root / "etc/cloud/cloud-init.disabled").unlink()
    box.boot()


def cloud_init(box: Instance) -> str:
    """How far it is: done once its last stage has ended."""
    return box.run("cloud-init", "status", check=False).stdout.strip().removeprefix("status: ")


def mime(script: str, settings: str) -> bytes:
    """A script and a #cloud-config, as `cloud-init devel make-mime` puts them together."""
    whole = MIMEMultipart()
    whole.attach(MIMEText(script, "x-shellscript"))
    whole.attach(MIMEText(f"#cloud-config\n{settings}", "cloud-config"))
    return whole.as_bytes()


@pytest.mark.parametrize("baked", [True, False], ids=["enabled in the image", "enable --now in the script"])
def test_a_script_that_waits_for_the_agent_and_settings_beside_it_both_do_their_part(
    box: Instance, baked: bool
) -> None:
    """The agent waits for the end of cloud-init, and a script of cloud-init's for the agent: nobody ever comes up."""
    start = "" if baked else "systemctl enable --now adf-agent"
    if not baked:
        (box.disk.root / "etc/systemd/system/multi-user.target.wants/adf-agent.service").unlink()
    script = f"#!/bin/sh\nset -e\n{start}\nadf-agent status --wait --json >/srv/as-the-script-saw-it\n"
    settings = (
        f"runcmd: [[touch, /srv/by-cloud-config]]\nadf:\n  RELEASE_URL: {box.release()}\n  ADF_PUBLISH: 8080:8000\n"
    )
    launch(box, mime(script, settings))
    box.until(lambda: cloud_init(box) == "done", "cloud-init is done")
    assert box.status()["phase"] == "in service"
    assert '"phase": "in service"' in box.run("cat", "/srv/as-the-script-saw-it").stdout
    box.run("test", "-e", "/srv/by-cloud-config")
    assert box.run("systemctl", "is-system-running", "--wait", check=False).stdout.split() == ["running"]


@pytest.fixture
def stock_user_data(bare_box: Instance, deb: Path) -> bytes:
    """The file of the repository, with a package and a release that are in the box in place of its examples."""
    bare_box.disk.write("srv/adf-agent.deb", deb.read_bytes())
    bare_box.disk.write("etc/apt/apt.conf.d/99-no-mirrors", NO_MIRRORS)
    text = USER_DATA.read_text()
    for example, real in (
        ("https://example.com/adf-agent_all.deb", "file:///srv/adf-agent.deb"),
        ("0" * 64, hashlib.sha256(deb.read_bytes()).hexdigest()),
        ("https://github.com/example/web/releases/download/v43/web.tar.gz", bare_box.release()),
        ("  ADF_APP: web-production\n", ""),
        (" 80:8000", " 8080:8000"),  # 80 is the metadata service's here
    ):
        assert text.count(example) == 1
        text = text.replace(example, real)
    return text.encode()


def test_a_stock_image_installs_the_agent_and_boots_the_release(bare_box: Instance, stock_user_data: bytes) -> None:
    """The documented way in without baking leads nowhere; or it ends in a launch that waits for itself."""
    said = bare_box.disk.root / "var/log/cloud-init-output.log"
    with busy_apt(bare_box):
        launch(bare_box, stock_user_data)
        bare_box.until(lambda: said.exists() and "Could not get lock" in said.read_text(), "apt's lock is met")
    bare_box.until(lambda: cloud_init(bare_box) == "done", "cloud-init is done")
    bare_box.reach("in service")
    assert bare_box.run("systemctl", "is-enabled", "adf-agent").stdout.split() == ["enabled"]


def test_a_package_that_is_not_the_one_meant_is_not_installed(bare_box: Instance, stock_user_data: bytes) -> None:
    """Whoever can change what lies at a URL is root on every instance."""
    launch(bare_box, re.sub(rb"sha256=\w{64}", b"sha256=" + b"1" * 64, stock_user_data))
    bare_box.until(lambda: cloud_init(bare_box) == "error", "cloud-init gave up")
    assert bare_box.run("sh", "-c", "command -v adf-agent", check=False).returncode
