"""The pages are held to the code: links, settings, commands, options."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_words import PARSERS, commands, options

from adf_agent.settings import LOG_OPTION, TABLE

REPOSITORY = Path(__file__).parents[1]
PAGES = sorted(
    path.relative_to(REPOSITORY).as_posix()
    for path in (*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md"), *REPOSITORY.glob("packaging/*/*.md"))
)
PAST = "CHANGELOG.md"  # names what was, too
# Of the environment: what containers get, what `--check` gets, and what is only a pattern or a slip shown on purpose.
OTHER_NAMES = {"ADF_ROOT", "ADF_INSTANCE_ID", "ADF_CANARY"}
PLACEHOLDERS = re.compile(r"^(?:\[.*|COMMAND|…|\.\.\.)$")


def text(page: str) -> str:
    return (REPOSITORY / page).read_text()


def prose(page: str) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", text(page), flags=re.DOTALL | re.MULTILINE)


def anchors(page: str) -> set[str]:
    """Those that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    plain = [re.sub(r"[`*]|\[([^]]*)\]\([^)]*\)", r"\1", heading) for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in plain}


def links(page: str) -> list[str]:
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)) if not re.match(r"https?://", link)]


@pytest.mark.parametrize(("page", "link"), [(page, link) for page in PAGES for link in links(page)])
def test_a_link_leads_somewhere(page: str, link: str) -> None:
    """The page that explains the failure at hand is not found."""
    path, _, anchor = link.partition("#")
    target = (REPOSITORY / page).parent / path if path else REPOSITORY / page
    assert target.exists()
    if anchor:
        assert anchor in anchors(target.resolve().relative_to(REPOSITORY).as_posix())


def test_every_page_can_be_reached() -> None:
    """What nobody finds was written in vain."""
    seen, todo = set[str](), ["README.md"]
    while todo:
        page = todo.pop()
        seen.add(page)
        found = {(REPOSITORY / page).parent.joinpath(link.partition("#")[0]).resolve() for link in links(page)}
        inside = {path.relative_to(REPOSITORY).as_posix() for path in found if path.is_relative_to(REPOSITORY)}
        todo += sorted(inside & {*PAGES} - seen - {*todo})
    assert {*PAGES} <= seen


def names(page: str) -> set[str]:
    """The settings that a page names; `ADF_LOG_OPT_…` and `ADF_…` stand for many."""
    return {name for name in re.findall(r"\bADF_[A-Z_]+\b(?!…)", text(page)) if not name.endswith("_")}


@pytest.mark.parametrize("page", [page for page in PAGES if page != PAST])
def test_every_setting_that_is_named_is_one(page: str) -> None:
    """An operator sets what the agent refuses, or never reads."""
    known = {*TABLE, *OTHER_NAMES}
    assert {name for name in names(page) - known if not name.startswith(LOG_OPTION)} == set()


def code(page: str) -> Iterator[str]:
    """Each line of shell, and each bit of code in the prose, with lines that go on in one."""
    for kind, block in re.findall(r"^```(\w*)\n(.*?)^```", text(page), re.DOTALL | re.MULTILINE):
        lines = block.replace("\\\n", " ").splitlines()
        if kind in ("sh", ""):
            yield from lines
        if kind == "console":
            yield from (line.removeprefix("$ ") for line in lines if line.startswith("$ "))
    yield from re.findall(r"^ {4}(adf-.*)$", prose(page), re.MULTILINE)
    yield from (bit.replace("\n", " ") for bit in re.findall(r"`([^`]+)`", prose(page)))


def calls(page: str) -> Iterator[tuple[str, list[str]]]:
    """Each of our commands that a page has, and the words after it."""
    for line in code(page):
        for part in re.split(r"&&|[|;<>()&]|\$\(", re.sub(r"(?:^|\s)#.*", "", line)):
            words = re.sub(r"[\"'\[\]]", " ", part).removeprefix("sudo ").split()
            if words and words[0] in PARSERS and len(words) > 1:
                yield words[0], words[1:]


CALLS = [(page, name, words) for page in PAGES if page != PAST for name, words in calls(page)]


@pytest.mark.parametrize(("page", "name", "words"), CALLS)
def test_every_command_and_option_that_is_named_is_one(page: str, name: str, words: list[str]) -> None:
    """The line that is copied at night is refused."""
    known = commands(PARSERS[name])
    said = [word for word in words if not word.startswith("-")]
    command = next((word for word in said if word in known), "")
    everywhere = {"--help", "--version", "-h"} | options(PARSERS[name])
    if name != "adf-config":  # whose options may come first
        assert words[0] in known or words[0] in everywhere or words[0] in ("COMMAND", "…"), page
    allowed = options(known[command]) if command else set().union(*map(options, known.values()))
    given = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
    assert given <= allowed | everywhere | ({"-l", "-s", "-d"} if name == "adf-config" else set()), page


def test_the_pages_show_commands() -> None:
    """A pattern that finds nothing holds nothing to anything."""
    assert {name for _, name, _ in CALLS} == PARSERS.keys()
    assert len(CALLS) > 100


def test_every_command_is_in_the_readme_or_a_page() -> None:
    """A command that no page tells of."""
    told = {(name, word) for _, name, words in CALLS for word in words}
    table = {
        (name, word)
        for name, words in re.findall(r"^\| `(adf-\w+)` (.*?) \|", text("README.md"), re.MULTILINE)
        for word in re.findall(r"`(\w+)`", words)
    }
    listed = {("adf-config", word) for word in re.findall(r"`(\w+)", text("docs/config.md"))}
    every = {(name, command) for name, parser in PARSERS.items() for command in commands(parser)}
    assert every <= told | table | listed
    assert table <= every


def test_the_settings_page_is_what_the_code_says() -> None:
    """A default that the page has, and the agent not."""
    made = subprocess.run([sys.executable, REPOSITORY / "tools/reference"], capture_output=True, text=True, check=True)
    assert made.stdout == text("docs/settings.md"), "make docs"


def test_shell_of_the_pages_can_be_read() -> None:
    """A quote that was never closed."""
    for page in PAGES:
        for kind, block in re.findall(r"^```(\w*)\n(.*?)^```", text(page), re.DOTALL | re.MULTILINE):
            if kind == "sh":
                subprocess.run(["bash", "-n"], input=block, text=True, check=True)
                shlex.split(block, comments=True)
