import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from adf_agent import config
from adf_agent.config import AppConfig, Clients
from adf_agent.deadline import Deadline
from adf_agent.errors import TRY_AGAIN, ConfigError, Stopped
from adf_agent.sandbox.cloud import Cloud
from adf_agent.secret import resolve

CANARY = "canary-5f2a"  # in every value: no error, and nothing printed, may hold it
Hook = Callable[[str, dict[str, Any]], Mapping[str, Any] | None]


class Through:
    """A client that hands every call on to a real one, after *hook*, which may raise, write, or answer instead."""

    def __init__(self, client: Any, hook: Hook) -> None:
        self._client = client
        self._hook = hook

    def __getattr__(self, name: str) -> Callable[..., Mapping[str, Any]]:
        def call(**request: Any) -> Mapping[str, Any]:
            answer = self._hook(name, request)
            return getattr(self._client, name)(**request) if answer is None else answer

        return call


class Aws:
    """moto's server, with one client a service."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.region = cloud.imds.instance.region
        self.client = cache(cloud.client)

    def clients(self) -> Clients:
        return Clients(
            region=self.region,
            dynamodb=self.client("dynamodb"),
            kms=partial(self.client, "kms"),
            ssm=partial(self.client, "ssm"),
            secretsmanager=partial(self.client, "secretsmanager"),
        )


@dataclass
class Table:
    """A real table with a person's hands on it; what reads it must not ask for clients of other services."""

    aws: Aws
    clients: Clients
    name: str = "adf-config"

    def make(self, hash_key: str = "App", range_key: str = "Name") -> None:
        self.aws.client("dynamodb").create_table(
            TableName=self.name,
            KeySchema=[
                {"AttributeName": hash_key, "KeyType": "HASH"},
                {"AttributeName": range_key, "KeyType": "RANGE"},
            ],
            AttributeDefinitions=[{"AttributeName": key, "AttributeType": "S"} for key in (hash_key, range_key)],
            BillingMode="PAY_PER_REQUEST",
        )

    def put(self, name: str, value: str | None = None, *, app: str = "web", **attributes: Any) -> None:
        item = {"App": {"S": app}, "Name": {"S": name}, **attributes}
        self.aws.client("dynamodb").put_item(
            TableName=self.name, Item=item if value is None else {**item, "Value": {"S": value}}
        )

    def revision(self, number: int) -> None:
        self.put("#revision", Revision={"N": str(number)})

    def encrypt(self, name: str, text: str | bytes, app: str = "web") -> dict[str, bytes]:
        kms = self.aws.client("kms")
        key = kms.create_key()["KeyMetadata"]["KeyId"]
        plain = text.encode() if isinstance(text, str) else text
        context = {"App": app, "Name": name}
        return {"B": kms.encrypt(KeyId=key, Plaintext=plain, EncryptionContext=context)["CiphertextBlob"]}

    def read(self, release: str | None = "v42", seconds: float = 20, **clients: Any) -> AppConfig:
        return config.read(
            "web", release, self.name, replace(self.clients, **clients), Deadline(seconds, threading.Event())
        )

    def refused(self, **arguments: Any) -> ConfigError:
        """The error of a read that must fail, found to hold no value in any of its parts or causes."""
        with pytest.raises(ConfigError) as caught:
            self.read(**arguments)
        error: BaseException | None = caught.value
        while error:
            assert CANARY not in f"{error!s}{error!r}{getattr(error, 'hint', '')}"
            error = error.__cause__ or error.__context__
        return caught.value


def unwanted() -> Any:
    """Stands for a client that nothing needs."""
    raise AssertionError("a client was made that nothing needs")


@pytest.fixture(scope="module")
def aws() -> Iterator[Aws]:
    """One server for this file: each test that asks for a table resets it."""
    with Cloud() as cloud:
        yield Aws(cloud)


@pytest.fixture
def bare(aws: Aws) -> Table:
    """An AWS without any table."""
    aws.cloud.reset()
    return Table(aws, replace(aws.clients(), kms=unwanted, ssm=unwanted, secretsmanager=unwanted))


@pytest.fixture
def table(bare: Table) -> Table:
    """An empty table."""
    bare.make()
    return bare


def client_error(code: str, operation: str, status: int = 400) -> ClientError:
    """What botocore raises for an answer that moto does not give."""
    answer = {"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(answer, operation)  # type: ignore[arg-type, unused-ignore]


@pytest.mark.parametrize(
    ("base", "overlay", "expected"),
    [
        ({}, {}, {}),
        ({"A": {"S": "base"}}, {}, {"A": ("base", "base")}),
        ({}, {"A": {"S": "overlay"}}, {"A": ("overlay", "overlay")}),
        ({"A": {"S": "base"}, "B": {"S": "b"}}, {"A": {"S": "over"}}, {"A": ("over", "overlay"), "B": ("b", "base")}),
        ({"A": {"S": "base"}}, {"A": {"BOOL": True}}, {}),
        ({"A": {"N": "1"}}, {"A": {"S": "repaired"}}, {"A": ("repaired", "overlay")}),
        ({"not-a-name": {"S": "x"}}, {"not-a-name": {"BOOL": True}}, {}),
        ({"A": {"S": ""}}, {}, {"A": ("", "base")}),
        ({"A": {"S": "two\nlines é"}}, {}, {"A": ("two\nlines é", "base")}),
        ({"#note": {"N": "1"}, "A": {"S": "base"}}, {"#note": {"S": "x"}}, {"A": ("base", "base")}),
    ],
)
def test_the_overlay_outranks_the_base(
    table: Table,
    base: Mapping[str, dict[str, Any]],
    overlay: Mapping[str, dict[str, Any]],
    expected: Mapping[str, tuple[str, str]],
) -> None:
    """A canary that runs with the fleet's database address, since its own key was ignored."""
    for app, items in (("web", base), ("web@v42", overlay), ("web@v41", {"OTHER": {"S": "no"}})):
        for name, content in items.items():
            attributes: dict[str, Any] = {"Unset" if "BOOL" in content else "Value": content}
            table.put(name, app=app, **attributes)
    found = table.read()
    assert {name: (value.reveal(), value.origin) for name, value in found.values.items()} == expected
    assert found.environment() == {name: text for name, (text, _) in expected.items()}
    assert (found.names, found.secrets()) == (tuple(expected), ())


def test_the_base_can_be_read_alone(table: Table) -> None:
    """A release's own key that is taken for everybody's."""
    table.put("A", "base")
    table.put("A", "overlay", app="web@v42")
    assert table.read(None).environment() == {"A": "base"}


def test_a_false_unset_and_unknown_attributes_are_no_matter(table: Table) -> None:
    """The original tool's own attributes, or a box unticked in the console, stop a fleet."""
    table.put("A", "text", Unset={"BOOL": False}, Comment={"S": "by hand"})
    found = table.read()
    assert (found.environment(), found.revision) == ({"A": "text"}, None)
    assert found.fact == "1 keys of web and web@v42, no revision"


def test_every_page_is_read(table: Table) -> None:
    """A config cut off at the first megabyte starts an app with half of its keys."""
    for number in range(8):  # of 300 KB each, most of it in an attribute that is not the config's
        table.put(f"K{number}", str(number), app="web" if number < 4 else "web@v42", Note={"S": "x" * 300_000})
    asked: list[dict[str, Any]] = []

    def note(name: str, request: dict[str, Any]) -> None:
        asked.append({"name": name, **request})

    found = table.read(dynamodb=Through(table.clients.dynamodb, note))
    assert found.environment() == {f"K{number}": str(number) for number in range(8)}
    pages = [("ExclusiveStartKey" in call, call["name"]) for call in asked]
    first, next_page = (False, "query"), (True, "query")
    assert pages == [(False, "get_item"), first, next_page, first, next_page, (False, "get_item")]
    assert all(call["ConsistentRead"] for call in asked)


def test_a_config_that_moves_is_read_again(table: Table) -> None:
    """A container that gets half a change: the new host with the old password."""
    table.revision(7)
    table.put("HOST", "old")
    table.put("PASSWORD", "old", app="web@v42")
    writes = iter([("HOST", "web"), ("PASSWORD", "web@v42")])
    number = iter(range(8, 20))

    def write(name: str, _: object) -> None:
        """Between the reads of base and overlay, another change of both."""
        if name == "query" and (change := next(writes, None)):
            table.put("HOST", "new")
            table.put(change[0], "new", app=change[1])
            table.put("PASSWORD", "new", app="web@v42")
            table.revision(next(number))

    found = table.read(dynamodb=Through(table.clients.dynamodb, write))
    assert (found.environment(), found.revision) == ({"HOST": "new", "PASSWORD": "new"}, 9)
    assert found.fact == "2 keys of web and web@v42, revision 9"


def test_a_first_revision_counts_as_a_move(table: Table) -> None:
    """A table written by hand until now, whose first real change is seen by half."""
    seen: list[str] = []

    def write(name: str, _: object) -> None:
        if name == "query" and name not in seen:
            table.revision(1)
        seen.append(name)

    assert table.read(dynamodb=Through(table.clients.dynamodb, write)).revision == 1
    assert seen.count("get_item") == 4


def test_a_config_that_never_stands_still_ends_with_the_deadline(table: Table) -> None:
    """A boot that hangs behind a script which writes in a loop."""
    number = iter(range(1_000))

    def write(name: str, _: object) -> None:
        if name == "query":
            table.revision(next(number))

    error = table.refused(seconds=0.5, dynamodb=Through(table.clients.dynamodb, write))
    assert re.fullmatch(r"the config of web changed from revision \w+ to \d+ while it was read", error.sentence)
    assert error.exit_code == TRY_AGAIN


@pytest.mark.parametrize("number", [{"S": "7"}, {"N": "1.5"}])
def test_a_broken_revision_is_named(table: Table, number: dict[str, str]) -> None:
    """A hand-made revision that no writer ever moves, so that every half change passes."""
    table.put("#revision", Revision=number)
    assert table.refused().sentence == "item #revision of web has no whole number (N) Revision"


@pytest.mark.parametrize(
    ("name", "attributes", "sentence"),
    [
        ("A", {}, "config key 'A' of web has no Value, Secret, Ref or Unset"),
        ("A", {"Unset": {"BOOL": False}}, "config key 'A' of web has no Value, Secret, Ref or Unset"),
        ("A", {"Value": {"N": "8080"}}, "config key 'A' of web has Value of type N, not S"),
        ("A", {"Value": {"NULL": True}}, "config key 'A' of web has Value of type NULL, not S"),
        ("A", {"Value": {"L": [{"S": CANARY}]}}, "config key 'A' of web has Value of type L, not S"),
        ("A", {"Unset": {"S": "true"}}, "config key 'A' of web has Unset of type S, not BOOL"),
        ("A", {"Secret": {"S": CANARY}}, "config key 'A' of web has Secret of type S, not B"),
        ("A", {"Ref": {"S": "ssm:/a"}, "Value": {"S": CANARY}}, "config key 'A' of web has Value and Ref"),
        ("A", {"Unset": {"BOOL": True}, "Value": {"S": CANARY}}, "config key 'A' of web has Value and Unset"),
        ("A", {"Ref": {"S": CANARY}}, "A does not refer to ssm:… or secretsmanager:…"),
        ("A", {"Ref": {"S": "ssm:"}}, "A does not refer to ssm:… or secretsmanager:…"),
        ("A", {"Value": {"S": f"{CANARY}\0"}}, "the value of config key A holds a NUL character"),
        *(
            (name, {"Value": {"S": CANARY}}, f"config key {name!r} of web can't be the name of an environment variable")
            for name in ("MY-KEY", "1ST", "A B", "É", "A=B", "A\n")
        ),
    ],
)
def test_a_bad_item_is_named(table: Table, name: str, attributes: dict[str, Any], sentence: str) -> None:
    """One key typed wrong in the console is dropped without a word, and the app fails an hour later."""
    table.put("GOOD", CANARY)
    table.put(name, **attributes)
    error = table.refused()
    assert (error.sentence, error.transient, error.exit_code) == (sentence, False, 13)
    assert error.hint


def test_the_largest_value_that_linux_takes_is_read(table: Table) -> None:
    """A limit one byte off refuses a config that has always worked."""
    table.put("A", "x" * (131_071 - len("A=")))
    assert len(table.read().environment()["A"]) == 131_069


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"A": CANARY + "x" * (131_070 - len(CANARY))}, "config key A is 131,072 bytes, of 131,071 allowed"),
        ({"A": CANARY + "é" * 65_600}, "config key A is 131,213 bytes, of 131,071 allowed"),
        (
            {**{f"K{number}": CANARY + "x" * 120_000 for number in range(8)}, "L": CANARY + "x" * 130_000},
            "the config is 1,090,125 bytes, of 1,048,576 allowed; L alone is 130,013",
        ),
    ],
)
def test_a_config_that_no_process_could_start_with_is_refused(
    table: Table, values: Mapping[str, str], sentence: str
) -> None:
    """`argument list too long` from somewhere inside Docker, on every instance at once."""
    for name, value in values.items():
        table.put(name, value)
    assert table.refused().sentence == sentence


def test_a_secret_is_decrypted_for_its_own_key_and_app(table: Table) -> None:
    """A secret that is read, but printed by the first traceback."""
    table.put("PASSWORD", Secret=table.encrypt("PASSWORD", CANARY))
    table.put("TOKEN", app="web@v42", Secret=table.encrypt("TOKEN", f"{CANARY}, longer"))
    table.put("OPEN", "open")
    clients: list[Any] = []

    def kms() -> Any:
        clients.append(table.aws.client("kms"))
        return clients[-1]

    found = table.read(kms=kms)
    assert found.environment() == {"OPEN": "open", "PASSWORD": CANARY, "TOKEN": f"{CANARY}, longer"}
    assert found.secrets() == (f"{CANARY}, longer", CANARY)
    assert len(clients) == 1
    assert CANARY not in f"{found!r} {found!s} {found.values['TOKEN']} {found.values['TOKEN']:} {found.fact}"
    assert f"{found.values['TOKEN']!r}" == "***"
    assert json.dumps([found.values["TOKEN"]], default=str) == '["***"]'
    with pytest.raises(TypeError):
        asdict(found)  # would have put it into whatever asked


@pytest.mark.parametrize(("name", "app"), [("OTHER", "web"), ("PASSWORD", "shop"), ("PASSWORD", "web@v42")])
def test_a_secret_of_another_key_is_refused(table: Table, name: str, app: str) -> None:
    """Who may write the table but not decrypt copies the payment key to where they can see it."""
    table.put("PASSWORD", Secret=table.encrypt(name, CANARY, app))
    error = table.refused(kms=table.aws.clients().kms)
    assert (error.sentence, error.transient) == ("the secret PASSWORD of web can't be decrypted as such", False)


def test_a_secret_that_is_no_text_is_named_and_not_shown(table: Table) -> None:
    """A decoding error's traceback holds the bytes that it could not decode."""
    table.put("KEY", Secret=table.encrypt("KEY", CANARY.encode() + b"\xff"))
    error = table.refused(kms=table.aws.clients().kms)
    assert error.sentence == "the secret KEY of web is not UTF-8 text"


def counted(client: Any, key: str, sizes: list[int]) -> Through:
    """*client*, with the number of what each call asks for under *key* added to *sizes*."""

    def count(_: str, request: dict[str, Any]) -> None:
        sizes.append(len(request[key]))

    return Through(client, count)


def test_references_are_followed_in_batches(table: Table) -> None:
    """The eleventh parameter fails the boot of an app that had ten; one client a key runs into IMDS' limit."""
    ssm, manager = table.aws.client("ssm"), table.aws.client("secretsmanager")
    expected: dict[str, str] = {}
    for number in range(23):
        ssm.put_parameter(Name=f"/web/{number}", Value=f"p{number}", Type="SecureString" if number % 2 else "String")
        table.put(f"P{number}", Ref={"S": f"ssm:/web/{number}"})
        manager.create_secret(Name=f"web/{number}", SecretString=f"s{number}")
        table.put(f"S{number}", app="web@v42", Ref={"S": f"secretsmanager:web/{number}"})
        expected |= {f"P{number}": f"p{number}", f"S{number}": f"s{number}"}
    table.put("AGAIN", Ref={"S": "ssm:/web/0"})
    parameters: list[int] = []
    secrets: list[int] = []
    found = table.read(
        ssm=lambda: counted(ssm, "Names", parameters),
        secretsmanager=lambda: counted(manager, "SecretIdList", secrets),
    )
    assert found.environment() == {**expected, "AGAIN": "p0"}
    assert set(found.secrets()) == {*expected.values()}
    assert (parameters, secrets) == ([10, 10, 3], [20, 3])


def test_a_reference_may_take_each_form_that_aws_takes(table: Table) -> None:
    """A shared parameter's ARN, or a pinned version, is reported missing while it is there."""
    ssm, manager = table.aws.client("ssm"), table.aws.client("secretsmanager")
    for value in ("one", "two"):
        for name in ("/web/a", "/web/b"):
            ssm.put_parameter(Name=name, Value=value, Type="String", Overwrite=True)
    parameter = ssm.get_parameter(Name="/web/a")["Parameter"]["ARN"]
    secret = manager.create_secret(Name="web/s", SecretString="three")["ARN"]
    references = {
        "LATEST": "ssm:/web/a",
        "PINNED": "ssm:/web/b:1",
        "ARN": f"ssm:{parameter}",
        "SECRET": f"secretsmanager:{secret}",
        "PARTIAL": f"secretsmanager:{secret[:-7]}",
    }
    clients = replace(table.clients, ssm=lambda: ssm, secretsmanager=lambda: manager)
    assert resolve(references, clients, Deadline(20, threading.Event())) == {
        "LATEST": "two",
        "PINNED": "one",
        "ARN": "two",
        "SECRET": "three",
        "PARTIAL": "three",
    }


def answers(*pages: Mapping[str, Any]) -> Through:
    """A client that gives what moto never does."""
    rest = iter(pages)
    return Through(None, lambda *_: next(rest))


def test_a_parameter_may_be_asked_for_by_label(table: Table) -> None:
    """A label moved back to the former version is how some teams roll back: it must not be reported missing."""
    table.put("A", Ref={"S": "ssm:/web/a:live"})
    parameter = {"Name": "/web/a", "Selector": ":live", "ARN": "arn:…/web/a", "Version": 3, "Value": "text"}
    ssm = answers({"Parameters": [parameter], "InvalidParameters": []})
    assert table.read(ssm=lambda: ssm).environment() == {"A": "text"}


def test_every_missing_reference_is_named(table: Table) -> None:
    """An operator who is told of one missing secret a boot needs an afternoon for five."""
    table.aws.client("secretsmanager").create_secret(Name="there", SecretString=CANARY)
    table.put("A", Ref={"S": "ssm:/none"})
    table.put("B", Ref={"S": "secretsmanager:there"})
    table.put("C", Ref={"S": "secretsmanager:none"})
    error = table.refused(ssm=table.aws.clients().ssm, secretsmanager=table.aws.clients().secretsmanager)
    assert error.sentence == f"not found in {table.clients.region}: ssm:/none (for A), secretsmanager:none (for C)"


def test_a_binary_secret_is_named(table: Table) -> None:
    """A KeyError where a keystore was meant to be."""
    table.aws.client("secretsmanager").create_secret(Name="keystore", SecretBinary=CANARY.encode())
    table.put("A", Ref={"S": "secretsmanager:keystore"})
    error = table.refused(secretsmanager=table.aws.clients().secretsmanager)
    assert error.sentence == "the secret keystore is binary"


def test_one_denied_secret_of_a_batch_is_named(table: Table) -> None:
    """`AccessDenied` without the name of the one secret in twenty that the role lacks."""
    table.put("A", Ref={"S": "secretsmanager:s"})
    denied = {"SecretId": "s", "ErrorCode": "AccessDeniedException", "Message": "no"}
    error = table.refused(secretsmanager=lambda: answers({"SecretValues": [], "Errors": [denied]}))
    assert error.sentence.startswith("secretsmanager:GetSecretValue on secret s is denied")


def page_of_a_proxy() -> Through:
    """A client whose answers are what the SDK makes of a page that it has no word of: nothing."""
    return Through(None, lambda *_: {})


@pytest.mark.parametrize(
    ("action", "service", "item"),
    [
        ("dynamodb:Query", "dynamodb", {}),
        ("kms:Decrypt", "kms", {"Secret": {"B": b"cipher"}}),
        ("ssm:GetParameters", "ssm", {"Ref": {"S": "ssm:/web/a"}}),
        ("secretsmanager:BatchGetSecretValue", "secretsmanager", {"Ref": {"S": "secretsmanager:a"}}),
    ],
)
def test_a_page_in_place_of_an_answer_may_pass(table: Table, action: str, service: str, item: dict[str, Any]) -> None:
    """A proxy's page of welcome that ends the boot of a whole fleet as a fault of the agent's own."""
    table.put("A", **(item or {"Value": {"S": "x"}}))
    client = page_of_a_proxy()
    error = table.refused(seconds=0, **{service: client if service == "dynamodb" else lambda: client})
    assert error.sentence.startswith(f"{action} on ")
    assert error.sentence.endswith(" was answered by something that is not AWS")
    assert (error.cause, error.transient, "HTTPS_PROXY" in error.hint) == ("dependency", True, True)


def test_secrets_in_trouble_or_on_a_further_page_are_asked_for_again(table: Table) -> None:
    """A busy Secrets Manager ends the boots of a whole scale-out."""
    table.put("A", Ref={"S": "secretsmanager:s"})
    arn = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:s-abcdef"
    manager = answers(
        {"SecretValues": [], "Errors": [{"SecretId": "s", "ErrorCode": "InternalServiceError"}]},
        {"SecretValues": [], "NextToken": "more"},
        {"SecretValues": [{"Name": "s", "ARN": arn, "SecretString": "text"}], "Errors": []},
    )
    assert table.read(secretsmanager=lambda: manager).environment() == {"A": "text"}


@pytest.mark.parametrize(
    ("broken", "error"),
    [
        ("get_item", client_error("ThrottlingException", "GetItem")),
        ("query", client_error("ProvisionedThroughputExceededException", "Query")),
        ("query", client_error("Whatever", "Query", 503)),
        ("query", EndpointConnectionError(endpoint_url="http://127.0.0.1:9")),
        ("decrypt", client_error("ThrottlingException", "Decrypt")),
        ("get_parameters", client_error("InternalServerError", "GetParameters", 500)),
    ],
)
def test_a_fault_that_passes_is_waited_out(table: Table, broken: str, error: Exception) -> None:
    """A fleet that starts at once is throttled, and every instance of it is replaced."""
    table.aws.client("ssm").put_parameter(Name="/web/a", Value="p", Type="String")
    table.put("A", Ref={"S": "ssm:/web/a"})
    table.put("B", Secret=table.encrypt("B", "s"))
    table.put("C", Secret=table.encrypt("C", "t"))
    called: list[str] = []

    def fail(name: str, _: object) -> None:
        called.append(name)
        if name == broken and called.count(name) <= 2:
            raise error

    kms, ssm = Through(table.aws.client("kms"), fail), Through(table.aws.client("ssm"), fail)
    found = table.read(dynamodb=Through(table.clients.dynamodb, fail), kms=lambda: kms, ssm=lambda: ssm)
    assert found.environment() == {"A": "p", "B": "s", "C": "t"}
    expected = {"get_item": 2, "query": 2, "decrypt": 2, "get_parameters": 1}
    if broken in {"decrypt", "get_parameters"}:  # and the others are not asked again
        assert {name: called.count(name) for name in expected} == {**expected, broken: expected[broken] + 2}


def test_a_table_that_stays_throttled_is_to_be_tried_again(table: Table) -> None:
    """Exit 13 for what would have passed: outside a group nobody starts the agent again."""

    def throttle(name: str, _: object) -> None:
        raise client_error("ThrottlingException", name)

    error = table.refused(seconds=0.3, dynamodb=Through(table.clients.dynamodb, throttle))
    assert (error.exit_code, error.cause) == (TRY_AGAIN, "dependency")
    assert error.sentence.startswith(
        f"dynamodb:GetItem on table adf-config in {table.clients.region} failed: Throttling"
    )


def test_a_stop_ends_the_waiting(table: Table) -> None:
    """SIGTERM during a throttled boot runs into systemd's SIGKILL."""
    stop = threading.Event()

    def throttle(name: str, _: object) -> None:
        stop.set()
        raise client_error("ThrottlingException", name)

    clients = replace(table.clients, dynamodb=Through(table.clients.dynamodb, throttle))
    with pytest.raises(Stopped):
        config.read("web", "v42", table.name, clients, Deadline(60, stop))


def test_a_missing_table_is_said_to_be_missing(bare: Table) -> None:
    """Fifteen minutes of retries for a table in another region."""
    error = bare.refused()
    assert error.sentence == f"there is no config table adf-config in {bare.clients.region}"
    assert (error.exit_code, "ADF_CONFIG_TABLE" in error.hint, "adf-config init" in error.hint) == (13, True, True)


@pytest.mark.parametrize("keys", [("app", "name"), ("Name", "App2"), ("App", "Key")])
def test_a_table_with_other_keys_is_said_to_be_so(bare: Table, keys: tuple[str, str]) -> None:
    """`ValidationException: The provided key element does not match the schema`, and nobody knows of which table."""
    bare.make(*keys)
    error = bare.refused()
    region = bare.clients.region
    assert error.sentence == f"table adf-config in {region} can't be read by hash key App (S) and range key Name (S)"
    assert not error.transient


def secrets_of_each_kind(table: Table) -> None:
    """Keys S, P and M, for which every client is needed."""
    table.put("S", Secret=table.encrypt("S", "s"))
    table.aws.client("ssm").put_parameter(Name="/p", Value="p", Type="String")
    table.put("P", Ref={"S": "ssm:/p"})
    table.aws.client("secretsmanager").create_secret(Name="m", SecretString="m")
    table.put("M", Ref={"S": "secretsmanager:m"})


def test_a_role_needs_no_more_than_these_actions(table: Table) -> None:
    """A call that the documented policy does not allow: found on the first instance."""
    secrets_of_each_kind(table)
    iam = table.aws.cloud.client("iam")
    iam.create_user(UserName="instance")
    needed = ["dynamodb:GetItem", "dynamodb:Query", "kms:Decrypt", "ssm:GetParameters"]
    needed += ["secretsmanager:BatchGetSecretValue"]
    policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": needed, "Resource": "*"}]}
    iam.put_user_policy(UserName="instance", PolicyName="agent", PolicyDocument=json.dumps(policy))
    key = iam.create_access_key(UserName="instance")["AccessKey"]
    client = partial(table.aws.cloud.client, access_key=key["AccessKeyId"], secret_key=key["SecretAccessKey"])
    others: dict[str, Any] = {service: partial(client, service) for service in ("kms", "ssm", "secretsmanager")}
    table.aws.cloud.enforce_permissions()
    assert table.read(dynamodb=client("dynamodb"), **others).environment() == {"S": "s", "P": "p", "M": "m"}
    with pytest.raises(ClientError, match="not authorized to perform: dynamodb:Scan"):
        client("dynamodb").scan(TableName=table.name)  # permissions were enforced


@pytest.mark.parametrize(
    ("action", "call", "resource"),
    [
        ("dynamodb:GetItem", "get_item", "table adf-config in eu-west-1"),
        ("dynamodb:Query", "query", "table adf-config in eu-west-1"),
        ("kms:Decrypt", "decrypt", "the key of secret S"),
        ("ssm:GetParameters", "get_parameters", "parameters /p"),
        ("secretsmanager:BatchGetSecretValue", "batch_get_secret_value", "secrets m"),
    ],
)
def test_an_action_that_the_role_lacks_is_named(table: Table, action: str, call: str, resource: str) -> None:
    """AccessDenied with no word of what to allow: the operator allows `*`."""
    secrets_of_each_kind(table)

    def deny(name: str, _: object) -> None:  # moto denies in EC2's XML, which AWS's JSON services don't speak
        if name == call:
            raise client_error("AccessDeniedException", name)

    clients = table.aws.clients()
    error = table.refused(
        dynamodb=Through(clients.dynamodb, deny),
        kms=lambda: Through(clients.kms(), deny),
        ssm=lambda: Through(clients.ssm(), deny),
        secretsmanager=lambda: Through(clients.secretsmanager(), deny),
    )
    assert error.sentence.startswith(f"{action} on {resource} is denied")
    assert (error.exit_code, action in error.hint) == (13, True)


def made(**texts: str) -> AppConfig:
    """A config of these keys."""
    values = {name: config.Value(text, secret=False, origin="base") for name, text in texts.items()}
    return AppConfig("web", "v42", values, 1)


def test_the_fingerprint_changes_with_the_environment_alone() -> None:
    """A changed config that leaves the old container running, or an unchanged one that restarts it."""
    plain = made(A="1", B="2")
    assert re.fullmatch("[0-9a-f]{12}", plain.fingerprint)
    assert {made(B="2", A="1").fingerprint, replace(plain, revision=9, release="v43").fingerprint} == {
        plain.fingerprint
    }
    others = [made(), made(A="1"), made(A="2", B="1"), made(A="1", B="2 "), made(A='1", "B": "2'), made(A="1=B=2")]
    assert len({plain.fingerprint, *(other.fingerprint for other in others)}) == 7


def test_the_last_good_config_comes_back_from_its_file(table: Table) -> None:
    """The day when DynamoDB can't be reached is the day when the saved config turns out not to load."""
    table.revision(3)
    table.put("A", "é\n")
    table.put("S", Secret=table.encrypt("S", CANARY))
    found = table.read(kms=table.aws.clients().kms)
    back = AppConfig.from_dict(json.loads(json.dumps(found.to_dict())))
    assert (back, back.fingerprint, back.secrets()) == (found, found.fingerprint, (CANARY,))


@pytest.mark.parametrize("parts", [{}, {"values": []}, {"values": {"A": ["x"]}}, []])
def test_a_file_that_holds_something_else_is_told_from_a_config(parts: Any) -> None:
    """A torn file that is taken for an empty config."""
    with pytest.raises((KeyError, TypeError, AttributeError)):
        AppConfig.from_dict(parts)
