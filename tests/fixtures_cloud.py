"""AWS on loopback, for tests: `imds` alone, or `cloud`, which has one and moto's server beside it."""

from collections.abc import Iterator

import pytest

from adf_agent.sandbox.cloud import Cloud
from adf_agent.sandbox.imds import Imds


@pytest.fixture
def imds() -> Iterator[Imds]:
    """The metadata service of an instance without user-data, tags, group or notice; set them on `imds.instance`."""
    with Imds() as service:
        yield service


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    """An empty AWS; its metadata service is `cloud.imds`."""
    with Cloud() as aws:
        yield aws
