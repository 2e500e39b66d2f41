"""RELEASE_URL in all its forms: where a release lies, what its bytes are pinned to, and the name that it gives."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import SplitResult, unquote, urlsplit

from adf_agent.errors import SettingsError

Scheme = Literal["https", "http", "s3", "file", "docker"]
Kind = Literal["release", "latest", "asset", "archive"]
VERSION = re.compile(r"versionId=[\w.~%-]+")  # S3's: URL-ready
NAME = r"[A-Za-z0-9._-]{1,100}"
NOTE = ".release.json"  # ends the name of a note about a release, of one too that names an image
ARCHIVE_SUFFIX = r"(?i)\.(?:tar(?:\.[a-z0-9]+)?|tgz|tbz2?|txz)$"
SHORT = 12  # hexadecimal digits of a commit or digest that name a release

# https://docs.github.com/en/rest/releases/assets, …/rest/repos/contents, and the links of GitHub's own pages.
_OF = r"/(?P<owner>[^/]+)/(?P<repository>[^/]+)"
_WEB, _CODELOAD, _API = "//github.com", "//codeload.github.com", "//api.github.com/repos"
GITHUB_FORMS: tuple[tuple[Kind | Literal["page", "zip"], str, str], ...] = (
    ("latest", _WEB, _OF + r"/releases/latest/download/(?P<file>[^/]+)"),
    ("release", _WEB, _OF + r"/releases/download/(?P<ref>.+)/(?P<file>[^/]+)"),
    ("archive", _WEB, _OF + r"/archive/(?P<ref>.+)\.tar\.gz"),
    ("archive", _WEB, _OF + r"/tarball/(?P<ref>.+)"),
    ("archive", _CODELOAD, _OF + r"/(?:legacy\.)?tar\.gz/(?P<ref>.+)"),
    ("archive", _API, _OF + r"/tarball(?:/(?P<ref>.+))?"),
    ("asset", _API, _OF + r"/releases/assets/(?P<file>\d+)"),
    ("page", _WEB, _OF + r"(?:/|/releases/?|/(?:tree|commit|releases/tag)/.*)?"),
    ("zip", _WEB, _OF + r"/zipball/.*"),
    ("zip", _CODELOAD, _OF + r"/(?:legacy\.)?zip/.*"),
    ("zip", _API, _OF + r"/zipball(?:/.*)?"),
)

# The grammar of https://pkg.go.dev/github.com/distribution/reference
_DNS_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
REFERENCE = (
    rf"(?:(?:{_DNS_LABEL}(?:\.{_DNS_LABEL})*|\[[0-9A-Fa-f:]+\])(?::\d+)?/)?{_PART}(?:/{_PART})*"
    r"(?::(?P<tag>\w[\w.-]{0,127}))?(?:@sha256:(?P<digest>[0-9a-f]{64}))?"
)


@dataclass(frozen=True)
class GitHub:
    """What a GitHub URL asks for, so that a private download can ask GitHub's API for the same with a token.

    *kind*: `release` is the asset *file* of the release tagged *ref*, `latest` that of the latest release, `asset`
    the asset with the number *file* (to be asked for with `Accept: application/octet-stream`), `archive` the tree at
    *ref*, a tag, branch or commit.
    """

    kind: Kind
    owner: str
    repository: str
    ref: str = ""
    file: str = ""


@dataclass(frozen=True)
class Location:
    """Where a release lies. Print *shown*, never *url*, which may hold credentials.

    *name* is the release name that the URL gives, empty where it gives none; *sha256* the 64 lower-case hexadecimal
    digits of `#sha256=`. *bucket*, *key* and *version_id* are s3's, *path* file's, *reference* docker's.
    """

    url: str = field(repr=False)
    scheme: Scheme
    shown: str
    name: str = ""
    sha256: str | None = None
    github: GitHub | None = None
    bucket: str = ""
    key: str = ""
    version_id: str | None = None
    path: Path | None = None
    reference: str = ""

    @property
    def is_note(self) -> bool:
        """Whether a note lies there that names an image."""
        return self.scheme != "docker" and urlsplit(self.url).path.endswith(NOTE)


def beside(at: Location, suffix: str) -> Location:
    """Where the file is that is named as *at* and *suffix*; of an S3 object, its latest version. Not of an image."""
    parts = urlsplit(at.url)
    query = "" if at.scheme == "s3" else parts.query
    return parse(parts._replace(path=parts.path + suffix, query=query, fragment="").geturl())


def parse(url: str) -> Location:
    """The Location of a RELEASE_URL. Raises SettingsError, which holds no part of the URL: any may be secret."""
    if re.search(r"[\x00-\x20\x7f]", url):
        raise SettingsError("RELEASE_URL holds a blank or a control character", hint="Write a blank as %20.")
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise SettingsError("RELEASE_URL is not a valid URL", hint="Check its host.") from error
    known = {"https": _web, "http": _web, "s3": _s3, "file": _file, "docker": _docker}
    if parts.scheme not in known or not url.lower().startswith(f"{parts.scheme}://"):
        raise SettingsError(
            f"RELEASE_URL starts with none of {', '.join(f'{scheme}://' for scheme in known)}",
            hint="Give the whole URL of a release's tarball, or docker:// and the reference of an image.",
        )
    if parts.path.lower().endswith(".zip"):
        raise _zip()
    return known[parts.scheme](url, parts)


def _web(url: str, parts: SplitResult) -> Location:
    sha256 = _pin(url)
    if parts.scheme == "http" and not sha256:
        raise SettingsError(
            "RELEASE_URL is http:// without a digest: anybody on the way could replace the release",
            hint="Use https://, or pin the bytes with #sha256=<hex>.",
        )
    try:
        port = parts.port
    except ValueError as error:
        raise SettingsError("RELEASE_URL has a port that is none", hint="Ports go from 1 to 65535.") from error
    if not parts.hostname or port == 0:
        raise SettingsError("RELEASE_URL names no host", hint="Write https://host/path.")
    github = _github(parts) if parts.scheme == "https" else None
    ref = github.ref if github else ""
    if re.fullmatch(r"[0-9a-f]{40}", ref):
        ref = ref[:SHORT]
    return Location(
        url,
        "https" if parts.scheme == "https" else "http",
        masked(parts),
        name=release_name(ref or _stem(parts)),
        sha256=sha256,
        github=github,
    )


def _github(parts: SplitResult) -> GitHub | None:
    host = (parts.hostname or "").removeprefix("www.")
    place = f"//{host}{unquote(parts.path)}"
    for kind, prefix, form in GITHUB_FORMS:
        if place.startswith(prefix) and (found := re.fullmatch(form, place.removeprefix(prefix))):
            if kind == "zip":
                raise _zip()
            if kind == "page":
                raise SettingsError(
                    "RELEASE_URL is a page of GitHub's, not a tarball",
                    hint="Use a release's asset or https://github.com/OWNER/REPOSITORY/archive/refs/tags/TAG.tar.gz.",
                )
            asked = {name: text or "" for name, text in found.groupdict().items()}
            asked["ref"] = re.sub(r"^refs/(?:tags|heads)/", "", asked.get("ref", ""))
            return GitHub(kind, **asked)
    return None


def _s3(url: str, parts: SplitResult) -> Location:
    sha256 = _pin(url)
    if not re.fullmatch(r"[A-Za-z0-9._-]{3,255}", parts.netloc) or not _stem(parts):
        raise SettingsError("RELEASE_URL names no object of S3", hint="Write s3://bucket/key.")
    version = re.fullmatch(r"versionId=([^&]+)", parts.query)
    if "?" in url and not version:
        raise SettingsError(
            "RELEASE_URL has a query that s3:// does not know",
            hint="Write s3://bucket/key or s3://bucket/key?versionId=ID, with a ? in the key as %3F.",
        )
    return Location(
        url,
        "s3",
        masked(parts),
        name=release_name(_stem(parts)),
        sha256=sha256,
        bucket=parts.netloc,
        key=unquote(parts.path)[1:],
        version_id=unquote(version[1]) if version else None,
    )


def _file(url: str, parts: SplitResult) -> Location:
    sha256 = _pin(url)
    path = unquote(parts.path)
    if parts.netloc or "?" in url or "\0" in path or not _stem(parts):
        raise SettingsError("RELEASE_URL names no file of this machine", hint="Write file:///absolute/path.")
    return Location(url, "file", url, name=release_name(_stem(parts)), sha256=sha256, path=Path(path))


def _docker(url: str, _parts: SplitResult) -> Location:
    form = re.fullmatch(REFERENCE, url[len("docker://") :], re.ASCII)
    if form is None:
        raise SettingsError(
            "RELEASE_URL holds no valid image reference after docker://",
            hint="Write docker://registry/repository:tag or docker://registry/repository@sha256:<64 digits>; "
            "registry logins belong in DOCKER_CONFIG.",
        )
    tag, digest = form["tag"], form["digest"]
    if not (tag or digest):
        raise SettingsError(
            "RELEASE_URL names an image without tag or digest", hint="Add :tag, or @sha256:<hex>, which can't be moved."
        )
    return Location(url, "docker", url, name=release_name(tag or digest[:SHORT]), reference=form[0])


def _pin(url: str) -> str | None:
    """The digest of `#sha256=`, None without a fragment; an empty one is refused, as a lost digest is."""
    _, fragment, pin = url.partition("#")
    form = re.fullmatch(r"sha256=([0-9a-f]{64})", pin, re.IGNORECASE)
    if fragment and not form:
        raise SettingsError(
            "RELEASE_URL ends in a fragment that is not #sha256= and 64 hexadecimal digits",
            hint="Get the digest from sha256sum, or leave the # out.",
        )
    return form[1].lower() if form else None


def masked(parts: SplitResult) -> str:
    """The URL with `***` for user, password and the values of its query; an S3 version is no secret."""
    _, at, host = parts.netloc.rpartition("@")
    query = "&".join(
        pair if VERSION.fullmatch(pair) else f"{pair.partition('=')[0]}=***" if "=" in pair else "***"
        for pair in filter(None, parts.query.split("&"))
    )
    path = re.sub(r"//[^/]*@", "//***@", parts.path)  # of `https://https://user:password@…`, a slip
    return parts._replace(netloc=f"***@{host}" if at else host, path=path, query=query).geturl()


def _stem(parts: SplitResult) -> str:
    return re.sub(ARCHIVE_SUFFIX, "", unquote(parts.path).rpartition("/")[2]).removesuffix(NOTE)


def release_name(text: str) -> str:
    """*text*, a ref or a file's name, as a release name; empty where it makes none."""
    name = re.sub(r"[^A-Za-z0-9._-]", "-", text)
    return name if re.fullmatch(NAME, name) and name.strip(".") else ""


def _zip() -> SettingsError:
    return SettingsError(
        "RELEASE_URL is a zip file; a release is a tarball",
        hint="Make it with `git archive --format=tar.gz`; GitHub offers a .tar.gz beside each .zip.",
    )
