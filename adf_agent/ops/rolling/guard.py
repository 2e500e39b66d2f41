"""The watch over a roll: looks, tells, and pulls the cord of the engine's own rollback as soon as the canary fails."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace

from adf_agent import aws
from adf_agent.deadline import Deadline
from adf_agent.errors import Stopped
from adf_agent.ops.rolling import canary, check, events, facts, refresh
from adf_agent.ops.rolling.canary import Verdict
from adf_agent.ops.rolling.check import Check
from adf_agent.ops.rolling.errors import Refused, Unseen
from adf_agent.ops.rolling.lookout import PATIENCE, Look, Lookout, Roll
from adf_agent.ops.rolling.refresh import Refresh
from adf_agent.ops.rolling.screen import Screen
from adf_agent.ops.rolling.witnesses import Clients

POLL_SECONDS = 5.0


class Trial:
    """What there is against a roll, look by look. The check starts when the canary serves; *clock* is monotonic."""

    def __init__(self, release: str, check: Check, screen: Screen, clock: Callable[[], float] = time.monotonic) -> None:
        self._release, self._check, self._screen, self._clock = release, check, screen, clock
        self._since: float | None = None  # when the canary was first seen in service
        self._told = False

    def verdict(self, look: Look) -> Verdict | None:
        """Why the roll must go back; None as long as there is no reason to."""
        if self._told or not (look.canaries or self._is_missed(look)):
            return canary.outnumbered(look.instances)
        if self._since is None and canary.in_service(look.canaries, look.expected):
            self._since = self._clock()
            self._check.start(check.told([each.id for each in look.canaries], self._release))
        late = look.beyond or self._is_late(look) or self._is_missed(look)
        found = self._judged(look, late=late)
        if late and not found:
            self._told = True
            praised = all(each.well for each in look.canaries)
            witnessed = praised or look.refresh.alarms or self._check.result() == "passed"
            self._screen.tell(events.judged(None) if witnessed else events.unjudged())
        return found

    @property
    def over(self) -> bool:
        """Whether the canary was judged to the end, and is let be."""
        return self._told

    def doubt(self, look: Look) -> str:
        """What is wrong with a roll that is done, "" for nothing: it was over before a look at which it went back."""
        judged = self._told or not (look.canaries or self._is_missed(look))
        found = None if judged else self._judged(look, late=True)
        return found.reason if found else ""

    def _judged(self, look: Look, *, late: bool) -> Verdict | None:
        result = self._check.result()  # before its output: all of it is there once it has ended
        if output := self._check.output():
            self._screen.tell(events.checked(output))
        return canary.judged(look.canaries, look.firing, result, late=late)

    def _is_missed(self, look: Look) -> bool:
        """Whether there is a check, and the canary came and was joined by others between two looks."""
        return self._check.result() != "none" and not look.canaries and len(look.instances) > look.expected

    def _is_late(self, look: Look) -> bool:
        """Whether the bake is over, but for the time that it takes to look and to pull the cord.

        AWS counts it from when the canary has warmed up, and that from when it is in service.
        """
        delay = look.refresh.delay
        spare = min(2 * POLL_SECONDS, delay / 2)
        return self._since is not None and self._clock() - self._since >= look.warmup + delay - spare


def watch(lookout: Lookout, clients: Clients, screen: Screen, command: str, deadline: Deadline) -> tuple[Refresh, str]:
    """The refresh as it ended, and what is wrong with it though it is done. *command* is --check's, "" for none.

    Raises Unseen where it can't be seen any more, Stopped at the stop event, and tells in both cases what guards it
    then; AgentError where the group is gone.
    """
    with Check(command) as check_of_ours, screen.live():
        trial = Trial(lookout.roll.change.release_after, check_of_ours, screen)
        try:
            return _watched(lookout, clients, screen, trial, deadline)
        except (Stopped, Unseen):
            screen.tell(events.detached(lookout.roll, lookout.seen, judged=trial.over))
            raise


def _watched(
    lookout: Lookout, clients: Clients, screen: Screen, trial: Trial, deadline: Deadline
) -> tuple[Refresh, str]:
    roll, former, reason = lookout.roll, None, ""
    while True:
        look = lookout.look(deadline)
        for event in events.news(former, look):
            screen.tell(event)
        screen.show(look)
        if look.refresh.ended:
            # To AWS, somebody asked for the rollback.
            ended = replace(look.refresh, rollback=reason or look.refresh.rollback)
            return ended, (reason or trial.doubt(look)) if ended.done else ""
        if roll.ours and look.refresh.forward and not reason and (verdict := trial.verdict(look)):
            screen.tell(events.judged(verdict))
            if roll_back(clients, roll.group.name):
                screen.tell(events.rollback(roll.group.name))
            reason = verdict.reason
        former = look
        deadline.wait(POLL_SECONDS)


def until_left(roll: Roll, clients: Clients, deadline: Deadline) -> None:
    """Returns once only instances of the roll are in the group, at *deadline* in any case. Raises Refused, Stopped."""
    client = clients.client("autoscaling")
    while not deadline.expired():
        _, found = deadline.retry(lambda: facts.now(client, roll.group.name))
        if all(each.version == roll.version for each in found):
            return
        deadline.wait(POLL_SECONDS)


def roll_back(clients: Clients, group: str) -> bool:
    """Has the engine take the refresh back. Whether it does: not where that has ended meanwhile. Raises Unseen.

    https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_RollbackInstanceRefresh.html
    """
    action = "autoscaling:RollbackInstanceRefresh"

    def ask() -> bool:
        answer: object = None
        with aws.asking(Unseen, action, group, expected=("ActiveInstanceRefreshNotFound",)):
            answer = clients.client("autoscaling").rollback_instance_refresh(AutoScalingGroupName=group)
        return answer is not None

    try:
        return Deadline(PATIENCE, threading.Event()).retry(ask)  # a Ctrl-C waits: the canary has failed
    except Unseen as error:
        if _goes_back(clients, group):  # the answer was lost; or the engine was quicker, as an alarm tells it too
            return True
        hint = f"It goes on! Cancel it: aws autoscaling cancel-instance-refresh --auto-scaling-group-name {group}"
        raise Unseen(f"the rollback was not taken: {error.sentence}", hint=hint) from error


def _goes_back(clients: Clients, group: str) -> bool:
    try:
        found = refresh.latest(clients.client("autoscaling"), group)
    except Refused:
        return False
    return found is not None and found.status.startswith("Rollback")
