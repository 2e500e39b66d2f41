import os
import resource
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from conftest import Unprivileged

from adf_agent.build import Output
from adf_agent.errors import AgentError
from adf_agent.root import Root
from adf_agent.state import Ledger, State, load, only_agent, prepare, save, write

FULL = State(
    instance_id="i-0abc",
    boot_id="this",
    url_digest="a" * 64,
    release_digest="b" * 64,
    manifest="[health]\ninterval = 1\n",
    image="adf/release:b",
    container_id="c" * 64,
    in_service=True,
    last_good="adf/release:a",
    images=("adf/release:a", "adf/release:b"),
)


@pytest.fixture
def root(tmp_path: Path) -> Root:
    place = Root(tmp_path)
    prepare(place)
    return place


@contextmanager
def masked(umask: int) -> Iterator[None]:
    former = os.umask(umask)
    try:
        yield
    finally:
        os.umask(former)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777])
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644])
def test_a_file_has_its_mode_whatever_the_umask(tmp_path: Path, umask: int, mode: int) -> None:
    """A status that nobody may read on a hardened machine; a config that everybody may on a careless one."""
    path = tmp_path / "file"
    path.write_bytes(b"former")
    path.chmod(0o666)
    with masked(umask):
        write(path, b"new", mode, durable=True)
    assert path.stat().st_mode & 0o777 == mode
    assert path.read_bytes() == b"new"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_other_users_may_enter_the_folders_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    """`adf-agent status` that needs root on a machine whose users have a umask of 077."""
    place = Root(tmp_path)
    for folder in (place.var, place.run):
        folder.parent.mkdir(parents=True)
    with masked(umask):
        prepare(place)
    assert [folder.stat().st_mode & 0o777 for folder in (place.var, place.run)] == [0o755, 0o755]


def test_what_root_writes_belongs_to_the_folders_owner(tmp_path: Path, unprivileged: Unprivileged) -> None:
    """A `sudo adf-agent boot` whose state the unit's user can't read: at the next start all is done over again."""
    os.chown(tmp_path, unprivileged.folder.stat().st_uid, -1)
    write(tmp_path / "file", b"", 0o600)
    Output(tmp_path / "build.log").close()
    assert {path.stat().st_uid for path in tmp_path.iterdir()} == {tmp_path.stat().st_uid}
    assert tmp_path.stat().st_uid != os.geteuid()


def test_a_reader_finds_the_former_bytes_or_the_new_ones(tmp_path: Path) -> None:
    """`adf-agent status` that now and then fails on half a record."""
    path = tmp_path / "file"
    contents = [bytes([letter]) * 100_000 for letter in b"ab"]
    write(path, contents[0], 0o644)

    def replace() -> None:
        for turn in range(200):
            write(path, contents[turn % 2], 0o644)

    writer = threading.Thread(target=replace)
    writer.start()
    seen = set()
    while writer.is_alive():
        seen.add(path.read_bytes())
    assert seen <= set(contents)


def test_a_full_disk_leaves_the_former_file(tmp_path: Path) -> None:
    """A state that is lost, and an image that is built anew, because a log filled the disk."""
    path = tmp_path / "file"
    write(path, b"former", 0o600)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8, hard))  # as a full disk: a write beyond it fails
    try:
        with pytest.raises(AgentError, match="large"):
            write(path, b"longer than eight bytes", 0o600)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == b"former"


def test_a_link_laid_in_the_way_is_not_followed(tmp_path: Path) -> None:
    """Another user of a shared folder who has the agent overwrite a file of its choice."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / ".file.part").symlink_to(victim)
    with pytest.raises(AgentError, match="symbolic links"):
        write(tmp_path / "file", b"x", 0o644)
    assert victim.read_bytes() == b"precious"


def test_state_comes_back_as_it_was_saved_for_this_user_alone(root: Root) -> None:
    """A restart that builds anew what it has; an adf.toml shown to every user."""
    save(root, FULL)
    assert load(root) == FULL
    assert (root.var / "state.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b'{"instance_id": "i-0', id="torn"),
        pytest.param(b"\0" * 4096, id="zeros, as after a power cut"),
        pytest.param(b"\xff\xfe", id="no text"),
        pytest.param(b"null", id="null"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b"{}", id="no field"),
        pytest.param(b'{"images": null}', id="null for a list"),
        pytest.param(b'{"images": [], "signature": "x"}', id="a newer version's field"),
    ],
)
def test_a_state_that_cannot_be_read_is_the_empty_one(root: Root, content: bytes) -> None:
    """An instance that never boots again because of a file that costs no more than a build."""
    (root.var / "state.json").write_bytes(content)
    assert load(root) == State()
    Ledger(root).note(instance_id="i-1")
    assert load(root) == State(instance_id="i-1")


def test_a_ledger_has_each_change_on_disk_at_once(root: Root) -> None:
    """A container or an image that nobody knows of after a crash."""
    ledger = Ledger(root)
    assert ledger.state == State()
    for image in ("adf/release:a", "adf/release:b", "adf/release:a"):
        ledger.keep(image)
        assert load(root) == ledger.state
    assert (ledger.state.image, ledger.state.images) == ("adf/release:a", ("adf/release:a", "adf/release:b"))
    ledger.note(container_id="c1", in_service=True)
    again = Ledger(root)
    assert again.state == ledger.state
    again.note(instance_id="i-0")
    assert again.belong("i-0")
    assert again.state.in_service
    assert not again.belong("i-1")
    kept = State(instance_id="i-1", container_id="c1", images=("adf/release:a", "adf/release:b"))
    assert load(root) == kept, "nothing of the former instance but what has to be removed"


def test_a_new_boot_of_the_machine_ends_what_was_true_of_the_former(root: Root) -> None:
    """A drained mark, or a service, of before the reboot that keeps the app from its boot."""
    ledger = Ledger(root)
    ledger.begin()
    ledger.note(in_service=True, standing="drained", tags="{}", image="adf/release:a", given_up="x")
    Ledger(root).begin()
    assert load(root) == ledger.state, "the same boot: an agent that was restarted"
    former = ledger.state.boots
    ledger.note(boot_id="former")
    ledger.begin()
    now = ledger.state
    assert (now.in_service, now.standing, now.tags) == (False, "", "")
    assert now.boots > former, "though it was in the same second"
    assert (now.image, now.given_up) == ("adf/release:a", "x"), "true for good"


def boot(root: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "adf_agent", "boot"],
        env={**os.environ, "ADF_ROOT": str(root), "AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://127.0.0.1:9"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_a_second_agent_ends_with_a_sentence_and_leaves_the_first_alone(root: Root, tmp_path: Path) -> None:
    """A boot by hand beside the service's, each removing the other's container."""
    root.status.write_text("the first one's")
    with only_agent(root):
        second = boot(tmp_path)
    assert (second.returncode, second.stderr.count("\n")) == (1, 2), second.stderr
    assert "another adf-agent is running" in second.stderr
    assert root.status.read_text() == "the first one's"
    with only_agent(root):
        pass  # the lock goes with its holder


def test_the_lock_of_another_user_can_be_held(unprivileged: Unprivileged) -> None:
    """A boot by hand as root, once, after which the service of user adf-agent never starts again."""
    place = Root(unprivileged.folder)
    for folder in (place.run, place.var):
        folder.mkdir(parents=True)
        folder.chmod(0o777)
    (place.run / "lock").touch()
    (place.run / "lock").chmod(0o444)
    hold = (
        "import pathlib, sys\nfrom adf_agent import root, state\n"
        "with state.only_agent(root.Root(pathlib.Path(sys.argv[1]))):\n print('held', flush=True)\n sys.stdin.read()"
    )
    process = unprivileged("-c", hold, str(unprivileged.folder))
    out, log = process.communicate(timeout=60)
    assert out == "held\n", log


def test_the_lock_is_not_held_by_what_the_agent_starts(root: Root) -> None:
    """An agent that can't be started again because a docker command of the former one still runs."""
    with only_agent(root), subprocess.Popen(["sleep", "60"], close_fds=False) as child:
        names = []
        for each in Path(f"/proc/{child.pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # subprocess's own, until the child is another program
                names.append(str(each.readlink()))
        child.kill()
    assert str(root.run / "lock") not in names


def denied(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o555)


def occupied(folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.touch()


@pytest.mark.parametrize(
    ("spoil", "name"),
    [
        (denied, "var/lib/adf-agent"),
        (denied, "var/lib"),
        (denied, "run/adf-agent"),
        (occupied, "var/lib/adf-agent"),
        (occupied, "run"),
    ],
)
def test_folders_that_cannot_be_written_are_said_in_a_sentence(
    unprivileged: Unprivileged, spoil: Callable[[Path], None], name: str
) -> None:
    """A traceback for whoever tries the agent by hand, without root."""
    (unprivileged.folder / "var").mkdir()
    (unprivileged.folder / "var").chmod(0o777)
    spoil(unprivileged.folder / name)
    process = unprivileged("-m", "adf_agent", "boot", env={"ADF_ROOT": str(unprivileged.folder)})
    _, log = process.communicate(timeout=60)
    assert process.returncode == 1, log
    assert "can't be written" in log
    assert "ADF_ROOT" in log, "what to do next"
    assert "Traceback" not in log
