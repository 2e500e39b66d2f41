"""What must not leave the instance in an archive: every secret that is known here, and what looks like one."""

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from adf_agent import engine, launch, mask
from adf_agent.background import Task
from adf_agent.deadline import Deadline
from adf_agent.doctor.case import Case
from adf_agent.doctor.check import Skipped
from adf_agent.errors import AgentError
from adf_agent.manifest import Manifest
from adf_agent.mask import LEAST, Mask

PLAIN = re.compile(r"ADF_\w+|AWS_REGION|PATH|PORT|HOME|HOSTNAME|LANG|TZ")  # what the agent or an image sets itself
TELLING = r"(?:token|secret|passw(?:or)?d|passphrase|pwd|(?:api|access|private)[-_]?key|[-_]key(?![\w-]))"
WORD = rf"(?=[\w-]*?{TELLING})[\w-]++"
NAME = rf"(?<![\w-]){WORD}"  # whole words, each looked at once: an app's output may be one that is as long as all of it
NOT_ONE = r"(?!ssm:|secretsmanager:|\*\*\*)"
SET = rf"(?:{NAME}\\?[\"']?\s*[=:]\s*|(?<![\w-])[nrt]?--(?!-){WORD}\s+(?!-))"  # "\n--name", as JSON has it
# For what nobody here knows of, as it came with a release or in an app's output.
LOOKS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"), "***"),  # AWS
    (re.compile(r"\b(?:gh[pousr]_\w{20,}|github_pat_\w{20,})"), "***"),
    (re.compile(r"\b(?:npm_\w{20,}|xox[a-z]-[\w-]{8,}|glpat-[\w-]{20,}|sk_live_\w{16,})"), "***"),
    (re.compile(r"(?<![\w-])eyJ[\w-]{10,}+\.[\w-]++\.[\w-]*+"), "***"),  # a JSON web token
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL), "***"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{8,}"), r"\1 ***"),
    # NAME="a value", --name "a value", "NAME": "a value" (a JSON text in another has a backslash at each quote)
    (re.compile(rf"(?i)({SET}(?P<quote>[\"'])){NOT_ONE}(?:\\.|(?!(?P=quote))[^\\\n])+(?=(?P=quote))"), r"\1***"),
    (re.compile(rf"(?i)({SET}\\(?P<quote>[\"'])){NOT_ONE}(?:(?!\\(?P=quote)).)+(?=\\(?P=quote))"), r"\1***"),
    # "NAME": 1234
    (re.compile(rf"(?i)({NAME}\"\s*:\s*)-?\d[\w.+-]{{3,}}"), r'\1"***"'),
    # NAME=value, name: value, --name value
    (re.compile(rf"(?i)({NAME}=){NOT_ONE}[^\s\"'\\]{{4,}}"), r"\1***"),
    (re.compile(rf"(?i)({SET})(?!(?:null|true|false)\b){NOT_ONE}[^\s\"',{{}}\[\]\\]{{4,}}"), r"\1***"),
)


@dataclass(frozen=True)
class Known:
    """Every *secret* known here; and *plain* values of the app's, of which nobody has to read in a ticket either.

    What of the environment has no telling name is plain: it may be a word that our own JSON is made of.
    """

    secrets: frozenset[str]
    plain: frozenset[str] = frozenset()


class Redactor:
    """Masks *secrets* in every form that a log or JSON may write them in, and what looks like one."""

    def __init__(self, secrets: Iterable[str]) -> None:
        known = {*secrets}
        self._mask = Mask()
        self._mask.add([*known, *(line for secret in known for line in secret.splitlines() if len(line) >= LEAST)])

    def __call__(self, text: str) -> str:
        text = self._mask(text)
        for look, instead in LOOKS:
            text = look.sub(instead, text)
        return text


def known(case: Case, environment: Sequence[str], deadline: Deadline) -> Known:
    """What is known until *deadline*, beyond which nobody is waited for. *environment*: our container's, `NAME=value`.

    All of the app's environment counts, whatever its name: it is the config, and a ticket needs none of its values.
    """
    secrets: tuple[Callable[[], Iterable[str]], ...] = (
        lambda: _secretive(dict(pair.split("=", 1) for pair in environment if "=" in pair)),
        lambda: read.secrets() if (read := case.config.need()) else (),
        lambda: _last_config(case, secret=True),
        lambda: _role(case),
        lambda: [case.token.need()],
        lambda: _settings(case),
        lambda: _secretive(os.environ),
        lambda: _secretive(launch.baked(case.root)),
        lambda: engine.logins(case.root.etc / "docker"),
        lambda: _secretive(_arguments(case)),
    )
    plain: tuple[Callable[[], Iterable[str]], ...] = (
        lambda: (pair.partition("=")[2] for pair in environment if not PLAIN.fullmatch(pair.partition("=")[0])),
        lambda: read.environment().values() if (read := case.config.need()) else (),
        lambda: _last_config(case, secret=False),
        lambda: _arguments(case).values(),
    )
    asked = [[Task(partial(_told, each)) for each in kind] for kind in (secrets, plain)]
    hidden, shown = (frozenset(text for task in kind for text in _until(task, deadline)) for kind in asked)
    return Known(hidden, frozenset(text for text in shown if len(text) >= LEAST))


def _arguments(case: Case) -> Mapping[str, str]:
    """The build's, which BuildKit writes into the names of its steps."""
    return Manifest.parse(case.state.manifest.encode()).build.args if case.state else {}


def _told(source: Callable[[], Iterable[str]]) -> set[str]:
    with suppress(AgentError, Skipped, TimeoutError, OSError, ValueError, TypeError, LookupError, AttributeError):
        return set(source())
    return set()


def _until(task: Task[set[str]], deadline: Deadline) -> set[str]:
    with suppress(TimeoutError):
        return task.result(deadline)
    return set()


def _last_config(case: Case, *, secret: bool) -> Iterable[str]:
    """Of the last config that worked, whichever app's and release's it is: the secrets, or the others."""
    parts = json.loads((case.root.var / "config.json").read_bytes())
    return [str(text) for text, is_secret, _ in parts["values"].values() if bool(is_secret) is secret]


def _role(case: Case) -> Iterable[str]:
    """The role's credentials, which an app's output may hold."""
    role = case.role.need()
    document = role.document if role else {}
    return [str(document.get(key) or "") for key in ("AccessKeyId", "SecretAccessKey", "Token")]


def _settings(case: Case) -> Iterator[str]:
    """RELEASE_URL's credentials and signature, and what log options name a token."""
    given = case.launched.need().settings
    yield from mask.url_secrets(given.release_url.url)
    yield from _secretive(given.log_opts)


def _secretive(values: Mapping[str, str]) -> Iterator[str]:
    yield from mask.secretive(values)
    for name, value in values.items():
        if "://" in value and name != "RELEASE_URL":
            yield from mask.url_secrets(value)
