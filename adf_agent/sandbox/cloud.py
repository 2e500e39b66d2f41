"""AWS on loopback: moto's server and the metadata service of one instance, in this process."""

import logging
import os
import threading
from collections import Counter
from contextlib import ExitStack
from functools import cache
from typing import Any, Protocol, Self

import boto3
import requests
from moto.moto_server.werkzeug_app import MotoRequestHandler
from werkzeug.serving import make_server

from adf_agent.sandbox.front import AwsFault, Front
from adf_agent.sandbox.imds import Imds, Instance


class Drain(Protocol):
    """Where requests are balanced to instances; a group waits for it before it terminates one."""

    def drains(self, instance_id: str) -> bool: ...

    def states(self) -> dict[str, str]: ...


class Cloud:
    """A context manager. Port 0 is any free one. moto's state belongs to the process: one Cloud at a time."""

    def __init__(
        self, instance: Instance | None = None, address: str = "127.0.0.1", port: int = 0, imds_port: int = 0
    ) -> None:
        self.imds = Imds(instance, address, imds_port)
        self.endpoint = ""
        self.front = Front()
        self.pools: dict[str, Drain] = {}  # by target group's ARN or classic load balancer's name
        self.addresses: dict[str, str] = {}  # by instance id, in 127.0.0.0/8
        self._clients: dict[tuple[str, str, str], Any] = {}
        self._place = address, port
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it writes a line a request
        os.environ.setdefault("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")  # a quarter of a second at every reset
        with ExitStack() as stack:
            stack.enter_context(self.imds)
            self._serve(stack)
            self.reset()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def calls(self) -> Counter[str]:
        """How often each call was made: "dynamodb:PutItem", "elasticloadbalancing:RegisterTargets"."""
        return self.front.calls

    @property
    def faults(self) -> list[AwsFault]:
        """What is to fail; the first that matches counts."""
        return self.front.faults

    @faults.setter
    def faults(self, faults: list[AwsFault]) -> None:
        self.front.faults = faults

    def environment(self) -> dict[str, str]:
        """What an agent needs to take this for AWS. Region and credentials are not in it: they come from IMDS."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": self.imds.endpoint,
            "AWS_CONFIG_FILE": os.devnull,  # nor do they come from the folder of whoever runs this
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    def client(self, service: str, access_key: str = "sandbox", secret_key: str = "sandbox") -> Any:  # noqa: S107
        """A boto3 client of *service*, for who prepares the cloud."""
        key = service, access_key, secret_key
        if key not in self._clients:
            session = _session(access_key, secret_key, self.imds.instance.region)
            self._clients[key] = session.client(service, endpoint_url=self.endpoint)
        return self._clients[key]

    def address(self, instance_id: str) -> str:
        """Where the instance's app listens; that of the metadata service's instance where no other was said."""
        return self.addresses.get(instance_id, self.imds.instance.private_ip)

    def reset(self) -> None:
        """Empties moto, and lets it answer every caller."""
        self._post("reset", b"")
        self._post("reset-auth", b"inf")

    def enforce_permissions(self) -> None:
        """From now on only what a caller's IAM policies allow is answered. moto does not evaluate conditions."""
        self._post("reset-auth", b"0")

    def _serve(self, stack: ExitStack) -> None:
        address, port = self._place
        server = make_server(address, port, self.front, threaded=True, request_handler=MotoRequestHandler)
        self.endpoint = f"http://{address}:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="moto", daemon=True)
        thread.start()
        stack.callback(thread.join)
        stack.callback(server.shutdown)
        stack.callback(self.front.closing.set)

    def _post(self, what: str, data: bytes) -> None:
        requests.post(f"{self.endpoint}/moto-api/{what}", data, timeout=10).raise_for_status()


@cache
def _session(access_key: str, secret_key: str, region: str) -> Any:
    """boto3 reads a service's description, up to a third of a second, once a session."""
    return boto3.Session(access_key, secret_key, region_name=region)
