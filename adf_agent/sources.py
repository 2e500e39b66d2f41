"""Where releases may come from: ADF_RELEASE_SOURCES, prefixes of URLs; and which addresses are nobody's but the host's.

What two programs could read differently is no source: it is refused, not guessed.
"""

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import unquote, urlsplit

from adf_agent.errors import ReleaseError
from adf_agent.location import Location

PORTS = {"https": 443, "http": 80}
FORM = "URL prefixes: https://host/path, s3://bucket/prefix, file:///folder or docker://registry/repository"
# What RFC 3986 knows: parsers agree on that. A backslash is a part of the host to one, and its end to another.
FOREIGN = re.compile(r"[^A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]|%(?![0-9A-Fa-f]{2})")
AUTHORITY = re.compile(r"https?://(?:[^\\/?#@\s]*@)?([a-z0-9.-]+|\[[0-9a-f:.]+\])(?::\d*)?(?=[/?#]|$)", re.IGNORECASE)
HIDDEN = re.compile(r"%(?:25)*(?:2e|2f|5c|00)", re.IGNORECASE)  # dots and slashes, however often they are encoded
DOTS = re.compile(r"\.\.?(?:;|$)")  # some servers cut a segment at its semicolon first
METADATA = ip_address("fd00:ec2::254")  # the other address of it is link-local
NAT64 = ip_network("64:ff9b::/96")  # RFC 6052
COMPATIBLE = ip_network("::/96")  # RFC 4291, 2.5.5.1: of the past, and what takes one for it nobody knows


@dataclass(frozen=True)
class Place:
    """A URL as far as it is compared."""

    scheme: str
    host: str
    port: int | None
    segments: tuple[str, ...]

    @classmethod
    def of(cls, url: str) -> "Place | None":
        """None for one that programs may read differently, or that has no host."""
        scheme, _, rest = url.partition("#")[0].partition("://")
        scheme = scheme.lower()
        try:
            parts = urlsplit(f"{scheme}://{rest}")
            host = parts.netloc if scheme == "s3" else parts.hostname or ""  # an old bucket may have capital letters
            port = (parts.port or PORTS[scheme]) if scheme in PORTS else None
        except ValueError:
            return None
        segments = [unquote(segment) for segment in parts.path.split("/")[1:]]
        odd = FOREIGN.search(url) or HIDDEN.search(parts.path) or any(map(DOTS.match, segments))
        if (
            odd
            or parts.netloc.count("@") > 1
            or scheme not in ("https", "http", "s3", "file")
            or bool(host) == (scheme == "file")
        ):
            return None
        return cls(scheme, host, port, tuple(segments))

    @classmethod
    def of_image(cls, reference: str) -> "Place":
        """Of a reference as `location.REFERENCE` has it; a name without registry is Docker Hub's, as to Docker."""
        name = re.sub(r"(?::\w[\w.-]*)?(?:@sha256:[0-9a-f]{64})?$", "", reference, flags=re.ASCII)
        host, slash, path = name.partition("/")
        if not (slash and _is_registry(host)):
            host, path = "docker.io", name if slash else f"library/{name}"
        return cls("docker", host.lower(), None, tuple(path.split("/")))

    @classmethod
    def prefix(cls, text: str) -> "Place":
        """Raises ValueError."""
        place = _registry(text) if text.startswith("docker://") else cls.of(text)
        if place is None or re.search(r"[?#@]", text):
            raise ValueError(f"must be {FORM}; without login, query or .. in it")
        segments = place.segments[:-1] if place.segments[-1:] == ("",) else place.segments
        return cls(place.scheme, place.host, place.port, segments)

    def holds(self, other: "Place") -> bool:
        """Whether *other* lies below this prefix, by whole segments of the path."""
        same = (self.scheme, self.host, self.port) == (other.scheme, other.host, other.port)
        return same and other.segments[: len(self.segments)] == self.segments


@dataclass(frozen=True)
class Sources:
    """The prefixes that releases may come from; without any, every source may be used."""

    prefixes: tuple[Place, ...] = ()
    text: str = ""

    @classmethod
    def parse(cls, text: str) -> "Sources":
        """From ADF_RELEASE_SOURCES. Raises ValueError."""
        parts = text.replace(",", " ").split()
        if not parts:
            raise ValueError(f"must be {FORM}")
        return cls(tuple(Place.prefix(part) for part in parts), ", ".join(parts))

    def name(self, url: str) -> bool:
        """Whether one of the prefixes is *url*'s."""
        return self._hold(Place.of(url))

    def check(self, location: Location) -> None:
        """Raises ReleaseError where there are prefixes, and none of them is *location*'s."""
        place = Place.of_image(location.reference) if location.reference else Place.of(location.url)
        if self.prefixes and not self._hold(place):
            raise ReleaseError(
                f"{location.shown} is no source of releases to this AMI",
                hint=f"Its agent.env allows {self.text} (ADF_RELEASE_SOURCES), written plainly: no .. and no %2F.",
            )

    def _hold(self, place: Place | None) -> bool:
        return place is not None and any(prefix.holds(place) for prefix in self.prefixes)


ANY = Sources()


def host_of(url: str) -> str:
    """The host of an http(s) URL, "" where programs may take different ones for it."""
    found = AUTHORITY.match(url)
    return found[1].lower() if found else ""


def _is_registry(host: str) -> bool:
    """As https://pkg.go.dev/github.com/distribution/reference tells a registry from a part of the repository."""
    return bool(re.search(r"[.:]|^localhost$", host)) or host != host.lower()


def _registry(text: str) -> Place | None:
    host, _, path = text.removeprefix("docker://").partition("/")
    if not _is_registry(host) or ":" in path or FOREIGN.search(text) or "%" in text:
        return None
    return Place("docker", host.lower(), None, tuple(path.split("/")) if path else ())


def is_metadata(address: str) -> bool:
    """Whether *address*, an IP address, is or may be instance metadata's: no release lies there."""
    found = _plain(address)
    return found.is_link_local or found == METADATA


def is_private(address: str) -> bool:
    """Whether *address*, an IP address, is one that the internet can't reach."""
    found, plain = ip_address(address), _plain(address)
    local = isinstance(plain, IPv6Address) and plain.is_site_local
    return not plain.is_global or plain.is_multicast or local or found in COMPATIBLE


def _plain(address: str) -> IPv4Address | IPv6Address:
    """An IPv4 address that IPv6 carries is what it carries."""
    found = ip_address(address)
    if not isinstance(found, IPv6Address):
        return found
    if found in NAT64 or found in COMPATIBLE:
        return IPv4Address(int(found) & 0xFFFFFFFF)
    return found.ipv4_mapped or found.sixtofour or found
