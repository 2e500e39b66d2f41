"""What can end a boot: one class a stage, and the table of exit codes."""

from collections.abc import Sequence
from typing import ClassVar, Literal

Stage = Literal["agent", "settings", "docker", "release", "config", "image", "container", "health", "report"]
Cause = Literal["settings", "release", "config", "build", "app", "host", "dependency", "agent"]

EXIT_CODES: dict[Stage, int] = {
    "agent": 1,
    "settings": 10,
    "docker": 11,
    "release": 12,
    "config": 13,
    "image": 14,
    "container": 15,
    "health": 16,
    "report": 17,
}
TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h: systemd starts the agent again


class AgentError(Exception):
    """A failure with a stage, a cause, one sentence and a hint.

    The sentence and the hint are shown to everybody: they hold no secret. A *transient* failure may pass by itself:
    it is tried again until the boot's deadline. *log_tail* holds the app's last lines, where it had started.
    """

    stage: ClassVar[Stage] = "agent"
    usual_cause: ClassVar[Cause] = "agent"

    def __init__(
        self,
        sentence: str,
        *,
        hint: str = "",
        cause: Cause | None = None,
        transient: bool = False,
        log_tail: Sequence[str] = (),
    ) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.hint = hint
        self.cause: Cause = cause or self.usual_cause
        self.transient = transient
        self.log_tail = tuple(log_tail)

    @property
    def exit_code(self) -> int:
        """The process's exit code: 75 where only transient faults stood in the way until the deadline."""
        return TRY_AGAIN if self.transient else EXIT_CODES[self.stage]


class SettingsError(AgentError):
    stage, usual_cause = "settings", "settings"


class DockerError(AgentError):
    stage, usual_cause = "docker", "host"


class ReleaseError(AgentError):
    stage, usual_cause = "release", "release"


class Withheld(ReleaseError):  # noqa: N818  of the bytes it says nothing
    """Who asks may not see the release, or takes less than others may: to somebody else it may be as good as any."""


class ConfigError(AgentError):
    stage, usual_cause = "config", "config"


class ImageError(AgentError):
    stage, usual_cause = "image", "build"


class ContainerError(AgentError):
    stage, usual_cause = "container", "host"


class HealthError(AgentError):
    stage, usual_cause = "health", "app"


class ReportError(AgentError):
    stage, usual_cause = "report", "dependency"


def unexpected(error: BaseException) -> AgentError:
    """What nobody thought of, as a failure; the exception's own text may hold anything, and is not shown."""
    hint = "This is a fault of adf-agent's: please report it, with the lines of its log."
    return AgentError(f"unexpected: {type(error).__name__}", hint=hint)


class Stopped(Exception):  # noqa: N818  not an error: somebody asked
    """The stop event was set while something waited."""
