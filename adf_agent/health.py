"""Whether the app is well: one probe, asked quickly at first, and what its last answer was."""

import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from adf_agent import container
from adf_agent.background import Task
from adf_agent.container import Container
from adf_agent.deadline import Deadline
from adf_agent.engine import ANSWER_SECONDS
from adf_agent.errors import ContainerError, HealthError
from adf_agent.image import Image
from adf_agent.manifest import Health
from adf_agent.notation import Probe
from adf_agent.probing import Answer, asker
from adf_agent.settings import Settings

FIRST_SECONDS = 0.02  # a small app answers within tens of milliseconds of its start
GROWTH = 1.5


@dataclass(frozen=True)
class Healthy:
    """The app answered as often in a row as it should; *probes* counts all that were asked."""

    probe: str
    answer: str
    probes: int

    @property
    def fact(self) -> str:
        return f"{self.answer} ({self.probes} probe{'s' if self.probes > 1 else ''})"


def choose(settings: Settings, health: Health, image: Image, running: Container) -> Probe | None:
    """The probe of `ADF_HEALTH`, else of adf.toml, else the image's HEALTHCHECK, else TCP on the first port, else none.

    Raises HealthError where it names a port that is not published.
    """
    tcp = [port for port in running.ports if port.protocol == "tcp"]
    probe = settings.health or health.probe
    if probe is None and image.healthcheck:
        return Probe("docker")
    if probe is None:
        return Probe("tcp", tcp[0].container) if tcp else None
    if probe.port is not None and probe.port not in {port.container for port in tcp}:
        raise HealthError(
            f"the probe {probe} asks a port of the container that is not published",
            hint="Publish it with ADF_PUBLISH, [container] publish in adf.toml, or EXPOSE in the Dockerfile.",
            cause="settings",
        )
    if probe.kind == "docker" and not image.healthcheck:
        raise HealthError(
            "the probe is `docker`, but the image has no HEALTHCHECK",
            hint="Add one to the Dockerfile, or name another probe with ADF_HEALTH.",
            cause="settings",
        )
    return probe


def wait(client: Any, running: Container, probe: Probe | None, health: Health, deadline: Deadline) -> Healthy:
    """Asks until the app is healthy, at most `start_timeout` or until *deadline*.

    Raises Stopped, or HealthError with the last answer and the app's last lines, at once when the container ends.
    """
    ask = asker(client, running, probe, health.timeout)
    ended = Task(lambda: container.wait_for_exit(client, running.id))
    window = deadline.within(health.start_timeout)
    pause, good, probes, answer = FIRST_SECONDS, 0, 0, Answer(healthy=False, text="not asked yet")
    while not window.expired():
        if _is_over(client, running, ended):
            raise _exited(client, running, answer)
        if ended.failed():
            ended = Task(lambda: container.wait_for_exit(client, running.id))
        answer, probes = ask(), probes + 1
        good = good + 1 if answer.healthy else 0
        window.check()
        if good >= health.healthy_threshold and not ended.done():
            return Healthy(str(probe), answer.text, probes)
        _pause(ended, window.within(pause))
        pause = min(pause * GROWTH, health.interval)
    unwell = f"the app was not healthy within {window.seconds:.0f} s: {answer.text}"
    if not _engine_answers(client, running):  # which publishes its ports, or starts it again
        hint = "See `systemctl status docker`."
        raise HealthError(f"Docker does not answer, and {unwell}", hint=hint, cause="host", transient=True)
    raise HealthError(
        unwell,
        hint="See the app's last lines; if it only starts slowly, raise start_timeout in adf.toml.",
        log_tail=_last_words(client, running, answer),
    )


def _engine_answers(client: Any, running: Container) -> bool:
    asked = Task(lambda: container.running(client, running.id))
    with suppress(ContainerError, TimeoutError):
        asked.result(Deadline(ANSWER_SECONDS, threading.Event()))
        return True
    return False


def check_running(client: Any, running: Container) -> str:
    """Raises HealthError where the container has ended since it was healthy. A silent engine says nothing of it.

    What it is silent with is returned, else "".
    """
    try:
        if container.running(client, running.id):
            return ""
    except ContainerError as error:
        return error.sentence
    raise _exited(client, running, Answer(healthy=True, text="it was well"))


def _is_over(client: Any, running: Container, ended: Task[None]) -> bool:
    """Whether the container has ended. A wait that failed says nothing of it: the engine may have been restarted."""
    try:
        return ended.done() and not (ended.failed() and container.running(client, running.id))
    except ContainerError:
        return False


def _pause(ended: Task[None], pause: Deadline) -> None:
    """Waits for the *pause* to pass or the container to end. Raises Stopped."""
    if ended.failed():
        pause.wait(pause.seconds)
        return
    with suppress(TimeoutError, ContainerError):
        ended.result(pause)


def _exited(client: Any, running: Container, answer: Answer) -> HealthError:
    try:
        code, starved = container.exit_state(client, running.id)
    except ContainerError as error:  # somebody removed it
        return HealthError(f"the container is gone: {error.sentence}", hint=error.hint, cause="host")
    sentence, hint = f"the app exited with code {code} before it was healthy", "See the app's last lines."
    if starved:
        sentence = f"the app ran out of memory (exit code {code})"
        hint = "Raise memory in adf.toml, or use a larger instance."
    return HealthError(
        f"{sentence}; the last probe: {answer.text}", hint=hint, log_tail=_last_words(client, running, answer)
    )


def _last_words(client: Any, running: Container, answer: Answer) -> tuple[str, ...]:
    said = (f"(the probe was told: {answer.said})",) if answer.said else ()
    return (*container.last_words(client, running.id), *said)
