"""adf-release create delivers to a folder or S3: whole, checked, never over other bytes, and it can be stopped."""

import errno
import gzip
import hashlib
import os
import pty
import signal
import socket
import threading
import time
import tracemalloc
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from fixtures_operator import environment as credentials
from fixtures_repository import Clone

from adf_agent.deadline import Deadline
from adf_agent.errors import TRY_AGAIN, ReleaseError, Stopped
from adf_agent.location import parse
from adf_agent.ops.release import package
from adf_agent.ops.release.delivery import S3, S3_BYTES, Folder, deliver
from adf_agent.ops.release.package import File
from adf_agent.sandbox.cloud import Cloud
from adf_agent.sandbox.front import AwsFault


def within(seconds: float = 20) -> Deadline:
    return Deadline(seconds, threading.Event())


def test_memory_stays_flat_with_the_size(tmp_path: Path) -> None:
    """A build server's job killed at the first large release."""
    path = tmp_path / "v1.tar.gz"
    chunk = os.urandom(1 << 10) * (1 << 10)
    tracemalloc.start()
    try:
        package.tarball((chunk for _ in range(100)), path)
        with File.of(path, "application/gzip").open(lambda _: None) as file:
            assert file.readable()
        assert Folder(str(tmp_path / "out")).put(File.of(path, "application/gzip"), lambda _: None, within())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10 << 20
    with gzip.open(path) as file:
        assert file.read(1 << 20) == chunk


# Never over other bytes


@pytest.fixture(scope="module")
def aws() -> Iterator[Cloud]:
    """One AWS for this file, and an operator's environment."""
    with Cloud() as cloud, pytest.MonkeyPatch.context() as patch:
        for name, value in credentials(cloud).items():
            patch.setenv(name, value)
        patch.delenv("AWS_PROFILE", raising=False)
        patch.delenv("AWS_REGION", raising=False)
        yield cloud


@pytest.fixture
def bucket(aws: Cloud) -> Any:
    """The client of that AWS, with an empty bucket."""
    aws.reset()
    aws.faults = []
    client = aws.client("s3")
    client.create_bucket(Bucket="releases", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    return client


@dataclass(frozen=True)
class Shelf:
    """Where releases are put, and how a test looks and writes there."""

    to: str
    read: Callable[[str], bytes]
    write: Callable[[str, bytes], object]


@pytest.fixture(params=["folder", "s3"])
def shelf(request: pytest.FixtureRequest, tmp_path: Path) -> Shelf:
    if request.param == "folder":
        folder = tmp_path / "shelf"
        folder.mkdir()
        return Shelf(
            str(folder), lambda name: (folder / name).read_bytes(), lambda name, data: (folder / name).write_bytes(data)
        )
    client = request.getfixturevalue("bucket")
    at: Callable[[str], dict[str, str]] = lambda name: {"Bucket": "releases", "Key": f"web/a b/{name}"}  # noqa: E731
    return Shelf(
        "s3://releases/web/a b/",
        lambda name: client.get_object(**at(name))["Body"].read(),
        lambda name, data: client.put_object(Body=data, **at(name)),
    )


def test_the_same_release_may_be_delivered_twice(
    clone: Clone, shelf: Shelf, capsys: pytest.CaptureFixture[str]
) -> None:
    """A CI job that can't be run again."""
    url = clone.create(shelf.to, name="v1")
    tarball, note = shelf.read("v1.tar.gz"), shelf.read("v1.release.json")
    assert hashlib.sha256(tarball).hexdigest() == parse(url).sha256
    assert "already there" not in capsys.readouterr().err
    assert clone.create(shelf.to, name="v1") == url
    said = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in said if "already there: " in line] == ["v1.tar.gz", "v1.release.json"]
    assert (shelf.read("v1.tar.gz"), shelf.read("v1.release.json")) == (tarball, note)


@pytest.mark.parametrize("name", ["v1.tar.gz", "v1.release.json"])
def test_other_bytes_are_never_overwritten(clone: Clone, shelf: Shelf, name: str) -> None:
    """A release that changes under a fleet that boots it."""
    shelf.write(name, b"somebody's")
    with pytest.raises(ReleaseError, match=r"is there already, and holds other bytes") as caught:
        clone.create(shelf.to, name="v1")
    assert name in caught.value.sentence
    assert "--name" in caught.value.hint
    assert shelf.read(name) == b"somebody's"


def test_a_folder_that_can_not_be_written_is_said(clone: Clone, tmp_path: Path) -> None:
    """A traceback for a full disk, or a folder that is a file."""
    (tmp_path / "out").write_text("")
    with pytest.raises(ReleaseError, match=r"can't be written to .*/out: File exists") as caught:
        clone.create(tmp_path / "out")
    assert caught.value.cause == "host"


@pytest.fixture
def linkless(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """File systems have no hard links, as FAT has none; how often one was asked for."""
    asked: list[int] = []

    def link(*_: object) -> None:
        asked.append(1)
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    return asked


@pytest.mark.parametrize(("there", "new"), [(None, True), (b"bytes", False), (b"other", "holds other bytes")])
def test_a_folder_without_hard_links_will_do(
    linkless: list[int], tmp_path: Path, there: bytes | None, new: object
) -> None:
    """No release on a memory stick or a mounted bucket; a release there that is overwritten."""
    path, out = tmp_path / "v1.tar.gz", tmp_path / "out"
    path.write_bytes(b"bytes")
    out.mkdir()
    if there is not None:
        (out / "v1.tar.gz").write_bytes(there)
    said: object
    try:
        said = Folder(str(out)).put(File.of(path, ""), lambda _: None, within())
    except ReleaseError as error:
        said = error.sentence.rpartition("and ")[2]
    assert (said, linkless) == (new, [1])
    assert [found.read_bytes() for found in out.iterdir()] == [there or b"bytes"]


def test_half_a_copy_is_taken_away_again(linkless: list[int], tmp_path: Path) -> None:
    """Half a release under its name, which no later try may replace."""
    path, stop = tmp_path / "v1.tar.gz", threading.Event()
    path.write_bytes(b"bytes")
    with pytest.raises(Stopped):
        Folder(str(tmp_path / "out")).put(
            File.of(path, ""), lambda _: stop.set() if linkless else None, Deadline(20, stop)
        )
    assert list((tmp_path / "out").iterdir()) == []


# S3


def at_s3(client: Any, tmp_path: Path, **changes: Any) -> Callable[[Deadline], bool]:
    """Puts a file of this name once more."""
    path = tmp_path / "v1.tar.gz"
    path.write_bytes(b"bytes")
    file = replace(File.of(path, "application/gzip"), **changes)
    return lambda deadline: S3.parse("s3://releases", lambda: client).put(file, lambda _: None, deadline)


def test_the_store_is_told_what_the_bytes_must_be(clone: Clone, bucket: Any) -> None:
    """A release broken on its way, found by the first instance."""
    url = clone.create("s3://releases/web", name="v1")
    assert url.startswith("s3://releases/web/v1.tar.gz#")
    for name, kind in (("v1.tar.gz", "application/gzip"), ("v1.release.json", "application/json")):
        answer = bucket.get_object(Bucket="releases", Key=f"web/{name}", ChecksumMode="ENABLED")
        digest = hashlib.sha256(answer["Body"].read()).digest()
        assert (answer["ChecksumSHA256"], answer["ContentType"]) == (b64encode(digest).decode(), kind)


@pytest.mark.usefixtures("bucket")
def test_a_stalled_uplink_has_a_minute(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    """An upload that breaks off at each hiccup of five seconds, as what is for connecting is for sending too."""
    patience: set[float | None] = set()
    send: Callable[..., None] = socket.socket.sendall

    def sendall(self: socket.socket, *data: Any) -> None:
        patience.add(self.gettimeout())
        send(self, *data)

    monkeypatch.setattr(socket.socket, "sendall", sendall)
    clone.create("s3://releases")
    assert patience - {None} == {60}  # None is the store's own


def test_the_checksum_goes_before_the_bytes(bucket: Any, tmp_path: Path) -> None:
    """A checksum that is made of what was read for the upload, broken or not, not of the digest in RELEASE_URL."""
    sent: list[dict[str, bytes]] = []

    def note(request: Any, **_: object) -> None:
        sent.append({name.lower(): text for name, text in request.headers.items()})

    bucket.meta.events.register("before-send.s3.PutObject", note)
    try:
        assert at_s3(bucket, tmp_path, digest="00" * 32)(within())
    finally:
        bucket.meta.events.unregister("before-send.s3.PutObject", note)
    assert [headers["x-amz-checksum-sha256"] for headers in sent] == [b64encode(bytes(32))]  # moto looks at none
    assert "x-amz-trailer" not in sent[0]


def test_the_same_bytes_by_another_tool_are_the_same(bucket: Any, aws: Cloud, tmp_path: Path) -> None:
    """A release refused as `aws s3 cp` made another checksum; or taken though no one looked at its bytes."""
    bucket.put_object(Bucket="releases", Key="v1.tar.gz", Body=b"bytes")
    assert at_s3(bucket, tmp_path)(within()) is False
    bucket.put_object(Bucket="releases", Key="v1.tar.gz", Body=b"bytes", ChecksumAlgorithm="SHA256")
    before = aws.calls["s3:GET"]
    assert at_s3(bucket, tmp_path)(within()) is False
    assert aws.calls["s3:GET"] == before  # its checksum is enough


@pytest.mark.parametrize(("code", "times"), [("ConditionalRequestConflict", 1), ("BadDigest", 1), ("SlowDown", 3)])
def test_a_fault_that_passes_is_waited_for(bucket: Any, aws: Cloud, tmp_path: Path, code: str, times: int) -> None:
    """A release that is not there, as two jobs made it at once."""
    aws.faults = [AwsFault("s3:PUT", code, 409, times=times)]
    assert at_s3(bucket, tmp_path)(within())
    assert bucket.get_object(Bucket="releases", Key="v1.tar.gz")["Body"].read() == b"bytes"


def test_what_stays_is_to_be_tried_again(bucket: Any, aws: Cloud, tmp_path: Path) -> None:
    """Exit 12 for what would have passed: a CI job that gives up."""
    aws.faults = [AwsFault("s3:PUT", "ConditionalRequestConflict", 409)]
    with pytest.raises(ReleaseError, match=r"s3:PutObject on releases/v1.tar.gz failed: ConditionalReq") as caught:
        at_s3(bucket, tmp_path)(within(0.5))
    assert caught.value.exit_code == TRY_AGAIN


@pytest.mark.parametrize(("call", "action"), [("s3:PUT", "s3:PutObject"), ("s3:HEAD", "s3:GetObject")])
def test_a_denied_action_is_named(bucket: Any, aws: Cloud, tmp_path: Path, call: str, action: str) -> None:
    """AccessDenied with no word of what to allow."""
    bucket.put_object(Bucket="releases", Key="v1.tar.gz", Body=b"bytes")
    aws.faults = [AwsFault(call, "AccessDenied", 403)]
    with pytest.raises(ReleaseError, match=f"{action} on releases/v1.tar.gz is denied") as caught:
        at_s3(bucket, tmp_path)(within())
    assert action in caught.value.hint


def test_what_s3_can_not_take_is_said(clone: Clone, bucket: Any, tmp_path: Path) -> None:
    """Five gigabytes sent to be refused; a bucket's name mistyped and retried for a quarter of an hour."""
    with pytest.raises(ReleaseError, match=r"5368\.7 MB in one piece"):
        at_s3(bucket, tmp_path, size=S3_BYTES + 1)(within())
    with pytest.raises(ReleaseError, match="there is no bucket named nobodys") as caught:
        clone.create("s3://nobodys")
    assert "--to" in caught.value.hint
    assert not caught.value.transient


# Stopped, and seen


@pytest.mark.parametrize("to", ["s3://releases", "../out"])
@pytest.mark.usefixtures("bucket")
def test_a_stop_in_the_middle_leaves_nothing(clone: Clone, aws: Cloud, tmp_path: Path, to: str) -> None:
    """Ctrl-C that is heard when the upload is over, and gigabytes left in /tmp."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    if to == "../out":
        clone.block()
    aws.faults = [AwsFault("s3:PUT", "SlowDown", 503, seconds=60)]
    before = aws.calls["s3:PUT"]

    def begun() -> bool:
        return any(scratch.glob("*/*.tar.gz")) if to == "../out" else aws.calls["s3:PUT"] > before

    with clone.start("--to", to, "--allow-dirty", environment={"TMPDIR": str(scratch)}) as process:
        end = time.monotonic() + 20
        while not begun() and time.monotonic() < end:
            time.sleep(0.02)
        assert begun()
        asked = time.monotonic()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
        assert time.monotonic() - asked < 10
    assert (process.returncode, out, err) == (130, "", "adf-release: stopped\n")
    assert list(scratch.iterdir()) == []
    assert not (tmp_path / "out").exists()


def test_a_stop_is_heard_between_two_pieces(tmp_path: Path) -> None:
    """A copy to a slow disk that can't be ended."""
    stop = threading.Event()
    path = tmp_path / "v1.tar.gz"
    path.write_bytes(b"bytes")
    with pytest.raises(Stopped):
        Folder(str(tmp_path / "out")).put(File.of(path, ""), lambda _: stop.set(), Deadline(20, stop))
    assert list((tmp_path / "out").iterdir()) == []


def test_an_upload_that_hangs_ends_at_the_deadline(bucket: Any, aws: Cloud, tmp_path: Path) -> None:
    """A CI job that takes its six hours."""
    aws.faults = [AwsFault("s3:PUT", "SlowDown", 503, seconds=60)]
    with pytest.raises(ReleaseError, match="not finished in time") as caught:
        at_s3(bucket, tmp_path)(within(0.3))
    assert caught.value.exit_code == TRY_AGAIN


def test_a_terminal_sees_the_upload_proceed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten minutes of a black screen, and Ctrl-C."""
    path = tmp_path / "v1.tar.gz"
    path.write_bytes(bytes(3 << 20))
    leader, follower = pty.openpty()
    with open(follower, "w") as terminal, open(leader, "rb", buffering=0) as screen:  # noqa: PTH123
        monkeypatch.setattr("sys.stderr", terminal)
        monkeypatch.setenv("TERM", "xterm")
        deliver(Folder(str(tmp_path / "out")), File.of(path, "application/gzip"), within())
        seen = ""
        while "/out/v1.tar.gz" not in seen:
            seen += screen.read(1 << 16).decode(errors="replace")
    assert "3.1/3.1 MB" in seen
    assert f"v1.tar.gz: 3.1 MB, sha256 {File.of(path, '').digest[:12]}, to file://{tmp_path}/out/v1.tar.gz" in seen
