"""The words of the commands, as help, man pages and completions tell them."""

import argparse
import contextlib
import gzip
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from adf_agent import cli
from adf_agent.ops.configure import options as configure
from adf_agent.ops.release import cli as release
from adf_agent.ops.rolling import options as rolling
from adf_agent.sandbox import cli as sandbox

WORDS = Path(__file__).parents[1] / "packaging/words"
PARSERS = {
    "adf-agent": cli.parser(),
    "adf-config": configure.parser(),
    "adf-release": release.parser(),
    "adf-roll": rolling.parser(),
    "adf-sandbox": sandbox.parser(),
}
COMPLETION = "share/bash-completion/completions"
OTHERS = {"zsh": "share/zsh/site-functions/_adf-agent", "fish": "share/fish/vendor_completions.d/adf-agent.fish"}
# As bash calls the function of a completion, for the last of the words; what it would offer, a line each.
ASK = """
source "$1" && shift
[[ $(complete -p "$1") =~ " -F "([^ ]+) ]] || exit
function=${BASH_REMATCH[1]}
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
"$function" "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


def actions(of: argparse.ArgumentParser) -> list[argparse.Action]:
    return of._actions  # noqa: SLF001  argparse has no other way to ask


def commands(of: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    (found,) = (each for each in actions(of) if isinstance(each, argparse._SubParsersAction))  # noqa: SLF001
    return dict(found.choices)


def options(of: argparse.ArgumentParser) -> set[str]:
    return {word for action in actions(of) for word in action.option_strings} - {"-h", "--help"}


EVERY = [(name, command) for name, parser in PARSERS.items() for command in commands(parser)]


def examples(name: str, command: str) -> list[str]:
    """The lines that the help of a command ends with."""
    found = re.search(r"^examples:\n((?:  .*\n?)+)", commands(PARSERS[name])[command].epilog or "", re.MULTILINE)
    return [line.strip() for line in found[1].splitlines()] if found else []


def typed(name: str, line: str) -> Iterator[list[str]]:
    """The words after *name*, each time that the shell's *line* calls it."""
    for part in re.split(r"&&|[|;<>()&]", line.replace('"', " ").replace("$(", "(")):
        words = shlex.split(part.strip().removeprefix("sudo "))
        if words[:1] == [name]:
            yield words[1:]


@pytest.fixture(scope="module")
def made() -> Iterator[Path]:
    """A folder with all that packaging/words makes."""
    with TemporaryDirectory(prefix="adf-") as folder:
        subprocess.run([sys.executable, WORDS, folder], check=True)
        yield Path(folder)


def page(made: Path, name: str) -> bytes:
    return gzip.decompress((made / f"share/man/man1/{name}.1.gz").read_bytes())


def offered(made: Path, *words: str) -> list[str]:
    """What bash would offer for the last of *words*."""
    completion = made / COMPLETION / words[0]
    asked = ["bash", "--norc", "-c", ASK, "bash", str(completion), *words]
    return subprocess.run(asked, capture_output=True, text=True, check=True, cwd=made).stdout.split("\n")[:-1]


def test_every_command_has_its_words() -> None:
    """A command that was added has neither page nor completion, and nobody notices."""
    scripts = distribution("adf-agent").entry_points.select(group="console_scripts")
    assert {script.name for script in scripts} == PARSERS.keys()


@pytest.mark.parametrize("name", PARSERS)
def test_the_page_has_every_command_and_option(made: Path, name: str) -> None:
    """What is in no page is found by those alone who know it."""
    shown = subprocess.run(
        ["mandoc", "-Tutf8", "-Owidth=300"], input=page(made, name), stdout=subprocess.PIPE, check=True
    )
    text = re.sub(".\b", "", shown.stdout.decode())  # bold and underlined, as on a typewriter
    for command, parser in commands(PARSERS[name]).items():
        about = text.partition(f"\n   {name} {command}\n")[2].partition(f"\n   {name} ")[0]
        assert about, command
        assert {word for word in options(parser) if not re.search(rf"(?<![\w-]){word}(?![\w-])", about)} == set()
        assert [line for line in examples(name, command) if f"\n       {line}\n" not in text] == []
    assert options(PARSERS[name]) <= set(re.findall(r"[\w-]+", text))


@pytest.mark.parametrize("name", PARSERS)
def test_the_page_is_well_formed(made: Path, name: str) -> None:
    """A page that one reader of man pages shows, and another cuts off."""
    checked = subprocess.run(
        ["mandoc", "-Tlint", "-Wwarning"], input=page(made, name), stdout=subprocess.PIPE, check=False
    )
    assert checked.stdout.decode() == ""


@pytest.mark.parametrize("name", PARSERS)
def test_bash_completes_every_command_and_option(made: Path, name: str) -> None:
    """A completion that bash can't load takes its own words for an error message, at each Tab."""
    assert set(commands(PARSERS[name])) <= set(offered(made, name, ""))
    for command, parser in commands(PARSERS[name]).items():
        long = {word for word in options(parser) if word.startswith("--")}
        assert long <= set(offered(made, name, command, "--"))


def test_bash_completes_the_name_of_a_file(made: Path) -> None:
    """Who makes an archive for a ticket types its path to the end."""
    (made / "ticket.tar.gz").touch()
    assert offered(made, "adf-agent", "doctor", "--collect", "tic") == ["ticket.tar.gz"]
    assert offered(made, "adf-config", "diff", "--file", "tic") == ["ticket.tar.gz"]


@pytest.mark.parametrize("shell", [shell for shell in OTHERS if shutil.which(shell)])
def test_other_shells_can_read_theirs(made: Path, shell: str) -> None:
    """No shell is what `make setup` installs; where one is, it is asked."""
    subprocess.run([shell, "-n", made / OTHERS[shell]], check=True)


@pytest.mark.parametrize(("name", "command"), EVERY)
def test_help_ends_with_examples(name: str, command: str) -> None:
    """Options alone tell nobody what to type."""
    assert 1 <= len(examples(name, command)) <= 3
    for line in examples(name, command):
        assert [*typed(name, line)] or line.startswith("sudo systemctl"), line


@pytest.mark.parametrize(
    ("name", "words"),
    [(name, words) for name, command in EVERY for line in examples(name, command) for words in typed(name, line)],
)
def test_an_example_is_one_that_the_command_takes(name: str, words: list[str]) -> None:
    """The line that is copied first is refused."""
    parse = configure.parse if name == "adf-config" else PARSERS[name].parse_args
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.suppress(SystemExit):
        parse(words)
    assert said.getvalue() == ""


def test_status_tells_its_examples_too() -> None:
    """It is the one command that does without the others' parser."""
    asked = [sys.executable, "-m", "adf_agent", "status", "--help"]
    shown = subprocess.run(asked, capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "80"})
    assert all(f"\n  {line}\n" in shown.stdout for line in examples("adf-agent", "status"))
