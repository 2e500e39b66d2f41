"""A server on loopback that, once it is closed, answers nobody any more."""

import contextlib
import socket
import sys
from http.server import ThreadingHTTPServer
from typing import Any


class Closing(ThreadingHTTPServer):
    """Ends kept-alive connections too when it is closed; *connections* counts all that there were."""

    daemon_threads = False  # so that closing waits for every answer under way

    def __init__(self, *arguments: Any) -> None:
        self.connections = 0
        self._open: set[socket.socket] = set()
        super().__init__(*arguments)

    def get_request(self) -> tuple[socket.socket, Any]:
        request = super().get_request()
        self._open.add(request[0])
        self.connections += 1
        return request

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        for connection in self._open.copy():
            with contextlib.suppress(OSError):  # closed meanwhile
                connection.shutdown(socket.SHUT_RD)
        super().server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a client that went away is no news
            super().handle_error(request, client_address)
