"""A release at an http(s) URL, GitHub's among them: followed through redirects, the token left with the first host."""

import os
from collections.abc import Callable, Iterator, Mapping
from urllib.parse import urljoin, urlsplit

import requests
import urllib3

from adf_agent import __version__
from adf_agent.download import CHUNK, Body, broken
from adf_agent.errors import ReleaseError
from adf_agent.location import GitHub, Location

TIMEOUT = (10, 30)  # seconds to connect, and of silence in the middle
REDIRECTS = 5
GITHUB_API = "https://api.github.com"
TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})


class Web:
    """A release at an http(s) URL. *token*, GitHub's, is asked for once and sent to the first host only."""

    def __init__(self, location: Location, token: Callable[[], str] | None, session: requests.Session) -> None:
        self._location = location
        self._token = token
        self._session = session

    def open(self, offset: int, proof: str) -> Body:
        headers = {"Accept-Encoding": "identity"}  # the bytes as they lie there are what a digest pins
        if offset:
            headers |= {"Range": f"bytes={offset}-", "If-Range": proof}
        token = self._token() if self._token else ""
        url = self._location.url.partition("#")[0]
        github = self._location.github
        if github and token and github.kind in ("release", "latest"):
            url = self._asset(github, token)
        if github and github.kind != "archive":
            headers["Accept"] = "application/octet-stream"  # the asset itself, not what the API says of it
        response = self._follow(url, headers, token)
        if response.status_code == requests.codes.partial_content and _begins(response) == offset:
            return Body(_chunks(response), offset, _ends(response), proof)
        if response.status_code != requests.codes.ok:
            raise _refusal(response, self._location, bool(token))
        length = response.headers.get("Content-Length", "")
        return Body(_chunks(response), 0, int(length) if length.isdecimal() else None, _proof(response))

    def _asset(self, github: GitHub, token: str) -> str:
        """A private release's asset has no other address than the API's (https://docs.github.com/en/rest/releases)."""
        api = os.environ.get("GITHUB_API_URL", GITHUB_API).rstrip("/")
        which = f"tags/{github.ref}" if github.kind == "release" else "latest"
        response = self._follow(f"{api}/repos/{github.owner}/{github.repository}/releases/{which}", {}, token)
        if response.status_code != requests.codes.ok:
            raise _refusal(response, self._location, token=True)
        for asset in response.json()["assets"]:
            if asset["name"] == github.file:
                return str(asset["url"])
        raise ReleaseError(
            f"GitHub's release {github.ref or 'latest'} has no asset {github.file}",
            hint="Upload it, or mend RELEASE_URL.",
        )

    def _follow(self, url: str, headers: Mapping[str, str], token: str) -> requests.Response:
        """The answer behind at most REDIRECTS redirects. The token stays with the first host."""
        for _ in range(REDIRECTS + 1):
            response = self._get(url, headers, token)
            if not response.is_redirect:
                return response
            response.close()
            url, token = urljoin(url, response.headers["Location"]), ""
            scheme = urlsplit(url).scheme
            if scheme != "https" and not (scheme == "http" and self._location.sha256):
                raise ReleaseError(
                    f"{self._location.shown} redirects to {scheme}://, where anybody could replace the release",
                    hint="Use a URL that stays with https://, or pin the bytes with #sha256=<hex>.",
                )
        raise ReleaseError(f"{self._location.shown} redirects more than {REDIRECTS} times", hint="Mend RELEASE_URL.")

    def _get(self, url: str, headers: Mapping[str, str], token: str) -> requests.Response:
        try:
            return self._session.get(
                url,
                headers={"User-Agent": f"adf-agent/{__version__}", **headers},
                auth=_Bearer(token),
                stream=True,
                allow_redirects=False,
                timeout=TIMEOUT,
            )
        except requests.exceptions.SSLError as error:
            raise ReleaseError(
                f"the certificate of {urlsplit(url).hostname} is not trusted",
                hint="See that the clock is right and ca-certificates up to date (REQUESTS_CA_BUNDLE for your own).",
                cause="dependency",
            ) from error
        except requests.exceptions.RequestException as error:
            if isinstance(error, ValueError):
                raise ReleaseError(
                    "RELEASE_URL leads to an address that is no URL", hint="Mend RELEASE_URL."
                ) from error
            raise broken(f"{urlsplit(url).hostname} does not answer ({type(error).__name__})") from error


class _Bearer(requests.auth.AuthBase):
    """The token, or nothing: set in any case, as requests would else look for a login in ~/.netrc."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def _chunks(response: requests.Response) -> Iterator[bytes]:
    try:
        yield from response.raw.stream(CHUNK, decode_content=False)
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise broken(f"it broke off ({type(error).__name__})") from error
    finally:
        response.close()


def _proof(response: requests.Response) -> str:
    """A strong ETag, the one validator that If-Range may carry for bytes (RFC 9110, 13.1.5)."""
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else ""


def _begins(response: requests.Response) -> int:
    return _number(response.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0], -1) or 0


def _ends(response: requests.Response) -> int | None:
    return _number(response.headers.get("Content-Range", "").rpartition("/")[2], None)


def _number(text: str, otherwise: int | None) -> int | None:
    return int(text) if text.isdecimal() else otherwise


def _refusal(response: requests.Response, location: Location, token: bool) -> ReleaseError:  # noqa: FBT001  said once
    """What a status that is no success means."""
    response.close()
    status = response.status_code
    limited = status == requests.codes.forbidden and response.headers.get("X-RateLimit-Remaining") == "0"
    if status in TRY_AGAIN or limited:
        return broken(f"{location.shown} answers {status}")
    hint = "See that the URL is right."
    if location.github or "api.github.com" in location.shown:
        hint = (
            "GitHub answers 404 for what a token may not see." if token else "If it is private, set ADF_RELEASE_TOKEN."
        )
    elif status in (requests.codes.unauthorized, requests.codes.forbidden):
        hint = "A presigned URL may have expired; s3:// uses the instance's own role."
    return ReleaseError(f"{location.shown} answers {status} {response.reason}", hint=hint)
