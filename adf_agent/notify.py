"""What systemd is told: that the agent is ready, what it is at, that its loop still turns (sd_notify(3))."""

import os
import socket
from collections.abc import Callable, Mapping
from typing import Any

SHARE = 3  # of the time that the watchdog waits: a beat may be late


class Notify:
    """The service manager at the socket *address*; without one, as when started by hand, nothing is sent."""

    def __init__(self, address: str | None, watchdog_usec: str | None, clock: Callable[[], float]) -> None:
        self._address = address and ("\0" + address[1:] if address.startswith("@") else address)
        self._every = int(watchdog_usec or 0) / 1e6 / SHARE
        self._clock = clock
        self._fed = float("-inf")
        self._status = ""

    @classmethod
    def of_environment(cls, environment: Mapping[str, str], clock: Callable[[], float]) -> "Notify":
        """As systemd says in NOTIFY_SOCKET and WATCHDOG_USEC, where the latter is for this process."""
        ours = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        return cls(environment.get("NOTIFY_SOCKET"), environment.get("WATCHDOG_USEC") if ours else None, clock)

    def ready(self) -> None:
        self._send("READY=1")

    def stopping(self, seconds: float) -> None:
        """The end has begun, and may take *seconds*, whatever TimeoutStopSec says."""
        self._send(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={seconds * 1e6:.0f}")

    def feed(self) -> None:
        """Feeds the watchdog, where it is time; to be called by the loop itself, so that one that hangs starves it."""
        if self._every and self._clock() - self._fed >= self._every:
            self._fed = self._clock()
            self._send("WATCHDOG=1")

    def status(self, parts: Mapping[str, Any]) -> None:
        """One line of how far the record's *parts* are, where it has changed."""
        stage = next((each["name"] for each in reversed(parts["stages"]) if each["state"] == "running"), "")
        text = f"{parts['phase']}: {stage}" if stage else str(parts["phase"])
        if text != self._status:
            self._status = text
            self._send(f"STATUS={text}")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.settimeout(1)
            try:
                sender.sendto(message.encode(), self._address)
            except OSError:
                return  # the service manager is being restarted, or gone: it asks for nothing then
