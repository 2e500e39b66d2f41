"""Fuzzing: how many inputs a property is tried with, what one of them may cost, and what no refusal may hold.

Without FUZZ_EXAMPLES a few thousand, always the same ones. With it so many over all properties, by their weights, from
FUZZ_SEED on; as a plugin (`pytest -p fuzzing tests/fuzz`) this prints how many were tried of each subject.
"""

import os
import resource
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn, Protocol, TypeVar

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from adf_agent.errors import AgentError

T = TypeVar("T")
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))
SEED = int(os.environ.get("FUZZ_SEED", "0"))
CI_EXAMPLES = 50  # of a property with the weight 1
ROUND = 2000  # inputs: hypothesis remembers every one of a round
SECONDS = 10  # of processor time that an input may take
MEGABYTES = 64  # of address space that it may take beside what is there
SENTENCE = 1000  # characters of a sentence and its hint
CANARY = "c%n@ry5f2a"  # in values; it can't pass for a name
weights: dict[str, int] = {}

COMMON = settings(deadline=None, database=None, suppress_health_check=[*HealthCheck])
settings.register_profile("ci", COMMON, derandomize=True)
settings.register_profile("fuzz", COMMON, derandomize=False)


def fuzzed(
    subject: str, inputs: st.SearchStrategy[T], *, weight: int = 1, megabytes: int = MEGABYTES
) -> Callable[[Callable[[T], None]], Callable[[pytest.FixtureRequest], None]]:
    """Makes a test of a property: it is tried with *inputs*, each within its budget of time and memory."""

    def decorated(check: Callable[[T], None]) -> Callable[[pytest.FixtureRequest], None]:
        weights[f"{check.__module__}.{check.__name__}"] = weight

        def test(request: pytest.FixtureRequest) -> None:
            tried = 0

            def once(value: T) -> None:
                nonlocal tried
                tried += 1
                with budget(megabytes):
                    check(value)

            for number, amount in enumerate(_rounds(weight)):
                profile = settings.get_profile("fuzz" if EXAMPLES else "ci")
                run = settings(profile, max_examples=amount)(given(inputs)(once))
                (seed(SEED + number)(run) if EXAMPLES else run)()
            request.node.user_properties.append(("fuzzed", (subject, tried)))

        test.__doc__, test.__name__, test.__module__ = check.__doc__, check.__name__, check.__module__
        return test

    return decorated


def _rounds(weight: int) -> Iterator[int]:
    left = EXAMPLES * weight // sum(weights.values()) if EXAMPLES else CI_EXAMPLES * weight
    while left > 0:
        yield min(left, ROUND)
        left -= ROUND


@contextmanager
def budget(megabytes: int = MEGABYTES) -> Iterator[None]:
    """Ends what takes more than its time or memory by an exception: a hang would hold up every other test."""
    former = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:  # noqa: PTH123  a hundred thousand times
        used = int(file.read().split()[0]) * resource.getpagesize()
    handler = signal.signal(signal.SIGVTALRM, _too_long)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (used + megabytes * 2**20, former[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, former)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, handler)


def _too_long(*_: object) -> NoReturn:
    raise AssertionError(f"it took more than {SECONDS} s of processor time")


def check_refusal(error: AgentError, canary: str = CANARY, longest: int = SENTENCE) -> None:
    """What every refusal must be: one sentence of readable length, with a next step and without what may be secret."""
    shown = f"{error.sentence} {error.hint}"
    assert error.hint
    assert shown.isprintable(), shown
    assert len(shown) <= longest, shown
    assert canary not in shown, shown


def mutated(documents: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """*documents*, half of them with a few bytes taken out, put in or repeated."""
    change = st.tuples(st.integers(0, 2**16), st.integers(0, 9), st.binary(max_size=6) | st.sampled_from(TOKENS))
    return documents | st.builds(_changed, documents, st.lists(change, min_size=1, max_size=4))


TOKENS = (
    b"\n",
    b"\0",
    b"\xff",
    b"'",
    b'"',
    b"\\",
    b"=",
    b"{",
    b"[",
    b": ",
    b"#",
    b"$",
    b"\x1f\x8b",
    b"--",
    b"\xe2\x80\xa8",
)


def _changed(data: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    for where, length, new in changes:
        at = where % (len(data) + 1)
        data = data[:at] + new + data[at + length :]
    return data


def texts(*parts: str, most: int = 12) -> st.SearchStrategy[str]:
    """Texts made of *parts*, which mean something to who reads them, and of anything else."""
    return st.lists(st.sampled_from([*parts, CANARY]) | st.text(max_size=4), max_size=most).map("".join)


class Depth(Protocol):
    """Makes something of the given depth."""

    def __call__(self, depth: int, /) -> bytes: ...


def nested(make: Depth) -> st.SearchStrategy[bytes]:
    """What is nested as deeply as no parser that calls itself stands."""
    return st.sampled_from([10, 500, 5000, 50_000]).map(make)


def deep_json(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


JSON: st.SearchStrategy[object] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts("/", "\x1b[2J", "1", "é"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many inputs were tried of each subject."""
    counts: Counter[str] = Counter()
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            if name == "fuzzed":
                counts[value[0]] += value[1]
    terminalreporter.section("inputs tried")
    for subject, count in sorted(counts.items()):
        terminalreporter.write_line(f"{subject:<32} {count:>9,}")
    terminalreporter.write_line(f"{'in all':<32} {counts.total():>9,}")
