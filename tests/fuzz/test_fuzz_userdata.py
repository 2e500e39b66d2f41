"""User-data in every form, agent.env and tags: settings, or one sentence."""

import base64
import gzip
import json
import zlib
from collections.abc import Callable, Mapping, Sequence

from fuzzing import CANARY, check_refusal, fuzzed, mutated, nested, texts
from hypothesis import strategies as st

from adf_agent import settings, userdata
from adf_agent.errors import SettingsError
from adf_agent.ops.rolling.errors import Refused
from adf_agent.ops.rolling.rewrite import LIMIT, rewritten

Pairs = Sequence[tuple[str, str]]
URL = f"https://x.example/v1.tgz?token={CANARY.replace('%', '')}"
NAMES = st.sampled_from([*settings.TABLE, "ADF_LOG_OPT_MAX_SIZE", "ADF_LOG_OPT_X-", "ADF_NONE", "ADF_É", "PATH", "a.b"])
LONG = st.builds(lambda text, times: text * times, texts("a", ",", "1"), st.integers(1, 30_000))
VALUES = (
    LONG
    | st.just(URL)
    | texts("'", '"', "\\", "$", "`", " #", "\n", "\r", "=", ",", "80:80", "15m", "http://:80/", "ssm:")
)
PAIRS = st.lists(st.tuples(NAMES, VALUES), max_size=5)


def lines(pairs: Pairs) -> str:
    return "# settings\n" + "".join(f"export {name}={value}\n" for name, value in pairs)


def quoted(pairs: Pairs) -> str:
    return "".join(f"{name}='{value}' # it\n" for name, value in pairs)


def json_object(pairs: Pairs) -> str:
    members = ", ".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in pairs)
    return "{" + members + "}"


def cloud_config(pairs: Pairs) -> str:
    return "#cloud-config\nadf: # it\n" + "".join(
        f"  {name}: {json.dumps(value, ensure_ascii=False)}\n" for name, value in pairs
    )


def plain_yaml(pairs: Pairs) -> str:
    return "#cloud-config\nadf:\n" + "".join(f"  {name}: {value}\n" for name, value in pairs)


def script(pairs: Pairs) -> str:
    return "#!/bin/sh\nset -e\n" + lines(pairs)


def jinja(pairs: Pairs) -> str:
    return "## template: jinja\n" + cloud_config(pairs)


FORMS: tuple[Callable[[Pairs], str], ...] = (lines, quoted, json_object, cloud_config, plain_yaml, script, jinja)
LEAVES = st.builds(lambda form, pairs: form(pairs).encode(errors="replace"), st.sampled_from(FORMS), PAIRS)
KINDS = st.sampled_from(
    ["text/plain", "text/cloud-config", "text/x-shellscript", "text/x-include-url", "multipart/mixed"]
)
ENCODINGS = st.sampled_from(["", "base64", "quoted-printable", "8bit", "uuencode", "none"])
Parts = Sequence[tuple[str, str, bytes]]


def multipart(parts: Parts) -> bytes:
    """As cloud-init's `make-mime` would write them, with payloads as they are: they may be none of their encoding."""
    mark = f"=={zlib.crc32(repr(parts).encode(errors='replace'))}=="
    whole = f'MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary="{mark}"\n\n'.encode()
    for kind, encoding, data in parts:
        body = base64.encodebytes(data) if encoding == "base64" else data
        whole += f"--{mark}\nContent-Type: {kind}\nContent-Transfer-Encoding: {encoding}\n\n".encode() + body + b"\n"
    return whole + f"--{mark}--\n".encode()


def deep_mime(depth: int) -> bytes:
    return b"".join(b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (at, at) for at in range(depth))


DOCUMENTS: st.SearchStrategy[bytes] = st.recursive(
    mutated(LEAVES),
    lambda inner: (
        st.lists(st.tuples(KINDS, ENCODINGS, inner), max_size=3).map(multipart)
        | mutated(inner.map(lambda data: gzip.compress(data, 1)))
    ),
    max_leaves=4,
)
DEEP = nested(lambda depth: b'{"ADF_A":' + b"[" * depth) | nested(lambda depth: b"#cloud-config\nadf: " + b"[" * depth)


@fuzzed("user-data", DOCUMENTS, weight=8)
def test_user_data_is_settings_or_refused(data: bytes) -> None:
    """Every instance of a launch template with a slip in it ends as a fault of the agent, or shows a token."""
    try:
        found = userdata.parse(data)
    except SettingsError as error:
        return check_refusal(error)
    assert all(isinstance(text, str) for pair in found.items() for text in pair)
    return _resolved(found, {}, {})


@fuzzed("user-data", DEEP | nested(deep_mime) | st.binary(max_size=400))
def test_user_data_that_nests_without_end_is_refused(data: bytes) -> None:
    """Sixteen kilobytes of brackets, and the agent ends without a word."""
    try:
        userdata.parse(data)
    except SettingsError as error:
        check_refusal(error)


@fuzzed("agent.env", mutated(st.builds(lambda pairs: lines(pairs).encode(errors="replace"), PAIRS)), weight=3)
def test_agent_env_is_settings_or_refused(data: bytes) -> None:
    """A slip in the file of an AMI stops every instance made from it, and nobody is told which line it is."""
    try:
        found = settings.agent_env(data)
    except SettingsError as error:
        return check_refusal(error)
    return _resolved({"RELEASE_URL": URL}, {}, found)


@fuzzed("settings", st.tuples(*[st.dictionaries(NAMES, VALUES, max_size=6)] * 3), weight=3)
def test_any_sources_are_settings_or_refused(sources: tuple[dict[str, str], dict[str, str], dict[str, str]]) -> None:
    """A tag that somebody put on a group is what all its instances fail by."""
    _resolved(*sources)


def _resolved(user_data: Mapping[str, str], tags: Mapping[str, str], agent_env: Mapping[str, str]) -> None:
    try:
        found = settings.resolve(user_data, tags, agent_env)
    except SettingsError as error:
        given = [(name, text) for source in (user_data, tags, agent_env) for name, text in source.items()]
        elsewhere = any(URL in text for name, text in given if name not in ("RELEASE_URL", "ADF_RELEASE_TOKEN"))
        return check_refusal(error, canary="\0" if elsewhere else URL)
    shown = str(found.sources["RELEASE_URL"])
    assert "token=***" in shown or "token=" not in shown
    assert all(warning.isprintable() for warning in found.warnings)
    return None


PLAIN = st.text(st.characters(exclude_characters="'", exclude_categories=["Cc", "Cn", "Cs", "Zl", "Zp"])).map(str.strip)
WRITERS: tuple[Callable[[Pairs], str], ...] = (quoted, json_object, cloud_config, jinja)


@fuzzed(
    "user-data",
    st.tuples(st.sampled_from(WRITERS), st.dictionaries(st.sampled_from([*settings.TABLE]), PLAIN, min_size=1)),
)
def test_what_was_written_is_what_is_read(case: tuple[Callable[[Pairs], str], dict[str, str]]) -> None:
    """A character lost in one form, and a digest pins other bytes."""
    write, values = case
    data = write([*values.items()]).encode()
    for packed in (data, gzip.compress(data, 1), multipart([("text/plain", "base64", data)])):
        assert userdata.parse(packed) == values


NEW = st.just(URL) | PLAIN.filter(bool)


@fuzzed(
    "launch template",
    st.tuples(DOCUMENTS, st.dictionaries(st.sampled_from(["RELEASE_URL", "ADF_RELEASE"]), NEW)),
    weight=4,
)
def test_a_launch_template_is_rewritten_as_meant_or_refused(case: tuple[bytes, dict[str, str]]) -> None:
    """A roll gives a group user-data that its agents read otherwise than they read the former."""
    data, values = case
    try:
        found = rewritten(data, values)
    except Refused as error:
        return check_refusal(error)
    assert userdata.parse(found) == {**userdata.parse(data), **values}
    assert len(found) <= LIMIT
    return None
