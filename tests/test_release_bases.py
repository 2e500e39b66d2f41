"""The base images in a release's note: what it depends on beyond its own files."""

import pytest

from adf_agent.ops.release.bases import bases

DOCKERFILES = {
    "stages": (
        (
            "# syntax=docker/dockerfile:1\nFROM --platform=$BUILDPLATFORM golang:1.22 AS Build\nFROM BUILD AS two\n"
            'from "alpine:3"\nFROM scratch\nFROM alpine:3\nCOPY --from=build /a /a\n'
        ),
        ["golang:1.22", "alpine:3"],
    ),
    "arguments": (
        (
            "ARG V=3.20 W='x'\nARG BASE=alpine:${V}\nARG REGISTRY\nARG GIVEN=no\nFROM $BASE AS a\nARG V=9\nFROM b:$V\n"
            "FROM ${REGISTRY}/c:${W:-d}${NONE:-1}${V:+y}${NONE+z}\nFROM $GIVEN\nFROM e:${NONE}\n"
        ),
        ["alpine:3.20", "b:3.20", "${REGISTRY}/c:x1y", "given:1", "e:${NONE}"],
    ),
    "lines": (
        "\ufeffFROM \\\r\n  # a comment\r\n  alpine:3 \\\r\n  AS a\r\nRUN echo \\\n  FROM x\n",
        ["alpine:3"],
    ),
    "heredocs": (
        'FROM a\nRUN <<EOF cat && <<-"B" cat\nFROM no\nEOF\nFROM no\n\tB\nCOPY <<EOF /x\nFROM no\nEOF\nFROM b\n',
        ["a", "b"],
    ),
    "heredoc after lines": ("FROM a\nRUN x && \\\n  cat <<EOF\nFROM no \\\nEOF\nFROM b\n", ["a", "b"]),
    "heredoc elsewhere": ("FROM a\nCMD echo <<EOF\nFROM b\n", ["a", "b"]),
    "no heredoc": ("FROM a\nRUN cat <<<EOF && echo $((1<<N))\nFROM b\n", ["a", "b"]),
    "escape": ("# escape=`\nFROM a`\n:b\nFROM c@sha256:00\n", ["a:b", "c@sha256:00"]),
    "escape after syntax": ("#syntax=x\r\n # Escape = ` \r\nFROM `\r\n\r\n\ta\r\nRUN dir c:\\\r\nFROM b", ["a", "b"]),
    "escape too late": ("# a word\n# escape=`\nFROM \\\n a\nRUN dir `\nFROM b\n", ["a", "b"]),
    "blanks": ("\n  FROM \t a\t AS \\ \n\tb\n\nFROM b\n", ["a"]),
    "broken": ('ARG A="x\nFROM a$A\nFROM\n', ['a"x']),
}


@pytest.mark.parametrize(("text", "images"), DOCKERFILES.values(), ids=DOCKERFILES)
def test_base_images_are_those_that_a_build_would_pull(text: str, images: list[str]) -> None:
    """A base image with a hole in it, and no way to tell which releases stand on it."""
    assert bases(text.encode(), {"GIVEN": "given:1", "OTHER": "x"}) == images
