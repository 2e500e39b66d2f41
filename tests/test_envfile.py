"""Files of a config: read strictly, and written so that they are read back as they were."""

import json
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adf_agent.errors import ConfigError
from adf_agent.ops.configure import envfile
from adf_agent.ops.configure.envfile import Format

CANARY = "canary-5f2a"  # in values: no refusal may hold it
# Of what a shell and python-dotenv see something in, more than chance would give.
TEXTS = st.text(st.sampled_from("'\"\\$`#=~! \n\r\t{}()*é\u2028nrt"), max_size=12) | st.text(max_size=12)
VALUES = TEXTS.filter(lambda text: "\0" not in text)


def refused(text: str, kind: Format = "env") -> str:
    """The sentence of a file that must not be read, found to hold no value in any of its parts or causes."""
    with pytest.raises(ConfigError) as caught:
        envfile.read(text, kind, "prod")
    error: BaseException | None = caught.value
    assert caught.value.hint
    while error:
        assert CANARY not in f"{error!s}{error!r}{getattr(error, 'hint', '')}"
        error = error.__cause__ or error.__context__
    return caught.value.sentence


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A=1\nB=2", {"A": "1", "B": "2"}),
        ("A=1\r\nB=2\r\n", {"A": "1", "B": "2"}),
        ("\n# a note\n\n export A=1 # another\n", {"A": "1"}),
        ("A=\nB=''", {"A": "", "B": ""}),
        ("A = 1 ", {"A": "1"}),
        ("A=x=y#z", {"A": "x=y#z"}),
        ("HOME_OF='$HOME'\nB=${A:-x}$HOME\nC=\"$B\"", {"HOME_OF": "$HOME", "B": "${A:-x}$HOME", "C": "$B"}),
        ("A='two\nlines\\n'\nB=2", {"A": "two\nlines\\n", "B": "2"}),
        ('A="two\\nlines\\t\\"\\\\" # note', {"A": 'two\nlines\t"\\'}),
        ("A=é", {"A": "é"}),
    ],
)
def test_a_file_is_read_as_it_was_meant(text: str, expected: dict[str, str]) -> None:
    """A password with a $ in it that becomes an empty one on its way into the table."""
    assert envfile.read(text, "env") == expected


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (f"A=1\n\n  \nB {CANARY}\n", "line 4 of prod can't be read"),
        (f"A=1\nB='{CANARY}\n", "line 2 of prod can't be read"),
        (f"A=1\nB='{CANARY}'x\n", "line 2 of prod can't be read"),
        (f"\r\n\rA=1\n={CANARY}", "line 4 of prod can't be read"),
        (f"\r\r={CANARY}", "line 3 of prod can't be read"),
        ("A='x\ny'\n\n\nB\nC=1", "line 5 of prod has no ="),
        ("export A", "line 1 of prod has no ="),
        (f"A=1\n\nMY-KEY={CANARY}", "line 3 of prod: 'MY-KEY' can't be the name of an environment variable"),
        (f"1A={CANARY}", "line 1 of prod: '1A' can't be the name of an environment variable"),
        (f"A=1\nB=2\nA={CANARY}", "line 3 of prod: A is given a second time"),
        ("", "prod holds no key"),
        ("# A=1\n \n", "prod holds no key"),
    ],
)
def test_what_can_not_be_read_is_named_by_its_line(text: str, sentence: str) -> None:
    """One key of forty that is dropped with a warning nobody sees, and the app fails an hour later."""
    assert refused(text) == sentence


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"PORT": 8000}', "prod: PORT is a number, not a string"),
        ('{"RATIO": NaN}', "prod: RATIO is a number, not a string"),
        ('{"DEBUG": true}', "prod: DEBUG is true or false, not a string"),
        ('{"A": null}', "prod: A is null, not a string"),
        (f'{{"A": ["{CANARY}"]}}', "prod: A is a list, not a string"),
        (f'{{"A": {{"B": "{CANARY}"}}}}', "prod: A is an object, not a string"),
        (f'{{"A": "{CANARY}\\ud800"}}', "prod: A is no text: it has half of a surrogate pair"),
        (f'{{"A": "1", "A": "{CANARY}"}}', "prod: A is given a second time"),
        (f'{{"A B": "{CANARY}"}}', "prod: 'A B' can't be the name of an environment variable"),
        (f'["{CANARY}"]', "prod holds a list, not an object"),
        (f'"{CANARY}"', "prod holds text, not an object"),
        (f'{{"A": "{CANARY}",\n}}', "line 2 of prod is not JSON: Expecting property name enclosed in double quotes"),
        ("A=1", "line 1 of prod is not JSON: Expecting value"),
        ("[" * 100_000, "prod can't be read as JSON"),
        (f'{{"A": {"9" * 5000}}}', "prod can't be read as JSON"),
        ("{}", "prod holds no key"),
    ],
)
def test_json_that_is_no_object_of_strings_is_refused(text: str, sentence: str) -> None:
    """`true` that reaches the app as `True`, and switches debugging off."""
    assert refused(text, "json") == sentence


@pytest.mark.parametrize("kind", ["env", "json"])
@settings(deadline=None)
@given(values=st.dictionaries(st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,5}", fullmatch=True), VALUES, min_size=1))
def test_what_was_written_is_read_back(kind: Format, values: dict[str, str]) -> None:
    """A private key that comes out of export and import with other line ends, and signs nothing."""
    text = envfile.write(values, kind)
    assert envfile.read(text, kind) == values
    assert list(envfile.read(text, kind)) == sorted(values)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("", ""),
        ("postgres://u@h:1/d,e", "postgres://u@h:1/d,e"),
        ("a b", "'a b'"),
        ("#a", "'#a'"),
        ("~", "'~'"),
        ('$HOME `id` "x" \\d', "'$HOME `id` \"x\" \\d'"),
        ("two\nlines\n", "'two\nlines\n'"),
        ("it's", '"it\'s"'),
        ("a\\", '"a\\\\"'),
        ("\\\\host", '"\\\\\\\\host"'),
        ('it\'s "so"', '"it\'s \\"so\\""'),
    ],
)
def test_a_value_is_quoted_where_it_must_be(value: str, written: str) -> None:
    """A diff of two exports in which every line has changed its quotes."""
    assert envfile.write({"A": value}, "env") == f"A={written}\n"
    assert envfile.is_for_shells(value)


@settings(deadline=None, max_examples=25)
@given(values=st.lists(VALUES.filter(envfile.is_for_shells), min_size=1, max_size=40))
def test_a_shell_reads_the_same(tmp_path_factory: pytest.TempPathFactory, values: list[str]) -> None:
    """`. ./prod.env` in a cron job that runs what stands in a value."""
    path = tmp_path_factory.getbasetemp() / "prod.env"
    named = {f"K{number}": value for number, value in enumerate(values)}
    path.write_bytes(envfile.write(named, "env").encode())
    assert sourced(path) == named


def sourced(path: Path) -> dict[str, str]:
    """What a POSIX shell has of the file, as the programs that it starts see it."""
    command = ["/bin/sh", "-c", 'set -a; . "$1"; set +a; PATH=/usr/bin:/bin exec env -0', "sh", str(path)]
    output = subprocess.run(command, env={}, capture_output=True, check=True, timeout=20).stdout
    found = dict(pair.split("=", 1) for pair in output.decode().split("\0") if pair)
    return {name: value for name, value in found.items() if name.startswith("K")}


@pytest.mark.parametrize("value", ["it's $HOME", "`it's`", "$\\", "\\\\$x"])
def test_what_a_shell_would_expand_is_marked(value: str) -> None:
    """An exported file that runs what somebody wrote into the table, with no warning in it."""
    text = envfile.write({"A": "1", "B": value}, "env")
    first, warning, *_ = text.splitlines()
    assert (first, warning) == ("A=1", "# B is for .env readers alone: a shell would expand its $ or backtick")
    assert envfile.read(text, "env") == {"A": "1", "B": value}


def test_json_is_sorted_and_readable() -> None:
    """Two exports of the same config that differ in every line."""
    assert envfile.write({"B": "é", "A": "1"}, "json") == '{\n "A": "1",\n "B": "é"\n}\n'
    assert json.loads(envfile.write({}, "json")) == {}


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    """A first key that is lost since an editor put three bytes before it."""
    path = tmp_path / "prod.env"
    path.write_bytes(b"\xef\xbb\xbfA=1\r\nB='x\r\ny'\r\n")
    assert envfile.load(str(path), "env") == {"A": "1", "B": "x\r\ny"}
    path.write_bytes(b'\xef\xbb\xbf{"A": "1"}')
    assert envfile.load(str(path), "json") == {"A": "1"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "can't be read: No such file or directory"),
        (f"A={CANARY}\xe9".encode("latin-1"), "is not UTF-8 text"),
        ("A=1".encode("utf-16"), "is not UTF-8 text"),
        (b"A=" + b"x" * (4 << 20), "is larger than 4 MiB"),
    ],
)
def test_a_file_that_is_none_is_said_to_be_so(tmp_path: Path, content: bytes | None, said: str) -> None:
    """A traceback that holds the file, and with it every secret, in the log of a CI job."""
    path = tmp_path / "prod.env"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        envfile.load(str(path), "env")
    assert caught.value.sentence == f"{path} {said}"
    assert caught.value.__context__ is None or CANARY not in repr(caught.value.__context__)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    """`IsADirectoryError` in the face of who forgot the file's name."""
    with pytest.raises(ConfigError, match="can't be read: Is a directory"):
        envfile.load(str(tmp_path), "env")
