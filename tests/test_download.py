"""A release comes whole or not at all: through resumption, redirects, GitHub's API and every kind of broken server."""

import errno
import gzip
import hashlib
import os
import resource
import subprocess
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import boto3
import pytest
import requests
from fixtures_agent import app, tarball
from fixtures_web import plain, surfer
from web import Answer, Asked, Web

from adf_agent import archive, download, release, store
from adf_agent.background import Task
from adf_agent.deadline import Deadline
from adf_agent.download import Body, Fetched, Source, fetch
from adf_agent.errors import ReleaseError, Stopped
from adf_agent.location import parse
from adf_agent.notation import Limits
from adf_agent.sandbox.cloud import Cloud
from adf_agent.web import Web as WebSource

OLD, NEW = (hashlib.sha256(seed).digest() * 100 for seed in (b"old", b"new"))  # 3,200 bytes each
CUT = 1000
PIN = f"#sha256={'0' * 64}"  # whether it is the digest's is asked by obtain, not by fetch
SECRET = "hunter2"
SILENCE_SECONDS = 30.0  # how long a server that hangs does so, where nobody hangs up


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "release.tar"


def on_web(url: str) -> WebSource:
    return WebSource(parse(url + PIN), None, plain())


def within(seconds: float, stop: threading.Event | None = None) -> Deadline:
    return Deadline(seconds, stop or threading.Event())


def take(source: Source) -> bytes:
    """The bytes at one attempt."""
    return b"".join(source.open(0, "").chunks)


def whole(data: bytes) -> Fetched:
    return Fetched(hashlib.sha256(data).hexdigest(), len(data), ())


# Resumption


def rest(data: bytes, begin: int, cut: int | None = None, **headers: str) -> Answer:
    """206 with *data* from *begin* on; underscores in the names of *headers* are hyphens."""
    ranged = {"Content_Range": f"bytes {begin}-{len(data) - 1}/{len(data)}", "ETag": '"1"', **headers}
    return Answer(206, data[begin:], {name.replace("_", "-"): text for name, text in ranged.items()}, cut)


@dataclass(frozen=True)
class Resumption:
    """After OLD with *etag* broke off at CUT, the server says *answers*; *ranges* are what it is asked for in all."""

    name: str
    etag: str | None
    answers: tuple[Answer, ...]
    ranges: tuple[str | None, ...]
    data: bytes = OLD


AFTER_CUT = f"bytes={CUT}-"
AGAIN = Answer(200, NEW, {"ETag": '"2"'})
RESUMPTIONS = [
    Resumption("the same object", '"1"', (rest(OLD, CUT),), (None, AFTER_CUT)),
    Resumption("breaks off twice", '"1"', (rest(OLD, CUT, 500), rest(OLD, 1500)), (None, AFTER_CUT, "bytes=1500-")),
    Resumption("total unknown", '"1"', (rest(OLD, CUT, Content_Range="bytes 1000-3199/*"),), (None, AFTER_CUT)),
    Resumption(
        "less than asked for",
        '"1"',
        (Answer(206, OLD[CUT:2000], {"ETag": '"1"', "Content-Range": "bytes 1000-1999/3200"}), rest(OLD, 2000)),
        (None, AFTER_CUT, "bytes=2000-"),
    ),
    Resumption("changed", '"1"', (AGAIN,), (None, AFTER_CUT), NEW),
    Resumption("weak ETag", 'W/"1"', (AGAIN,), (None, None), NEW),
    Resumption("no ETag", None, (AGAIN,), (None, None), NEW),
    Resumption("If-Range unknown", '"1"', (rest(NEW, CUT, ETag='"2"'), AGAIN), (None, AFTER_CUT, None), NEW),
    Resumption("206 without ETag", '"1"', (rest(NEW, CUT, ETag=""), AGAIN), (None, AFTER_CUT, None), NEW),
    Resumption("wrong range", '"1"', (rest(OLD, 0), AGAIN), (None, AFTER_CUT, None), NEW),
    Resumption("no range", '"1"', (rest(OLD, CUT, Content_Range=""), AGAIN), (None, AFTER_CUT, None), NEW),
    Resumption("412", '"1"', (Answer(412), AGAIN), (None, AFTER_CUT, None), NEW),
    Resumption("416", '"1"', (Answer(416), AGAIN), (None, AFTER_CUT, None), NEW),
]


@pytest.mark.parametrize("case", RESUMPTIONS, ids=lambda case: case.name)
def test_a_download_resumes_only_where_it_is_proven_to_be_the_same_object(
    web: Web, path: Path, case: Resumption
) -> None:
    """The first half of one release and the second of another, put together by a resumed download."""
    first = Answer(200, OLD, {"ETag": case.etag} if case.etag else {}, cut=CUT)
    fetched = fetch(on_web(web.serve("/v1.tar", first, *case.answers)), path, within(20))
    assert fetched == whole(case.data)
    assert path.read_bytes() == case.data
    assert tuple(asked.headers.get("Range") for asked in web.asked) == case.ranges
    assert {asked.headers["If-Range"] for asked in web.asked if "Range" in asked.headers} <= {'"1"'}


PASSING = {
    "500": Answer(500),
    "503 with a page": Answer(503, b"<html>busy</html>"),
    "429": Answer(429),
    "GitHub's rate limit": Answer(403, headers={"X-RateLimit-Remaining": "0"}),
    "nothing but a status": Answer(200, OLD, cut=0),
    "truncated": Answer(200, OLD, cut=CUT),
    "truncated, in chunks": Answer(200, b"5\r\nhel", {"Transfer-Encoding": "chunked"}),
}


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
def test_a_fault_that_passes_is_waited_for(web: Web, path: Path, fault: Answer) -> None:
    """An instance lost to a second's overload of the server that holds its release."""
    url = web.serve("/v1.tar", fault, fault, Answer(200, NEW))
    assert fetch(on_web(url), path, within(20)) == whole(NEW)
    assert path.read_bytes() == NEW


def test_what_lies_there_compressed_is_left_as_it_is(web: Web, path: Path) -> None:
    """A digest that never fits, as the HTTP library unpacked the tarball on its way."""
    packed = gzip.compress(OLD)
    url = web.serve("/v1.tar.gz", Answer(200, packed, {"Content-Encoding": "gzip"}))
    assert fetch(on_web(url), path, within(20)) == whole(packed)
    assert path.read_bytes() == packed
    assert web.asked[0].headers["Accept-Encoding"] == "identity"


# The file


@contextmanager
def hanging(*, begun: bytes = b"", every: float = SILENCE_SECONDS) -> Iterator[tuple[Answer, threading.Event]]:
    """An answer that sends *begun* and then a byte *every* so many seconds; and the event that says it has begun."""
    begins, over = threading.Event(), threading.Event()

    def trickle() -> Iterator[bytes]:
        begins.set()
        yield begun
        while not over.wait(every):
            yield b"x"

    try:
        yield Answer(200, headers={"Content-Length": "100000000"}, more=trickle()), begins
    finally:
        over.set()


HANGING: dict[str, Callable[[], Any]] = {
    "silent": hanging,
    "stalled in the middle": partial(hanging, begun=bytes(3 << 20)),
    "a byte at a time": partial(hanging, every=0.02),
}


@pytest.mark.parametrize("hang", HANGING.values(), ids=HANGING)
def test_a_download_that_hangs_ends_with_the_stop_event_at_once(web: Web, path: Path, hang: Callable[[], Any]) -> None:
    """SIGTERM that is heard half a minute later, when systemd has killed the agent already."""
    stop = threading.Event()
    with hang() as (answer, begins):
        task = Task(lambda: fetch(on_web(web.serve("/v1.tar", answer)), path, within(60, stop)))
        assert begins.wait(10)
        before = time.monotonic()
        stop.set()
        with pytest.raises(Stopped):
            task.result(within(10))
        assert time.monotonic() - before < 1
        assert not path.exists()


@pytest.mark.parametrize("hang", HANGING.values(), ids=HANGING)
def test_a_download_that_hangs_ends_at_the_deadline(web: Web, path: Path, hang: Callable[[], Any]) -> None:
    """A server that sends a byte a second keeps an instance booting for ever."""
    before = time.monotonic()
    with hang() as (answer, _), pytest.raises(ReleaseError, match="not finished in time") as caught:
        fetch(on_web(web.serve("/v1.tar", answer)), path, within(0.5))
    assert caught.value.transient
    assert 0.5 <= time.monotonic() - before < 1.5
    assert not path.exists()


def test_an_attempt_that_was_left_behind_writes_no_file(path: Path) -> None:
    """A stopped agent that fills the disk after all, as a server answered at last."""
    answered = threading.Event()

    class Late:
        def open(self, offset: int, proof: str) -> Body:
            assert (offset, proof) == (0, "")
            answered.wait(10)
            return Body((chunk for chunk in [OLD]), 0, len(OLD), "")

    before = set(threading.enumerate())
    with pytest.raises(ReleaseError, match="not finished in time"):
        fetch(Late(), path, within(0.1))
    (left,) = set(threading.enumerate()) - before
    answered.set()
    left.join(10)
    assert not left.is_alive()
    assert not path.exists()


class Held:
    """Bytes that are there once *comes* is set."""

    def __init__(self, data: bytes, comes: threading.Event) -> None:
        self._data, self._comes = data, comes

    def open(self, offset: int, proof: str) -> Body:
        assert (offset, proof) == (0, "")
        self._comes.wait(10)
        return Body((chunk for chunk in [self._data]), 0, len(self._data), "")


def test_an_attempt_that_was_left_behind_never_writes_into_a_later_ones_file(path: Path) -> None:
    """Somebody else's release, built as the one that was verified: its server answered once the next one had come."""
    comes, here = threading.Event(), threading.Event()
    here.set()
    before = set(threading.enumerate())
    with pytest.raises(ReleaseError, match="not finished in time"):
        fetch(Held(OLD, comes), path, within(0.1))
    (left,) = set(threading.enumerate()) - before
    assert fetch(Held(NEW, here), path, within(20)) == whole(NEW)
    comes.set()
    left.join(10)
    assert not left.is_alive()
    assert path.read_bytes() == NEW


def test_a_boot_that_was_left_behind_takes_no_later_ones_file_away(path: Path) -> None:
    """A boot that fails for want of its release, which a thread of the former one had cleared up."""
    comes, stop = threading.Event(), threading.Event()
    left = Task(lambda: fetch(Held(OLD, comes), path, within(20, stop)))
    while not path.exists():
        assert not left.done()
    path.unlink()
    path.write_bytes(NEW)
    stop.set()
    with pytest.raises(Stopped):
        left.result(within(10))
    assert path.read_bytes() == NEW
    with pytest.raises(Stopped):  # one that comes to it as late as that
        fetch(Held(OLD, comes), path, within(20, stop))
    assert path.read_bytes() == NEW
    comes.set()


def test_what_is_built_is_the_file_that_was_verified(tmp_path: Path, path: Path) -> None:
    """A file that took the name between the digest's check and the build, and ran as what was signed."""
    good, other = tarball(app()), tarball(app(page="other"))
    (tmp_path / "v1.tar").write_bytes(good)
    (tmp_path / "v2.tar").write_bytes(other)
    fetched = fetch(store.LocalFile(tmp_path / "v1.tar"), path, within(20))
    checked = archive.inspect(path, Limits(), fetched.file)
    assert b"".join(archive.context(checked))
    (tmp_path / "v2.tar").rename(path)
    for read in (lambda: archive.inspect(path, Limits(), fetched.file), lambda: b"".join(archive.context(checked))):
        with pytest.raises(ReleaseError, match="gone, or another one than was verified") as caught:
            read()
        assert caught.value.cause == "host"
    download.discard(path, fetched.file)
    assert path.read_bytes() == other
    path.unlink()
    with pytest.raises(ReleaseError, match="gone, or another one than was verified"):
        b"".join(archive.context(checked))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder that takes a MiB and a bit, and what is said when it has; without the right to mount, a file limit."""
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1100k", "tmpfs", tmp_path], check=False).returncode == 0:
        yield tmp_path, "the disk is full"
        subprocess.run(["umount", tmp_path], check=True)
        return
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1100 << 10, before[1]))
    yield tmp_path, os.strerror(errno.EFBIG)
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("kib", [1101, 1400, 5000])
def test_a_full_disk_is_said_and_left_as_it_was(web: Web, small_disk: tuple[Path, str], kib: int) -> None:
    """A release without its last bytes, taken for whole: the write that filled the disk raised no error."""
    folder, says = small_disk
    url = web.serve("/v1.tar", Answer(200, bytes(kib << 10)))
    with pytest.raises(ReleaseError, match=says) as caught:
        fetch(on_web(url), folder / "release.tar", within(20))
    assert (caught.value.cause, caught.value.transient) == ("host", False)
    assert len(web.asked) == 1
    assert list(folder.iterdir()) == []


def test_a_folder_that_is_not_there_is_said(web: Web, tmp_path: Path) -> None:
    """A traceback in place of the state folder's name."""
    with pytest.raises(ReleaseError, match="can't be written: No such file") as caught:
        fetch(on_web(web.serve("/v1.tar", Answer(200, OLD))), tmp_path / "none" / "release.tar", within(20))
    assert caught.value.cause == "host"


def test_the_file_is_the_agents_alone_whatever_lay_there(web: Web, tmp_path: Path, path: Path) -> None:
    """A private release that every user of the machine can read, or one written through somebody's link."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("somebody's")
    path.symlink_to(elsewhere)
    before = os.umask(0)
    try:
        fetch(on_web(web.serve("/v1.tar", Answer(200, OLD))), path, within(20))
    finally:
        os.umask(before)
    assert path.lstat().st_mode & 0o177777 == 0o100600
    assert elsewhere.read_text() == "somebody's"


@pytest.mark.parametrize("scheme", ["http", "file"])
def test_memory_stays_flat_with_the_size(web: Web, tmp_path: Path, path: Path, scheme: str) -> None:
    """A release larger than the instance's memory takes the agent with it."""
    size, chunk = 200 << 20, bytes(1 << 20)
    sparse = tmp_path / "v1.tar"
    with sparse.open("wb") as file:
        file.truncate(size)
    more = (chunk for _ in range(200))
    url = web.serve("/v1.tar", Answer(200, headers={"Content-Length": str(size)}, more=more))
    source = on_web(url) if scheme == "http" else store.LocalFile(sparse)
    tracemalloc.start()
    try:
        assert fetch(source, path, within(60)).size == size
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10 << 20


# Hosts


def to(url: str) -> Answer:
    return Answer(302, headers={"Location": url})


ASSET = "https://github.com/o/r/releases/download/v1/app.tar.gz"
LATEST = "https://github.com/o/r/releases/latest/download/app.tar.gz"
ARCHIVE = "https://github.com/o/r/archive/refs/tags/v1.tar.gz"
API = "https://api.github.com/repos/o/r"
CODE = "https://codeload.github.com/o/r/tar.gz/v1"
OBJECT = "https://objects.example/app"
ONE, OTHER = "https://releases.example", "https://other.example"
ASSETS = Answer(200, b'{"assets": [{"name": "x", "id": 6}, {"name": "app.tar.gz", "id": 7, "url": "https://x/"}]}')
HERE, THERE = Answer(200, OLD), to(f"{OBJECT}?X-Amz-Signature={SECRET}")


@dataclass(frozen=True)
class Way:
    """To get *url*, what *routes* name is asked for in their order; those in *known* are told the token."""

    name: str
    url: str
    routes: Mapping[str, Answer]
    known: tuple[str, ...] = ()
    octets: tuple[str, ...] = ()  # those that are asked for an asset's bytes, not for the API's word on it


PRIVATE = {f"{API}/releases/assets/7": THERE, OBJECT: HERE}
WAYS = [
    Way("public asset", ASSET, {ASSET: THERE, OBJECT: HERE}, octets=(ASSET, OBJECT)),
    Way("public archive", ARCHIVE, {ARCHIVE: THERE, OBJECT: HERE}),
    Way(
        "private asset",
        ASSET,
        {f"{API}/releases/tags/v1": ASSETS, **PRIVATE},
        (f"{API}/releases/tags/v1", f"{API}/releases/assets/7"),
        tuple(PRIVATE),
    ),
    Way(
        "private asset of the latest release",
        LATEST,
        {f"{API}/releases/latest": ASSETS, **PRIVATE},
        (f"{API}/releases/latest", f"{API}/releases/assets/7"),
        tuple(PRIVATE),
    ),
    Way(
        "tag that a URL would end at",
        "https://github.com/o/r/releases/download/web/v1%3F/app.tar.gz",
        {f"{API}/releases/tags/web/v1%3F": ASSETS, **PRIVATE},
        (f"{API}/releases/tags/web/v1%3F", f"{API}/releases/assets/7"),
        tuple(PRIVATE),
    ),
    Way("private archive", ARCHIVE, {ARCHIVE: THERE, OBJECT: HERE}, (ARCHIVE,)),
    Way("API tarball", f"{API}/tarball/v1", {f"{API}/tarball/v1": THERE, OBJECT: HERE}, (f"{API}/tarball/v1",)),
    Way("API asset", f"{API}/releases/assets/7", PRIVATE, (f"{API}/releases/assets/7",), tuple(PRIVATE)),
    Way(
        "there and back",
        CODE,
        {CODE: to(f"{OTHER}/b"), f"{OTHER}/b": to(f"{CODE}c"), f"{CODE}c": HERE},
        (CODE,),
    ),
    Way("same host", CODE, {CODE: to("v2"), f"{CODE[:-1]}2": to("v3"), f"{CODE[:-1]}3": HERE}, (CODE,)),
    Way(
        "API that leads elsewhere",
        ASSET,
        {
            f"{API}/releases/tags/v1": to(f"{OTHER}/v1"),
            f"{OTHER}/v1": Answer(200, ASSETS.body.replace(b"https://x/", f"{OTHER}/stolen".encode())),
            **PRIVATE,
        },
        (f"{API}/releases/tags/v1", f"{API}/releases/assets/7"),
        tuple(PRIVATE),
    ),
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_a_release_is_reached_and_the_token_stays_with_the_first_host(internet: Web, way: Way) -> None:
    """A token for every private repository, sent to the storage that GitHub redirects to, and into its log."""
    for url, answer in way.routes.items():
        internet.serve(url, answer)
    source = WebSource(parse(way.url), (lambda: SECRET) if way.known else None, surfer(internet))
    assert take(source) == OLD
    asked = [(each.path.partition("?")[0], each.headers) for each in internet.asked]
    assert [url for url, _ in asked] == list(way.routes)
    assert {url: headers["Authorization"] for url, headers in asked if "Authorization" in headers} == dict.fromkeys(
        way.known, f"Bearer {SECRET}"
    )
    assert tuple(url for url, headers in asked if headers["Accept"] == "application/octet-stream") == way.octets


def test_another_api_is_asked_where_the_environment_names_it(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """Instances that reach GitHub through a mirror of its API alone."""
    monkeypatch.setenv("GITHUB_API_URL", f"{web.url}/api/")
    web.serve("/api/repos/o/r/releases/tags/v1", ASSETS)
    web.serve("/api/repos/o/r/releases/assets/7", HERE)
    assert take(WebSource(parse(ASSET), lambda: SECRET, plain())) == OLD


def test_the_token_is_asked_for_once_and_taken_without_its_lines_end(internet: Web, path: Path) -> None:
    """A token stored by `echo`, which no header may carry; a call of SSM for each attempt of a whole fleet."""
    asked: list[str] = []

    def token() -> str:
        asked.append("once")
        return f"{SECRET}\n"

    internet.serve(CODE, Answer(500), HERE)
    assert fetch(WebSource(parse(CODE), token, surfer(internet)), path, within(20)) == whole(OLD)
    assert asked == ["once"]
    assert {each.headers["Authorization"] for each in internet.asked} == {f"Bearer {SECRET}"}


@pytest.mark.parametrize(
    "url",
    [
        f"{ONE}/v1.tar",
        f"{ONE}/o/r/releases/download/v1/app.tar.gz.minisig",
        f"{ONE}/v1.release.json",
        "https://github.com@other.example/o/r/releases/download/v1/app.tar.gz",
        "https://other.example/github.com/o/r/archive/v1.tar.gz",
    ],
)
def test_no_other_host_gets_githubs_token(internet: Web, url: str) -> None:
    """A token for every private repository, had by whoever may name a server in RELEASE_URL."""
    internet.serve(url.replace("github.com@", ""), HERE)
    source = WebSource(parse(url), lambda: pytest.fail("nobody needs the token"), surfer(internet))
    assert take(source) == OLD
    assert not any(SECRET in str(each.headers) or "Bearer" in str(each.headers) for each in internet.asked)


def test_a_github_of_ones_own_gets_its_token(internet: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """401 from a company's own GitHub, as its address is none that everybody knows."""
    monkeypatch.setenv("GITHUB_API_URL", f"{ONE}/api/v3")
    url = f"{ONE}/api/v3/repos/o/r/tarball/v1"
    internet.serve(url, HERE)
    assert take(WebSource(parse(url), lambda: SECRET, surfer(internet))) == OLD
    assert [each.headers["Authorization"] for each in internet.asked] == [f"Bearer {SECRET}"]


def test_a_token_is_never_sent_in_the_clear(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that anybody on the way reads, as RELEASE_URL is http:// with a digest."""
    monkeypatch.setenv("GITHUB_API_URL", web.url)
    url = web.serve("/v1.tar", HERE)
    assert take(WebSource(parse(url + PIN), lambda: SECRET, plain())) == OLD
    assert "Authorization" not in web.asked[0].headers


@pytest.mark.parametrize(("login", "sent"), [("me:pass%20word@", "Basic bWU6cGFzcyB3b3Jk"), ("", None)])
def test_a_login_is_the_urls_or_none(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, login: str, sent: str | None
) -> None:
    """401 from a server whose login stands in RELEASE_URL; somebody's ~/.netrc sent where no one meant it to."""
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine 127.0.0.1 login root password {SECRET}\n")
    monkeypatch.setenv("NETRC", str(netrc))
    url = web.serve("/v1.tar", HERE).replace("//", f"//{login}")
    assert take(WebSource(parse(url + PIN), None, requests.Session())) == OLD
    assert web.asked[0].headers.get("Authorization") == sent


@dataclass(frozen=True)
class Refusal:
    """*answer* to *url* ends the download with what *says* and *hint* hold."""

    name: str
    answer: Answer
    says: str
    hint: str
    url: str = f"{ONE}/a?token={SECRET}"
    token: str = ""
    transient: bool = False


GONE, TAG = Answer(404), f"{API}/releases/tags/v1"
REFUSALS = [
    Refusal("404", GONE, "answers 404 Not Found", "URL is right"),
    Refusal("expired signature", Answer(403), "answers 403", "presigned"),
    Refusal("part that nobody asked for", Answer(206, OLD), "answers 206", "URL"),
    Refusal("redirect to nowhere", Answer(302), "answers 302", "URL"),
    Refusal("GitHub's 404", GONE, "answers 404", "ADF_RELEASE_TOKEN", ASSET),
    Refusal("GitHub's 404 for an asset", GONE, "answers 404", "ADF_RELEASE_TOKEN", f"{API}/releases/assets/7"),
    Refusal("GitHub's 404 in spite of a token", GONE, "answers 404", "token may not see", ASSET, SECRET),
    Refusal("no such asset", Answer(200, b'{"assets": []}'), "v1 has no asset app.tar.gz", "Upload", ASSET, SECRET),
    Refusal(
        "API that is a page", Answer(200, b"<html>"), "no release of GitHub's", "server", ASSET, SECRET, transient=True
    ),
    Refusal(
        "API that is no release", Answer(200, b"[]"), "no release of GitHub's", "server", ASSET, SECRET, transient=True
    ),
    Refusal(
        "API that breaks off",
        Answer(200, b"{}" * 50, cut=9),
        "no release of GitHub's",
        "server",
        ASSET,
        SECRET,
        transient=True,
    ),
    Refusal(
        "API's rate limit",
        Answer(403, headers={"X-RateLimit-Remaining": "0"}),
        "answers 403",
        "server",
        ASSET,
        SECRET,
        transient=True,
    ),
    Refusal("500", Answer(500), "answers 500", "server", transient=True),
    Refusal("redirect to http", to("http://other.example/a"), "redirects to http://", "#sha256="),
    Refusal("redirect to http, of the API", to("http://other.example/a"), "to http://", "#sha256=", ASSET, SECRET),
    Refusal("redirect to ftp", to("ftp://other.example/a"), "redirects to ftp://", "https://", f"{ONE}/a{PIN}"),
    Refusal("redirect to a file", to("file:///etc/shadow"), "redirects to file://", "https://", f"{ONE}/a{PIN}"),
    Refusal("redirects in a circle", to(f"{ONE}/a"), "more than 5 times", "RELEASE_URL"),
    Refusal("redirect to half an address", to("https://["), "no URL", "RELEASE_URL"),
    Refusal("redirect to a port that is none", to("https://other.example:65536/"), "no URL", "RELEASE_URL"),
    Refusal("certificate of another", to("https://unnamed.example/"), "of unnamed.example is not trusted", "clock"),
    Refusal("token of several lines", HERE, "no token", "alone", CODE, f"a\n{SECRET}"),
    Refusal("token beyond ASCII", HERE, "no token", "alone", CODE, f"€{SECRET}"),
]


@pytest.mark.parametrize("case", REFUSALS, ids=lambda case: case.name)
def test_a_refusal_is_a_sentence_that_holds_no_secret(internet: Web, case: Refusal) -> None:
    """A boot that fails with a traceback, retries what cannot pass, or prints the credentials in its URL."""
    for url in (case.url.partition("?")[0].partition("#")[0], TAG):
        internet.serve(url, case.answer)
    with pytest.raises(ReleaseError) as caught:
        take(WebSource(parse(case.url), (lambda: case.token) if case.token else None, surfer(internet)))
    error = caught.value
    assert case.says in error.sentence
    assert case.hint in error.hint
    assert error.transient is case.transient
    assert SECRET not in error.sentence + error.hint


def test_a_pinned_release_may_come_by_a_redirect_to_http(internet: Web) -> None:
    """A mirror without TLS refused though the digest guards each byte."""
    internet.serve(f"{ONE}/a", to("http://other.example/a"))
    internet.serve("http://other.example/a", HERE)
    assert take(WebSource(parse(f"{ONE}/a{PIN}"), None, surfer(internet))) == OLD


def test_what_is_wrong_with_tls_is_told_apart(internet: Web, web: Web, tmp_path: Path) -> None:
    """An operator who looks for certificates where the server is down, and a boot that gives up on a handshake cut."""

    def error(url: str, session: requests.Session) -> ReleaseError:
        with pytest.raises(ReleaseError) as caught:
            take(WebSource(parse(url), None, session))
        return caught.value

    stranger = surfer(internet)
    stranger.verify = True
    untrusted = error(f"{ONE}/a", stranger)
    assert untrusted.sentence == "the certificate of releases.example is not trusted"
    assert not untrusted.transient
    no_bundle = surfer(internet)
    no_bundle.verify = str(tmp_path / "none.pem")
    assert "REQUESTS_CA_BUNDLE" in error(f"{ONE}/a", no_bundle).hint
    no_tls = error(f"https://{web.host}/a", plain())
    assert "does not answer (SSLError)" in no_tls.sentence
    assert no_tls.transient
    nobody = error("https://127.0.0.1:9/a", plain())
    assert "127.0.0.1 does not answer" in nobody.sentence
    assert nobody.transient


# S3


@pytest.fixture
def bucket(cloud: Cloud) -> Any:
    """The client of a cloud with a bucket."""
    client = cloud.client("s3")
    client.create_bucket(Bucket="releases", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    return client


def put(bucket: Any, data: bytes) -> str:
    return str(bucket.put_object(Bucket="releases", Key="web/v 1.tar", Body=data).get("VersionId", ""))


def versioned(bucket: Any) -> None:
    bucket.put_bucket_versioning(Bucket="releases", VersioningConfiguration={"Status": "Enabled"})


def breaking(cloud: Cloud, web: Web, happens: Callable[[], object]) -> Any:
    """A client to whom S3 breaks off at CUT once; *happens* does so before it is asked again."""
    times = iter([CUT])

    def forward(asked: Asked) -> Answer:
        headers = {name: text for name, text in asked.headers.items() if name != "Host"}
        answer = requests.get(cloud.endpoint + asked.path, headers=headers, timeout=10)
        kept = {name: text for name, text in answer.headers.items() if name.startswith(("x-amz-", "Content-R", "ETag"))}
        cut = next(times, None)
        if cut:
            happens()
        return Answer(answer.status_code, answer.content, kept, cut)

    web.routes["/releases/web/v%201.tar"] = forward
    return boto3.client("s3", "eu-west-1", endpoint_url=web.url, aws_access_key_id="x", aws_secret_access_key="x")


URL = "s3://releases/web/v%201.tar"


def in_s3(client: Any, url: str = URL) -> store.S3:
    return store.S3(parse(url), lambda: client)


def test_an_object_comes_as_it_is_or_as_it_was(bucket: Any, path: Path) -> None:
    """A pinned version that is not what is built."""
    versioned(bucket)
    first = put(bucket, OLD)
    put(bucket, NEW)
    assert fetch(in_s3(bucket), path, within(20)) == whole(NEW)
    assert fetch(in_s3(bucket, f"{URL}?versionId={first}"), path, within(20)) == whole(OLD)
    assert path.read_bytes() == OLD


def test_a_version_is_resumed_though_it_was_replaced(bucket: Any, cloud: Cloud, web: Web, path: Path) -> None:
    """Half of each of two releases, as a new one was uploaded while an instance booted."""
    versioned(bucket)
    put(bucket, OLD)
    client = breaking(cloud, web, lambda: put(bucket, NEW))
    assert fetch(in_s3(client), path, within(20)) == whole(OLD)
    assert path.read_bytes() == OLD
    assert [asked.headers.get("Range") for asked in web.asked] == [None, f"bytes={CUT}-"]
    assert "versionId=" in web.asked[1].path


def test_an_object_without_version_starts_over(bucket: Any, cloud: Cloud, web: Web, path: Path) -> None:
    """The same in a bucket that keeps no versions."""
    put(bucket, OLD)
    client = breaking(cloud, web, lambda: put(bucket, NEW))
    assert fetch(in_s3(client), path, within(20)) == whole(NEW)
    assert path.read_bytes() == NEW
    assert [asked.headers.get("Range") for asked in web.asked] == [None, None]


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("s3://releases/none.tar", "NoSuchKey"),
        ("s3://nobodys/v1.tar", "s3:GetObject on nobodys/v1.tar failed: NoSuchBucket"),
        (f"{URL}?versionId=none", "NoSuchVersion"),
    ],
)
def test_an_object_that_is_not_there_ends_the_boot(bucket: Any, path: Path, url: str, says: str) -> None:
    """A typo that costs each instance a quarter of an hour of attempts."""
    versioned(bucket)
    put(bucket, OLD)
    with pytest.raises(ReleaseError, match=says) as caught:
        fetch(in_s3(bucket, url), path, within(20))
    assert not caught.value.transient
    assert not path.exists()


class Stranger:
    """A client whose answers are what the SDK makes of a page that it has no word of."""

    def get_object(self, **_: object) -> dict[str, object]:
        return {"Body": None}


class Circling:
    """A client that a redirect without a word of the region leads to ask for it by a call that is redirected."""

    def get_object(self, **_: object) -> dict[str, object]:
        raise RecursionError("maximum recursion depth exceeded")


@pytest.mark.parametrize("client", [Stranger(), Circling()], ids=["a page", "a redirect"])
def test_an_answer_that_is_not_s3s_may_pass(path: Path, client: Any) -> None:
    """A proxy's page of welcome that ends a boot as a fault of the agent's own."""
    with pytest.raises(ReleaseError, match=r"s3:GetObject on .* was answered by something that is not AWS") as caught:
        fetch(in_s3(client), path, within(0.5))
    assert (caught.value.cause, caught.value.transient) == ("dependency", True)


# Files of this machine


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("none.tar", "is no file"),
        ("folder", "is no file"),
        ("pipe", "is no file"),
        ("null", "is no file"),
        ("environ", "is no file"),
    ],
)
def test_a_file_that_can_not_be_read_is_said(tmp_path: Path, path: Path, name: str, says: str) -> None:
    """A boot that waits for ever at the end of a pipe, or fails without naming the file."""
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "null").symlink_to("/dev/null")
    (tmp_path / "environ").symlink_to("/proc/self/environ")  # says that it is empty, and is not
    before = time.monotonic()
    with pytest.raises(ReleaseError, match=says) as caught:
        fetch(store.LocalFile(tmp_path / name), path, within(20))
    assert str(tmp_path / name) in caught.value.sentence
    assert not caught.value.transient
    assert not path.exists()
    assert time.monotonic() - before < 5


def test_a_file_that_grows_under_its_reader_is_not_waited_for(path: Path) -> None:
    """A boot that reads a log file in place of a release, again and again until its time is over."""

    class Growing:
        def open(self, offset: int, proof: str) -> Body:
            assert (offset, proof) == (0, "")
            return Body((chunk for chunk in [OLD, NEW]), 0, len(OLD), "")

    with pytest.raises(ReleaseError, match=f"is longer than the {len(OLD)} bytes that it says") as caught:
        fetch(Growing(), path, within(20))
    assert not caught.value.transient
    assert not path.exists()


# The release


def obtain(url: str, folder: Path, client: Any = None) -> release.Release:
    location = parse(url)
    source = store.source(location, lambda: client, lambda: pytest.fail("no token is needed"))
    return release.obtain(location, location.name, source, folder, Limits(), within(20))


def test_a_release_is_whole_verified_and_known_before_it_is_built(bucket: Any, tmp_path: Path) -> None:
    """A release built under another's digest, whichever way it came."""
    data = tarball(app(adf_toml="[health]\ninterval = 3\n"))
    put(bucket, data)
    (tmp_path / "v 1.tar").write_bytes(data)
    digest, folder = hashlib.sha256(data).hexdigest(), tmp_path / "var"
    folder.mkdir()
    for url in (f"file://{tmp_path}/v%201.tar", f"file://{tmp_path}/v%201.tar#sha256={digest.upper()}", URL):
        with release.kept(folder):
            obtained = obtain(url, folder, bucket)
            assert (obtained.name, obtained.digest, obtained.size) == ("v-1", digest, len(data))
            assert obtained.manifest.health.interval == 3
            assert obtained.archive is not None
            assert obtained.archive.path.read_bytes() == data
            assert obtained.fact == f"v-1, 1 kB, sha256 {digest[:12]}"
        assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("data", "pin", "says"),
    [
        (tarball(app()), PIN, f"RELEASE_URL pins {'0' * 64}"),
        (b"<html>" * 100, "", "not a tarball"),
        (b"", "", "tarball"),
    ],
)
def test_a_release_that_is_not_what_it_should_be_leaves_no_file(
    tmp_path: Path, data: bytes, pin: str, says: str
) -> None:
    """Another's bytes, built and run; a disk that fills with what was refused."""
    (tmp_path / "v1.tar").write_bytes(data)
    folder = tmp_path / "var"
    folder.mkdir()
    with pytest.raises(ReleaseError, match=says):
        obtain(f"file://{tmp_path}/v1.tar{pin}", folder)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("by", [":v3", f"@sha256:{'a' * 64}"])
def test_an_image_of_a_registry_is_known_by_its_digest_where_it_has_one(by: str) -> None:
    """An image recorded under no digest is never found again at the restart."""
    image = release.of_registry(parse(f"docker://registry.example/web{by}"), "v3")
    assert (image.digest, image.archive) == (by.partition("@sha256:")[2], None)
