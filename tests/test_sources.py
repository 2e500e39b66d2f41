"""ADF_RELEASE_SOURCES: nothing is taken from elsewhere, however the URL is written; and no redirect leads inside."""

import hashlib
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import requests
import urllib3
from fixtures_agent import Machine, app, tarball
from fixtures_web import plain, surfer
from hypothesis import given
from hypothesis import strategies as st
from web import Answer, Web

from adf_agent.errors import ReleaseError, SettingsError, Withheld
from adf_agent.location import Location, parse
from adf_agent.sources import ANY, Sources, host_of, is_metadata, is_private
from adf_agent.web import Web as WebSource

DATA = tarball(app())
HEX = "0123456789abcdef" * 4
PIN = f"#sha256={HEX}"
SOURCES = Sources.parse(
    "https://releases.example/web/, https://github.com/acme,https://h.example:8443/a%20b  s3://Bucket/web "
    "file:///srv/r docker://registry.example:5000/team docker://docker.io/library http://mirror.example/"
)


def taken(location: Location, sources: Sources = SOURCES) -> bool:
    with suppress(ReleaseError):
        sources.check(location)
        return True
    return False


# What lies below a prefix

TAKEN = [
    "https://releases.example/web/v1.tgz",
    "HTTPS://Releases.EXAMPLE:443/web/a/b/v1.tgz?x=../y",
    "https://me:pw@releases.example/web/v1.tgz",
    "https://releases.example/web/a;b/..v1;x/...tgz",
    "https://releases.example/%77eb/v1.tgz",
    "https://github.com/acme/web/releases/download/v1/app.tgz",
    "https://h.example:8443/a%20b/v1.tgz",
    "s3://Bucket/web/v1.tgz?versionId=x",
    "file:///srv/r/v1.tgz",
    "docker://registry.example:5000/team/web:v1",
    f"docker://Registry.example:5000/team/web@sha256:{HEX}",
    "docker://nginx:1.27",
    "docker://library/nginx:1.27",
    f"docker://docker.io/library/nginx:1@sha256:{HEX}",
    f"http://mirror.example:80/anything/v1.tgz{PIN}",
]


@pytest.mark.parametrize("url", TAKEN)
def test_what_lies_below_a_prefix_is_taken(url: str) -> None:
    """A fleet that refuses its own releases, as somebody wrote the host in capitals."""
    assert taken(parse(url))


ELSEWHERE = [
    "https://releases.example/webs/v1.tgz",
    "https://releases.example/v1.tgz",
    "https://releases.example/Web/v1.tgz",
    "https://releases.example//web/v1.tgz",
    "https://releases.example/web/../v1.tgz",
    "https://releases.example/web/./v1.tgz",
    "https://releases.example/web/%2e%2E/v1.tgz",
    "https://releases.example/web/.%2e/v1.tgz",
    "https://releases.example/web%2f../v1.tgz",
    "https://releases.example/web/%252e%252e/v1.tgz",
    "https://releases.example/web/..%2fv1.tgz",
    "https://releases.example/web/..%5cv1.tgz",
    "https://releases.example/web\\..\\v1.tgz",
    "https://releases.example/web/%zz/v1.tgz",
    "https://releases.example:8443/web/v1.tgz",
    "https://releases.example./web/v1.tgz",
    "https://releases.example.evil.example/web/v1.tgz",
    "https://evil.example/https://releases.example/web/v1.tgz",
    "https://releases.example@evil.example/web/v1.tgz",
    "https://me@evil.example@releases.example/web/v1.tgz",
    "https://releases.example/web/..;/v1.tgz",
    "https://releases.example/web/..;x=y/v1.tgz",
    "https://releases.example/web/.;/v1.tgz",
    "https://releases.example/web/..%3b/v1.tgz",
    "https://releases.example:443@evil.example/web/v1.tgz",
    "https://evil.example\\@releases.example/web/v1.tgz",
    "https://evil.example?@releases.example/web/v1.tgz",
    "https://\uff52eleases.example/web/v1.tgz",
    "https://releases%2eexample/web/v1.tgz",
    f"http://releases.example/web/v1.tgz{PIN}",
    f"http://releases.example:443/web/v1.tgz{PIN}",
    "https://mirror.example/v1.tgz",
    "https://github.com/acme-evil/web/releases/download/v1/app.tgz",
    "https://www.github.com/acme/web/releases/download/v1/app.tgz",
    "https://codeload.github.com/acme/web/tar.gz/v1",
    "https://h.example/a%20b/v1.tgz",
    "s3://bucket/web/v1.tgz",
    "s3://Bucket/web%2Fv1.tgz",
    "s3://Bucket/website/v1.tgz",
    "s3://Bucket/web/%2e%2e/v1.tgz",
    "file:///srv/r/../v1.tgz",
    "file:///srv/rx/v1.tgz",
    "docker://registry.example/team/web:v1",
    "docker://registry.example:5000/teams/web:v1",
    "docker://registry.example:5000/team-web:v1",
    "docker://acme/nginx:1.27",
    "docker://localhost/library/nginx:1",
    "docker://library.example/nginx:1",
    "docker://Library/nginx:1",
]


@pytest.mark.parametrize("url", ELSEWHERE)
def test_nothing_else_is_taken_however_it_is_written(url: str) -> None:
    """An AMI for one team's releases that runs anybody's, by a URL that two programs read differently."""
    try:
        location = parse(url)
    except SettingsError:
        return  # refused at an earlier door
    assert not taken(location)
    assert not SOURCES.name(url)


@pytest.mark.parametrize("host", ["Evil", "localhost", "evil.example", "evil:5000"])
def test_a_registry_is_what_docker_takes_for_one(host: str) -> None:
    """An image of anybody's registry, whose name was taken for an account of Docker Hub's."""
    hub = Sources.parse("docker://docker.io")
    assert taken(parse("docker://nginx:1"), hub)
    assert taken(parse("docker://acme/web:1"), hub)
    assert not taken(parse(f"docker://{host}/web:1"), hub)


@given(st.text("ab./%2e5c\\@:?# é", max_size=20), st.sampled_from(["https://releases.example/web/", "https://"]))
def test_what_is_taken_is_asked_of_the_host_that_was_allowed(text: str, begin: str) -> None:
    """A parser that finds the allowed host where the one that connects finds another."""
    url = begin + text
    if not SOURCES.name(url):
        return
    request = plain().prepare_request(requests.Request("GET", url.partition("#")[0]))
    parts = urllib3.util.parse_url(str(request.url))  # what is connected to
    assert parts.host == "releases.example"
    assert str(parts.path).startswith("/web/")
    assert "/.." not in str(parts.path)


def test_without_prefixes_everything_is_taken() -> None:
    """A fleet of before, stopped by a setting that nobody set."""
    assert all(taken(parse(url), ANY) for url in TAKEN)
    assert not ANY.name(TAKEN[0])


@pytest.mark.parametrize(
    "text",
    [
        "", ",", "releases.example", "https://", "https:///web", "https://h.example/../x", "https://h.example/a?b",
        "https://me@h.example/", "https://h.example/#x", "https://h.example:port/", "https://h.example/%2f", "ftp://h/",
        "https://h.éxample/", "s3://", "s3:///web", "file://host/a", "docker://", "docker://nginx", "docker://team/web",
        "docker://registry.example/web:v1", f"docker://registry.example/web@sha256:{HEX}", "https://h.example/\\",
        "*", "https://[::1/",
    ],
)  # fmt: skip
def test_what_is_no_prefix_is_refused(text: str) -> None:
    """A typo that allows everything, or nothing."""
    with pytest.raises(ValueError, match=r"^must be URL prefixes"):
        Sources.parse(text)


# Where a redirect may lead


@contextmanager
def inside() -> Iterator[Web]:
    """A server in a private network: that of this machine."""
    with Web() as server:
        server.serve("/v1.tgz", Answer(200, DATA))
        yield server


def to(url: str) -> Answer:
    return Answer(302, headers={"Location": url})


def took(url: str, session: Any, sources: Sources = ANY) -> bytes:
    return b"".join(WebSource(parse(url), None, session, sources).open(0, "").chunks)


def test_no_redirect_leads_into_a_private_network(web: Web) -> None:
    """A release server that has an instance ask the databases beside it."""
    with inside() as server:
        named = server.url.replace("127.0.0.1", "localhost")
        url = web.serve("/v1.tgz", to(f"{named}/v1.tgz")) + PIN
        with pytest.raises(Withheld, match=r"redirects to localhost at .*, in a private network") as caught:
            took(url, plain())
        assert (caught.value.transient, "ADF_RELEASE_SOURCES" in caught.value.hint) == (False, True)
        assert server.asked == []
        secure = web.serve("/v3.tgz", to(f"{named.replace('http:', 'https:')}/v1.tgz")) + PIN
        with pytest.raises(Withheld, match="redirects to localhost"):
            took(secure, plain())
        assert took(url, plain(), Sources.parse(f"{named}/v1.tgz")) == DATA
        with pytest.raises(Withheld):
            took(url, plain(), Sources.parse(f"{named}/other, {web.url}/"))
        literal = web.serve("/v2.tgz", to(f"{server.url}/v1.tgz")).replace("127.0.0.1", "localhost") + PIN
        with pytest.raises(Withheld, match=r"redirects to 127.0.0.1 at 127.0.0.1"):
            took(literal, plain())


def test_a_redirect_on_the_same_host_is_none_that_leaves(web: Web) -> None:
    """A mirror in the fleet's own network that no instance can use."""
    url = web.serve("/v1.tgz", to("/v2.tgz")) + PIN
    web.serve("/v2.tgz", Answer(200, DATA))
    assert took(url, plain()) == DATA


def test_a_name_that_answers_differently_the_next_time_leads_nowhere(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that is public when it is looked at, and the instance's neighbour when it is connected to."""
    with inside() as server:
        port = int(server.host.partition(":")[2])
        asked: list[Any] = []
        ask = socket.getaddrinfo

        def rebinding(host: Any, *more: Any, **options: Any) -> Any:
            asked.extend([host] if host == "rebound.example" else [])
            return ask("127.0.0.1" if host == "rebound.example" else host, *more, **options)

        monkeypatch.setattr(socket, "getaddrinfo", rebinding)
        with pytest.raises(Withheld, match=r"redirects to rebound.example at 127.0.0.1"):
            took(web.serve("/v1.tgz", to(f"http://rebound.example:{port}/v1.tgz")) + PIN, plain())
        assert (asked, server.asked) == (["rebound.example"], [])


METADATA = ["169.254.169.254", "[fd00:ec2::254]", "[::ffff:a9fe:a9fe]", "169.254.170.2", "[fe80::1]"]


@pytest.mark.parametrize("address", METADATA)
def test_no_release_lies_at_instance_metadata(web: Web, internet: Web, address: str) -> None:
    """The instance's credentials, sent to whoever wrote a URL, or put into an image."""
    everywhere = Sources.parse(f"http://{address}/, https://{address}/")
    for session in (plain(), surfer(internet)):
        for sources in (ANY, everywhere):
            with pytest.raises(ReleaseError, match="no release lies there") as caught:
                took(f"https://{address}/latest/meta-data", session, sources)
            assert not caught.value.transient
    url = web.serve("/v1.tgz", to(f"http://{address}/latest")) + PIN
    for sources in (ANY, everywhere):
        with pytest.raises(ReleaseError, match="no release lies there"):
            took(url, plain(), sources)
    assert internet.asked == []


@pytest.mark.parametrize("address", ["10.0.0.1", "127.0.0.1", "[::1]", "192.168.1.1", "100.64.0.1", "[fd12::1]"])
def test_an_address_in_the_url_is_seen_behind_a_proxy_too(internet: Web, address: str) -> None:
    """A proxy that is in the private network itself, asked for what is there."""
    internet.serve("https://releases.example/v1.tgz", to(f"https://{address}/v1.tgz"))
    with pytest.raises(Withheld, match="in a private network"):
        took("https://releases.example/v1.tgz", surfer(internet))
    assert len(internet.asked) == 1


PUBLIC = ["1.1.1.1", "2606:4700::1111", "64:ff9b::101:101", "::ffff:1.1.1.1", "2002:101:101::"]
PRIVATE = [
    *("10.0.0.1", "0.0.0.1", "224.0.0.1", "255.255.255.255", "::", "::1", "fd12::1", "fec0::1", "ff0e::1"),
    *("64:ff9b::a00:1", "64:ff9b::7f00:1", "64:ff9b:1::a00:1", "::10.0.0.1", "::1.1.1.1", "::ffff:10.0.0.1"),
    *("2002:a00:1::", "2001::a9fe:a9fe"),
]
OURS = ["169.254.169.254", "fd00:ec2::254", "64:ff9b::a9fe:a9fe", "::a9fe:a9fe", "::ffff:a9fe:a9fe", "2002:a9fe:a9fe::"]


def test_an_address_is_what_a_gateway_makes_of_it() -> None:
    """The instance's credentials, behind an IPv6 address that a gateway of the VPC takes for 169.254.169.254."""
    assert [each for each in (*PUBLIC, *PRIVATE, *OURS) if is_private(each)] == [*PRIVATE, *OURS]
    assert [each for each in (*PUBLIC, *PRIVATE, *OURS) if is_metadata(each)] == OURS


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://H.example:443/x", "h.example"),
        ("http://me:pw@h.example", "h.example"),
        ("https://[::1]:8/x", "[::1]"),
        ("https://10.0.0.1\\@h.example/", ""),
        ("https://a@b@h.example/", ""),
        ("https://h.example\t/", ""),
        ("https:h.example/", ""),
        ("https://é.example/", ""),
    ],
)
def test_a_host_is_one_or_none(url: str, host: str) -> None:
    """A redirect that is believed to stay with the first host, and leads to the instance's neighbour."""
    assert host_of(url) == host


# The boot


def test_a_boot_takes_releases_from_its_sources_alone(machine: Machine, web: Web) -> None:
    """An AMI for one team's releases that boots whatever user-data says."""
    inside, outside = machine.root / "in", machine.root / "out"
    for folder in (inside, outside):
        folder.mkdir()
        (folder / "v1.tar.gz").write_bytes(DATA)
    machine.agent_env(ADF_RELEASE_SOURCES=f"https://releases.example/,file://{inside}/")
    note = {"image": f"registry.example/web@sha256:{HEX}", "name": "v1"}
    (inside / "v1.release.json").write_text(json.dumps(note))
    refused = (
        f"file://{outside}/v1.tar.gz",
        f"{web.serve('/v1.tar.gz', Answer(200, DATA))}#sha256={hashlib.sha256(DATA).hexdigest()}",
        f"docker://registry.example/web@sha256:{HEX}",
        f"file://{inside}/v1.release.json",
    )
    for url in refused:
        booted = machine.boot(RELEASE_URL=url)
        assert (booted.code, booted.error["stage"]) == (12, "release"), booted.log
        assert "is no source of releases to this AMI" in booted.error["sentence"]
    assert web.asked == []
    booted = machine.boot(RELEASE_URL=f"file://{inside}/v1.tar.gz")
    assert booted.code == 0, booted.log
    machine.agent_env(ADF_RELEASE_SOURCES=f"file://{outside}")
    assert machine.run("boot").code == 12  # also where it is recorded, and runs
    machine.agent_env(ADF_RELEASE_SOURCES="releases.example")
    assert machine.run("boot").code == 10
