from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adf_agent import location
from adf_agent.errors import SettingsError
from adf_agent.location import GitHub

HEX = "0123456789abcdef" * 4
COMMIT = "0123456789abcdef0123456789abcdef01234567"
WEB = "https://github.com/acme/web"
API = "https://api.github.com/repos/acme/web"
CODELOAD = "https://codeload.github.com/acme/web"


@pytest.mark.parametrize(
    ("url", "name", "kind", "ref", "file"),
    [
        (f"{WEB}/releases/download/v1.2/app.tgz", "v1.2", "release", "v1.2", "app.tgz"),
        (f"{WEB}/releases/download/web/v1.2/app.tgz", "web-v1.2", "release", "web/v1.2", "app.tgz"),
        (f"{WEB}/releases/download/v1%2B2/app.tgz", "v1-2", "release", "v1+2", "app.tgz"),
        (f"{WEB}/releases/latest/download/app.tar.gz", "app", "latest", "", "app.tar.gz"),
        (f"{WEB}/archive/v1.2.tar.gz", "v1.2", "archive", "v1.2", ""),
        (f"{WEB}/archive/{COMMIT}.tar.gz", COMMIT[:12], "archive", COMMIT, ""),
        (f"{WEB}/archive/refs/tags/v1.2.tar.gz", "v1.2", "archive", "v1.2", ""),
        (f"{WEB}/archive/refs/heads/fix/login.tar.gz", "fix-login", "archive", "fix/login", ""),
        (f"{WEB}/tarball/main", "main", "archive", "main", ""),
        (f"{WEB.replace('//', '//www.')}/tarball/main", "main", "archive", "main", ""),
        (f"{CODELOAD}/tar.gz/refs/tags/v1.2", "v1.2", "archive", "v1.2", ""),
        (f"{CODELOAD}/tar.gz/{COMMIT}", COMMIT[:12], "archive", COMMIT, ""),
        (f"{CODELOAD}/legacy.tar.gz/v1.2", "v1.2", "archive", "v1.2", ""),
        (f"{API}/tarball/v1.2", "v1.2", "archive", "v1.2", ""),
        (f"{API}/tarball/refs/heads/main", "main", "archive", "main", ""),
        (f"{API}/tarball", "tarball", "archive", "", ""),
        (f"{API}/releases/assets/4711", "4711", "asset", "", "4711"),
    ],
)
def test_a_github_url_is_named_by_its_tag_or_ref(url: str, name: str, kind: location.Kind, ref: str, file: str) -> None:
    """Two releases named alike would share config overlays, and a private asset could not be asked for."""
    found = location.parse(f"{url}#sha256={HEX}")
    assert (found.scheme, found.name, found.sha256) == ("https", name, HEX)
    assert found.github == GitHub(kind, "acme", "web", ref, file)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://dl.example.com/web-1.2.tar.gz", "web-1.2"),
        ("HTTPS://dl.example.com:8443/a/web-1.2.TAR.GZ?token=x", "web-1.2"),
        ("https://dl.example.com/web.tar", "web"),
        ("https://dl.example.com/web.tgz", "web"),
        ("https://dl.example.com/web.tar.bz2", "web"),
        ("https://dl.example.com/web.tbz2", "web"),
        ("https://dl.example.com/web.tar.xz", "web"),
        ("https://dl.example.com/web.txz", "web"),
        ("https://dl.example.com/web", "web"),
        ("https://dl.example.com/web-1.2.release.json", "web-1.2"),
        ("https://dl.example.com/web%201%2F2.tgz", "2"),
        ("https://dl.example.com/web%201+x.tgz", "web-1-x"),
        (f"https://dl.example.com/{COMMIT}.tgz", COMMIT),
        ("https://dl.example.com/", ""),
        ("https://dl.example.com/" + "a" * 101, ""),
        ("https://github.com.example.com/acme/web/archive/v1.tar.gz", "v1"),
        ("https://github.com/acme/web/raw/main/dist/web-1.tgz", "web-1"),
    ],
)
def test_any_other_url_is_named_by_its_file(url: str, name: str) -> None:
    """A release without a usable name has no config overlay and no place in the fleet record."""
    found = location.parse(url)
    assert (found.scheme, found.name, found.github) == ("https", name, None)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("s3://b-1.x/web-1.tgz", {"bucket": "b-1.x", "key": "web-1.tgz", "name": "web-1"}),
        ("s3://bucket/a/b%3F%20c.tgz", {"bucket": "bucket", "key": "a/b? c.tgz", "name": "b--c"}),
        (f"s3://bucket/a.tgz?versionId=Xy_.1#sha256={HEX.upper()}", {"version_id": "Xy_.1", "sha256": HEX}),
        ("file:///srv/my%20app.tar.xz", {"path": Path("/srv/my app.tar.xz"), "name": "my-app"}),
        (f"http://127.0.0.1:8000/app.tgz#sha256={HEX}", {"sha256": HEX, "name": "app", "scheme": "http"}),
        ("docker://nginx:1.27", {"reference": "nginx:1.27", "name": "1.27"}),
        ("docker://127.0.0.1:5000/repo:v1", {"reference": "127.0.0.1:5000/repo:v1", "name": "v1"}),
        ("docker://[::1]:5000/repo:v1", {"reference": "[::1]:5000/repo:v1"}),
        (f"docker://r.io/n-s/a__b@sha256:{HEX}", {"reference": f"r.io/n-s/a__b@sha256:{HEX}", "name": HEX[:12]}),
        (f"docker://nginx@sha256:{HEX}", {"shown": f"docker://nginx@sha256:{HEX}", "name": HEX[:12]}),
        (f"docker://r.io/app:v2@sha256:{HEX}", {"name": "v2", "scheme": "docker", "sha256": None}),
        ("docker://r.io/app:" + "t" * 128, {"name": ""}),
    ],
)
def test_every_scheme_gives_what_its_download_needs(url: str, expected: dict[str, object]) -> None:
    """A version or digest that is dropped on the way runs other bytes than the operator named."""
    found = location.parse(url)
    assert {key: getattr(found, key) for key in expected} == expected
    assert found.scheme == url.partition(":")[0]


@pytest.mark.parametrize(
    ("url", "note"),
    [
        ("https://dl.example.com/v1.release.json?x=y", True),
        (f"s3://bucket/v1.release.json#sha256={HEX}", True),
        ("file:///srv/v1.release.json", True),
        ("https://dl.example.com/v1.tar.gz?x=v1.release.json", False),
        ("docker://registry.example/v1.release.json:v1", False),
        ("docker://registry.example/web:v1.release.json", False),
    ],
)
def test_a_note_is_told_by_its_name(url: str, note: bool) -> None:
    """An image's tag that is taken for a file."""
    assert location.parse(url).is_note is note


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://bob:hunter2@dl.example.com/a.tgz", "https://***@dl.example.com/a.tgz"),
        ("https://hunter2@dl.example.com:8443/a.tgz", "https://***@dl.example.com:8443/a.tgz"),
        (
            f"https://b.s3.amazonaws.com/a.tgz?versionId=v1&X-Amz-Signature=hunter2&hunter2#sha256={HEX}",
            f"https://b.s3.amazonaws.com/a.tgz?versionId=v1&X-Amz-Signature=***&***#sha256={HEX}",
        ),
        ("s3://bucket/a.tgz?versionId=v1", "s3://bucket/a.tgz?versionId=v1"),
        (
            "https://https://?versionId=me:hunter2@host/a.tgz",
            "https://https://?versionId=***",
        ),  # a slip, found by make fuzz
        (f"file:///srv/a.tgz#sha256={HEX}", f"file:///srv/a.tgz#sha256={HEX}"),
    ],
)
def test_credentials_in_a_url_are_never_shown(url: str, shown: str) -> None:
    """A token in the status file can be read by every user, and ends in the console's log."""
    found = location.parse(url)
    assert found.shown == shown
    assert "hunter2" not in repr(found)
    assert found.url == url


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "starts with none of https://, http://, s3://, file://, docker://"),
        ("dl.example.com/hunter2.tgz", "starts with none of"),
        ("ftp://hunter2@dl.example.com/a.tgz", "starts with none of"),
        ("git@github.com:acme/hunter2.git", "starts with none of"),
        ("file:/srv/hunter2.tgz", "starts with none of"),
        ("https:///hunter2.tgz", "names no host"),
        ("https://[::1/hunter2.tgz", "is not a valid URL"),
        ("https://dl.example.com:hunter2/a.tgz", "has a port that is none"),
        ("https://dl.example.com:0/hunter2.tgz", "names no host"),
        ("https://dl.example.com/hunter2 a.tgz", "blank or a control character"),
        ("https://dl.example.com/hunter2.tgz\n", "blank or a control character"),
        ("http://dl.example.com/hunter2.tgz", "is http:// without a digest"),
        ("https://dl.example.com/hunter2.zip?x=y", "is a zip file"),
        ("s3://bucket/hunter2.ZIP", "is a zip file"),
        (f"{WEB}/archive/hunter2.zip", "is a zip file"),
        (f"{WEB}/zipball/hunter2", "is a zip file"),
        (f"{API}/zipball", "is a zip file"),
        (f"{CODELOAD}/zip/refs/heads/hunter2", "is a zip file"),
        (f"{CODELOAD}/legacy.zip/hunter2", "is a zip file"),
        ("https://github.com/acme/hunter2", "is a page of GitHub's"),
        (f"{WEB}/releases", "is a page of GitHub's"),
        (f"{WEB}/releases/tag/hunter2", "is a page of GitHub's"),
        (f"{WEB}/tree/hunter2", "is a page of GitHub's"),
        ("https://dl.example.com/a.tgz#hunter2", "ends in a fragment"),
        ("https://dl.example.com/a.tgz#", "ends in a fragment"),
        ("https://dl.example.com/a.tgz#sha256=", "ends in a fragment"),
        (f"https://dl.example.com/a.tgz#sha256={HEX[1:]}", "ends in a fragment"),
        (f"https://dl.example.com/a.tgz#sha256={HEX}0", "ends in a fragment"),
        (f"https://dl.example.com/a.tgz#sha256={HEX[1:]}g", "ends in a fragment"),
        (f"https://dl.example.com/a.tgz#md5={HEX[:32]}", "ends in a fragment"),
        (f"s3://bucket/a.tgz#sha512={HEX}{HEX}", "ends in a fragment"),
        ("s3://bucket", "names no object of S3"),
        ("s3://bucket/", "names no object of S3"),
        ("s3:///hunter2.tgz", "names no object of S3"),
        ("s3://hunter2@bucket/a.tgz", "names no object of S3"),
        ("s3://bucket/a.tgz?version=hunter2", "has a query"),
        ("s3://bucket/a.tgz?versionId=", "has a query"),
        ("s3://bucket/a.tgz?versionId=1&x=hunter2", "has a query"),
        ("file://hunter2/a.tgz", "names no file"),
        ("file:///", "names no file"),
        ("file:///srv/", "names no file"),
        ("file:///srv/a.tgz?hunter2", "names no file"),
        ("file:///srv/hunter2%00.tgz", "names no file"),
        ("docker://", "no valid image reference"),
        ("docker://nginx", "without tag or digest"),
        ("docker://127.0.0.1:5000/repo", "without tag or digest"),
        ("docker://r.io/Hunter2:v1", "no valid image reference"),
        ("docker://bob:hunter2@r.io/app:v1", "no valid image reference"),
        ("docker://r.io/app@sha256:abc", "no valid image reference"),
        (f"docker://r.io/app:v1#sha256={HEX}", "no valid image reference"),
    ],
)
def test_a_wrong_url_is_refused_in_a_sentence_without_its_secrets(url: str, said: str) -> None:
    """Each would otherwise fail minutes later, as a 404, a web page taken for a tarball, or a pin that pins nothing."""
    with pytest.raises(SettingsError) as caught:
        location.parse(url)
    error = caught.value
    assert said in error.sentence
    assert error.hint
    assert "hunter2" not in (error.sentence + error.hint).lower()


@given(st.text() | st.from_regex(r"(https?|s3|file|docker)://.{0,40}", fullmatch=True))
def test_no_text_at_all_is_more_than_refused(text: str) -> None:
    """An exception of another kind would end the boot as a fault of the agent, with no hint."""
    with suppress(SettingsError):
        assert location.parse(text).url == text
