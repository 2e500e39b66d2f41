"""What a boot acts on, as it is handed in: real clients are made at the edge only."""

from typing import Any, Protocol

from adf_agent.config import Clients
from adf_agent.deadline import Deadline
from adf_agent.instance import DescribesTags, Metadata
from adf_agent.root import Root


class Host(Protocol):
    """What a boot acts on. Clients are made when they are asked for, those of AWS for a region."""

    root: Root

    def metadata(self, deadline: Deadline) -> Metadata: ...
    def docker(self, timeout: float) -> Any: ...
    def ec2(self, region: str) -> DescribesTags: ...
    def s3(self, region: str) -> Any: ...
    def config(self, region: str) -> Clients: ...
