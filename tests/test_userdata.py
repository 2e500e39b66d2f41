import base64
import gzip
import json
from contextlib import suppress
from email.message import Message
from email.mime.application import MIMEApplication
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from textwrap import dedent

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adf_agent import userdata
from adf_agent.errors import SettingsError

URL = "https://x.example/a.tgz?b=1&c=2;d#sha256=0f"
DEEP = 20_000


def multipart(*parts: Message) -> bytes:
    """The parts as cloud-init's `make-mime` would write them."""
    whole = MIMEMultipart()
    for part in parts:
        whole.attach(part)
    return whole.as_bytes()


def gzipped(text: str) -> MIMEApplication:
    """A part that is compressed on its own."""
    return MIMEApplication(gzip.compress(text.encode()))


FORMS = {
    "lines": (f"RELEASE_URL={URL}\nADF_APP=web", {"RELEASE_URL": URL, "ADF_APP": "web"}),
    "lines: export, comments, blanks": (
        "# a\n\n  export ADF_APP=web # b\n\tADF_X= #c\n",
        {"ADF_APP": "web", "ADF_X": ""},
    ),
    "lines: double quotes": (r'ADF_APP="a \"b\" \$c \d #e" # f', {"ADF_APP": r'a "b" $c \d #e'}),
    "lines: single quotes": (r"ADF_APP='a $b \"#c'", {"ADF_APP": r"a $b \"#c"}),
    "lines: plain": ("ADF_PUBLISH=80:80, 81:81 \nADF_B=it's $x`", {"ADF_PUBLISH": "80:80, 81:81", "ADF_B": "it's $x`"}),
    "lines: the last one counts": ("ADF_APP=a\nADF_APP=b", {"ADF_APP": "b"}),
    "lines: CRLF": ("ADF_APP=a\r\nADF_B=c\r\n", {"ADF_APP": "a", "ADF_B": "c"}),
    "script: CRLF": ("#!/bin/sh\r\nADF_A=b\r\nexport ADF_B='c'\r\n", {"ADF_A": "b", "ADF_B": "c"}),
    "cloud-config: CRLF": ("## template: jinja\r\n#cloud-config\r\nadf:\r\n  ADF_A: b\r\n", {"ADF_A": "b"}),
    "lines: byte order mark": ("\ufeffADF_APP=a", {"ADF_APP": "a"}),
    "lines: others' keys": ("RELEASE_ULR=x\nFOO=y", {"RELEASE_ULR": "x", "FOO": "y"}),
    "JSON": (json.dumps({"RELEASE_URL": URL, "ADF_APP": "web"}), {"RELEASE_URL": URL, "ADF_APP": "web"}),
    "JSON: as written": (
        '\n{"ADF_A": 1.10, "ADF_B": true, "ADF_C": null, "ADF_D": 12}',
        {"ADF_A": "1.10", "ADF_B": "true", "ADF_C": "", "ADF_D": "12"},
    ),
    "JSON: others' keys": ('{"other": {"ADF_APP": 1, "a": []}, "list": [], "ADF_APP": "web"}', {"ADF_APP": "web"}),
    "cloud-config": (f"#cloud-config\npackages: [x]\nadf:\n  RELEASE_URL: {URL}", {"RELEASE_URL": URL}),
    "cloud-config: as written": (
        "#cloud-config \nadf: {ADF_PUBLISH: 22:22, ADF_LOG_TAIL: on, ADF_RELEASE: 1.10, ADF_N: 010, ADF_E: ~, ADF_F: }",
        {"ADF_PUBLISH": "22:22", "ADF_LOG_TAIL": "on", "ADF_RELEASE": "1.10", "ADF_N": "010", "ADF_E": "", "ADF_F": ""},
    ),
    "cloud-config: aliases": ("#cloud-config\nx: &a web\nadf:\n  ADF_APP: *a", {"ADF_APP": "web"}),
    "cloud-config: jinja": ("## template: jinja\n#cloud-config\nadf:\n  ADF_APP: web", {"ADF_APP": "web"}),
    "cloud-config: no adf": ("#cloud-config\npackages: [adf]\nADF_APP: web", {}),
    "cloud-config: not even YAML, and not ours": ("#cloud-config\n{{{", {}),
    "cloud-config: no mapping": ("#cloud-config\n- adf", {}),
    "script": (
        f"#!/bin/sh -e\nif true; then\n  export RELEASE_URL='{URL}' # c\nfi\nADF_APP=web;\nFOO=$(date)\n",
        {"RELEASE_URL": URL, "ADF_APP": "web", "FOO": ""},
    ),
    "script: a word of shell": (
        '#!/bin/sh\nADF_A=a\'$b`c\'"d\\$e \\""\\$f\\ g#h\nADF_B=\nADF_C=x ;; # y',
        {"ADF_A": 'a$b`cd$e "$f g#h', "ADF_B": "", "ADF_C": "x"},
    ),
    "script: what is no assignment": ("#!/bin/sh\n# ADF_A=1\necho ADF_A=1\n[ $ADF_A = 1 ] && ADF_B=1\nADF_A", {}),
    "script: the same twice": ("#!/bin/sh\nADF_A=1\nADF_A='1'\n", {"ADF_A": "1"}),
    "boothook": ("#cloud-boothook\n#!/bin/sh\nADF_A=1", {"ADF_A": "1"}),
    "include": ("#include\nhttps://x.example/y", {}),
    "part-handler": ("#part-handler\nimport this", {}),
    "cloud-config-archive": ("#cloud-config-archive\n- adf: {ADF_A: 1}", {}),
    "nothing": ("", {}),
    "blank": (" \n\n", {}),
    "comments": ("# nothing\n", {}),
}


@pytest.mark.parametrize(("text", "settings"), FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_every_form_is_read_as_it_was_written(text: str, settings: dict[str, str], pack: type[bytes]) -> None:
    """`22:22` is the number 1342 to YAML 1.1, and `#` begins a comment to shlex: another release would run."""
    assert userdata.parse(pack(text.encode())) == settings


CONFIG = MIMEText("adf:\n  ADF_APP: wéb\n", "cloud-config", "utf-8")  # base64
SCRIPT = MIMEText("#!/bin/sh\nexport ADF_RELEASE=v1\n", "x-shellscript")
QUOTED = dedent("""\
    Content-Type: text/plain
    Content-Transfer-Encoding: quoted-printable

    ADF_APP=3Da=
    b
""")
MULTIPARTS = {
    "each kind": (
        multipart(CONFIG, SCRIPT, MIMEText("ADF_A=1"), MIMEApplication(b'{"ADF_B": 2}', "json"), gzipped("ADF_C=3")),
        {"ADF_APP": "wéb", "ADF_RELEASE": "v1", "ADF_A": "1", "ADF_B": "2", "ADF_C": "3"},
    ),
    "boothook": (multipart(MIMEText("#!/bin/sh\nADF_A=1", "cloud-boothook")), {"ADF_A": "1"}),
    "others' kinds": (
        multipart(MIMEText("ADF A", "x-include-url"), MIMEText("{", "part-handler"), SCRIPT),
        {"ADF_RELEASE": "v1"},
    ),
    "the same twice": (multipart(SCRIPT, SCRIPT), {"ADF_RELEASE": "v1"}),
    "others' keys differ": (multipart(MIMEText("FOO=1\nADF_A=1"), MIMEText("FOO=2")), {"FOO": "1", "ADF_A": "1"}),
    "parts in parts": (multipart(MIMEMultipart(_subparts=[CONFIG]), SCRIPT), {"ADF_APP": "wéb", "ADF_RELEASE": "v1"}),
    "MIME in gzip in MIME": (multipart(gzipped(multipart(SCRIPT).decode())), {"ADF_RELEASE": "v1"}),
    "one part": (QUOTED.encode(), {"ADF_APP": "ab"}),
    "mbox, CRLF": (b"From me\r\nMIME-Version: 1.0\r\n" + QUOTED.replace("\n", "\r\n").encode(), {"ADF_APP": "ab"}),
    "other headers first": (b"Number-Attachments: 1\nMIME-Version: 1.0\n" + QUOTED.encode(), {"ADF_APP": "ab"}),
    "8 bit": ("Content-Type: text/plain; charset=utf-8\n\nADF_APP=wéb €".encode(), {"ADF_APP": "wéb €"}),
}


@pytest.mark.parametrize(("data", "settings"), MULTIPARTS.values(), ids=MULTIPARTS)
def test_every_part_of_a_multipart_is_read(data: bytes, settings: dict[str, str]) -> None:
    """Terraform's and cloud-init's own tools send MIME: a setting in the second part must not be lost."""
    assert userdata.parse(data) == settings
    assert userdata.parse(gzip.compress(data)) == settings


BOMB = "#cloud-config\na: &a [x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefghijklm", "bcdefghijklmn", strict=True)
)
WRONG = {
    "not UTF-8": (b"ADF_APP=hunter2\xff", "user-data is neither UTF-8 text nor gzip"),
    "UTF-16": ("ADF_APP=hunter2".encode("utf-16"), "neither UTF-8 text nor gzip"),
    "base64": (base64.b64encode(b"ADF_APP=hunter2"), "base64"),
    "base64 of gzip": (base64.encodebytes(gzip.compress(b"ADF_APP=hunter2" * 9)), "base64"),
    "gzip cut": (gzip.compress(b"ADF_APP=hunter2")[:-9], "broken gzip"),
    "gzip changed": (gzip.compress(b"ADF_APP=hunter2")[:-8] + bytes(8), "broken gzip"),
    "gzip and more": (gzip.compress(b"ADF_APP=hunter2") + b"hunter2", "broken gzip"),
    "gzip bomb": (gzip.compress(bytes(userdata.LIMIT + 1)), "is larger than 1048576 bytes"),
    "prose": (b"\nhunter2 is here", "user-data, line 2: not KEY=VALUE"),
    "blank at =": (b"ADF_APP = hunter2", "line 1: not KEY=VALUE"),
    "second line": (b"ADF_APP=a\nhunter2", "line 2: not KEY=VALUE"),
    "double quote": (b'#\nADF_APP="hunter2', "line 2: ADF_APP has quotes that don't match"),
    "single quote": (b"ADF_APP='hunter2", "line 1: ADF_APP has quotes that don't match"),
    "after a quote": (b"ADF_APP='hunter2'x", "line 1: ADF_APP has quotes that don't match"),
    "JSON": (b'{\n"ADF_APP": hunter2}', "line 2: not valid JSON"),
    "JSON cut": (b'{"ADF_APP": "hunter2"', "line 1: not valid JSON"),
    "JSON object in it": (b'{"ADF_APP": {"hunter2": 1}}', "ADF_APP is not a plain value"),
    "JSON list in it": (b'{"ADF_PUBLISH": ["hunter2"]}', "ADF_PUBLISH is not a plain value"),
    "JSON twice": (b'{"ADF_APP": "a", "ADF_APP": "hunter2"}', "gives ADF_APP two different values"),
    "JSON deep": (b'{"a":' * DEEP, "nested too deeply"),
    "YAML": (b"#cloud-config\nadf:\n  ADF_APP: 'hunter2\n", "not valid YAML"),
    "YAML tab": (b"#cloud-config\nadf:\n\tADF_APP: hunter2\n", "user-data, line 3: not valid YAML"),
    "YAML character": (b"#cloud-config\nadf: \x01hunter2", "not valid YAML"),
    "YAML escape": (b'#cloud-config\nadf: "\\UFFFFFFFFhunter2"', "not valid YAML"),
    "YAML deep": (b"#cloud-config\nadf: " + b"[" * DEEP, "not valid YAML"),
    "adf: text": (b"#cloud-config\nadf: hunter2", "line 2: adf: is not a mapping"),
    "adf: empty": (b"#cloud-config\nadf:\nADF_APP: hunter2", "line 2: adf: is not a mapping"),
    "adf: list": (b"#cloud-config\nadf:\n- ADF_APP: hunter2", "line 3: adf: is not a mapping"),
    "adf: foreign key": (b"#cloud-config\nadf:\n  app: hunter2", "line 3: adf: holds a key that is no setting"),
    "adf: merge": (b"#cloud-config\nx: &a {}\nadf:\n  <<: *a", "line 4: adf: holds a key that is no setting"),
    "adf: nested": (b"#cloud-config\nadf:\n  ADF_APP:\n  - hunter2", "line 3: ADF_APP is not a plain value"),
    "adf: twice": (b"#cloud-config\nadf:\n  ADF_APP: a\n  ADF_APP: hunter2", "gives ADF_APP two different values"),
    "adf: bomb": (f"{BOMB}adf:\n  ADF_APP: *n".encode(), "line 17: ADF_APP is not a plain value"),
    "shell $": (b"#!/bin/sh\n\nADF_APP=hunter2$X", "line 3: ADF_APP holds a $ or `"),
    "shell ${}": (b"#!/bin/sh\nADF_APP=${X:-hunter2}", "line 2: ADF_APP holds a $ or `"),
    "shell `": (b"#!/bin/sh\nexport ADF_APP=`echo hunter2`", "line 2: ADF_APP holds a $ or `"),
    'shell "$': (b'#!/bin/sh\nRELEASE_URL="https://hunter2/$TAG.tgz"', "line 2: RELEASE_URL holds a $ or `"),
    "shell &": (b"#!/bin/sh\nRELEASE_URL=https://x/?a=1&b=hunter2", "RELEASE_URL is followed by something else"),
    "shell &&": (b"#!/bin/sh\nADF_APP=a && hunter2", "line 2: ADF_APP is followed by something else"),
    "shell ;": (b"#!/bin/sh\nADF_APP=a; hunter2", "line 2: ADF_APP is followed by something else"),
    "shell command": (b"#!/bin/sh\nADF_APP=a hunter2", "line 2: ADF_APP is followed by something else"),
    "shell second": (b"#!/bin/sh\nexport ADF_APP=a ADF_B=hunter2", "line 2: ADF_APP is followed by something else"),
    "shell goes on": (b"#!/bin/sh\nADF_APP=hunter2\\\nb", "line 2: ADF_APP is followed by something else"),
    "shell '": (b"#!/bin/sh\nADF_APP='hunter2\n'", "line 2: ADF_APP has quotes that don't match"),
    'shell "': (b'#!/bin/sh\nADF_APP="hunter2', "line 2: ADF_APP has quotes that don't match"),
    "shell branches": (b"#!/bin/sh\nADF_APP=a\nelse\nADF_APP=hunter2", "gives ADF_APP two different values"),
    "MIME parts differ": (multipart(MIMEText("ADF_APP=a"), MIMEText("ADF_APP=hunter2")), "gives ADF_APP two different"),
    "MIME part": (multipart(SCRIPT, MIMEText("\nhunter2")), "user-data, part 2, line 2: not KEY=VALUE"),
    "MIME part not UTF-8": (multipart(MIMEApplication(b"hunter2\xff")), "part 1 is neither UTF-8 text nor gzip"),
    "MIME without boundary": (b"Content-Type: multipart/mixed\n\nADF_APP=hunter2", "part 1: broken MIME"),
    "MIME boundary missing": (b"Content-Type: multipart/mixed; boundary=x\n\nhunter2", "part 1: broken MIME"),
    "MIME base64": (QUOTED.replace("quoted-printable", "base64").encode(), "part 1: broken MIME"),
    "MIME deep": (
        b"".join(b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (level, level) for level in range(5_000)),
        "nested too deeply",
    ),
}


@pytest.mark.parametrize(("data", "said"), WRONG.values(), ids=WRONG)
def test_wrong_user_data_is_refused_with_its_line_and_without_its_value(data: bytes, said: str) -> None:
    """A value half read boots the wrong release; one that is printed may be a password on the console."""
    with pytest.raises(SettingsError) as caught:
        userdata.parse(data)
    assert said in caught.value.sentence
    assert caught.value.hint
    assert "hunter2" not in caught.value.sentence + caught.value.hint


@pytest.mark.timeout(10)
@pytest.mark.parametrize("text", ["ADF_A={}'", "#!/bin/sh\nADF_A=a{}'x"])
@pytest.mark.parametrize("filler", [" ", "\\a", "a ", "''"])
def test_a_megabyte_in_one_line_is_read_at_once(text: str, filler: str) -> None:
    """A pattern that backtracks would spend the boot's deadline on one line."""
    with suppress(SettingsError):
        userdata.parse(text.replace("{}", filler * 400_000).encode())


def test_gzip_in_gzip_in_mime_comes_to_an_end() -> None:
    """16 KB of user-data must not unfold until the instance is out of memory."""
    data = multipart(SCRIPT)
    for _ in range(userdata.DEPTH):
        data = multipart(gzipped(data.decode()))
    with pytest.raises(SettingsError, match="nested too deeply"):
        userdata.parse(data)


def test_lines_of_agent_env_name_the_file() -> None:
    """The error must send the operator to the AMI, not to the launch template."""
    assert userdata.key_values(b"AWS_REGION=eu-west-1\nADF_APP=a\nADF_APP=b", "agent.env") == {
        "AWS_REGION": "eu-west-1",
        "ADF_APP": "b",
    }
    with pytest.raises(SettingsError, match=r"agent\.env, line 1: not KEY=VALUE"):
        userdata.key_values(b"hunter2", "agent.env")


STARTS = [b"", b"#cloud-config\nadf:\n ADF_A: ", b"#!/bin/sh\nADF_A=", b'{"ADF_A": ', b"ADF_A=", b"\x1f\x8b"]
STARTS += [
    b"MIME-Version: 1.0\nContent-T",
    b"Content-Type: multipart/mixed; boundary=x\n\n--x\n",
    b"Content-Type: text/plain\n",
]


@given(st.sampled_from(STARTS), st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_any_bytes_are_settings_or_refused(start: bytes, rest: bytes) -> None:
    """An exception of another kind would end the boot as a fault of the agent, with no hint."""
    with suppress(SettingsError):
        assert all(isinstance(text, str) for pair in userdata.parse(start + rest).items() for text in pair)


@given(st.text(st.characters(exclude_characters="'", exclude_categories=["Cc", "Cn", "Cs", "Zl", "Zp"])).map(str.strip))
def test_a_value_comes_through_every_form_unchanged(value: str) -> None:
    """A form that changes one character changes the bytes that a digest was to pin."""
    config = f"#cloud-config\nadf:\n  ADF_A: {json.dumps(value, ensure_ascii=False)}"
    for text in (f"ADF_A='{value}'", json.dumps({"ADF_A": value}), f"#!/bin/sh\nexport ADF_A='{value}'", config):
        assert userdata.parse(text.encode()) == {"ADF_A": value}
