"""What AWS answers: the metadata service byte by byte, and the config table's items, both ways."""

import socket
import threading
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import pytest
from fuzzing import CANARY, JSON, check_refusal, deep_json, fuzzed, mutated, nested, texts
from hypothesis import strategies as st

from adf_agent import config
from adf_agent.deadline import Deadline
from adf_agent.errors import ConfigError, SettingsError
from adf_agent.instance import Metadata
from adf_agent.ops.configure import entries, envfile
from adf_agent.secret import Clients
from adf_agent.table import Snapshot, Table

Item = dict[str, Any]


class Service:
    """Speaks whatever it is told to, byte by byte, and hangs up: no server of HTTP could answer so badly."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.token, self.answer = b"", b""
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                self._speak(connection)

    def _speak(self, connection: socket.socket) -> None:
        asked = b""
        try:
            while b"\r\n\r\n" not in asked:
                if not (more := connection.recv(4096)):
                    return
                asked += more
            connection.sendall(self.token if asked.startswith(b"PUT") else self.answer)
        except OSError:  # whoever asked has heard enough
            return


@pytest.fixture(scope="module", autouse=True)
def service() -> Iterator[Service]:
    running = Service()
    SERVICES.append(running)
    yield running
    SERVICES.remove(running)
    running.close()


SERVICES: list[Service] = []
DOCUMENTS = st.builds(
    lambda value: str(value).encode(errors="replace"),
    st.sampled_from(
        ['{"instanceId": "i-1", "region": "eu-west-1"}', '[["a", 1]]', "[[[], 1]]", "null", "{}", '{"time": 1}']
    )
    | texts("{", '"', ":", "InService", "spot", "ADF_APP", "ADF_A/../b", "RELEASE_URL", "\n", "\u2028"),
)
STATUS = st.sampled_from(
    [b"200 OK"] * 6 + [b"404 Not Found", b"403 No", b"301 Moved", b"204 None", b"999 x", b"-1", b"x"]
)
HEADERS = st.sampled_from(
    [b"", b"Content-Type: text/plain\r\n", b"Location: http://127.0.0.1:1/\r\n", b"A" * 9000 + b": b\r\n"]
)
LENGTHS = st.sampled_from(
    [b"Content-Length: %d\r\n"] * 6 + [b"Content-Length: 9%d\r\n", b"Transfer-Encoding: chunked\r\n"]
)


def response(status: bytes, headers: bytes, length: bytes, body: bytes) -> bytes:
    size = length % len(body) if b"%" in length else length
    return b"HTTP/1.1 " + status + b"\r\n" + headers + size + b"Connection: close\r\n\r\n" + body


ANSWERS = mutated(st.builds(response, STATUS, HEADERS, LENGTHS, DOCUMENTS)) | nested(
    lambda depth: response(b"200 OK", b"", b"Content-Length: %d\r\n", deep_json(depth))
)
GOOD_TOKEN = response(b"200 OK", b"", b"Content-Length: %d\r\n", b"token")
TOKENS = st.just(GOOD_TOKEN) | st.builds(
    lambda token: response(b"200 OK", b"", b"Content-Length: %d\r\n", token),
    st.binary(max_size=9) | st.text(max_size=9).map(str.encode),
)


@fuzzed("IMDS answers", st.tuples(TOKENS | ANSWERS, ANSWERS), weight=3)
def test_any_answer_of_the_metadata_service_is_a_fact_or_refused(case: tuple[bytes, bytes]) -> None:
    """A proxy in front of the metadata service answers with a page, and the agent serves on without its notices."""
    [service] = SERVICES
    service.token, service.answer = case
    metadata = Metadata(service.endpoint, Deadline(0, threading.Event()))
    for ask in ("identity", "user_data", "tags", "lifecycle_target", "is_spot", "spot_action", "rebalance"):
        try:
            getattr(metadata, ask)()
        except SettingsError as error:
            check_refusal(error)


def test_a_redirect_to_no_text_is_no_fault_of_the_agent() -> None:
    """A broken proxy before the metadata service, and a boot that ends as if the agent were."""
    [service] = SERVICES
    service.token = GOOD_TOKEN
    service.answer = response(b"301 Moved", b"Location: \x80\r\n", b"Content-Length: %d\r\n", b"a")
    with pytest.raises(SettingsError, match="answers /latest/user-data with 301"):
        Metadata(service.endpoint, Deadline(0, threading.Event())).user_data()


@pytest.mark.parametrize("length", [10**12, 2**62, 2**63 - 1, 2**64])
@pytest.mark.parametrize("form", [b"Content-Length: %d\r\n\r\na", b"Transfer-Encoding: chunked\r\n\r\n%x\r\na"])
def test_an_absurd_length_is_no_fault_of_the_agent(form: bytes, length: int) -> None:
    """The memory for an answer of that length isn't there, and no notice is looked for any more."""
    [service] = SERVICES
    service.token = GOOD_TOKEN
    service.answer = b"HTTP/1.1 200 OK\r\n" + form % length
    with pytest.raises(SettingsError, match="the connection failed") as raised:
        Metadata(service.endpoint, Deadline(0, threading.Event())).user_data()
    assert raised.value.transient


SCALARS = st.builds(
    lambda text: {"S": text}, texts("ssm:/a", "secretsmanager:b", "\0", "\n", "ssm:")
) | st.sampled_from(
    [
        {"N": "1"},
        {"B": b"\xff"},
        {"BOOL": True},
        {"BOOL": False},
        {"NULL": True},
        {"SS": ["a"]},
        {"L": [{"S": "a"}]},
        {"M": {}},
    ]
)
NAMES = st.sampled_from(["A", "DATABASE_URL", "PORT", "A.B", "é", "1A", "a" * 1025, "\n"]) | texts(
    "A", "_", "1", "-", most=4
).filter(lambda name: name and CANARY not in name and name[0] != "#")
ITEMS: st.SearchStrategy[dict[tuple[str, str], Item]] = st.dictionaries(
    st.tuples(st.sampled_from(["web", "web@v1"]), NAMES),
    st.dictionaries(st.sampled_from(["Value", "Value", "Secret", "Ref", "Unset", "Note"]), SCALARS, max_size=2),
    max_size=5,
)


def _denied(**_: object) -> NoReturn:
    """A secret store that is out of reach, for good."""
    raise ConfigError("denied", hint="It is a test.")


class Store:
    decrypt = get_parameters = batch_get_secret_value = staticmethod(_denied)


STORES = Clients("eu-west-1", Store, Store, Store)


@fuzzed("config items", ITEMS, weight=4)
def test_any_items_are_a_config_or_refused(items: dict[tuple[str, str], Item]) -> None:
    """One key that was written by hand with another type, and the error shows its value; or half a config is served."""
    try:
        found = config.resolved("web", "v1", Snapshot(1, items), STORES, Deadline(0, threading.Event()))
    except ConfigError as error:
        return check_refusal(error, longest=5000)  # the name of an item has 1,024 bytes at most
    merged = {name: items.get(("web@v1", name)) or items["web", name] for _, name in items}
    hidden = {name for name, item in merged.items() if item.get("Unset") == {"BOOL": True}}
    assert set(found.names) == {*merged} - hidden
    assert CANARY not in repr(found)
    return None


class DynamoDB:
    """Answers with these items, three on a page."""

    def __init__(self, revision: Item | None, items: Mapping[str, Item]) -> None:
        self._revision, self._items = revision, items

    def get_item(self, **_: object) -> Mapping[str, Any]:
        return {} if self._revision is None else {"Item": self._revision}

    def query(self, **request: Any) -> Mapping[str, Any]:
        names, start = sorted(self._items), request.get("ExclusiveStartKey", 0)
        page = [{"App": {"S": "web"}, "Name": {"S": name}, **self._items[name]} for name in names[start : start + 3]]
        return {"Items": page} | ({"LastEvaluatedKey": start + 3} if start + 3 < len(names) else {})


REVISIONS: st.SearchStrategy[Item | None] = st.none() | st.fixed_dictionaries(
    {},
    optional={
        "Revision": SCALARS | st.builds(lambda number: {"N": number}, st.sampled_from(["7", "1.5", "-1", "1E+2", "x"]))
    },
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
KEYS = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,9}", fullmatch=True)


@fuzzed("config items", st.tuples(REVISIONS, st.dictionaries(KEYS, TEXTS, max_size=8)), weight=2)
def test_a_config_is_read_as_it_was_written(case: tuple[Item | None, dict[str, str]]) -> None:
    """A value that comes out of the table other than it was set."""
    revision, values = case
    table = Table(
        "adf-config", "eu-west-1", DynamoDB(revision, {name: {**item} for name, item in entries.plain(values).items()})
    )
    try:
        seen = table.snapshot("web", ["web"])
    except ConfigError as error:
        return check_refusal(error)
    found = config.resolved("web", None, seen, STORES, Deadline(0, threading.Event()))
    assert found.environment() == values
    return None


FILES = texts("A", "=", "'", '"', "\\", "\n", "#", "export ", "{", "}", ":", ",", "$", " ", "null", "[", "\\ud800")


@fuzzed("config items", st.tuples(FILES | JSON.map(str), st.sampled_from(["env", "json"])), weight=3)
def test_any_file_is_a_config_or_refused(case: tuple[str, Any]) -> None:
    """A slip in a file that is imported shows a secret of it in the terminal of a shared screen."""
    text, kind = case
    try:
        found = envfile.read(text, kind)
    except ConfigError as error:
        is_name = (
            "can't be the name" in error.sentence
        )  # names are told, and a value without its quotes can pass for one
        return check_refusal(error, canary="\0" if is_name else CANARY)
    assert envfile.read(envfile.write(found, kind), kind) == found
    return None


@pytest.mark.parametrize(
    ("token", "answer"),
    [("Ā".encode(), b"{}"), (b"", b"{}"), (b"a b", b"{}"), (b"token", deep_json(50_000))],
    ids=["no header can hold it", "none", "a sentence", "nested too deeply"],
)
def test_a_metadata_service_that_is_none_is_named(service: Service, token: bytes, answer: bytes) -> None:
    """Found by fuzzing: a captive portal or proxy in its place ended the agent as a fault of its own, with no hint."""
    service.token, service.answer = (
        response(b"200 OK", b"", b"Content-Length: %d\r\n", body) for body in (token, answer)
    )
    with pytest.raises(SettingsError, match=r"IMDS at .* answers") as caught:
        Metadata(service.endpoint, Deadline(0, threading.Event())).identity()
    check_refusal(caught.value)
