"""adf-release create --to github: whole or not at all, once, and the token for GitHub alone."""

import hashlib
import json
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from fixtures_repository import Clone
from fixtures_web import surfer
from web import Answer, Asked, Web

from adf_agent import release, store
from adf_agent.deadline import Deadline
from adf_agent.errors import TRY_AGAIN, ReleaseError, Stopped
from adf_agent.location import parse
from adf_agent.notation import Limits
from adf_agent.ops.release.github import ASSET_BYTES, GitHub
from adf_agent.ops.release.package import File
from adf_agent.web import Web as WebSource

SECRET = "hunter2"
DATA, OTHER = b"bytes", b"other"
COMMIT = "c" * 40
COMMITS = "https://api.github.com/repos/o/r/commits/tags"
API, UPLOADS = "https://api.github.com/repos/o/r/releases", "https://uploads.github.com/repos/o/r/releases/1/assets"
STORAGE = "https://objects.example"


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclass
class Hub:
    """GitHub's releases of o/r, played on *web*: at most the one tagged *tag*, its assets by name."""

    web: Web
    tag: str = "v1"
    release: bool = False
    digests: bool = True
    assets: dict[str, tuple[int, bytes, str]] = field(default_factory=dict)  # id, content and state
    uploads: str = UPLOADS
    commit: str = ""  # that the tag is on

    def __post_init__(self) -> None:
        self.web.routes[f"{COMMITS}/{self.tag}"] = lambda _: self._tagged()
        self.web.routes[f"{API}/tags/{self.tag}"] = lambda _: self._found() if self.release else Answer(404)
        self.web.routes[f"POST {API}"] = self._made
        self.web.routes[f"POST {UPLOADS}"] = self._uploaded

    def put(self, name: str, data: bytes, state: str = "uploaded") -> dict[str, Any]:
        """Has this asset from now on; its bytes are at another host."""
        number = 7 + len(self.assets)
        self.assets[name] = (number, data, state)
        self.web.routes[f"{API}/assets/{number}"] = lambda _: Answer(302, headers={"Location": f"{STORAGE}/{number}"})
        self.web.routes[f"DELETE {API}/assets/{number}"] = lambda _: self._deleted(name)
        self.web.serve(f"{STORAGE}/{number}", Answer(200, data))
        return self._about(name)

    def methods(self) -> list[str]:
        """What was asked, but for which commit the tag is on: that is asked first each time."""
        others = [asked for asked in self.web.asked if not asked.path.startswith(COMMITS)]
        return [f"{asked.method} {urlsplit(asked.path).path.rpartition('/')[2]}" for asked in others]

    def _about(self, name: str) -> dict[str, Any]:
        number, data, state = self.assets[name]
        digest = sha256(data) if self.digests else None
        return {"id": number, "name": name, "state": state, "size": len(data), "digest": digest}

    def _tagged(self) -> Answer:
        return answer(200, sha=self.commit) if self.commit else answer(422, message="No commit found for SHA")

    def _found(self) -> Answer:
        template = f"{self.uploads}{{?name,label}}"
        return answer(200, id=1, upload_url=template, assets=[self._about(name) for name in self.assets])

    def _made(self, asked: Asked) -> Answer:
        wanted = json.loads(asked.body)
        if self.release:
            return answer(422, message="Validation Failed", errors=[{"code": "already_exists", "field": "tag_name"}])
        self.release = wanted["tag_name"] == wanted["name"] == self.tag and len(wanted["target_commitish"]) == 40
        self.commit = self.commit or wanted["target_commitish"]
        return self._found() if self.release else Answer(422)

    def _uploaded(self, asked: Asked) -> Answer:
        (name,) = parse_qs(urlsplit(asked.path).query)["name"]
        if name in self.assets:
            return answer(422, message="Validation Failed", errors=[{"code": "already_exists", "field": "name"}])
        return answer(201, **self.put(name, asked.body))

    def _deleted(self, name: str) -> Answer:
        del self.assets[name]
        return Answer(204)


def answer(status: int, **members: Any) -> Answer:
    return Answer(status, json.dumps(members).encode(), {"Content-Type": "application/json"})


@pytest.fixture
def hub(internet: Web) -> Hub:
    """A repository without a release."""
    return Hub(internet)


def place(hub: Hub, token: str = SECRET) -> GitHub:
    return GitHub("o/r", "v1", COMMIT, token=token, session=surfer(hub.web))


def delivery(hub: Hub, tmp_path: Path, token: str = SECRET) -> Callable[[], bool]:
    """Puts v1.tar.gz, which holds DATA, in that repository's release."""
    path = tmp_path / "v1.tar.gz"
    path.write_bytes(DATA)
    file = File.of(path, "application/gzip")
    to = place(hub, token)
    return lambda: to.put(file, lambda _: None, Deadline(20, threading.Event()))


def refused(hub: Hub, tmp_path: Path, token: str = SECRET) -> ReleaseError:
    """Why that is not done, at the first attempt."""
    with pytest.raises(ReleaseError) as caught:
        delivery(hub, tmp_path, token)()
    assert SECRET not in caught.value.sentence + caught.value.hint
    return caught.value


def test_a_private_release_is_delivered_and_booted_and_the_token_stays_with_github(
    clone: Clone, internet: Web, tmp_path: Path
) -> None:
    """A token for every private repository, sent to the storage that GitHub redirects to."""
    clone.git("tag", "release/v1")
    hub = Hub(internet, "release/v1")
    environment = {
        "HTTPS_PROXY": internet.url, "NO_PROXY": "", "REQUESTS_CA_BUNDLE": str(internet.certificate),
        "GH_TOKEN": SECRET, "GITHUB_TOKEN": "another", "GITHUB_API_URL": "https://api.github.com/",
    }  # fmt: skip
    code, out, err = clone.ran("--to", "github:o/r", environment=environment)
    assert (code, hub.methods()) == (
        0, ["GET v1", "POST releases", "POST assets", "GET v1", "POST assets"],
    )  # fmt: skip
    assert SECRET not in out + err
    url = out.removeprefix("RELEASE_URL=").strip()
    assert url.startswith("https://github.com/o/r/releases/download/release/v1/release-v1.tar.gz#sha256=")
    assert hub.commit == clone.git("rev-parse", "HEAD")
    assert [asked.headers["Content-Type"] for asked in internet.asked if "/assets" in asked.path] == [
        "application/gzip", "application/json",
    ]  # fmt: skip
    location = parse(url)
    source = WebSource(location, lambda: SECRET, surfer(internet))
    obtained = release.obtain(location, location.name, source, tmp_path, Limits(), Deadline(20, threading.Event()))
    assert obtained.name == "release-v1"
    assert isinstance(store.source(location, lambda: None, None), WebSource)  # so does the agent
    code, again, err = clone.ran("--to", "github:o/r", environment=environment)
    assert (code, again, err.count("already there")) == (0, out, 2)
    assert hub.methods().count("POST assets") == 2
    sent = {(urlsplit(asked.path).hostname, asked.headers.get("Authorization")) for asked in internet.asked}
    token = f"Bearer {SECRET}"
    assert sent == {("api.github.com", token), ("uploads.github.com", token), ("objects.example", None)}


FOUND: dict[str, tuple[tuple[bytes, str] | None, bool, bool, list[str]]] = {
    "no asset": (None, True, True, ["GET v1", "POST assets"]),
    "no asset, no digests": (None, False, True, ["GET v1", "POST assets"]),
    "the same": ((DATA, "uploaded"), True, False, ["GET v1"]),
    "the same, no digests": ((DATA, "uploaded"), False, False, ["GET v1", "GET v1", "GET 7", "GET 7"]),
    "half an upload": ((b"", "starter"), True, True, ["GET v1", "DELETE 7", "POST assets"]),
}


@pytest.mark.parametrize(("asset", "digests", "new", "methods"), FOUND.values(), ids=FOUND)
def test_a_release_that_is_there_gets_what_it_lacks(
    hub: Hub, tmp_path: Path, asset: tuple[bytes, str] | None, digests: bool, new: bool, methods: list[str]
) -> None:
    """A job that can't be run again after its upload broke off."""
    hub.release, hub.digests = True, digests
    if asset:
        hub.put("v1.tar.gz", *asset)
    assert delivery(hub, tmp_path)() is new
    assert hub.assets["v1.tar.gz"][1:] == (DATA, "uploaded")
    assert hub.methods() == methods
    assert {asked.headers.get("Authorization") for asked in hub.web.asked if STORAGE in asked.path} <= {None}


@pytest.mark.parametrize("digests", [True, False])
def test_an_asset_of_other_bytes_is_left_alone(hub: Hub, tmp_path: Path, digests: bool) -> None:
    """A release that changes under a fleet that boots it."""
    hub.release, hub.digests = True, digests
    hub.put("v1.tar.gz", OTHER)
    assert refused(hub, tmp_path).sentence == (
        "asset v1.tar.gz of release v1 of o/r is there already, and holds other bytes"
    )
    assert hub.assets["v1.tar.gz"][1] == OTHER


def racing(hub: Hub, route: str, then: Callable[[], object]) -> None:
    """The first time that *route* is asked, somebody else has done *then* just before."""
    answers, first = hub.web.routes[route], iter([then])

    def raced(asked: Asked) -> Answer:
        next(first, lambda: None)()
        return answers(asked)

    hub.web.routes[route] = raced


def test_two_jobs_at_once_make_one_release(hub: Hub, tmp_path: Path) -> None:
    """422 for the slower one, though what it wanted is there."""
    racing(hub, f"POST {API}", lambda: setattr(hub, "release", True))
    racing(hub, f"POST {UPLOADS}", lambda: hub.put("v1.tar.gz", DATA))
    assert delivery(hub, tmp_path)() is False
    assert hub.methods() == ["GET v1", "POST releases", "GET v1", "POST assets", "GET v1"]


def test_an_upload_whose_answer_was_lost_is_found_again(hub: Hub, tmp_path: Path) -> None:
    """An upload that fails for ever, as it has been done."""
    hub.release = True
    uploaded = hub.web.routes[f"POST {UPLOADS}"]

    def lost(asked: Asked) -> Answer:
        uploaded(asked)
        return Answer(502)

    hub.web.routes[f"POST {UPLOADS}"] = lost
    assert delivery(hub, tmp_path)() is False
    assert hub.assets["v1.tar.gz"][1] == DATA


@pytest.mark.parametrize("digests", [True, False])
def test_bytes_that_changed_on_their_way_are_sent_again(hub: Hub, tmp_path: Path, digests: bool) -> None:
    """A broken release that every instance refuses by its digest."""
    hub.release, hub.digests = True, digests
    good = hub.web.routes[f"POST {UPLOADS}"]

    def broken(_: Asked) -> Answer:
        hub.web.routes[f"POST {UPLOADS}"] = good
        return answer(201, **hub.put("v1.tar.gz", OTHER if digests else DATA[:2]))

    hub.web.routes[f"POST {UPLOADS}"] = broken
    assert delivery(hub, tmp_path)()
    assert hub.methods() == ["GET v1", "POST assets", "DELETE 7", "GET v1", "POST assets"]
    assert hub.assets["v1.tar.gz"][1] == DATA


PASSING = {
    "500": Answer(500),
    "rate limit": Answer(403, headers={"X-RateLimit-Remaining": "0"}),
    "secondary rate limit": Answer(403, b'{"message": "slow down"}', {"Retry-After": "60"}),
    "429": Answer(429),
    "520": Answer(520),
    "a page": Answer(200, b"<html>"),
    "no release": answer(200, assets=[]),
    "no assets": answer(200, assets=None, upload_url=UPLOADS),
    "a list": Answer(200, b"[]"),
    "half an answer": Answer(200, b'{"assets": []}', cut=5),
    "no answer": Answer(200, b"{}" * 9, cut=0),
}


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
def test_a_fault_that_passes_is_waited_for(hub: Hub, tmp_path: Path, fault: Answer) -> None:
    """A release lost to a second's overload of GitHub's."""
    hub.release = True
    found = hub.web.routes[f"{API}/tags/v1"]

    def once(_: Asked) -> Answer:
        hub.web.routes[f"{API}/tags/v1"] = found
        return fault

    hub.web.routes[f"{API}/tags/v1"] = once
    assert delivery(hub, tmp_path)()


REFUSALS = {
    "bad token": (f"{API}/tags/v1", answer(401, message="Bad credentials"), "401 Unauthorized", "GH_TOKEN"),
    "may only read": (f"POST {API}", answer(403, message="Resource not\naccessible"), "403", "contents of o/r"),
    "may not see": (f"POST {API}", answer(404, message="Not Found"), "404 Not Found", "token may not see"),
    "commit unknown": (f"POST {API}", answer(422, message="Validation Failed", errors=[{"code": "invalid"}]),
                       "(Validation Failed, invalid)", "Push the commit"),
    "renamed": (f"{API}/tags/v1", Answer(301, headers={"Location": "https://other.example/"}), "301", "this name"),
    "told to wait for nobody": (f"POST {API}", Answer(405), "405", "this name"),
    "a status of its own": (f"POST {API}", Answer(499), "499", "this name"),
    "a long page": (f"POST {API}", answer(403, message="x" * 999), f"({'x' * 200})", "contents"),
}  # fmt: skip


@pytest.mark.parametrize(("route", "fault", "says", "hint"), REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_is_a_sentence(hub: Hub, tmp_path: Path, route: str, fault: Answer, says: str, hint: str) -> None:
    """A traceback, or a quarter of an hour of attempts, for a token that may not write."""
    hub.web.routes[route] = lambda _: fault
    error = refused(hub, tmp_path)
    assert error.sentence.startswith("GitHub answers ")
    assert says in error.sentence
    assert hint in error.hint
    assert not error.transient
    assert {urlsplit(asked.path).hostname for asked in hub.web.asked} == {"api.github.com"}


@pytest.mark.parametrize(
    "address",
    [
        "https://other.example/x",
        "http://uploads.github.com/x",
        "https://uploads.github.com@other.example/",
        "https://uploads.github.com:8443/",
    ],
)
def test_the_token_goes_to_no_host_that_an_answer_names(hub: Hub, tmp_path: Path, address: str) -> None:
    """A token sent to whom a forged answer wants to have it."""
    hub.release, hub.uploads = True, address
    assert "not with the token" in refused(hub, tmp_path).sentence
    assert hub.methods() == ["GET v1"]


@pytest.mark.parametrize("api", ["https://me:hunter2@other.example/api/v3", "http://api.github.com"])
def test_another_github_is_refused(monkeypatch: pytest.MonkeyPatch, api: str) -> None:
    """A RELEASE_URL of github.com for what lies at a company's own; a token that anybody on the way reads."""
    monkeypatch.setenv("GITHUB_API_URL", api)
    monkeypatch.setenv("GH_TOKEN", SECRET)
    with pytest.raises(ReleaseError, match=r"^GITHUB_API_URL is not https://api\.github\.com, ") as caught:
        GitHub.parse("github:o/r", "v1", COMMIT)
    assert SECRET not in caught.value.sentence + caught.value.hint
    assert "Unset it" in caught.value.hint
    monkeypatch.setenv("GITHUB_API_URL", "")
    assert GitHub.parse("github:o/r", "v1", COMMIT).url("x") == "https://github.com/o/r/releases/download/v1/x"


@pytest.mark.parametrize("there", [True, False])
def test_a_tag_on_another_commit_gets_no_release(hub: Hub, tmp_path: Path, there: bool) -> None:
    """A release whose source, by its tag, is not what runs."""
    hub.release, hub.commit = there, "d" * 40
    error = refused(hub, tmp_path)
    assert error.sentence == "tag v1 of o/r is on commit dddddddddddd, not on cccccccccccc"
    assert "--name" in error.hint
    assert (hub.release, hub.assets, hub.methods()) == (there, {}, [])
    hub.commit = COMMIT
    assert delivery(hub, tmp_path)()


def test_the_tag_is_asked_for_as_a_tag(hub: Hub, tmp_path: Path) -> None:
    """A branch of that name taken for the tag; no release in a repository that knows no commit yet."""
    for none in (404, 409, 422):
        hub.web.asked.clear()
        hub.web.serve(f"{COMMITS}/v1", Answer(none))
        delivery(hub, tmp_path)()
        assert hub.web.asked[0].path == f"{COMMITS}/v1?per_page=1"


def test_a_stalled_uplink_has_a_minute(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An upload that breaks off at each hiccup, as what is for connecting is for sending too."""
    patience: set[float | None] = set()
    send: Callable[..., None] = ssl.SSLSocket.sendall

    def sendall(self: ssl.SSLSocket, *data: Any) -> None:
        patience.add(self.gettimeout())
        send(self, *data)

    monkeypatch.setattr(ssl.SSLSocket, "sendall", sendall)
    delivery(hub, tmp_path)()
    assert patience - {None} == {60}  # None is GitHub's own


def test_a_token_that_can_not_be_kept_secret_is_not_used(hub: Hub, tmp_path: Path) -> None:
    """A header of two lines."""
    assert "no token" in refused(hub, tmp_path, token=f"{SECRET}\nx").sentence
    assert "no token" in refused(hub, tmp_path, token=f"€{SECRET}").sentence
    assert hub.web.asked == []
    hub.release = True
    assert delivery(hub, tmp_path, token=f"{SECRET}\n")()
    assert {asked.headers["Authorization"] for asked in hub.web.asked} == {f"Bearer {SECRET}"}


def test_without_a_token_nothing_is_asked(clone: Clone, internet: Web) -> None:
    """A minute of compression before the sentence that the token is missing."""
    environment = {"GH_TOKEN": "", "GITHUB_TOKEN": "", "HTTPS_PROXY": internet.url}
    code, out, err = clone.ran("--to", "github:o/r", environment=environment)
    assert (code, out, internet.asked) == (12, "", [])
    assert "no token for GitHub" in err
    assert "GH_TOKEN" in err


def test_a_name_that_a_url_of_githubs_does_not_give_is_refused(
    clone: Clone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A release named by a whole digest, of which each instance makes 12 digits."""
    monkeypatch.setenv("GH_TOKEN", SECRET)
    with pytest.raises(ReleaseError, match="can't be a release's name"):
        clone.create("github:o/r", name="a" * 40)
    assert clone.create(tmp_path / "out", name="a" * 40)


def test_what_github_can_not_take_is_said(hub: Hub, tmp_path: Path) -> None:
    """Two gigabytes sent to be refused."""
    with pytest.raises(ReleaseError, match=r"2147\.5 MB; GitHub takes less"):
        place(hub).put(File(tmp_path, "", "", ASSET_BYTES), lambda _: None, Deadline(20, threading.Event()))
    assert hub.web.asked == []


def test_what_is_wrong_with_tls_is_told_apart(hub: Hub, tmp_path: Path) -> None:
    """An operator who waits for GitHub where its certificate is a stranger's."""
    session = surfer(hub.web)
    session.verify = True  # the machine's own authorities
    with pytest.raises(ReleaseError, match=r"^the certificate of api\.github\.com is not trusted$") as caught:
        GitHub("o/r", "v1", COMMIT, token=SECRET, session=session).put(
            File(tmp_path, "", "", 1), lambda _: None, Deadline(20, threading.Event())
        )
    assert not caught.value.transient


def test_a_stop_in_the_middle_of_an_upload_is_heard_at_once(hub: Hub, tmp_path: Path) -> None:
    """Ctrl-C that is heard when the upload is over."""
    hub.release, stop, over = True, threading.Event(), threading.Event()

    def hanging(_: Asked) -> Answer:
        stop.set()
        over.wait(20)
        return Answer(500)

    hub.web.routes[f"POST {UPLOADS}"] = hanging
    path = tmp_path / "v1.tar.gz"
    path.write_bytes(DATA)
    seen: list[int] = []
    try:
        with pytest.raises(Stopped):
            place(hub).put(File.of(path, ""), seen.append, Deadline(20, stop))
        assert max(seen) == len(DATA)
        assert not over.is_set()
    finally:
        over.set()


def test_what_stays_is_to_be_tried_again(hub: Hub, tmp_path: Path) -> None:
    """Exit 12 for what would have passed: a CI job that gives up."""
    hub.web.serve(f"{API}/tags/v1", Answer(503))
    path = tmp_path / "v1.tar.gz"
    path.write_bytes(DATA)
    with pytest.raises(ReleaseError, match="GitHub answers 503") as caught:
        place(hub).put(File.of(path, ""), lambda _: None, Deadline(0.5, threading.Event()))
    assert caught.value.exit_code == TRY_AGAIN
