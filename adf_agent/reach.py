"""What a download may connect to: never to instance metadata, and by a redirect to no private network.

The address is looked at that the connection has, so that no name can answer differently the next time it is asked for.
Behind a proxy nobody but the proxy knows it: only an address that stands in the URL itself is looked at.
"""

import copy
import socket
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from adf_agent.errors import ReleaseError, Withheld
from adf_agent.sources import is_metadata, is_private

Check = Callable[[str, str], None]  # of a host and its IP address; raises ReleaseError


def anywhere(host: str, address: str) -> None:
    """Raises ReleaseError where *address* is one of instance metadata's."""
    if is_metadata(address):
        raise ReleaseError(f"{host} is at {address}, and no release lies there", hint="Mend RELEASE_URL.")


def outside(host: str, address: str) -> None:
    """Raises ReleaseError where *address* is one of a private network's, too."""
    anywhere(host, address)
    if is_private(address):
        raise Withheld(  # to an AMI that allows it
            f"RELEASE_URL redirects to {host} at {address}, in a private network",
            hint="Mend RELEASE_URL, or allow that URL in ADF_RELEASE_SOURCES (agent.env).",
        )


def session(like: requests.Session, check: Check) -> requests.Session:
    """A session as *like*, whose connections *check* looks at before a byte is sent."""
    made = copy.copy(like)
    made.adapters = OrderedDict()
    adapter = _Adapter(check)
    made.mount("https://", adapter)
    made.mount("http://", adapter)
    return made


class _Adapter(HTTPAdapter):
    def __init__(self, check: Check) -> None:
        self._check = check
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        """A proxy has a manager of its own, which connects as ever."""
        super().init_poolmanager(*arguments, **options)
        check = self._check

        class Plain(HTTPConnection):
            def _new_conn(self) -> socket.socket:  # as urllib3.contrib.socks does
                return _checked(super()._new_conn(), self.host, check)

        class Secure(HTTPSConnection):
            def _new_conn(self) -> socket.socket:
                return _checked(super()._new_conn(), self.host, check)

        class PlainPool(HTTPConnectionPool):
            ConnectionCls = Plain

        class SecurePool(HTTPSConnectionPool):
            ConnectionCls = Secure

        self.poolmanager.pool_classes_by_scheme = {"http": PlainPool, "https": SecurePool}

    def send(self, request: requests.PreparedRequest, *arguments: Any, **options: Any) -> requests.Response:
        host = urlsplit(str(request.url)).hostname or ""
        with suppress(ValueError):  # a name
            self._check(host, str(ip_address(host)))
        return super().send(request, *arguments, **options)


def _checked(connected: socket.socket, host: str, check: Check) -> socket.socket:
    try:
        check(host, connected.getpeername()[0])
    except BaseException:
        connected.close()
        raise
    return connected
