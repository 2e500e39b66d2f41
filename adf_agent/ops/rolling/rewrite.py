"""User-data with settings replaced where they stand: every other byte stays as somebody wrote it.

The forms are those of `adf_agent.userdata`, and what it reads of the result is checked before anything is returned.
"""

import base64
import gzip
import json
import quopri
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from adf_agent import userdata
from adf_agent.errors import SettingsError
from adf_agent.ops.rolling.errors import Refused

LIMIT = 16 * 1024  # bytes before base64: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/user-data.html
MAIN = "RELEASE_URL"  # what is added goes beside it
ASSIGNMENT = re.compile(r"(\s*(?:export\s+)?([A-Za-z_]\w*)=)(.*)", re.ASCII)
SHELL_PLAIN = r"(?!#)[\w@%+=:,./#-]*"  # neither a shell nor a KEY=VALUE line sees anything in these
YAML_PLAIN = r"(?!(?i:null)$)[A-Za-z0-9](?:[\w@%+=:./#&~-]*[\w/])?"  # nor YAML in these, in braces or not


@dataclass(frozen=True)
class Place:
    """Where a setting stands in a text: its value is `text[start:end]`, its name with what leads to it before *start*.

    Another one goes in at *last*, after a *joint* (a comma, or a line end) and a head that is made from *first* on.
    """

    name: str
    first: int
    start: int
    end: int
    last: int
    joint: str


@dataclass(frozen=True)
class Edit:
    """*values* by name replace those that stand; those *added* go beside each *anchor*."""

    values: Mapping[str, str]
    added: Mapping[str, str]
    anchor: str

    def __call__(self, text: str, places: Iterable[Place], write: Callable[[str, str], str]) -> str:
        """*text* with the edit done; *write* makes a value's text from the value and from the text that stood there."""
        for place in reversed([*places]):
            stands, head = text[place.start : place.end], text[place.first : place.start]
            news = self.added.items() if place.name == self.anchor else ()
            more = "".join(place.joint + head.replace(place.name, name) + write(value, stands) for name, value in news)
            value = write(self.values[place.name], stands) if place.name in self.values else stands
            text = text[: place.start] + value + text[place.end : place.last] + more + text[place.last :]
        return text


def read(data: bytes) -> dict[str, str]:
    """The settings of user-data, as the agent reads them. Raises Refused where it could not."""
    try:
        return userdata.parse(data)
    except SettingsError as error:
        raise Refused(f"the launch template's {error.sentence}", hint=error.hint) from error


def rewritten(data: bytes, values: Mapping[str, str]) -> bytes:
    """*data* with the *values* of settings: replaced wherever they stand, else put beside RELEASE_URL or another one.

    What was compressed is compressed again. Raises Refused, which shows no value, where that can't be done safely.
    """
    before = read(data)
    added = {name: value for name, value in values.items() if name not in before}
    ours = [name for name in before if re.fullmatch(userdata.OURS, name)]
    if added and not ours and data.strip():
        hint = "Write RELEASE_URL into it once, by hand: from then on it is replaced where it stands."
        raise Refused("the launch template's user-data holds no setting to put RELEASE_URL beside", hint=hint)
    if ours or not added:
        result = _bytes(data, Edit(values, added, MAIN if MAIN in ours else ours[0] if ours else ""))
    else:
        result = data + "".join(f"{name}={_shell_word(value, '')}\n" for name, value in values.items()).encode()
    _check(result, before, values)
    return result


def _check(result: bytes, before: Mapping[str, str], values: Mapping[str, str]) -> None:
    """Refuses what the agent would not read as it was meant: a form that has more to it than is known here."""
    try:
        is_right = userdata.parse(result) == {**before, **values}
    except SettingsError:
        is_right = False
    if not is_right:
        hint = "Write it in quotes, and plainly: no alias, no anchor, nothing else on its line."
        raise Refused(f"{' and '.join(values)} can't be replaced in the launch template's user-data", hint=hint)
    if len(result) > LIMIT:
        hint = "Compress it with gzip, or move what is no setting elsewhere."
        raise Refused(f"the user-data would have {len(result)} bytes, and EC2 takes {LIMIT}", hint=hint)


def _bytes(data: bytes, edit: Edit, kind: str = "") -> bytes:
    """*data*, plain or gzipped, of the MIME type *kind* where it is a part; what does not change is not packed anew."""
    if data.startswith(userdata.GZIP):
        plain = gzip.decompress(data)  # no bomb: it was read before
        new = _bytes(plain, edit, kind)
        return data if new == plain else gzip.compress(new, mtime=0)
    text = data.decode("utf-8-sig")
    mark = data[: len(data) - len(text.encode())]  # of the byte order
    return mark + _text(text, edit, kind).encode()


def _text(text: str, edit: Edit, kind: str) -> str:
    first = re.sub(r"\A\s*## *template: *jinja.*\n", "", text).lstrip().partition("\n")[0]
    word = first.partition(" ")[0].strip().lower()
    scripts = "text/x-shellscript", "text/cloud-boothook"
    if kind == "text/cloud-config" or (word == "#cloud-config" and not kind.startswith(scripts)):
        return edit(text, _members_of_yaml(text), _yaml_scalar)
    if kind.startswith(scripts) or word.startswith("#!") or word == "#cloud-boothook":
        return edit(text, _assignments(text, _span_in_shell), _shell_word)
    if word.startswith("{"):
        return edit(text, _members_of_json(text), lambda value, _: json.dumps(value, ensure_ascii=False))
    if re.match(r"(?i)(?:mime-version|content-type)\s*:", first) or (
        re.match(r"[\w-]+:\s|From ", first) and re.search(r"(?mi)^mime-version\s*:", text)
    ):
        return _multipart(text.encode(), edit).decode()
    return text if word in userdata.FOREIGN else edit(text, _assignments(text, _span_in_line), _shell_word)


def _assignments(text: str, span: Callable[[str], tuple[int, int]]) -> Iterable[Place]:
    at, joint = 0, _line_end(text)
    for line in text.split("\n"):
        if (form := ASSIGNMENT.fullmatch(line)) and re.fullmatch(userdata.OURS, form[2]):
            start, end = (at + form.end(1) + each for each in span(form[3]))
            yield Place(form[2], at, start, end, at + len(line.rstrip("\r")), joint)
        at += len(line) + 1


def _span_in_line(text: str) -> tuple[int, int]:
    """Where the value, quotes and all, is in what stands after the = of a KEY=VALUE line."""
    stripped = text.strip()
    found = re.fullmatch(userdata.VALUE, stripped)
    if not found or found.lastindex is None:
        return 0, 0
    start, end = found.span(found.lastindex)
    quote = 1 if found.lastindex < 3 else 0  # noqa: PLR2004  the third group is the plain value
    blank = text.index(stripped)
    return blank + start - quote, blank + end + quote


def _span_in_shell(text: str) -> tuple[int, int]:
    end = 0
    while piece := re.compile(userdata.PIECE).match(text, end):
        end = piece.end()
    return 0, end


def _shell_word(value: str, stands: str) -> str:
    """*value* in the quotes that stand there, where they can hold it; none of it would be expanded by a shell."""
    if stands[:1] not in ("'", '"') and re.fullmatch(SHELL_PLAIN, value, re.ASCII):
        return value
    if stands[:1] == '"' or "'" in value:
        return '"' + re.sub(r'(["\\$`])', r"\\\1", value) + '"'
    return f"'{value}'"


def _members_of_json(text: str) -> Iterable[Place]:
    """Those of the outermost object; *text* is known to hold one."""
    decoder = json.JSONDecoder(parse_int=str)
    at = text.index("{") + 1
    while key := re.compile(r'[\s,]*(?=")').match(text, at):
        name, at = decoder.raw_decode(text, key.end())
        start = text.index(":", at) + 1
        start += len(text[start:]) - len(text[start:].lstrip())
        _, at = decoder.raw_decode(text, start)
        if re.fullmatch(userdata.OURS, name):
            yield Place(name, len(text[: key.end()].rstrip()), start, at, at, ",")


def _members_of_yaml(text: str) -> Iterable[Place]:
    """Those of `adf:`. An alias is where its anchor is, which others may mean as well: without it nothing is read."""
    import yaml  # noqa: PLC0415  only this form pays for it

    root: Any = yaml.compose(text, Loader=yaml.SafeLoader) if "adf" in text else None
    for top, mapping in root.value if isinstance(root, yaml.MappingNode) else ():
        for key, value in mapping.value if top.value == "adf" else ():
            yield _yaml_place(text, key, value, in_braces=mapping.flow_style)


def _yaml_place(text: str, key: Any, value: Any, *, in_braces: bool) -> Place:
    begin, start = key.start_mark.index, value.start_mark.index
    end = start + len(text[start : value.end_mark.index].rstrip())
    if in_braces:
        return Place(key.value, len(text[:begin].rstrip()), start, end, end, ",")
    last = next(at.start() for at in re.compile(r"\r?\n|\Z").finditer(text, end))
    return Place(key.value, text.rfind("\n", 0, begin) + 1, start, end, last, _line_end(text))


def _yaml_scalar(value: str, stands: str) -> str:
    blank = "" if stands else " "  # after the colon of an empty one
    if stands[:1] == "'":
        return "'" + value.replace("'", "''") + "'"
    return blank + (
        value
        if stands[:1] != '"' and re.fullmatch(YAML_PLAIN, value, re.ASCII)
        else json.dumps(value, ensure_ascii=False)
    )


def _line_end(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"


def _multipart(whole: bytes, edit: Edit) -> bytes:
    """*whole* with the parts that change put in place of the old ones, boundaries and headers untouched."""
    from email import message_from_bytes  # noqa: PLC0415  only this form pays for it

    done, at = b"", 0
    for part in message_from_bytes(whole).walk():
        kind, data = part.get_content_type(), part.get_payload(decode=True)
        if not isinstance(data, bytes) or not kind.startswith(userdata.OUR_PARTS):
            continue
        encoding = str(part.get("Content-Transfer-Encoding", "")).lower()
        stands = str(part.get_payload()).encode() if encoding in ("base64", "quoted-printable") else data
        body = re.compile(rb"\r?\n\r?\n(?=" + re.escape(stands) + rb")").search(whole, at)
        new = _bytes(data, edit, kind)
        if body and new != data:
            done += whole[at : body.end()] + _encoded(new, stands, encoding)
            at = body.end() + len(stands)
    return done + whole[at:]


def _encoded(data: bytes, stood: bytes, encoding: str) -> bytes:
    """*data* as a part of MIME; where some tool wrote longer lines than RFC 2045's 76 characters, they stay as long."""
    if encoding == "quoted-printable":
        return quopri.encodestring(data)
    if encoding != "base64":
        return data
    width = max(76, len(stood.split(maxsplit=1)[0]))
    text = base64.b64encode(data)
    lines = [text[start : start + width] for start in range(0, len(text), width)]
    return (b"\r\n" if b"\r\n" in stood else b"\n").join(lines) + stood[len(stood.rstrip()) :]
