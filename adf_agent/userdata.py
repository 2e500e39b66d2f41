"""The settings that user-data holds, in any of the forms that it comes in. Nothing in it is executed.

Forms: https://cloudinit.readthedocs.io/en/latest/explanation/format.html, KEY=VALUE lines and JSON.
"""

import binascii
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from adf_agent.errors import SettingsError

if TYPE_CHECKING:
    from email.message import Message

LIMIT = 2**20  # bytes once unzipped; EC2 itself takes 16 KB
GZIP = b"\x1f\x8b"
DEPTH = 5  # MIME parts in MIME parts
FORMS = "KEY=VALUE lines, a JSON object, #cloud-config with an adf: mapping, a shell script, or MIME multipart of these"
OURS = r"RELEASE_URL|ADF_\w{1,80}"
# What cloud-init reads and can hold no setting: lists of URLs, programs for cloud-init, archives in YAML.
FOREIGN = ("#include", "#include-once", "#cloud-config-archive", "#cloud-config-jsonp", "#part-handler", "#upstart-job")

# A value of a KEY=VALUE line: in double or single quotes, or plain; a # begins a comment after a blank only.
VALUE = r"""(?:"((?:[^"\\]|\\.)*)"|'([^']*)'|([^"'\s#]\S*(?:\s+[^\s#]\S*)*))?\s*(?:(?<!\S)#.*)?"""
# A piece of a shell's word with nothing in it that a shell would expand: in double or single quotes, escaped, or plain.
PIECE = r"""(?:"((?:[^"\\$`]|\\.)*)"|'([^']*)'|\\?((?<=\\).|[^\s"'\\$`;&|<>()]+))"""

OUR_PARTS = (
    "text/cloud-config",
    "text/x-shellscript",
    "text/cloud-boothook",
    "text/plain",
    "text/jinja2",
    "application/json",
    "application/octet-stream",
    "application/gzip",
    "application/x-gzip",
)

Pairs = Iterable[tuple[str, str]]


def parse(data: bytes) -> dict[str, str]:
    """The settings of user-data: RELEASE_URL and every ADF_… key, known or not; other keys only to hint at a slip.

    Empty where there are none. Raises SettingsError, which names a line or a setting and never holds a value.
    """
    return _once(_form(data, "user-data"), "user-data")


def key_values(data: bytes, where: str) -> dict[str, str]:
    """The pairs of KEY=VALUE lines; a later line outranks an earlier one, as in systemd's EnvironmentFile.

    Raises SettingsError, which names *where* and the line.
    """
    return dict(_key_values(_text(data, where), where))


def _once(pairs: Pairs, where: str) -> dict[str, str]:
    """*pairs* as a dictionary; two values for a setting are refused: which branch or part counts can't be known."""
    found: dict[str, str] = {}
    for name, value in pairs:
        if found.setdefault(name, value) != value and re.fullmatch(OURS, name):
            raise SettingsError(f"{where} gives {name} two different values", hint="Keep one of them.")
    return found


def _form(data: bytes, where: str, depth: int = 0) -> Pairs:
    text = _text(data, where)
    first = re.sub(r"\A\s*## *template: *jinja.*\n", "", text).lstrip().partition("\n")[0]
    word = first.partition(" ")[0].strip().lower()
    if word.startswith("#!") or word == "#cloud-boothook":
        return _script(text, where)
    if word == "#cloud-config":
        return _cloud_config(text, where)
    if word.startswith("{"):
        return _json(text, where)
    if re.match(r"(?i)(?:mime-version|content-type)\s*:", first) or (
        re.match(r"[\w-]+:\s|From ", first) and re.search(r"(?mi)^mime-version\s*:", text)
    ):
        return _multipart(text, where, depth)
    if word in FOREIGN:
        return ()
    if _is_base64(text):
        raise SettingsError(f"{where} is base64, once decoded already", hint="It was encoded twice: encode it once.")
    return dict(_key_values(text, where)).items()


def _text(data: bytes, where: str) -> str:
    if data.startswith(GZIP):
        try:
            data = gzip.GzipFile(fileobj=io.BytesIO(data)).read(LIMIT + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise SettingsError(f"{where} is a broken gzip file", hint="Compress it anew.") from error
    if len(data) > LIMIT:
        raise SettingsError(f"{where} is larger than {LIMIT} bytes", hint="Keep it to settings.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SettingsError(f"{where} is neither UTF-8 text nor gzip", hint=f"Give it as {FORMS}.") from error


def _key_values(text: str, where: str) -> Pairs:
    for number, line in enumerate(map(str.strip, text.split("\n")), 1):
        if not line or line.startswith("#"):
            continue
        form = re.fullmatch(r"(?:export\s+)?([A-Za-z_]\w*)=(.*)", line, re.ASCII)
        if form is None:
            raise _wrong(where, number, "not KEY=VALUE", f"Known forms: {FORMS}.")
        value = re.fullmatch(VALUE, form[2].lstrip())
        if value is None:
            hint = "Close the quote at the value's end."
            raise _wrong(where, number, f"{form[1][:80]} has quotes that don't match", hint)
        yield form[1], _plain(*value.groups())


def _plain(quoted: str | None, literal: str | None, plain: str | None) -> str:
    return re.sub(r'\\(["\\$`])', r"\1", quoted) if quoted is not None else literal or plain or ""


def _is_base64(text: str) -> bool:
    try:
        decoded = binascii.a2b_base64("".join(text.split()).encode(), strict_mode=True)
    except (ValueError, UnicodeEncodeError):
        return False
    return decoded.startswith(GZIP) or (b"=" in decoded and decoded.isascii())


def _json(text: str, where: str) -> Pairs:
    try:
        # Numbers stay as they were written: a release named 1.10 is not 1.1.
        pairs = json.loads(text, object_pairs_hook=tuple, parse_int=str, parse_float=str, parse_constant=str)
    except json.JSONDecodeError as error:
        raise _wrong(where, error.lineno, "not valid JSON", "Check it with `python3 -m json.tool`.") from error
    except RecursionError as error:
        raise _nested(where) from error
    for name, value in pairs:
        if isinstance(value, str | bool | None):
            yield name, "" if value is None else str(value).lower() if isinstance(value, bool) else value
        elif re.fullmatch(OURS, name):
            raise SettingsError(f"{where}: {name} is not a plain value", hint="Give a string, with commas in a list.")


def _cloud_config(text: str, where: str) -> Pairs:
    if "adf" not in text:
        return
    import yaml  # noqa: PLC0415  only this form pays for it

    try:
        # Nodes, not objects: `on`, `1.10` and `22:22` stay as they were written, and aliases can't multiply.
        root: Any = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise _wrong(where, line, "not valid YAML", "Check it with `cloud-init schema`.") from error
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        raise SettingsError(f"{where} is not valid YAML", hint="Check it with `cloud-init schema`.") from error
    for key, mapping in root.value if isinstance(root, yaml.MappingNode) else ():
        if key.value == "adf":
            yield from _adf(mapping, where)


def _adf(mapping: Any, where: str) -> Pairs:
    import yaml  # noqa: PLC0415

    if not isinstance(mapping, yaml.MappingNode):
        hint = "Write a setting a line below adf:, indented, as in `ADF_APP: web`."
        raise _wrong(where, mapping.start_mark.line + 1, "adf: is not a mapping", hint)
    for key, value in mapping.value:
        line = key.start_mark.line + 1
        if not re.fullmatch(OURS, str(key.value)):
            raise _wrong(where, line, "adf: holds a key that is no setting", "Settings are RELEASE_URL and ADF_….")
        if not isinstance(value, yaml.ScalarNode):
            raise _wrong(where, line, f"{key.value} is not a plain value", "Give a string, with commas in a list.")
        yield key.value, "" if value.tag == "tag:yaml.org,2002:null" else value.value


def _script(text: str, where: str) -> Pairs:
    for number, line in enumerate(text.split("\n"), 1):
        if form := re.fullmatch(r"\s*(?:export\s+)?([A-Za-z_]\w*)=(.*)", line, re.ASCII):
            ours = re.fullmatch(OURS, form[1])
            yield form[1], _word(form[2], form[1], where, number) if ours else ""


def _word(text: str, name: str, where: str, number: int) -> str:
    """The one word of shell that *text* is."""
    value, end = "", 0
    while piece := re.compile(PIECE).match(text, end):
        value, end = value + _plain(*piece.groups()), piece.end()
    rest = text[end:]
    if re.match(r'"(?:[^"\\]|\\.)*?[$`]|[$`]', rest):
        raise _wrong(where, number, f"{name} holds a $ or ` that nothing expands", "Write the value itself.")
    if rest.startswith(("'", '"')):
        raise _wrong(where, number, f"{name} has quotes that don't match", "Close the quote on the same line.")
    if not re.fullmatch(r"\s*(?:;{1,2}\s*)?(?:(?<=[\s;])#.*)?", rest):
        hint = "Quote the whole value, and put the assignment on a line of its own."
        raise _wrong(where, number, f"{name} is followed by something else on its line", hint)
    return value


def _multipart(text: str, where: str, depth: int) -> Pairs:
    from email import message_from_bytes  # noqa: PLC0415  only this form pays for it

    try:
        parts = [part for part in message_from_bytes(text.encode()).walk() if not part.is_multipart()]
    except RecursionError as error:
        raise _nested(where) from error
    if depth == DEPTH:
        raise _nested(where)
    for number, part in enumerate(parts, 1):
        yield from _part(part, f"{where}, part {number}", depth + 1)


def _part(part: "Message", where: str, depth: int) -> Pairs:
    kind = part.get_content_type()
    data = part.get_payload(decode=True)
    if not isinstance(data, bytes) or (part.defects and kind.startswith(("multipart/", *OUR_PARTS))):
        raise SettingsError(f"{where}: broken MIME", hint="Make it with `cloud-init devel make-mime`.")
    if kind == "text/cloud-config":
        return _cloud_config(_text(data, where), where)
    if kind.startswith(("text/x-shellscript", "text/cloud-boothook")):
        return _script(_text(data, where), where)
    return _form(data, where, depth) if kind.startswith(OUR_PARTS) else ()


def _nested(where: str) -> SettingsError:
    return SettingsError(f"{where} is nested too deeply", hint="Give one flat object, or one level of parts.")


def _wrong(where: str, line: int, what: str, hint: str) -> SettingsError:
    return SettingsError(f"{where}, line {line}: {what}", hint=hint)
