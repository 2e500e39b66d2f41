"""The words of adf-roll: what they ask for, and what can't be meant."""

import io
import os
import subprocess
import sys
from typing import Any

import pytest

from adf_agent.ops.rolling import options
from adf_agent.ops.rolling.wishes import Wishes

URL = "s3://releases/v42.tar.gz"


def terminal(monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    stdin = io.StringIO()
    monkeypatch.setattr(stdin, "isatty", lambda: there)
    monkeypatch.setattr("sys.stdin", stdin)


@pytest.mark.parametrize(
    ("words", "wishes"),
    [
        ([URL], {"url": URL}),
        ([URL, "--name", "v42.1"], {"url": URL, "name": "v42.1"}),
        (["--image", "ami-0123456789abcdef0"], {"image": "ami-0123456789abcdef0"}),
        (["--replace", "--batch", "25"], {"replace": True, "batch": 25}),
        ([URL, "--canary", "10%", "--bake", "1h", "--batch", "50%"], {"canary": "10%", "bake": 3600, "batch": 50}),
        ([URL, "--alarm", "a", "--alarm", "b", "--alarm", "a"], {"alarms": ("a", "b")}),
        ([URL, "--check", "curl -f x"], {"check": "curl -f x"}),
    ],
)
def test_the_words_are_what_is_wished(words: list[str], wishes: dict[str, Any]) -> None:
    """A canary of ten per cent that becomes ten instances; a bake of an hour that lasts a second."""
    given = {"url": URL, **wishes} if words[0] == URL else wishes
    assert options.wishes(options.parse(["start", "web", *words, "--yes"])) == Wishes("web", **given)
    assert options.wishes(options.parse(["plan", "web", *words])) == Wishes("web", **given)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "required: COMMAND"),
        (["start", "web", "--yes"], "roll to what? A RELEASE_URL, --image AMI, or --replace"),
        (["plan", "web"], "roll to what?"),
        (["start", "web", URL], "nobody can be asked here: say --yes"),
        (["back", "web"], "nobody can be asked here: say --yes"),
        (["start", "web", "--replace", "--name", "v1", "--yes"], "--name is that of a release"),
        (["start", "web", URL, "--name", "v 1", "--yes"], "'v 1' is no name of a release"),
        (["start", "web", "--image", "resolve:ssm:/ami", "--yes"], "is no AMI"),
        (["start", "web", URL, "--canary", "0", "--yes"], "'0' is neither a number of instances nor a percentage"),
        (["start", "web", URL, "--canary", "101%", "--yes"], "'101%' is neither"),
        (["start", "web", URL, "--batch", "0%", "--yes"], "'0%' is no percentage"),
        (["start", "web", URL, "--bake", "soon", "--yes"], "'soon' is no duration"),
        (["start", "web", URL, "--check", "true", "--bake", "0", "--yes"], "--check has no time to run"),
        (["start", "web", "--replace", "--clean", "--yes"], "--clean is for the config of a release that goes"),
        (["start", "web", URL, "--detach", "--yes"], "--detach leaves the canary to alarms, and there is none"),
        (["start", "web", URL, "--detach", "--alarm", "a", "--check", "true", "--yes"], "--check runs here"),
        (["start", "web", URL, "--detach", "--alarm", "a", "--clean", "--yes"], "--clean is done here at the end"),
    ],
)
def test_what_can_not_be_meant_is_a_usage_error(
    words: list[str], says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A roll that nobody guards, started by a slip; a script that hangs at a question."""
    terminal(monkeypatch, there=False)
    with pytest.raises(SystemExit) as ended:
        options.parse(words)
    assert ended.value.code == 2
    assert says in capsys.readouterr().err


def test_who_can_be_asked_need_not_say_yes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A person at a terminal who has to type --yes before the plan was shown."""
    terminal(monkeypatch, there=True)
    assert not options.parse(["start", "web", URL]).yes
    assert options.parse(["start", "web", URL, "--detach", "--alarm", "a"]).detach


HELP = """
import sys
from adf_agent.ops.rolling.cli import main
try:
    main(sys.argv[1:])
finally:
    print(*sorted({"boto3", "rich", "shutil", "structlog"} & {*sys.modules}), file=sys.stderr)
"""


@pytest.mark.parametrize("words", [["--help"], ["start", "--help"]])
@pytest.mark.parametrize(("columns", "most"), [("60", 58), ("", 78)])
def test_help_fits_the_terminal_and_imports_nothing_slow(words: list[str], columns: str, most: int) -> None:
    """Half a second for a line of help, since a module at the top of a file imports boto3."""
    ran = subprocess.run(
        [sys.executable, "-c", HELP, *words],
        env={**os.environ, "COLUMNS": columns},
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert ran.stderr == "\n"
    filled, _, _ = ran.stdout.partition("examples:")  # which stay a line each, to be copied
    assert 40 < max(len(line) for line in filled.splitlines()) <= most
