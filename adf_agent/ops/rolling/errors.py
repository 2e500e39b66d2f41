"""How a roll ends before its time: exit codes of `adf-roll` beside 0 (done), 1 (rolled back or failed), 2 (usage)."""

from adf_agent.errors import AgentError

FAILED, REFUSED, DETACHED = 1, 3, 4


class Refused(AgentError):  # noqa: N818  not a fault: an answer
    """It must not, or can't, start; or there is nothing to see. Nothing was changed, or all was taken back."""

    @property
    def exit_code(self) -> int:
        return REFUSED


def no_group(name: str) -> Refused:
    """To be raised where AWS knows no group of that *name*."""
    hint = "See its name, and the region (AWS_REGION): aws autoscaling describe-auto-scaling-groups"
    return Refused(f"there is no Auto Scaling group {name} here", hint=hint)


class Unseen(AgentError):  # noqa: N818  likewise
    """The roll goes on inside AWS, or may do so, and can't be seen from here any more."""

    @property
    def exit_code(self) -> int:
        return DETACHED
