"""`.dockerignore`: which files of a release its build does not get."""

import itertools
import posixpath
import re
from collections.abc import Callable, Sequence

from adf_agent.errors import ReleaseError


def patterns(data: bytes) -> tuple[str, ...]:
    """The patterns of the file's bytes, cleaned as Docker does, `!` before those that take files in again.

    Source: https://docs.docker.com/build/concepts/context/#dockerignore-files
    """
    lines = data.decode("utf-8-sig", "surrogateescape").splitlines()
    found = (line.strip() for line in lines if not line.startswith("#"))
    return tuple(_cleaned(line) for line in found if line)


def _cleaned(line: str) -> str:
    sign, pattern = ("!", line[1:].strip()) if line.startswith("!") else ("", line)
    if not pattern:
        raise _not_a_pattern(line)
    return sign + (posixpath.normpath(pattern).lstrip("/") or "/")


def left_out(patterns: Sequence[str]) -> Callable[[str], bool]:
    """Whether a path is left out: the last pattern that matches it, or a folder above it, decides.

    Docker's SDK has a matcher of its own, which takes `README` for `readme` and does not look at each folder above.
    Raises ReleaseError for what is no pattern.
    """
    groups = itertools.groupby(patterns, lambda pattern: pattern.startswith("!"))
    rules = [(negative, _compiled([pattern.removeprefix("!") for pattern in group])) for negative, group in groups]

    def matches(path: str) -> bool:
        out = False
        for negative, rule in rules:
            if negative == out and rule.fullmatch(path):
                out = not out
        return out

    return matches


def _compiled(group: Sequence[str]) -> re.Pattern[str]:
    translated = []
    for pattern in group:
        translated.append(_translated(pattern))
        try:
            re.compile(translated[-1])
        except re.error as error:
            raise _not_a_pattern(pattern) from error
    return re.compile(f"(?:{'|'.join(translated)})(?:/.*)?", re.DOTALL)


def _translated(pattern: str) -> str:
    """As moby/patternmatcher: `*` and `?` stop at a slash, `**` does not, a backslash makes the next one plain."""

    def part(token: re.Match[str]) -> str:
        text = token[0]
        if text.startswith("**"):
            return ".*" if token.end() == len(pattern) else "(?:.*/)?"
        if text[0] == "[" and len(text) > 1:
            return text
        return {"*": "[^/]*", "?": "[^/]"}.get(text, re.escape(text[-1]))

    return re.sub(r"(?:\*\*/?)+|\[(?:\\.|[^\]\\])+\]|\\.|.", part, pattern, flags=re.DOTALL)


def _not_a_pattern(text: str) -> ReleaseError:
    return ReleaseError(
        f".dockerignore: {text!r} is not a pattern", hint="Mend .dockerignore and make the release anew."
    )
