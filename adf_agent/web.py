"""A release at an http(s) URL, GitHub's among them: followed through redirects, the token left with the first host."""

import os
from collections.abc import Callable, Generator, Mapping
from functools import cache
from http.client import responses  # a server's own words may quote the token
from urllib.parse import quote, urljoin, urlsplit

import requests
import urllib3

from adf_agent import __version__, reach
from adf_agent.download import CHUNK, Body, broken
from adf_agent.errors import ReleaseError, Withheld
from adf_agent.location import GitHub, Location
from adf_agent.sources import ANY, Sources, host_of

TIMEOUT = (10, 30)  # seconds to connect, and of silence in the middle
REDIRECTS = 5
GITHUB_API = "https://api.github.com"
GITHUB = ("github.com", "www.github.com", "codeload.github.com", "api.github.com")
NO_MORE = frozenset({206, 412, 416})  # asked for more of an object: the wrong part, or none
TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})


class Web:
    """A release at an http(s) URL. *token*, GitHub's, is asked for once where it is GitHub's, and sent to no other.

    A redirect leads into a private network only where *sources* names the URL there, or on the first host.
    """

    def __init__(
        self,
        location: Location,
        token: Callable[[], str] | None,
        session: requests.Session,
        sources: Sources = ANY,
    ) -> None:
        self._location, self._sources = location, sources
        self._token = cache(token if token and _is_githubs(location) else str)
        self._anywhere, self._outside = (reach.session(session, check) for check in (reach.anywhere, reach.outside))

    def open(self, offset: int, proof: str) -> Body:
        headers = {"Accept-Encoding": "identity"}  # the bytes as they lie there are what a digest pins
        if offset:
            headers |= {"Range": f"bytes={offset}-", "If-Range": proof}
        token = self._token().strip()  # a secret is easily stored with a line's end
        if not (token.isascii() and token.isprintable()):
            raise ReleaseError(
                "the token for GitHub is a text that is no token",
                hint="Let ADF_RELEASE_TOKEN (adf-release: GH_TOKEN) lead to the token alone, as GitHub shows it.",
            )
        url = self._location.url.partition("#")[0]
        github = self._location.github
        if github and token and github.kind in ("release", "latest"):
            url = self._asset(github, token)
        if github and github.kind != "archive":
            headers["Accept"] = "application/octet-stream"  # the asset itself, not what the API says of it
        response = self._follow(url, headers, token)
        if response.status_code == requests.codes.partial_content and _resumes(response, offset, proof):
            return Body(_chunks(response), offset, _ends(response), proof)
        if offset and response.status_code in NO_MORE:
            response.close()
            return self.open(0, "")
        if response.status_code != requests.codes.ok:
            raise _refusal(response, self._location, bool(token))
        return Body(_chunks(response), 0, _number(response.headers.get("Content-Length", "")), _proof(response))

    def _asset(self, github: GitHub, token: str) -> str:
        """A private release's asset has no other address than the API's (https://docs.github.com/en/rest/releases)."""
        api = _api()
        which = f"tags/{quote(github.ref)}" if github.kind == "release" else "latest"
        releases = f"{api}/repos/{github.owner}/{github.repository}/releases"
        response = self._follow(f"{releases}/{which}", {}, token)
        if response.status_code != requests.codes.ok:
            raise _refusal(response, self._location, token=True)
        try:
            assets = {asset["name"]: asset["id"] for asset in response.json()["assets"]}
        except (requests.exceptions.RequestException, LookupError, TypeError) as error:
            raise broken(f"{urlsplit(api).hostname} answers what is no release of GitHub's") from error
        if github.file in assets:
            return f"{releases}/assets/{assets[github.file]}"  # not the answer's own URL: it gets the token
        raise ReleaseError(
            f"GitHub's release {github.ref or 'latest'} has no asset {github.file}",
            hint="Upload it, or mend RELEASE_URL.",
        )

    def _follow(self, url: str, headers: Mapping[str, str], token: str) -> requests.Response:
        """The answer behind at most REDIRECTS redirects. The token stays with the first host."""
        session, first = self._anywhere, host_of(url)
        for _ in range(REDIRECTS + 1):
            response = self._get(session, url, headers, token)
            target = session.get_redirect_target(response)
            if target is None:
                return response
            response.close()
            url, scheme = _joined(url, target)
            token = ""
            stays = (first and host_of(url) == first) or self._sources.name(url)
            session = self._anywhere if stays else self._outside
            if scheme != "https" and not (scheme == "http" and self._location.sha256):
                raise ReleaseError(
                    f"{self._location.shown} redirects to {scheme}://, where anybody could replace the release",
                    hint="Use a URL that stays with https://, or pin the bytes with #sha256=<hex>.",
                )
        raise ReleaseError(f"{self._location.shown} redirects more than {REDIRECTS} times", hint="Mend RELEASE_URL.")

    def _get(self, session: requests.Session, url: str, headers: Mapping[str, str], token: str) -> requests.Response:
        try:
            return session.get(
                url,
                headers={"User-Agent": f"adf-agent/{__version__}", **headers},
                auth=Login(token if urlsplit(url).scheme == "https" else ""),  # never in the clear
                stream=True,
                allow_redirects=False,
                timeout=TIMEOUT,
            )
        except (OSError, ValueError) as error:  # all that requests raises, and lets pass
            raise _unanswered(error, url) from error


def _api() -> str:
    return (os.environ.get("GITHUB_API_URL") or GITHUB_API).rstrip("/")


def _is_githubs(location: Location) -> bool:
    """Whoever may write RELEASE_URL must not get the token by it, as the server that it names."""
    return host_of(location.url) in {*GITHUB, host_of(_api())} - {""}


class Login(requests.auth.AuthBase):
    """The token, else the URL's user and password, else nothing: requests would look into ~/.netrc by itself."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        user, password = requests.utils.get_auth_from_url(str(request.url))
        if self._token:
            request.headers["Authorization"] = f"Bearer {self._token}"
        elif user:
            requests.auth.HTTPBasicAuth(user, password)(request)
        return request


def _unanswered(error: Exception, url: str) -> ReleaseError:
    """Why there is no answer."""
    if isinstance(error, ValueError):
        return _no_url()
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return ReleaseError(
            f"the certificate of {urlsplit(url).hostname} is not trusted",
            hint="See that the clock is right and ca-certificates up to date (REQUESTS_CA_BUNDLE for your own).",
            cause="dependency",
        )
    if not isinstance(error, requests.exceptions.RequestException):
        return ReleaseError("the certificates to trust can't be read", hint="See REQUESTS_CA_BUNDLE.", cause="host")
    return broken(f"{urlsplit(url).hostname} does not answer ({type(error).__name__})")


def _joined(url: str, target: str) -> tuple[str, str]:
    """The URL that a redirect from *url* to *target* leads to, and its scheme."""
    try:
        joined = urljoin(url, target)
        return joined, urlsplit(joined).scheme
    except ValueError as error:
        raise _no_url() from error


def _no_url() -> ReleaseError:
    return ReleaseError("RELEASE_URL leads to an address that is no URL", hint="Mend RELEASE_URL.")


def _chunks(response: requests.Response) -> Generator[bytes]:
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


def _resumes(response: requests.Response, offset: int, proof: str) -> bool:
    """Whether this is the rest of the very object: some servers know Range, but not If-Range."""
    return response.headers.get("Content-Range", "").startswith(f"bytes {offset}-") and _proof(response) == proof


def _ends(response: requests.Response) -> int | None:
    return _number(response.headers.get("Content-Range", "").rpartition("/")[2])


def _number(text: str) -> int | None:
    return int(text) if text.isdecimal() else None


def _refusal(response: requests.Response, location: Location, token: bool) -> ReleaseError:  # noqa: FBT001  said once
    """What a status that is no success means."""
    response.close()
    status = response.status_code
    limited = status == requests.codes.forbidden and response.headers.get("X-RateLimit-Remaining") == "0"
    if status in TRY_AGAIN or limited:
        return broken(f"{location.shown} answers {status}")
    hint = "See that the URL is right; what is private on GitHub Enterprise takes GITHUB_API_URL in agent.env too."
    if location.github or "api.github.com" in location.shown:
        hint = (
            "GitHub answers 404 for what a token may not see."
            if token
            else "If it is private, set ADF_RELEASE_TOKEN; for adf-release, GH_TOKEN."
        )
    elif status in (requests.codes.unauthorized, requests.codes.forbidden):
        hint = (
            "A presigned URL may have expired; s3:// uses the instance's own role; "
            "ADF_RELEASE_TOKEN is sent to GitHub alone, and to an Enterprise server by GITHUB_API_URL."
        )
    unseen = status in (401, 403, 404) and location.github and not token  # GitHub's private ones
    said = f"{location.shown} answers {status} {responses.get(status, '')}".rstrip()
    return (Withheld if unseen else ReleaseError)(said, hint=hint)
