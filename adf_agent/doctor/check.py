"""A finding, and how findings are made: every check at once, none waited for beyond the deadline."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Generic, Literal, TypeVar

from adf_agent import aws
from adf_agent.background import Task
from adf_agent.deadline import Deadline
from adf_agent.errors import AgentError, unexpected

Level = Literal["fail", "warn", "ok", "skipped"]
LEVELS: tuple[Level, ...] = ("fail", "warn", "ok", "skipped")  # the worst first
HANGS = "What hangs may be this machine itself; see its processes in state D: ps -eo pid,stat,wchan:20,args"
DOCKER = "Docker hangs at it; see what it says: sudo journalctl -u docker -n 50"
NETWORK = "See the route, the security groups and the VPC endpoint on the way there, and HTTPS_PROXY."
LATE = {  # by check: what may be behind a silence; HANGS else
    **dict.fromkeys(("docker", "docker's disk", "builder", "ports"), DOCKER),
    **dict.fromkeys(("clock", "settings", "tags", "credentials", "release", "registry", "config"), NETWORK),
    **dict.fromkeys(
        ("group", "hooks", "balancers", "group's balancers", "permissions", "group's permissions"), NETWORK
    ),
    **dict.fromkeys(
        ("imds", "user-data"), "See AWS_EC2_METADATA_SERVICE_ENDPOINT, and this machine's routes and firewall."
    ),
}
# A botocore error of a call that reached nobody: it is no service's own trouble.
UNREACHED = {
    *("ConnectTimeoutError", "ConnectionClosedError", "EndpointConnectionError", "ProxyConnectionError"),
    *("ReadTimeoutError", "SSLError", "HTTPClientError"),
}
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Finding:
    """What *check* came to, in one *sentence*, and the command or setting that mends it."""

    level: Level
    sentence: str
    fix: str = ""
    check: str = ""  # the runner's to set

    def shown(self) -> dict[str, str]:
        """As JSON has it."""
        return {"check": self.check, "level": self.level, "sentence": self.sentence, "fix": self.fix}


Check = Callable[[], Iterable[Finding]]


class Skipped(Exception):  # noqa: N818  not an error of this check's
    """An earlier thing is needed, and is not there. *fix* is the command that examines it all the same."""

    def __init__(self, reason: str, fix: str = "") -> None:
        super().__init__(reason)
        self.fix = fix


class Shared(Generic[T]):
    """The value of *call*, which several checks need. One of them owns it, and reports why it is not there."""

    def __init__(
        self, missing: str, call: Callable[[], T], deadline: Deadline, needs: "tuple[Shared[Any], ...]" = ()
    ) -> None:
        self._missing, self._deadline, self._needs = missing, deadline, needs
        self._task = Task(call)

    def own(self) -> T:
        """The value. Raises what *call* raised, TimeoutError, or Skipped where something that it *needs* is late."""
        try:
            return self._task.result(self._deadline)
        except TimeoutError:
            for each in self._needs:
                each.need()
            raise

    def need(self) -> T:
        """The value. Raises Skipped where there is none."""
        try:
            return self.own()
        except Skipped:
            raise
        except Exception as error:
            raise Skipped(self._missing) from error

    def seen(self) -> T | None:
        """The value; None where there is none."""
        try:
            return self.need()
        except Skipped:
            return None


def run(checks: Mapping[str, Check], deadline: Deadline, under: str = "") -> list[Finding]:
    """What *checks* find, in their order. One that is late is a finding too; its thread is left behind.

    With *under*, the findings are those of one check of that name, and each of *checks* a question of its.
    """
    running = [_Running(name, check, under) for name, check in checks.items()]
    return [found for each in running for found in each.findings(deadline)]


class _Running:
    def __init__(self, name: str, check: Check, under: str) -> None:
        self._name, self._check = under or name, check
        self._subject = f"{name} " if under else ""
        self._found: list[Finding] = []
        self._task = Task(self._run)

    def findings(self, deadline: Deadline) -> list[Finding]:
        try:
            self._task.result(deadline)
        except TimeoutError:
            late = Finding("fail", f"{self._subject}did not answer within {deadline.seconds:.1f} s", self._late())
            return [*self._found, dataclasses.replace(late, check=self._name)]
        return self._found

    def _run(self) -> None:
        try:
            for found in self._check():
                self._add(found)
        except Skipped as reason:
            self._add(Finding("skipped", f"skipped because {reason}", reason.fix))
        except AgentError as error:
            self._add(of_error(error))
        except TimeoutError:  # of something shared: the runner says so at its own end
            self._add(Finding("fail", f"{self._subject}did not answer in time", self._late()))
        except Exception as error:  # noqa: BLE001  the thread's one boundary: the other findings count all the same
            self._add(of_error(unexpected(error)))

    def _late(self) -> str:
        return LATE.get(self._name, HANGS)

    def _add(self, found: Finding) -> None:
        self._found.append(found if found.check else dataclasses.replace(found, check=self._name))


def of_error(error: AgentError) -> Finding:
    """The finding that *error* is: a warning where AWS only throttles, which a boot waits out."""
    codes = {aws.code(link) for link in _causes(error)}
    if codes & UNREACHED:
        service = error.sentence.partition(":")[0]  # `dynamodb:Query on …`
        there = f" for {service}" if service.isalnum() else ""
        hint = f"See the route, the security group, a VPC endpoint{there}, and HTTPS_PROXY."
        return Finding("fail", error.sentence, hint)
    return Finding("warn" if codes & aws.TRANSIENT else "fail", error.sentence, error.hint)


def _causes(error: BaseException) -> Iterator[Exception]:
    """What led to *error*, the nearest first; a retry's last error may be its own cause."""
    seen: list[BaseException] = []
    while (error.__cause__ is not None) and error.__cause__ not in seen:
        error = error.__cause__
        seen.append(error)
        if isinstance(error, Exception):
            yield error
