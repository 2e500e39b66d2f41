"""A Dockerfile's base images: what a release depends on beyond its own files."""

import io
import re
import shlex
from collections.abc import Iterator, Mapping

from dockerfile_parse import DockerfileParser

_FROM = re.compile(r"(?:--\S+\s+)*(\S+)(?:\s+AS\s+(\S+))?", re.IGNORECASE)
_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)(?:(:?[-+])([^}]*))?\})", re.ASCII)
_HEREDOC = re.compile(r"""<<-?\s*(["']?)([A-Za-z_]\w*)\1""", re.ASCII)


def bases(dockerfile: bytes, arguments: Mapping[str, str]) -> list[str]:
    """The images of its FROM lines, in order and once each, without stages and `scratch`.

    *arguments* are the build's. A variable without a value stays as it is written. Lines are put together by
    dockerfile-parse; its own list of images lacks the defaults of `${A:-b}` and of one ARG in another, and takes
    stages and what stands in heredocs for images.
    """
    found: dict[str, None] = {}
    stages = {"scratch"}
    known: dict[str, str] = {}
    for instruction, value in _instructions(dockerfile):
        if instruction == "ARG" and len(stages) == 1 and not found:  # those of a stage do not count in FROM
            known |= {name: arguments.get(name, default) for name, default in _defaults(value, known)}
        elif instruction == "FROM" and (form := _FROM.match(value)):
            image = _expanded(form[1].strip("\"'"), known)
            if image.lower() not in stages:
                found[image] = None
            stages.add((form[2] or "").lower())
    return list(found)


def _instructions(dockerfile: bytes) -> Iterator[tuple[str, str]]:
    content = "".join(_without_heredocs(dockerfile.decode("utf-8-sig", "replace").splitlines(keepends=True)))
    for line in DockerfileParser(fileobj=io.BytesIO(content.encode())).structure:
        yield line["instruction"], line["value"].strip()


def _without_heredocs(lines: list[str]) -> Iterator[str]:
    """*lines* without the texts that RUN, COPY and ADD have between `<<EOF` and `EOF`."""
    ends: list[str] = []
    for line in lines:
        if ends:
            ends = ends[1:] if line.strip() == ends[0] else ends
            continue
        if re.match(r"\s*(RUN|COPY|ADD)\s", line, re.IGNORECASE):
            ends = [form[1] for form in _HEREDOC.findall(line)]
        yield line


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
