r"""A config as a file: `.env` or JSON, read strictly, and written so that it is read back as it was.

A `.env` file is written for python-dotenv, and so that `set -a; . ./FILE` of a POSIX shell reads the same. The two
differ where a value holds `$` or a backtick and also a single quote, two backslashes in a row or one at its end: there
a shell would expand it, and a comment above it says so. docker compose reads a value with neither quotes nor
backslashes as a shell does. `docker run --env-file` knows no quotes at all. JSON, an object of strings, has no ifs.

Read is what python-dotenv reads, without its `${…}`: text in single quotes as it is, in double quotes with `\n`, `\t`,
`\"` and `\\`, else up to ` #`; `export` may stand before a name. What it drops with a warning is refused here.
"""

import io
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, Literal

from dotenv.parser import Binding, parse_stream

from adf_agent.config import NAME
from adf_agent.errors import ConfigError

Format = Literal["env", "json"]
Found = tuple[str, str, str]  # where it stands, the name, the text

MOST_BYTES = 4 << 20  # a config is 1 MiB at most; of what is longer (a wrong file, /dev/zero) no more is read
PLAIN = re.compile(r"[A-Za-z0-9_@%+=:,./-]*")  # neither a shell nor python-dotenv sees anything in these
DOUBLED = re.compile(r"\\(?:\\|\Z)")  # in single quotes python-dotenv takes these backslashes for one, or for an escape
KINDS = {bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object"}


def load(path: str, kind: Format) -> dict[str, str]:
    """What the file at *path* holds, by name; `-` is standard input. Raises ConfigError, as `read`."""
    source = "standard input" if path == "-" else path
    if path == "-" and sys.stdin is None:
        raise ConfigError("there is no standard input", hint="Name a file, or pipe it in.")
    try:
        with nullcontext(sys.stdin.buffer) if path == "-" else Path(path).open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        hint = "Name a file that this user may read, or - for standard input."
        raise ConfigError(f"{source} can't be read: {error.strerror}", hint=hint) from error
    if len(content) > MOST_BYTES:
        raise ConfigError(f"{source} is larger than {MOST_BYTES >> 20} MiB", hint="Is it the right file?")
    text = None
    with suppress(UnicodeDecodeError):  # it holds the file: nothing is raised from it
        text = content.decode("utf-8-sig")
    if text is None:
        raise ConfigError(f"{source} is not UTF-8 text", hint="Save it as UTF-8.")
    return read(text, kind, source)


def read(text: str, kind: Format, source: str = "the file") -> dict[str, str]:
    """The values in *text*, by name. Raises ConfigError, which says where in *source*, and shows no value."""
    values: dict[str, str] = {}
    for where, name, value in _from_json(text, source) if kind == "json" else _from_env(text, source):
        if not NAME.fullmatch(name):
            hint = "Rename it: letters, digits and _, and no digit first."
            raise ConfigError(f"{where}: {name!r} can't be the name of an environment variable", hint=hint)
        if name in values:
            raise ConfigError(f"{where}: {name} is given a second time", hint="Give it once.")
        values[name] = value
    if not values:
        raise ConfigError(f"{source} holds no key", hint="Is it the right file, and --format?")
    return values


def write(values: Mapping[str, str], kind: Format) -> str:
    """*values* as a file's text, by name."""
    if kind == "json":
        return json.dumps(values, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    return "".join(f"{_warning(name, value)}{name}={_quoted(value)}\n" for name, value in sorted(values.items()))


def is_for_shells(value: str) -> bool:
    """Whether a shell reads what `write` writes for *value* as python-dotenv does."""
    return not re.search("[$`]", value) or _fits_single_quotes(value)


def _warning(name: str, value: str) -> str:
    return (
        "" if is_for_shells(value) else f"# {name} is for .env readers alone: a shell would expand its $ or backtick\n"
    )


def _quoted(value: str) -> str:
    if PLAIN.fullmatch(value):
        return value
    if _fits_single_quotes(value):
        return f"'{value}'"
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _fits_single_quotes(value: str) -> bool:
    return "'" not in value and not DOUBLED.search(value)


def _from_env(text: str, source: str) -> Iterator[Found]:
    for each in parse_stream(io.StringIO(text)):
        where = f"line {_line(each)} of {source}"
        if each.error:
            hint = "Write NAME=value; quote a value that holds quotes, and close its quote."
            raise ConfigError(f"{where} can't be read", hint=hint)
        if each.key is not None:
            if each.value is None:
                raise ConfigError(f"{where} has no =", hint="Write NAME=value; NAME= gives it an empty value.")
            yield where, each.key, each.value


def _line(binding: Binding) -> int:
    """The number of the line that it begins in; its own counts from the blank ones before it."""
    text = binding.original.string
    before = text[: len(text) - len(text.lstrip())]
    return binding.original.line + len(re.findall(r"\r\n|\n|\r", before))


def _from_json(text: str, source: str) -> Iterator[Found]:
    try:
        # Of objects inside, which are refused, nothing is kept: a dict tells them from lists.
        pairs = json.loads(text, object_pairs_hook=_Pairs)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} of {source}"
        raise ConfigError(f"{where} is not JSON: {error.msg}", hint="See --format.") from None
    except (RecursionError, ValueError) as error:
        raise ConfigError(f"{source} can't be read as JSON", hint="Write an object of strings.") from error
    if not isinstance(pairs, _Pairs):
        raise ConfigError(f"{source} holds {_kind(pairs)}, not an object", hint='Write {"NAME": "value"}.')
    for name, value in pairs.pairs:
        _check_text(name, value, source)
        yield source, name, value


class _Pairs(dict[str, Any]):
    """A JSON object, with a name given twice still seen."""

    def __init__(self, pairs: Iterable[tuple[str, Any]]) -> None:
        self.pairs = [*pairs]


def _check_text(name: str, value: Any, source: str) -> None:
    if not isinstance(value, str):
        hint = "Write it as a string." if value is not None else 'Write "" for an empty value, or leave it out.'
        raise ConfigError(f"{source}: {name} is {_kind(value)}, not a string", hint=hint)
    if re.search("[\ud800-\udfff]", value):
        raise ConfigError(f"{source}: {name} is no text: it has half of a surrogate pair", hint="Correct its \\u….")


def _kind(value: Any) -> str:
    return next(
        (words for kind, words in KINDS.items() if isinstance(value, kind)), "null" if value is None else "text"
    )
