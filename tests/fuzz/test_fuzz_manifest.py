"""adf.toml, .dockerignore and RELEASE_URL: what a release says of itself, and where it lies."""

import json
import re
import threading
from urllib.parse import quote

from fuzzing import CANARY, JSON, check_refusal, fuzzed, mutated, nested, texts
from hypothesis import strategies as st

from adf_agent import dockerignore, location
from adf_agent.errors import ReleaseError, SettingsError
from adf_agent.manifest import Build, Container, Health, Manifest

KEYS = [f"{kind.__name__.lower()}.{name}" for kind in (Build, Container, Health) for name in kind.__dataclass_fields__]
GOOD = ["80:8000", "8000", "512m", "1g", "30s", "http://:8000/health", "tcp://:1", "docker", "web", "/a:/b:ro", "a b"]
HUGE = ["9" * 400, "99999999999999s", "99999999999t", 1e305, 1e-12, 2**63, 10**400, "a\0b", ["a\0b"], {"A\0": "\0"}]
TOML_VALUES = (
    st.sampled_from([*GOOD, *HUGE]) | JSON | st.lists(st.sampled_from(GOOD), max_size=3) | st.integers(-2, 2**70)
)


def toml(pairs: list[tuple[str, object]]) -> bytes:
    """Dotted keys, with values as JSON has them: what it has in common with TOML is enough."""
    text = "".join(f"{key} = {json.dumps(value)}\n" for key, value in pairs)
    return text.encode()


MANIFESTS = st.lists(st.tuples(st.sampled_from([*KEYS, "build.args.A", "buidl", "'' "]), TOML_VALUES), max_size=5)
DEEP = nested(lambda depth: b"build.args = " + b"{a = " * depth) | nested(lambda depth: b"a." * depth + b"a = 1")


@fuzzed("adf.toml", mutated(MANIFESTS.map(toml)), weight=6)
def test_a_manifest_is_one_or_refused(data: bytes) -> None:
    """A slip in a release's adf.toml ends as a fault of the agent, on every instance at once."""
    _checked(data)


@fuzzed("adf.toml", DEEP | st.binary(max_size=300) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_a_manifest_or_refused(data: bytes) -> None:
    """A binary file with the name of a manifest."""
    _checked(data)


def _checked(data: bytes) -> None:
    try:
        found = Manifest.parse(data)
    except ReleaseError as error:
        return check_refusal(error, canary="[build] args " + CANARY)
    assert Manifest.parse(found.text.encode()) == found
    _check_usable(found)
    return None


def _check_usable(found: Manifest) -> None:
    """That neither Docker nor the clock is given what it can't take."""
    asked, health = found.container, found.health
    waits = asked.stop_timeout, health.interval, health.timeout, health.start_timeout
    assert all(0 <= each <= threading.TIMEOUT_MAX for each in waits)
    numbers = asked.memory or 0, int((asked.cpus or 1) * 1e9), *(each.hard for each in asked.ulimits)
    assert all(-1 <= each < 2**63 for each in numbers)
    words = found.build.dockerfile, found.build.target or "", asked.user or "", *(asked.command or ())
    arguments = [part for pair in found.build.args.items() for part in pair]
    assert not any("\0" in each for each in (*words, *arguments, *(each.name for each in asked.ulimits)))


NAMES = texts(
    "a", "b", "/", "*", "**", "**/", "?", ".", "!", "[a-b]", "[^a]", "[", "]", "\\", "-", "#", " ", "\n", most=10
)
PATHS = st.lists(st.sampled_from(["a", "b", "/", "ab", "."]), min_size=1, max_size=10).map("".join)


def plainly(pattern: str) -> str:
    """A pattern without sets or backslashes as a regular expression that goes back: right, and slow."""

    def part(token: re.Match[str]) -> str:
        if token[0].startswith("**"):
            return ".*" if token.end() == len(pattern) else "(?:.*/)?"
        return {"*": "[^/]*", "?": "[^/]"}.get(token[0], re.escape(token[0]))

    return re.sub(r"(?:\*\*/?)+|.", part, pattern, flags=re.DOTALL) + "(?:/.*)?"


@fuzzed(".dockerignore", st.tuples(st.lists(NAMES, max_size=4), PATHS), weight=4)
def test_an_ignore_file_is_one_or_refused(case: tuple[list[str], str]) -> None:
    """A pattern that nobody thought of ends the boot as a fault of the agent."""
    lines, path = case
    try:
        matches = dockerignore.left_out(dockerignore.patterns("\n".join(lines).encode(errors="surrogatepass")))
    except ReleaseError as error:
        return check_refusal(error, canary="\0")  # patterns are shown
    assert matches(path) in (True, False)
    return None


GLOBS = st.lists(st.sampled_from(["a", "b", "/", "*", "**", "**/", "/**/", "?", "*a", "*b*"]), min_size=1, max_size=8)


@fuzzed(".dockerignore", st.tuples(GLOBS.map("".join), st.lists(PATHS, min_size=1, max_size=5)), weight=4)
def test_a_quick_match_is_the_right_one(case: tuple[str, list[str]]) -> None:
    """A secret that `.dockerignore` names is in the image, as its pattern was matched by a short cut."""
    text, paths = case
    try:
        [pattern] = dockerignore.patterns(text.encode())
        matches = dockerignore.left_out([pattern])
    except ReleaseError:
        return
    slow = re.compile(plainly(pattern), re.DOTALL)
    assert {path: matches(path) for path in paths} == {path: bool(slow.fullmatch(path)) for path in paths}


WILD = st.lists(
    st.sampled_from(["*a", "**/a/", "**/", "a*", "?*", "*/", "**", "[a-b]*", "a**"]), min_size=1, max_size=12
)


@fuzzed(".dockerignore", st.tuples(WILD.map("".join), st.sampled_from(["a", "a/", "ab", "b/a"])), weight=2)
def test_no_pattern_takes_long(case: tuple[str, str]) -> None:
    """A few asterisks in a row hold up the boot until its deadline, and for ever after."""
    text, unit = case
    try:
        matches = dockerignore.left_out(dockerignore.patterns(text.encode()))
    except ReleaseError as error:
        return check_refusal(error)
    matches(unit * (2000 // len(unit)) + "c")
    return None


SECRET = "canary5f2a"
PIECES = (
    *("https://", "http://", "s3://", "file:///", "docker://", "github.com/a/b/", "releases/download/v1/", "archive/"),
    *(
        "refs/tags/",
        "x.tgz",
        ".tar.gz",
        ".zip",
        "user:",
        f"{SECRET}@",
        "h.example",
        ":443",
        ":0",
        "/",
        "//",
        "..",
        "%2F",
    ),
    *(
        "%00",
        f"?versionId={SECRET}",
        f"?X-Amz-Signature={SECRET}",
        "&",
        "#sha256=",
        "0f" * 32,
        "@sha256:",
        "[::1]",
        "[",
        "é",
    ),
)
URLS = st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=9).map("".join)


@fuzzed("release URL", URLS, weight=6)
def test_a_release_url_is_one_or_refused(url: str) -> None:
    """A presigned URL with a slip in it stands in the fleet's status, signature and all."""
    try:
        found = location.parse(url)
    except SettingsError as error:
        return check_refusal(error, canary=SECRET)
    assert found.url == url
    if found.scheme in ("https", "http", "s3"):
        shown = found.shown.replace(f"versionId={SECRET}", "")
        assert not re.search(rf"//[^/]*{SECRET}@", shown)
        assert f"={SECRET}" not in shown
    assert re.fullmatch(location.NAME, found.name) or not found.name
    return None


KEY = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


@fuzzed("release URL", st.tuples(st.from_regex(r"[a-z0-9-]{3,20}", fullmatch=True), KEY), weight=2)
def test_any_key_of_s3_can_be_named(case: tuple[str, str]) -> None:
    """An object with a plus or a question mark in its key is looked for under another."""
    bucket, key = case
    try:
        found = location.parse(f"s3://{bucket}/{quote(key)}")
    except SettingsError as error:
        return check_refusal(error)
    assert (found.bucket, found.key) == (bucket, key)
    return None
