import binascii
import gzip
import json
import re
from collections.abc import Callable
from email.mime.application import MIMEApplication
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adf_agent import userdata
from adf_agent.ops.rolling.errors import Refused
from adf_agent.ops.rolling.rewrite import LIMIT, rewritten

OLD, NEW = "https://x.example/v1.tgz", "https://x.example/v2.tgz?a=1&b=2#sha256=0f"
URL = {"RELEASE_URL": NEW}
BOTH = {"RELEASE_URL": NEW, "ADF_RELEASE": "v2"}

REPLACED = {
    "lines": (
        f"# the app\nADF_APP=web\n\nRELEASE_URL={OLD}\nADF_RELEASE='v1' # by hand\n",
        f"# the app\nADF_APP=web\n\nRELEASE_URL='{NEW}'\nADF_RELEASE='v2' # by hand\n",
    ),
    "lines: export, tabs, CRLF, no end": (
        f'\texport RELEASE_URL= "{OLD}" \r\nADF_RELEASE=v1',
        f'\texport RELEASE_URL= "{NEW}" \r\nADF_RELEASE=v2',
    ),
    "lines: byte order mark": (
        f"\ufeffRELEASE_URL={OLD}\nADF_RELEASE=v1",
        f"\ufeffRELEASE_URL='{NEW}'\nADF_RELEASE=v2",
    ),
    "lines: empty": ("RELEASE_URL= # soon\nADF_RELEASE=", f"RELEASE_URL='{NEW}' # soon\nADF_RELEASE=v2"),
    "lines: twice": (
        f"RELEASE_URL=a\nRELEASE_URL='{OLD}'\nADF_RELEASE=v1",
        f"RELEASE_URL='{NEW}'\nRELEASE_URL='{NEW}'\nADF_RELEASE=v2",
    ),
    "JSON": (
        f'\n{{"ADF_RELEASE":\n 1.10, "o": {{"RELEASE_URL": "{OLD}", "n": [1e3]}},\t"RELEASE_URL" : "{OLD}"\r\n}}\n',
        f'\n{{"ADF_RELEASE":\n "v2", "o": {{"RELEASE_URL": "{OLD}", "n": [1e3]}},\t"RELEASE_URL" : "{NEW}"\r\n}}\n',
    ),
    "cloud-config": (
        f"#cloud-config\nRELEASE_URL: no\nadf: # b\n  RELEASE_URL: {OLD} # URL\n\n  'ADF_RELEASE': '1.1'\n",
        f"#cloud-config\nRELEASE_URL: no\nadf: # b\n  RELEASE_URL: \"{NEW}\" # URL\n\n  'ADF_RELEASE': 'v2'\n",
    ),
    "cloud-config: braces": (
        f'## template: jinja\n#cloud-config\nadf: {{ADF_RELEASE: , "RELEASE_URL": "{OLD}" }}\n',
        f'## template: jinja\n#cloud-config\nadf: {{ADF_RELEASE: v2 , "RELEASE_URL": "{NEW}" }}\n',
    ),
    "cloud-config: an alias of another's": (
        f"#cloud-config\nx: &x web\nadf:\n  ADF_APP: *x\n  RELEASE_URL: '{OLD}'\n  ADF_RELEASE: !!str v1",
        f"#cloud-config\nx: &x web\nadf:\n  ADF_APP: *x\n  RELEASE_URL: '{NEW}'\n  ADF_RELEASE: v2",
    ),
    "cloud-config: blocks and empty": (
        f"#cloud-config\r\nadf:\r\n  RELEASE_URL: >-\r\n    {OLD}\r\n  ADF_RELEASE:\r\nx: y\r\n",
        f'#cloud-config\r\nadf:\r\n  RELEASE_URL: "{NEW}"\r\n  ADF_RELEASE: v2\r\nx: y\r\n',
    ),
    "script": (
        f"#!/bin/sh\nif :; then\n  export RELEASE_URL=\"{OLD}\" # c\nfi\nADF_RELEASE=v'1';\necho RELEASE_URL={OLD}\n",
        f'#!/bin/sh\nif :; then\n  export RELEASE_URL="{NEW}" # c\nfi\nADF_RELEASE=v2;\necho RELEASE_URL={OLD}\n',
    ),
    "script: branches": (
        f"#!/bin/sh\nRELEASE_URL={OLD}\nelse\nRELEASE_URL={OLD}\nADF_RELEASE=\\v1\r\n",
        f"#!/bin/sh\nRELEASE_URL='{NEW}'\nelse\nRELEASE_URL='{NEW}'\nADF_RELEASE=v2\r\n",
    ),
    "boothook": (
        f"#cloud-boothook\nRELEASE_URL='{OLD}'\nADF_RELEASE=1",
        f"#cloud-boothook\nRELEASE_URL='{NEW}'\nADF_RELEASE=v2",
    ),
}


@pytest.mark.parametrize(("before", "after"), REPLACED.values(), ids=REPLACED)
def test_settings_are_replaced_where_they_stand(before: str, after: str) -> None:
    """A user-data that is written anew loses the comments and the parts of others that hold a fleet together."""
    assert rewritten(before.encode(), BOTH).decode() == after


WRITTEN = {
    "plain": ("RELEASE_URL=a # c", f"{OLD}#sha256=0f", f"RELEASE_URL={OLD}#sha256=0f # c"),
    "plain, no more": ("RELEASE_URL=a", "#b", "RELEASE_URL='#b'"),
    "plain, neither in quotes": ("RELEASE_URL=a", "it's $b", 'RELEASE_URL="it\'s \\$b"'),
    "quotes, no more": ("RELEASE_URL='a'", "it's", 'RELEASE_URL="it\'s"'),
    "YAML: null": ("#cloud-config\nadf:\n  RELEASE_URL: a", "null", '#cloud-config\nadf:\n  RELEASE_URL: "null"'),
    "YAML: quote": ("#cloud-config\nadf:\n  RELEASE_URL: 'a'", "it's", "#cloud-config\nadf:\n  RELEASE_URL: 'it''s'"),
    "JSON": ('{"RELEASE_URL": null}', 'a"é', '{"RELEASE_URL": "a\\"é"}'),
    "JSON: long": (f'{{"n": {"1" * 5000}, "RELEASE_URL": 1}}', "b", f'{{"n": {"1" * 5000}, "RELEASE_URL": "b"}}'),
}


@pytest.mark.parametrize(("before", "value", "after"), WRITTEN.values(), ids=WRITTEN)
def test_the_quotes_stay_as_long_as_they_hold_the_value(before: str, value: str, after: str) -> None:
    """A script that sources the file sees half of a URL, as its & starts another command."""
    assert rewritten(before.encode(), {"RELEASE_URL": value}).decode() == after


ADDED = {
    "lines": (
        f"  export RELEASE_URL='{OLD}' # c\r\nADF_APP=w",
        f"  export RELEASE_URL='{NEW}' # c\r\n  export ADF_RELEASE='v2'\r\nADF_APP=w",
    ),
    "lines: the last": (f"ADF_APP=w\nRELEASE_URL={OLD}", f"ADF_APP=w\nRELEASE_URL='{NEW}'\nADF_RELEASE=v2"),
    "lines: beside another": (
        "FOO=1\nADF_APP=w\n# end\n",
        f"FOO=1\nADF_APP=w\nRELEASE_URL='{NEW}'\nADF_RELEASE=v2\n# end\n",
    ),
    "nothing": ("", f"RELEASE_URL='{NEW}'\nADF_RELEASE=v2\n"),
    "script": (
        f"#!/bin/sh\nif :; then\n  RELEASE_URL={OLD}; # c\nfi\n",
        f"#!/bin/sh\nif :; then\n  RELEASE_URL='{NEW}'; # c\n  ADF_RELEASE=v2\nfi\n",
    ),
    "JSON": (
        f'{{\n  "RELEASE_URL": "{OLD}",\n  "n": 1\n}}',
        f'{{\n  "RELEASE_URL": "{NEW}",\n  "ADF_RELEASE": "v2",\n  "n": 1\n}}',
    ),
    "JSON: the last": (f'{{"n": 1, "RELEASE_URL":"{OLD}"}}', f'{{"n": 1, "RELEASE_URL":"{NEW}", "ADF_RELEASE":"v2"}}'),
    "cloud-config": (
        f"#cloud-config\nadf:\n    RELEASE_URL: {OLD} # c\nx: y",
        f'#cloud-config\nadf:\n    RELEASE_URL: "{NEW}" # c\n    ADF_RELEASE: v2\nx: y',
    ),
    "cloud-config: the last": (
        f"#cloud-config\nadf:\n  RELEASE_URL: '{OLD}'",
        f"#cloud-config\nadf:\n  RELEASE_URL: '{NEW}'\n  ADF_RELEASE: 'v2'",
    ),
    "cloud-config: braces": (
        f"#cloud-config\nadf: {{RELEASE_URL: {OLD}}}",
        f'#cloud-config\nadf: {{RELEASE_URL: "{NEW}",ADF_RELEASE: v2}}',
    ),
}


@pytest.mark.parametrize(("before", "after"), ADDED.values(), ids=ADDED)
def test_a_setting_that_stands_nowhere_is_put_beside_the_url(before: str, after: str) -> None:
    """A name that was asked for and is not there: the release's own config is not read."""
    assert rewritten(before.encode(), BOTH).decode() == after


def _part(text: str, kind: str = "plain", charset: str = "us-ascii") -> MIMEText:
    return MIMEText(text, kind, charset)  # base64 where it is utf-8


def _multipart(*parts: MIMEText | MIMEApplication) -> bytes:
    return MIMEMultipart(boundary="===b", _subparts=parts).as_bytes()


def _quoted_printable(text: str) -> bytes:
    return f"Content-Type: text/plain\nContent-Transfer-Encoding: quoted-printable\n\n{text}".encode()


SCRIPT = "#!/bin/sh\necho hello\n"
MULTIPARTS = {
    "a script and lines": lambda url: _multipart(_part(SCRIPT, "x-shellscript"), _part(f"A=1\nRELEASE_URL='{url}'\n")),
    "base64": lambda url: _multipart(
        _part(f"# é\nadf:\n  RELEASE_URL: '{url}'\n", "cloud-config", "utf-8"),
        _part(f"# RELEASE_URL={OLD}\n", "x-other", "utf-8"),
    ),
    "each in parts": lambda url: _multipart(_part(f"RELEASE_URL='{url}'"), _part(f'{{"RELEASE_URL": "{url}"}}')),
    "gzip in base64": lambda url: _multipart(MIMEApplication(gzip.compress(f"RELEASE_URL='{url}'".encode(), mtime=0))),
    "others' own encoding": lambda url: (
        b"MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\n\n--b\n"
        + _quoted_printable(f"=41DF_APP=3Dweb\n--b\n\nRELEASE_URL='{url}'\n--b--\n")
    ),
    "a part handler": lambda url: _multipart(
        MIMEApplication(f"#part-handler\nRELEASE_URL={OLD}\n".encode()), _part(f"RELEASE_URL='{url}'\n")
    ),
    "a script by its type": lambda url: _multipart(_part(f"RELEASE_URL='{url}'; # c\n", "x-shellscript")),
    "base64, CRLF": lambda url: _multipart(_part(f"# é\nRELEASE_URL='{url}'\n{'#' * 80}", "plain", "utf-8")).replace(
        b"\n", b"\r\n"
    ),
    "MIME in MIME": lambda url: _multipart(
        MIMEApplication(_multipart(_part(f"RELEASE_URL='{url}'", "x-shellscript"))), _part(SCRIPT, "x-shellscript")
    ),
    "CRLF": lambda url: _multipart(_part(SCRIPT), _part(f"RELEASE_URL='{url}'\n")).replace(b"\n", b"\r\n"),
    "8 bit": lambda url: f"Content-Type: text/plain\n\n# é €\nRELEASE_URL='{url}'\n".encode(),
    "quoted-printable": lambda url: _quoted_printable(
        f"RELEASE_URL=3D'{url.replace('=', '=3D')}'\n".replace("sha256=3D0f'", "sha256=3D0f'")
    ),
    "mbox": lambda url: f"From me\nMIME-Version: 1.0\nContent-Type: text/plain\n\nRELEASE_URL='{url}'\n".encode(),
}


@pytest.mark.parametrize("made", MULTIPARTS.values(), ids=MULTIPARTS)
@pytest.mark.parametrize("pack", [bytes, lambda data: gzip.compress(data, mtime=0)], ids=["plain", "gzip"])
def test_in_a_multipart_no_other_byte_changes(made: Callable[[str], bytes], pack: Callable[[bytes], bytes]) -> None:
    """A boundary or a header that is written anew is a boot script that cloud-init does not run any more."""
    assert rewritten(pack(made(OLD)), URL) == pack(made(NEW))


UUENCODED = b"Content-Type: text/plain\nContent-Transfer-Encoding: x-uuencode\n\nbegin 666 -\n" + (
    binascii.b2a_uu(b"RELEASE_URL=a\n") + b" \nend\n"
)
ODD = f"#cloud-config\nu: &u {OLD}\nadf:\n  RELEASE_URL: "
REFUSED: dict[str, tuple[bytes, dict[str, str], str]] = {
    "not readable": (b"ADF_APP=a\nprose", URL, "the launch template's user-data, line 2: not KEY=VALUE"),
    "no setting": (b"FOO=1\n# end\n", URL, "holds no setting to put RELEASE_URL beside"),
    "nobody's script": (b"#!/bin/sh\nexec true\n", URL, "holds no setting to put RELEASE_URL beside"),
    "part handler": (f"#part-handler\nRELEASE_URL={OLD}".encode(), URL, "holds no setting to put"),
    "YAML alias": (f"{ODD}*u\n".encode(), URL, "RELEASE_URL can't be replaced"),
    "YAML anchor": (f"{ODD}&v {OLD}\n  ADF_APP: *v\n".encode(), URL, "RELEASE_URL can't be replaced"),
    "two lines in one": (b"RELEASE_URL=a", {"RELEASE_URL": "hunter2\nADF_APP=b"}, "RELEASE_URL can't be replaced"),
    "a comment after nothing": (b"RELEASE_URL=#hunter2", URL, "RELEASE_URL can't be replaced"),
    "uuencode": (UUENCODED, URL, "RELEASE_URL can't be replaced"),
    "too large": (f"RELEASE_URL=a\n#{'x' * (LIMIT - 20)}".encode(), URL, f"bytes, and EC2 takes {LIMIT}"),
}


@pytest.mark.parametrize(("data", "values", "said"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_replaced_safely_is_refused(data: bytes, values: dict[str, str], said: str) -> None:
    """A user-data that is half understood boots a whole fleet with half of its settings."""
    with pytest.raises(Refused) as caught:
        rewritten(data, values)
    assert said in caught.value.sentence
    assert caught.value.hint
    assert "hunter2" not in caught.value.sentence + caught.value.hint


def test_a_large_user_data_that_was_compressed_stays_so() -> None:
    """32 KB of comments that fitted while they were gzipped, and two launches of one URL that differ."""
    text = f"RELEASE_URL='{OLD}'\n#{'x' * 2 * LIMIT}\n"
    new = rewritten(gzip.compress(text.encode()), URL)
    assert gzip.decompress(new).decode() == text.replace(OLD, NEW)
    assert new == rewritten(gzip.compress(text.encode(), mtime=1), URL)


def test_what_does_not_change_is_not_packed_anew() -> None:
    """Another tool's compression is not ours to redo: every byte of its part would differ."""
    theirs = MIMEApplication(gzip.compress(b"ADF_APP=web", 1, mtime=7))
    data = _multipart(theirs, _part(f"RELEASE_URL='{OLD}'"))
    assert rewritten(data, URL) == data.replace(OLD.encode(), NEW.encode())
    assert rewritten(data, {}) == data


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), max_size=40)
VALUES = TEXT | st.text("ab01'\"\\$`#:&?{},[]!*~ ", max_size=12).map(str.strip)
OTHERS = st.dictionaries(st.sampled_from(["ADF_APP", "ADF_HEALTH", "ADF_LOG_OPT_X"]), VALUES, max_size=3)


def _in_lines(head: str, name: str, value: str, quote: str) -> str:
    if quote == "'":
        return f"{head}{name}='{value.replace(chr(39), '')}' # {name}"
    escaped = re.sub(r'(["\\$`])', r"\\\1", value)
    return f'{head}{name}="{escaped}"'


def _in_yaml(name: str, value: str, quote: str) -> str:
    doubled = value.replace("'", "''")
    return f"  {name}: '{doubled}' # {name}" if quote == "'" else f"  {name}: {json.dumps(value, ensure_ascii=False)}"


WRITERS: dict[str, Callable[[dict[str, str], str], str]] = {
    "lines": lambda all_, quote: "\n".join(_in_lines(" export ", *each, quote) for each in all_.items()) + "\n#",
    "script": lambda all_, quote: "\r\n".join(["#!/bin/sh", *(_in_lines("", *each, quote) for each in all_.items())]),
    "JSON": lambda all_, quote: json.dumps(all_, indent=1 if quote == "'" else None, ensure_ascii=quote == "'"),
    "cloud-config": lambda all_, quote: "\n".join(
        ["#cloud-config", "adf:", *(_in_yaml(*each, quote) for each in all_.items()), "x: [y]"]
    ),
    "MIME": lambda all_, quote: _multipart(
        _part(WRITERS["cloud-config"](all_, quote), "cloud-config", "utf-8"), _part(SCRIPT, "x-shellscript")
    ).decode(),
}


@given(form=st.sampled_from([*WRITERS]), quote=st.sampled_from("'\""), others=OTHERS, old=VALUES, new=VALUES)
def test_any_value_is_replaced_alone_in_every_form(
    form: str, quote: str, others: dict[str, str], old: str, new: str
) -> None:
    """One URL with a quote or a $ in it, and the fleet's other settings are read as something else."""
    data = WRITERS[form]({"RELEASE_URL": old, **others}, quote).encode()
    after = rewritten(data, {"RELEASE_URL": new})
    assert userdata.parse(after) == {**userdata.parse(data), "RELEASE_URL": new}
    assert _around(form, after) == _around(form, data)


def _around(form: str, data: bytes) -> list[bytes]:
    """*data* but for the one line, member or part that has RELEASE_URL, of which what is before the value stays."""
    if form == "MIME":
        return re.split(rb"\n\n[\w+/=\n]+\n\n--", data, maxsplit=1)
    if form == "JSON":
        return [*re.split(rb'(?<="RELEASE_URL": )"(?:[^"\\]|\\.)*"', data)]
    head, separator, rest = re.split(rb"(RELEASE_URL[=:])", data, maxsplit=1)
    return [head + separator, rest.partition(b"\n")[2]]
