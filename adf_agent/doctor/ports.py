"""The host's ports that the app is to be published on: free, or whose they are."""

import ipaddress
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adf_agent import container
from adf_agent.doctor.case import Case
from adf_agent.doctor.check import Finding
from adf_agent.errors import AgentError
from adf_agent.manifest import Manifest
from adf_agent.notation import Port

TABLES = {"tcp": ("tcp", "tcp6"), "udp": ("udp", "udp6")}
LISTENS, UNCONNECTED = "0A", "07"  # states in /proc/net (include/net/tcp_states.h); udp has the second
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
    launched = case.launched.need()
    reached, whole = case.engine.seen(), case.root.whole_machine
    name = container.NAME if whole else f"{container.NAME}-{launched.identity.instance_id}"
    found = reached.client.api.containers() if reached else []
    taken = listening()
    for port in wanted:
        yield judge(port, launched.settings.publish_address, name, found, taken)


def _wanted(case: Case) -> Sequence[Port]:
    """As far as it is known before the image is: ADF_PUBLISH, else adf.toml's, else what the container last had."""
    given = case.launched.need().settings.publish
    if given:
        return given
    with suppress(AgentError):
        recorded = Manifest.parse(case.state.manifest.encode()).container.publish if case.state else ()
        if recorded:
            return recorded
    shown = (case.record.get("container") or {}).get("ports") or ()
    return [Port.parse(text) for text in shown]


def judge(
    port: Port, address: str, ours: str, containers: Iterable[Mapping[str, Any]], taken: Iterable[Socket]
) -> Finding:
    """Whose *port* at *address* is. *containers* are those that run, as Docker lists them; *ours* is our one's name."""
    for each in containers:
        if any(_has(entry, port, address) for entry in each.get("Ports") or ()):
            names = [name.lstrip("/") for name in each.get("Names") or ()]
            if ours in names:
                return Finding("ok", f"port {port.host} is our container's")
            return Finding(
                "fail", f"port {port.host} of the host is taken by the container {names[0]}", f"docker stop {names[0]}"
            )
    for socket in taken:
        if socket.protocol == port.protocol and socket.port == port.host and clash(socket.address, address):
            return Finding(
                "fail",
                f"port {port.host} of the host is taken by {owner(socket.inode)}",
                f"See `ss -ltnp 'sport = :{port.host}'` and stop it, or publish on another port with ADF_PUBLISH.",
            )
    return Finding("ok", f"port {port.host} of the host is free")


def _has(entry: Mapping[str, Any], port: Port, address: str) -> bool:
    same = entry.get("PublicPort") == port.host and entry.get("Type") == port.protocol
    return same and clash(str(entry.get("IP") or "0.0.0.0"), address)  # noqa: S104


def clash(one: str, other: str) -> bool:
    """Whether two sockets can't wait at these addresses of one port: equal, or one of them is any."""
    first, second = (_plain(each) for each in (one, other))
    return first == second or first.is_unspecified or second.is_unspecified


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
