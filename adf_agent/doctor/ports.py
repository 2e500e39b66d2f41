"""The host's ports that the app is to be published on: free, or whose they are."""

import ipaddress
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adf_agent import screen
from adf_agent.doctor.case import Case
from adf_agent.doctor.check import Finding
from adf_agent.engine import asking
from adf_agent.errors import AgentError, DockerError
from adf_agent.manifest import Manifest
from adf_agent.notation import Port

TABLES = {"tcp": ("tcp", "tcp6"), "udp": ("udp", "udp6")}
LISTENS, UNCONNECTED = "0A", "07"  # states in /proc/net (include/net/tcp_states.h); udp has the second
PROXY = "docker-proxy,"  # Docker's process for a port that it publishes, as `owner` has it
WORD = 8  # hexadecimal digits of an address that stand in the machine's own order


@dataclass(frozen=True)
class Socket:
    """One that waits at *address* and *port* of the host."""

    protocol: str
    address: str
    port: int
    inode: str


def ports(case: Case) -> Iterator[Finding]:
    """Whether somebody else than our container has one of them."""
    wanted = _wanted(case)
    if not wanted:
        return
    address = case.launched.need().settings.publish_address
    reached, taken = case.engine.seen(), listening()
    found: Iterable[Mapping[str, Any]] = ()
    if reached:
        with asking("listing containers", DockerError):
            found = reached.client.api.containers()
    published = None if reached else _published(case)
    for port in wanted:
        yield judge(port, address, case.container_name, found, taken, published)


def _published(case: Case) -> Sequence[str]:
    """What the record says of our container's ports, `80:8000` each."""
    shown = screen.part(case.record, "container").get("ports")
    return [str(each) for each in shown] if isinstance(shown, list) else ()


def _wanted(case: Case) -> Sequence[Port]:
    """As far as it is known before the image is: ADF_PUBLISH, else adf.toml's, else what the container last had."""
    given = case.launched.need().settings.publish
    if given:
        return given
    with suppress(AgentError):
        recorded = Manifest.parse(case.state.manifest.encode()).container.publish if case.state else ()
        if recorded:
            return recorded
    with suppress(ValueError):  # another version's
        return [Port.parse(text) for text in _published(case)]
    return ()


def judge(
    port: Port,
    address: str,
    ours: str,
    containers: Iterable[Mapping[str, Any]],
    taken: Iterable[Socket],
    published: Sequence[str] | None = None,
) -> Finding:
    """Whose *port* at *address* is. *containers* are those that run, as Docker lists them; *ours* is our one's name.

    *published* are our container's ports as the record has them, where Docker does not list any container.
    """
    for each in containers:
        if any(_has(entry, port, address) for entry in each.get("Ports") or ()):
            names = [name.lstrip("/") for name in each.get("Names") or ()]
            if ours in names:
                return Finding("ok", f"port {port.host} is our container's")
            sentence = f"port {port.host} of the host is taken by the container {names[0]}"
            return Finding("fail", sentence, f"sudo docker stop {names[0]}")
    for socket in taken:
        if socket.protocol == port.protocol and socket.port == port.host and clash(socket.address, address):
            who = owner(socket.inode)
            if published is not None and (who.startswith(PROXY) or str(port) in published):
                return Finding("skipped", "skipped because Docker does not answer, which has our container's ports")
            see = f"See `sudo ss -lntup 'sport = :{port.host}'`"
            fix = f"{see} and stop it, or publish on another port with ADF_PUBLISH."
            return Finding("fail", f"port {port.host} of the host is taken by {who}", fix)
    return Finding("ok", f"port {port.host} of the host is free")


def _has(entry: Mapping[str, Any], port: Port, address: str) -> bool:
    same = entry.get("PublicPort") == port.host and entry.get("Type") == port.protocol
    return same and clash(str(entry.get("IP") or "0.0.0.0"), address)  # noqa: S104


def clash(one: str, other: str) -> bool:
    """Whether two sockets can't wait at these addresses of one port: equal, or one of them is any."""
    first, second = (_plain(each) for each in (one, other))
    return first == second or _takes(first, second) or _takes(second, first)


def _takes(one: ipaddress.IPv4Address | ipaddress.IPv6Address, other: object) -> bool:
    """Whether *one* is any address, *other* among them: `::` takes IPv4's too, as nobody sets IPV6_V6ONLY."""
    return one.is_unspecified and isinstance(other, type(one) if one.version == 4 else object)  # noqa: PLR2004


def _plain(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    address = ipaddress.ip_address(text)
    return getattr(address, "ipv4_mapped", None) or address


def listening(net: Path = Path("/proc/net")) -> list[Socket]:
    """Every socket of the machine that waits for somebody (proc(5))."""
    found = []
    for protocol, files in TABLES.items():
        for file in files:
            with suppress(OSError):  # without IPv6 it is not there
                found += [*_sockets(protocol, (net / file).read_text())]
    return found


def _sockets(protocol: str, text: str) -> Iterator[Socket]:
    for line in text.splitlines()[1:]:
        parts = line.split()
        local, state, inode = parts[1], parts[3], parts[9]
        if state == (LISTENS if protocol == "tcp" else UNCONNECTED):
            address, _, port = local.partition(":")
            words = (address[at : at + WORD] for at in range(0, len(address), WORD))
            packed = b"".join(bytes.fromhex(word)[::-1] for word in words)
            yield Socket(protocol, str(ipaddress.ip_address(packed)), int(port, 16), inode)


def owner(inode: str) -> str:
    """The process that has the socket, as far as this user may see."""
    for path in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            if os.readlink(path) == f"socket:[{inode}]":  # noqa: PTH115  a link that names no path
                name = re.sub(r"\s", "", (path.parents[1] / "comm").read_text())
                return f"{name}, process {path.parts[2]}"
    return "another process (sudo adf-agent doctor names it)"
