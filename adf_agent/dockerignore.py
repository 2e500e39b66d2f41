"""`.dockerignore`: which files of a release its build does not get."""

import itertools
import posixpath
import re
from collections.abc import Callable, Sequence

from adf_agent.errors import ReleaseError

MOST = 5000  # patterns; every name is held against each
TOKEN = re.compile(r"(?P<deep>(?:\*\*/?)+)|(?P<star>\*)|(?P<set>\[(?:\\.|[^\]\\])+\])|\\?(?P<plain>.)", re.DOTALL)
STAR, ANY = "[^/]*", ".*"


def patterns(data: bytes) -> tuple[str, ...]:
    """The patterns of the file's bytes, cleaned as Docker does, `!` before those that take files in again.

    Source: https://docs.docker.com/build/concepts/context/#dockerignore-files
    """
    lines = data.decode("utf-8-sig", "surrogateescape").splitlines()
    found = (line.strip() for line in lines if not line.startswith("#"))
    cleaned = tuple(_cleaned(line) for line in found if line)
    if len(cleaned) > MOST:
        raise ReleaseError(f".dockerignore has more than {MOST} patterns", hint="Name folders in it, not files.")
    return cleaned


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
    try:
        return re.compile(f"(?:{'|'.join(map(_translated, group))})(?:/.*)?", re.DOTALL)
    except re.error as error:
        if len(group) == 1:
            raise _not_a_pattern(group[0]) from error
    [*map(_compiled, ([pattern] for pattern in group))]  # the one at fault says so
    raise AssertionError("each is a pattern, and all together are none")


def _translated(pattern: str) -> str:
    """As moby/patternmatcher: `*` and `?` stop at a slash, `**` does not, a backslash makes the next one plain.

    Python's expressions, unlike Go's, try every way that wildcards can share a name: with a few of them, for hours. So
    what follows a `**/`, by whole parts, is atomic: where it matches first, the rest can do no worse than later on.
    """
    segments: list[list[str]] = [[]]
    for token in TOKEN.finditer(pattern):
        if token["deep"] and token.end() < len(pattern):
            segments.append([])
        else:
            segments[-1].append(ANY if token["deep"] else STAR if token["star"] else _one(token, pattern))
    whole = [not segment or segment[-1] == "/" for segment in segments]
    if whole[:-1].count(False) > 1:  # `a**b**c` means what nobody expects: two of these would have to be tried
        raise _not_a_pattern(pattern)
    first, *others = map(_within_parts, segments)
    last = len(others) - 1
    return first + "".join(
        f"(?>(?:.*?/)??{text})" if at < last and whole[at + 1] else f"(?:.*/)?{text}" for at, text in enumerate(others)
    )


def _one(token: re.Match[str], pattern: str) -> str:
    """The expression for one character."""
    if found := token["set"]:
        if "[:" in found or "--" in found:  # which Go takes for more than Python does
            raise _not_a_pattern(pattern)
        return "(?!/)[" + re.sub(r"\\.|[\[&|~]", lambda each: each[0] if each[0][1:] else f"\\{each[0]}", found[1:])
    return "[^/]" if token[0] == "?" else re.escape(token["plain"])


def _within_parts(tokens: Sequence[str]) -> str:
    """*tokens* joined. What stands between two wildcards of one part is atomic: the second takes the rest as well."""
    text, at = "", 0
    while at < len(tokens):
        end = next((end for end in range(at + 1, len(tokens)) if tokens[end] in (STAR, ANY, "/")), at)
        if tokens[at] == STAR and end > at and tokens[end] != "/":
            text += f"(?>[^/]*?{''.join(tokens[at + 1 : end])})"
            at = end
        else:
            text += tokens[at]
            at += 1
    return text


def _not_a_pattern(text: str) -> ReleaseError:
    return ReleaseError(
        f".dockerignore: {text[:80]!r} is not a pattern", hint="Mend .dockerignore and make the release anew."
    )
