"""A Dockerfile's base images: what a release depends on beyond its own files."""

import re
import shlex
from collections.abc import Iterator, Mapping

_FROM = re.compile(r"(?:--\S+\s+)*(\S+)(?:\s+AS\s+(\S+))?", re.IGNORECASE)
_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)(?:(:?[-+])([^}]*))?\})", re.ASCII)
_HEREDOC = re.compile(r"""(?<!\S)\d*<<-?\s*(["']?)([A-Za-z_]\w*)\1""", re.ASCII)
# Among the first lines (https://docs.docker.com/reference/dockerfile/#parser-directives): what continues a line.
_ESCAPE = re.compile(r"(?:\s*#\s*\w+\s*=.*\n)*?\s*#\s*escape\s*=\s*([\\`])\s*$", re.IGNORECASE | re.MULTILINE)


def bases(dockerfile: bytes, arguments: Mapping[str, str]) -> list[str]:
    """The images of its FROM lines, in order and once each, without stages and `scratch`.

    *arguments* are the build's. A variable without a value stays as it is written.
    """
    found: dict[str, None] = {}
    stages = {"scratch"}
    known: dict[str, str] = {}
    for instruction, value in _instructions(dockerfile.decode("utf-8-sig", "replace")):
        if instruction == "ARG" and len(stages) == 1 and not found:  # those of a stage do not count in FROM
            known |= {name: arguments.get(name, default) for name, default in _defaults(value, known)}
        elif instruction == "FROM" and (form := _FROM.match(value)):
            image = _expanded(form[1].strip("\"'"), known)
            if image.lower() not in stages:
                found[image] = None
            stages.add((form[2] or "").lower())
    return list(found)


def _instructions(dockerfile: str) -> Iterator[tuple[str, str]]:
    """Its instructions and their values: without comments and heredocs, what goes on in another line in one."""
    found = _ESCAPE.match(dockerfile)
    escape = found[1] if found else "\\"
    lines, whole = iter(dockerfile.splitlines()), ""
    for line in lines:
        if not line.strip() or line.lstrip().startswith("#"):  # in the middle of an instruction too
            continue
        whole += line.rstrip()
        if whole.endswith(escape):
            whole = whole[:-1]
            continue
        instruction, value = [*whole.split(maxsplit=1), ""][:2]
        whole = ""
        yield instruction.upper(), value
        if instruction.upper() in ("RUN", "COPY", "ADD"):
            for form in _HEREDOC.finditer(value):
                while next(lines, form[2]).strip() != form[2]:
                    pass


def _defaults(value: str, known: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The names and values of an ARG line; one without a value has it from the build alone."""
    try:
        words = shlex.split(value)
    except ValueError:  # a quote that nothing ends; the build will say so
        words = value.split()
    for word in words:
        name, equals, text = word.partition("=")
        yield name, _expanded(text, known) if equals else f"${{{name}}}"


def _expanded(text: str, known: Mapping[str, str]) -> str:
    def value(form: re.Match[str]) -> str:
        name, operator, word = form[1] or form[2], form[3] or "", form[4] or ""
        if operator.endswith("+"):
            return word if name in known else ""
        return known.get(name, word if operator else form[0])

    return _VARIABLE.sub(value, text)
