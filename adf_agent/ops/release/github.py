"""A release's files as assets of a release on GitHub (https://docs.github.com/en/rest/releases)."""

import os
import re
from collections.abc import Collection, Mapping
from http import HTTPStatus
from http.client import responses
from typing import Any
from urllib.parse import quote, urlsplit

import requests

from adf_agent import __version__, location
from adf_agent.deadline import Deadline
from adf_agent.errors import ReleaseError
from adf_agent.location import SHORT
from adf_agent.notation import in_words
from adf_agent.ops.release.attempt import attempt
from adf_agent.ops.release.delivery import check_same, other_bytes
from adf_agent.ops.release.package import File, Seen
from adf_agent.web import GITHUB_API, TRY_AGAIN, Login, Web

# Seconds to connect, which urllib3 takes for each send too, and of silence: GitHub first hashes what it got.
TIMEOUT = (60, 60)
ASSET_BYTES = 2 * 2**30  # https://docs.github.com/en/repositories/releasing-projects-on-github/about-releases
LONGEST = 200  # characters of what GitHub says
MISSING = HTTPStatus.NOT_FOUND
# What https://docs.github.com/en/rest/commits/commits#get-a-commit says of no such tag, 409 of an empty repository.
NO_TAG = {MISSING, HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.CONFLICT}
HOSTS = ("api.github.com", "uploads.github.com")


class GitHub:
    """The release of the tag *tag* of *repository* (`owner/name`), both made at *commit* where they are missing."""

    def __init__(self, repository: str, tag: str, commit: str, *, token: str, session: requests.Session) -> None:
        self._repository, self._tag, self._commit, self._session = repository, tag, commit, session
        self._api, self._token = f"{GITHUB_API}/repos/{repository}", token.strip()
        if not (self._token.isascii() and self._token.isprintable()):
            raise ReleaseError("what GH_TOKEN holds is no token", hint="Set it to what `gh auth token` shows.")

    @classmethod
    def parse(cls, place: str, tag: str, commit: str) -> "GitHub":
        """From `github:owner/repository`. Raises ReleaseError."""
        form = re.fullmatch(r"github:([A-Za-z0-9-]+/(?!\.{1,2}$)[\w.-]+)", place, re.ASCII)
        if form is None:
            raise ReleaseError(f"{place!r} names no repository", hint="Write --to github:owner/repository.")
        if (os.environ.get("GITHUB_API_URL") or GITHUB_API).rstrip("/") != GITHUB_API:
            hint = "Unset it; for a GitHub of your own, deliver to S3 or a folder."
            raise ReleaseError(f"GITHUB_API_URL is not {GITHUB_API}, where alone github: delivers to", hint=hint)
        token = os.environ.get("GH_TOKEN") or os.environ.get("GITHUB_TOKEN")
        if not token:
            hint = "Set GH_TOKEN (`gh auth token` shows yours); it needs to write the repository's contents."
            raise ReleaseError("there is no token for GitHub in the environment", hint=hint, cause="settings")
        return cls(form[1].removesuffix(".git"), tag, commit, token=token, session=requests.Session())

    def url(self, name: str) -> str:
        return f"https://github.com/{self._repository}/releases/download/{quote(self._tag)}/{quote(name)}"

    def put(self, file: File, seen: Seen, deadline: Deadline) -> bool:
        if file.size >= ASSET_BYTES:
            raise ReleaseError(
                f"the release is {in_words(file.size)}; GitHub takes less than {in_words(ASSET_BYTES)} in a file",
                hint="Leave out what it does not need (export-ignore in .gitattributes), or deliver it to S3.",
            )
        return deadline.retry(lambda: attempt(lambda: self._put(file, seen), deadline))

    def _put(self, file: File, seen: Seen) -> bool:
        try:
            self._check_tag()
            release = self._release()
            asset = next((asset for asset in release["assets"] if asset["name"] == file.name), None)
            if asset and asset.get("state") == "uploaded":
                self._check_same(asset, file)
                return False
            if asset:  # an upload that broke off
                self._delete(asset)
            self._check_arrived(self._upload(release["upload_url"], file, seen), file)
        except (LookupError, TypeError, AttributeError, requests.exceptions.JSONDecodeError) as error:
            raise _passing(f"{HOSTS[0]} answers what is no release of GitHub's") from error
        return True

    def _check_tag(self) -> None:
        """Raises ReleaseError where the tag is there, on another commit: the release would show that one's source."""
        answer = self._ask(
            "GET", f"{self._api}/commits/tags/{quote(self._tag)}", expected=NO_TAG, params={"per_page": 1}
        )
        if answer.status_code not in NO_TAG and (found := answer.json()["sha"]) != self._commit:
            raise ReleaseError(
                f"tag {self._tag} of {self._repository} is on commit {found[:SHORT]}, not on {self._commit[:SHORT]}",
                hint="A release's tag is never moved: give this one another name (--name, or a tag on its commit).",
            )

    def _release(self) -> Mapping[str, Any]:
        answer = self._ask("GET", f"{self._api}/releases/tags/{quote(self._tag)}", expected={MISSING})
        if answer.status_code == MISSING:
            wanted = {"tag_name": self._tag, "target_commitish": self._commit, "name": self._tag}
            answer = self._ask("POST", f"{self._api}/releases", json=wanted)
        found: Mapping[str, Any] = answer.json()
        return found

    def _check_same(self, asset: Mapping[str, Any], file: File) -> None:
        place = f"asset {file.name} of release {self._tag} of {self._repository}"
        if not asset.get("digest"):  # an asset from the time before GitHub made digests
            check_same(Web(location.parse(self.url(file.name)), lambda: self._token, self._session), file, place)
        elif asset["digest"] != f"sha256:{file.digest}":
            raise other_bytes(place)

    def _upload(self, address: str, file: File, seen: Seen) -> Mapping[str, Any]:
        url, _, _ = address.partition("{")  # a template of RFC 6570
        parts = urlsplit(url)
        # It gets the token, so the answer alone does not decide where.
        if parts.scheme != "https" or parts.netloc not in HOSTS:
            hint = "See what stands between here and GitHub: a proxy?"
            raise ReleaseError(f"{HOSTS[0]} wants assets to be sent to {parts.netloc}: not with the token", hint=hint)
        with file.open(seen) as body:
            kind = {"Content-Type": file.type}
            answer = self._ask("POST", url, params={"name": file.name}, data=body, headers=kind)
        found: Mapping[str, Any] = answer.json()
        return found

    def _check_arrived(self, asset: Mapping[str, Any], file: File) -> None:
        digest = asset.get("digest") or f"sha256:{file.digest}"
        if (digest, asset["size"]) != (f"sha256:{file.digest}", file.size):
            self._delete(asset)
            raise _passing(f"GitHub got other bytes than were sent of {file.name}")

    def _delete(self, asset: Mapping[str, Any]) -> None:
        self._ask("DELETE", f"{self._api}/releases/assets/{int(asset['id'])}", expected={MISSING})

    def _ask(
        self,
        method: str,
        url: str,
        *,
        expected: Collection[int] = (),
        headers: Mapping[str, str] | None = None,
        **options: Any,
    ) -> requests.Response:
        """A successful or *expected* answer. Raises ReleaseError."""
        common = {"User-Agent": f"adf-agent/{__version__}", "X-GitHub-Api-Version": "2022-11-28"}
        try:
            answer = self._session.request(
                method,
                url,
                headers={"Accept": "application/vnd.github+json", **common, **(headers or {})},
                auth=Login(self._token),
                allow_redirects=False,
                timeout=TIMEOUT,
                **options,
            )
        except (OSError, ValueError) as error:  # all that requests raises, and lets pass
            raise _unanswered(error, url) from error
        if HTTPStatus.OK <= answer.status_code < HTTPStatus.MULTIPLE_CHOICES or answer.status_code in expected:
            return answer
        raise _refusal(answer, self._repository)


def _passing(why: str) -> ReleaseError:
    hint = "See githubstatus.com; the same command begins again."
    return ReleaseError(f"the upload failed: {why}", hint=hint, cause="dependency", transient=True)


def _unanswered(error: Exception, url: str) -> ReleaseError:
    host = urlsplit(url).netloc
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        hint = "See that the clock is right and ca-certificates up to date (REQUESTS_CA_BUNDLE for your own)."
        return ReleaseError(f"the certificate of {host} is not trusted", hint=hint, cause="host")
    return _passing(f"{host} does not answer ({type(error).__name__})")


def _refusal(answer: requests.Response, repository: str) -> ReleaseError:
    """What a status that is no success means."""
    status, said = answer.status_code, _said(answer)
    limited = "Retry-After" in answer.headers or answer.headers.get("X-RateLimit-Remaining") == "0"
    passing = status in TRY_AGAIN or status >= HTTPStatus.INTERNAL_SERVER_ERROR  # 520 too, of what stands before GitHub
    if passing or (status == HTTPStatus.FORBIDDEN and limited) or "already_exists" in said:
        return _passing(f"GitHub answers {status}{said}")
    hints: dict[int, str] = {
        HTTPStatus.UNAUTHORIZED: "The token is expired or not valid: set another one as GH_TOKEN.",
        HTTPStatus.FORBIDDEN: f"The token needs to write the contents of {repository}, and SSO where it is asked for.",
        HTTPStatus.NOT_FOUND: f"See that {repository} exists; GitHub answers 404 for what a token may not see.",
        HTTPStatus.UNPROCESSABLE_ENTITY: "Push the commit first; a release that GitHub calls immutable takes no more.",
    }
    hint = hints.get(status, "See that the repository has this name still.")
    return ReleaseError(f"GitHub answers {status} {responses.get(status, '')} to the upload{said}", hint=hint)


def _said(answer: requests.Response) -> str:
    """GitHub's own words, in parentheses."""
    try:
        about = answer.json()
        errors = [str(each.get("code") or each.get("message")) for each in about.get("errors", [])]
        words = ", ".join([str(about["message"]), *errors])
    except (LookupError, TypeError, AttributeError, ValueError):
        return ""
    return f" ({''.join(filter(str.isprintable, words))[:LONGEST]})"
