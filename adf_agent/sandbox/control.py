"""How a shell tells the sandbox that it is in: by AWS's address in its environment."""

import shutil
import threading
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

import requests

from adf_agent.deadline import Deadline
from adf_agent.errors import AgentError
from adf_agent.root import Root
from adf_agent.sandbox import machine
from adf_agent.sandbox.faults import Faults
from adf_agent.sandbox.front import CONTROL

if TYPE_CHECKING:
    from adf_agent.sandbox.fleet import Fleet

ANSWER_SECONDS = 30.0  # a fault may be a release that is packed first
END_SECONDS = 120.0  # a fleet drains
LOOK_SECONDS = 0.1
NOWHERE = 'Start one: eval "$(adf-sandbox up &)"'


class Control:
    """What the sandbox answers: to "fault" with its words, and to "down" by setting *stop*."""

    def __init__(self, fleet: "Fleet", stop: threading.Event) -> None:
        self._faults, self._stop = Faults(fleet), stop

    def __call__(self, command: str, words: list[str]) -> str:
        if command == "fault":
            return self._faults.order(*words)
        self._stop.set()
        return ""


def ask(environment: Mapping[str, str], command: str, *words: str) -> str:
    """What the sandbox of *environment* answers. Raises AgentError."""
    endpoint = environment.get("AWS_ENDPOINT_URL", "")
    if not endpoint.startswith("http://127."):
        raise AgentError("this shell is in no sandbox", hint=NOWHERE)
    try:
        session = requests.Session()
        session.trust_env = False  # no proxy on the way to the loopback
        answer = session.post(f"{endpoint}{CONTROL}{command}", json=words, timeout=ANSWER_SECONDS)
    except requests.RequestException as error:
        raise AgentError(f"the sandbox at {endpoint} does not answer", hint=NOWHERE) from error
    if answer.status_code != HTTPStatus.OK:
        sentence, _, hint = answer.text.partition("\n  → ")
        raise AgentError(sentence, hint=hint)
    return answer.text


def end(environment: Mapping[str, str], deadline: Deadline) -> str:
    """Returns, with a sentence, once nothing of the sandbox is left, in whatever way it ended. Raises AgentError."""
    folder = Path(environment.get("ADF_ROOT", "/"))
    ours = folder.name.startswith(machine.PREFIX) and folder.is_dir()
    try:
        ask(environment, "down")
    except AgentError:
        if not ours:
            raise
        return _sweep(folder)
    while folder.is_dir() and not deadline.expired():
        deadline.wait(LOOK_SECONDS)
    if folder.is_dir():
        raise AgentError(f"the sandbox did not end within {END_SECONDS:.0f} s; its files are in {folder}")
    return "adf-sandbox: it is down; this shell's AWS_ENDPOINT_URL leads nowhere now"


def _sweep(folder: Path) -> str:
    """What one that was killed has left: its agents have ended by themselves."""
    removed, instances = [], folder / "instances"
    for each in sorted(instances.iterdir()) if instances.is_dir() else ():
        removed += machine.clear(machine.engine(), each.name, Root(each))
    shutil.rmtree(folder)
    return f"adf-sandbox: it had ended; removed {', '.join([*removed, str(folder)])}"
