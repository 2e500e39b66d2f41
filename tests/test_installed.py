"""The package on a machine that lives on: what upgrades do to an agent at work, and what a purge leaves."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from box import Instance
from layer import Layer

OTHERS = (  # change by what others do meanwhile
    "/proc",
    "/sys",
    "/dev",
    "/tmp",
    "/srv",
    "/var/cache",
    "/var/lib/docker",
    "/var/lib/containerd",
    "/var/lib/dpkg",
    "/var/log",
)
REPOSITORY = Path(__file__).parents[1]
BY_PIP = "/opt/adf-agent/bin/adf-agent"
NEEDRESTART = "etc/needrestart/conf.d/adf-agent.conf"
# As needrestart goes by it: the file is Perl, and a unit that matches a pattern with 0 is left alone.
OVERRIDDEN = """
our %nrconf = (override_rc => {});
eval do { local (@ARGV, $/) = shift; <> };
die $@ if $@;
for my $unit (@ARGV) {
    my ($rule) = grep { $unit =~ /$_/ } keys %{$nrconf{override_rc}};
    print "$unit\\n" if defined $rule && !$nrconf{override_rc}{$rule};
}
"""


def files(box: Instance) -> set[str]:
    """Every path of the box that the package may leave something at."""
    others = " -o ".join(f"-path {folder}" for folder in OTHERS)
    return set(box.run("sh", "-c", f"find / \\( {others} \\) -prune -o -print").stdout.splitlines())


@pytest.fixture(scope="session")
def newer(deb: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The package again, as version 99."""
    folder = tmp_path_factory.mktemp("newer")
    tree, package = folder / "tree", folder / "newer.deb"
    subprocess.run(["dpkg-deb", "--raw-extract", deb, tree], check=True)
    control, module = tree / "DEBIAN/control", tree / "usr/lib/adf-agent/adf_agent/__init__.py"
    version = control.read_text().partition("\nVersion: ")[2].partition("\n")[0]
    for file in (control, module):
        file.write_text(file.read_text().replace(version, "99.0"))
    for compiled in module.parent.glob("__pycache__/__init__.*"):
        compiled.unlink()
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-Zgzip", "--build", tree, package], check=True, capture_output=True
    )
    yield package
    shutil.rmtree(folder)


def test_an_upgrade_waits_for_the_next_start_and_a_purge_leaves_nothing(
    bare_box: Instance, deb: Path, newer: Path
) -> None:
    """An unattended upgrade that takes a fleet down at once, or an agent that can't be got rid of."""
    box = bare_box
    box.boot()
    box.run("systemctl", "is-system-running", "--wait")
    before = files(box)
    box.install(deb)
    box.user_data(RELEASE_URL=box.release())
    box.run("systemctl", "start", "adf-agent")
    first = box.reach("in service")
    served = box.life()
    box.install(newer)
    assert box.unit("MainPID") == str(first["agent"]["pid"])
    assert box.life() == served
    box.run("systemctl", "restart", "adf-agent")
    assert box.events("drain.finished")
    assert box.reach("in service")["version"] == "99.0"
    box.run("dpkg", "--remove", "adf-agent")
    assert len(box.events("drain.finished")) == 2
    assert box.containers() == []
    assert box.unit("LoadState") == "not-found"
    box.run("dpkg", "--purge", "adf-agent")
    assert box.run("docker", "images", "--quiet").stdout == ""
    assert box.run("getent", "passwd", "adf-agent", check=False).returncode == 2
    left = {path for path in files(box) - before if not path.startswith("/run/") or "adf" in path}
    assert sorted(left) == []


def test_an_upgrade_of_a_library_restarts_nothing(unpacked: Path, deb: Path, rpm: Path) -> None:
    """Ubuntu's nightly upgrades: whatever has an old library loaded is restarted, and a fleet drains at once."""
    units = ("adf-agent.service", "docker.service", "adf-agent.service.bak", "x-adf-agent.service")
    command = ["perl", "-we", OVERRIDDEN, str(unpacked / NEEDRESTART), *units]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout.split(), done.stderr) == (["adf-agent.service"], "")
    conffiles = subprocess.run(["dpkg-deb", "--info", deb, "conffiles"], capture_output=True, text=True, check=True)
    assert conffiles.stdout.split() == ["/etc/adf-agent/agent.env", f"/{NEEDRESTART}"]
    listed = subprocess.run(["rpm", "-qpl", rpm], capture_output=True, text=True, check=True)
    assert "needrestart" not in listed.stdout


def test_the_way_without_a_package_ends_with_a_unit_that_runs_it(box_base: Path) -> None:
    """Who installs by pip has a unit of a command that is not there, no user for it, or one that no boot starts."""
    documented = (REPOSITORY / "docs/ami.md").read_text().partition("## Without a package")[2]
    commands = documented.partition("```sh\n")[2].partition("```")[0].splitlines(keepends=True)
    assert "pip install adf-agent" in commands.pop(0)  # from wherever pip has it
    with Layer(box_base) as layer:
        layer.write(BY_PIP.lstrip("/"), "#!/bin/sh\n")
        (layer.root / BY_PIP.lstrip("/")).chmod(0o755)
        for name in ("packaging", "systemd"):
            shutil.copytree(REPOSITORY / name, layer.root / name)

        def run(line: str) -> str:
            command = ["chroot", str(layer.root), "bash", "-euc", line]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
            return done.stdout + done.stderr

        run("".join(commands))
        assert run("systemctl is-enabled adf-agent; id -nG adf-agent").split() == ["enabled", "adf-agent", "docker"]
        assert run("systemd-analyze verify adf-agent.service; adf-agent") == ""
        unit = run("systemd-analyze cat-config systemd/system/adf-agent.service")
    started = [line.partition("=")[2] for line in unit.splitlines() if line.startswith("ExecStart=")]
    assert started[-2:] == ["", f"{BY_PIP} run"]
