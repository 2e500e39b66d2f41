"""`adf-config` changes a config whole, with its revision and history, or not at all."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fixtures_operator import TABLE, Operator

from adf_agent import config
from adf_agent.deadline import Deadline
from adf_agent.ops.account import Account
from adf_agent.ops.app import App
from adf_agent.ops.configure.edit import assigned
from adf_agent.ops.configure.entries import pairs, plain
from adf_agent.ops.configure.writer import PASSING, Writer
from adf_agent.sandbox.front import AwsFault

CANCELLED = "TransactionCanceledException"
CONFLICT = {"CancellationReasons": [{"Code": "None"}, {"Code": "TransactionConflict"}]}
CANARY = "canary-5f2a"
COMMAND = [sys.executable, "-c", "import sys; from adf_agent.ops.configure.cli import main; sys.exit(main())"]


def history(operator: Operator) -> list[dict[str, Any]]:
    """The latest first, as programs get it."""
    found: list[dict[str, Any]] = json.loads(operator.done("history", "--json", "--limit", "1000"))
    return found


def revision(operator: Operator, app: str = "web") -> int:
    key = {"App": {"S": app}, "Name": {"S": "#revision"}}
    answer = operator.cloud.client("dynamodb").get_item(TableName=TABLE, Key=key)
    return int(answer["Item"]["Revision"]["N"]) if "Item" in answer else 0


def desk() -> App:
    """The app as a command has it."""
    made = Account()
    return App("web", made.table(TABLE), made, Deadline(120, threading.Event()))


def read(release: str | None = None) -> dict[str, str]:
    """What a container would get, as the agent reads it."""
    clients = Account().config()
    return config.read("web", release, TABLE, clients, Deadline(90, threading.Event())).environment()


def test_a_change_is_one_revision_with_its_history(operator: Operator) -> None:
    """Nobody knows who changed the database's address, when, and what it was."""
    assert operator.done("set", "HOST=a", "PORT=1") == "revision 1: web: +HOST +PORT\n"
    assert operator.done("set", "-r", "v42", "HOST=b") == "revision 2: web@v42: +HOST\n"
    assert operator.done("set", "HOST=c", "PORT=1") == "revision 3: web: ~HOST\n"
    assert operator.done("unset", "PORT") == "revision 4: web: -PORT\n"
    assert operator.done("unset", "--hide", "-r", "v42", "HOST") == "revision 5: web@v42: !HOST\n"
    assert operator.config() == {"web": {"HOST": "c"}, "web@v42": {"HOST": True}}
    assert (read(), read("v42"), revision(operator)) == ({"HOST": "c"}, {}, 5)
    told = history(operator)
    assert [each["revision"] for each in told] == [5, 4, 3, 2, 1]
    assert [each["what"] for each in told] == ["hide", "unset", "set", "set", "set"]
    assert told[2]["changes"] == [{"partition": "web", "name": "HOST", "form": "Value", "before": "a"}]
    assert told[1]["changes"] == [{"partition": "web", "name": "PORT", "form": "", "before": "1"}]
    assert {each["by"] for each in told} == {"arn:aws:sts::123456789012:user/moto"}
    assert all("@" in each["from"] and each["at"].endswith("+00:00") for each in told)
    lines = operator.done("history", "--limit", "2").splitlines()
    assert [line.split()[0] for line in lines] == ["5", "web@v42:", "4", "web:"]


def test_the_originals_short_forms_are_taken(operator: Operator) -> None:
    """Fingers, and scripts of ten years, that know -s and -d."""
    assert operator.done("-s", "A=1", "B=2") == "revision 1: web: +A +B\n"
    assert operator.done("-d", "A") == "revision 2: web: -A\n"
    assert operator.done("-r", "v42", "-s", "A=3") == "revision 3: web@v42: +A\n"
    assert operator.done("set", "B=-d") == "revision 4: web: ~B\n"
    assert operator.config() == {"web": {"B": "-d"}, "web@v42": {"A": "3"}}


def test_a_change_that_changes_nothing_is_no_revision(operator: Operator) -> None:
    """A deploy script that sets the same keys each night fills the history."""
    operator.done("set", "A=1")
    ran = operator("set", "A=1")
    assert (ran.code, ran.out, ran.err) == (0, "", "nothing to change\n")
    assert revision(operator) == 1


def test_a_table_written_by_hand_is_gone_on_with(operator: Operator) -> None:
    """The original tool's table has no revision: its users can't change anything."""
    operator.put("web", "A", Value={"S": "by hand"})
    operator.put("web", "bad name", Note={"S": "x"})
    assert operator.done("set", "A=1", "B=2") == "revision 1: web: ~A +B\n"
    operator.done("rollback", "0")
    assert operator.config()["web"] == {"A": "by hand", "bad name": "x"}


def test_a_revision_set_back_by_hand_is_told(operator: Operator) -> None:
    """A table restored by half: each change is tried again until the deadline, or writes over the history."""
    operator.done("set", "A=1")
    operator.done("set", "A=2")
    operator.put("web", "#revision", Revision={"N": "1"})
    sentence = "the history of web has a later revision than #revision says: somebody set that back by hand"
    assert operator.refused("set", "A=3") == sentence


def test_a_change_may_be_bound_to_a_revision(operator: Operator) -> None:
    """Two people change the same key after reading the same page; the first change is gone without a word."""
    operator.done("set", "--if-revision", "0", "A=1")
    operator.done("set", "--if-revision", "1", "A=2")
    sentence = "web is at revision 2, not 1: nothing was changed"
    assert operator.refused("set", "--if-revision", "1", "A=3") == sentence
    assert operator.refused("unset", "--if-revision", "1", "A") == sentence
    assert operator.refused("rollback", "--if-revision", "1", "0") == sentence


def test_a_secret_never_lies_in_the_clear(operator: Operator) -> None:
    """A password in the table, in the shell's history, or in the list of processes."""
    operator.cloud.client("kms").create_alias(
        AliasName="alias/adf-config", TargetKeyId=operator.cloud.client("kms").create_key()["KeyMetadata"]["KeyId"]
    )
    operator.done("set", "--secret", "PASSWORD", "HOST=db", typed=f"{CANARY}\n")
    operator.done("set", "--secret", "PEM", "-r", "v42", typed=f"{CANARY}\r\nsecond line\n\n")
    operator.done("set", "--ref", "TOKEN=ssm:/web/token")
    operator.cloud.client("ssm").put_parameter(Name="/web/token", Value="t", Type="SecureString")
    assert CANARY not in str(operator.held()) + str(history(operator))
    assert read("v42") == {"HOST": "db", "PASSWORD": CANARY, "PEM": f"{CANARY}\r\nsecond line\n", "TOKEN": "t"}
    operator.done("unset", "PASSWORD")
    operator.done("rollback", "3")
    assert read()["PASSWORD"] == CANARY


@pytest.mark.parametrize(
    ("words", "typed", "sentence"),
    [
        (["set", "A=1", CANARY], "", "there is no = in the 2. of what is to be set"),
        (["set", "A=1", "A=2"], "", "A is given twice"),
        (["set", "A=1", "--ref", "A=ssm:/a"], "", "A is given twice"),
        (["set", "A=1", "--secret", "A"], "", "A is given twice"),
        (["set", "A-B=1"], "", "config key 'A-B' of web can't be the name of an environment variable"),
        (["set", "1A=1"], "", "config key '1A' of web can't be the name of an environment variable"),
        (["set", f"A={'x' * 131_070}"], "", "config key A is 131,072 bytes, of 131,071 allowed"),
        (["set", *(f"K{n}=" for n in range(99))], "", "99 keys would change, of 98 at once"),
        (["set", *(f"K{n}={'x' * 120_000}" for n in range(3))], "", "360,015 bytes would change, of 358,400 at once"),
        (["set", "--ref", f"A={CANARY}"], "", "A does not refer to ssm:… or secretsmanager:…"),
        (["set", "--secret", "A", "--secret", "B"], CANARY, "one standard input can't hold several secrets"),
        (["set", "--secret", "A"], CANARY, "there is no KMS key alias/adf-config in eu-west-1"),
        (["set", "--secret", "A"], "", "the secret A is empty"),
        (["set", "--secret", "A"], CANARY * 400, "the secret A is 4,099 bytes, of 4,096 allowed"),
        (["set", "--secret", "A"], b"\xff\xfe", "the secret A is not UTF-8 text, or holds a NUL"),
        (["set", "--secret", "A"], f"{CANARY}\0", "the secret A is not UTF-8 text, or holds a NUL"),
        (["unset", "NONE"], "", "web has no NONE"),
        (["unset", "-r", "v42", "A"], "", "web@v42 has no A"),
        (["unset", "--hide", "A"], "", "a key is hidden from a release: none is named"),
        (["promote", "v99"], "", "web@v99 holds no key"),
        (["clean", "v99"], "", "web@v99 holds no key"),
        (["rollback", "9"], "", "there is no revision 9 yet: 1 is in force"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_written(
    operator: Operator, words: list[str], typed: str | bytes, sentence: str
) -> None:
    """Half of a change is in the table when the other half is refused."""
    operator.done("set", "A=1")
    refused = operator.refused(*words, typed=typed)
    assert refused == sentence
    assert CANARY not in refused


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["list", "-a", "web#history"],
        ["list", "-a", "x" * 101],
        ["set", "-r", "", "A=1"],
        ["clean", ""],
        ["history", "--limit", "0"],
        ["diff", "a@b"],
        ["diff"],
        ["diff", "v1", "v2", "v3"],
        ["diff", "v1", "v2", "--file", "-"],
        ["set"],
        ["unset"],
        ["import"],
        ["rollback", "-1"],
        ["rollback", "x"],
        ["clean"],
        ["set", "--if-revision", "x", "A=1"],
    ],
)
def test_wrong_usage_is_the_usage_and_exit_code_two(operator: Operator, words: list[str]) -> None:
    """A script that goes on after a typo."""
    ran = operator(*words)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("usage: adf-config")


def test_an_app_has_to_be_named(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change that goes to whichever app was the last."""
    command = subprocess.run([*COMMAND, "list"], capture_output=True, text=True, check=False)
    assert (command.returncode, "which app?" in command.stderr) == (2, True)
    monkeypatch.setenv("ADF_APP", "other")
    command = subprocess.run([*COMMAND, "set", "A=1"], capture_output=True, text=True, check=False)
    assert command.stdout == "revision 1: other: +A\n"
    assert operator.config() == {"other": {"A": "1"}}


def other_schema(operator: Operator) -> None:
    client = operator.cloud.client("dynamodb")
    client.delete_table(TableName=TABLE)
    client.create_table(
        TableName=TABLE,
        KeySchema=[{"AttributeName": "Id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "Id", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )


def no_table(operator: Operator) -> None:
    operator.cloud.client("dynamodb").delete_table(TableName=TABLE)


def failing(action: str, code: str) -> Callable[[Operator], None]:
    def prepare(operator: Operator) -> None:
        operator.cloud.faults = [AwsFault(action, code, message="no")]

    return prepare


WHERE = "table adf-config in eu-west-1"
EXPIRED = "the AWS credentials are expired or not valid (ExpiredTokenException)"


@pytest.mark.parametrize(
    ("prepare", "words", "sentence"),
    [
        (no_table, ["set", "A=1"], "there is no config table adf-config in eu-west-1"),
        (other_schema, ["set", "A=1"], f"{WHERE} can't be read by hash key App (S) and range key Name (S)"),
        (other_schema, ["init"], f"{WHERE} has the key Id (S), not hash key App (S) and range key Name (S)"),
        (
            failing("dynamodb:TransactWriteItems", "AccessDeniedException"),
            ["set", "B=1"],
            f"dynamodb:PutItem, UpdateItem and DeleteItem on {WHERE} is denied (no)",
        ),
        (
            failing("dynamodb:Query", "AccessDeniedException"),
            ["set", "B=1"],
            f"dynamodb:Query on {WHERE} is denied (no)",
        ),
        (
            failing("dynamodb:Query", "ExpiredTokenException"),
            ["unset", "A"],
            f"dynamodb:Query on {WHERE} was refused: {EXPIRED}",
        ),
        (
            failing("kms:Encrypt", "AccessDeniedException"),
            ["set", "--secret", "S"],
            "kms:Encrypt on the key alias/adf-config in eu-west-1 is denied (no)",
        ),
        (
            failing("dynamodb:UpdateTimeToLive", "AccessDeniedException"),
            ["init"],
            f"dynamodb:UpdateTimeToLive on {WHERE} is denied (no)",
        ),
    ],
)
def test_what_aws_refuses_names_action_and_resource(
    operator: Operator, prepare: Callable[[Operator], None], words: list[str], sentence: str
) -> None:
    """Two in the morning, "an error occurred", and nobody knows which permission is missing."""
    operator.done("set", "A=1")
    prepare(operator)
    if "UpdateTimeToLive" in sentence:
        no_table(operator)
    ran = operator(*words, typed="s")
    assert (ran.code, ran.err.splitlines()[0]) == (13, f"adf-config: {sentence}")


def test_a_caller_that_sts_does_not_know_is_named_by_the_key(operator: Operator) -> None:
    """A network without STS in which no config can be changed."""
    operator.cloud.faults = [AwsFault("sts:*", "AccessDenied")]
    operator.done("set", "A=1")
    assert history(operator)[0]["by"] == "sandbox"


@pytest.mark.parametrize("code", ["ExpiredToken", "InvalidClientTokenId"])
def test_a_caller_that_has_to_log_in_again_is_told_so(operator: Operator, code: str) -> None:
    """A change under nobody's name, or a traceback, where `aws sso login` would do."""
    operator.cloud.faults = [AwsFault("sts:*", code, 403)]
    ran = operator("set", "A=1")
    sentence = f"sts:GetCallerIdentity on * was refused: the AWS credentials are expired or not valid ({code})"
    assert (ran.code, ran.err.splitlines()[0]) == (13, f"adf-config: {sentence}")


@pytest.mark.parametrize("reason", sorted(PASSING))
def test_a_busy_table_is_tried_again(operator: Operator, reason: str) -> None:
    """A change refused since somebody else was at it, or since there were too many."""
    why = {"CancellationReasons": [{"Code": reason}, {"Code": "None"}]}
    operator.cloud.faults = [AwsFault("dynamodb:TransactWriteItems", CANCELLED, times=2, more=why)]
    assert operator.done("set", "A=1") == "revision 1: web: +A\n"


def test_text_of_any_language_goes_in_and_out(operator: Operator, tmp_path: Path) -> None:
    """A name with an accent that ends in a traceback, or in a question mark inside the container."""
    (tmp_path / "caf\udce9.env").write_text("NAME=José\n")
    operator.done("import", str(tmp_path / "caf\udce9.env"))
    assert operator.done("get", "NAME") == "José\n"
    assert operator.done("export") == "NAME='José'\n"
    assert history(operator)[0]["what"].endswith("caf?.env")
    assert operator.refused("set", "--ref", "R=ssm:/\udcff") == "the value of R is not UTF-8 text"


def test_an_export_of_a_release_that_is_none_says_so(operator: Operator) -> None:
    """A pipeline that deploys the base's config for months, by a letter too many."""
    operator.done("set", "A=1")
    ran = operator("export", "-r", "v24")
    assert (ran.code, ran.out, ran.err) == (0, "A=1\n", "web@v24 holds no key: is v24 the release's name?\n")


def test_ctrl_c_ends_a_question_at_once(operator: Operator) -> None:
    """A prompt that nobody gets out of but by answering it."""
    script = "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]) >> 8)"  # a terminal of its own, which Ctrl-C comes from
    command = [sys.executable, "-c", script, *COMMAND, "-a", "web", "set", "--secret", "A"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.read(3) == b"A: "
        process.stdin.write(b"\x03")
        process.stdin.flush()
        assert process.wait(30) == 130
    assert operator.config() == {}


@pytest.mark.parametrize(("stdout", "code"), [("/dev/full", 1), ("&-", 0)])
def test_an_answer_that_can_not_be_written_is_a_sentence(operator: Operator, stdout: str, code: int) -> None:
    """A traceback on a full disk, after which nobody knows whether the change was made."""
    shell = ["bash", "-c", f'exec "$@" >{stdout}', "bash", *COMMAND, "-a", "web", "set", "A=1"]
    ran = subprocess.run(shell, capture_output=True, text=True, check=False)
    said = "adf-config: the answer can't be written: No space left on device\n  → What was to be done is done.\n"
    assert (ran.returncode, ran.stderr) == (code, said if code else "")
    assert operator.config() == {"web": {"A": "1"}}


def test_a_lost_answer_does_not_make_two_revisions_of_a_change(operator: Operator) -> None:
    """A change told twice in the history, or refused by the revision that it made itself."""
    sent: list[Mapping[str, Any]] = []
    at = desk()
    events = at.account.client("dynamodb").meta.events
    events.register("provide-client-params.dynamodb.TransactWriteItems", lambda params, **_: sent.append(params))
    operator.cloud.faults = [AwsFault("dynamodb:TransactWriteItems", "", times=4)]  # botocore tries three times itself
    Writer(at, 0).change("set", None, lambda seen: assigned("web", None, seen, plain({"A": "1"})))
    assert len(sent) == 2
    assert sent[0]["ClientRequestToken"] == sent[1]["ClientRequestToken"]
    assert revision(operator) == 1


def test_fifty_writers_lose_nothing(operator: Operator) -> None:
    """The change of the one who came second is gone, or refused: fifty jobs of a pipeline set a key each."""
    operator.cloud.faults = [AwsFault("dynamodb:TransactWriteItems", CANCELLED, times=40, more=CONFLICT)]
    at, halves, done = desk(), list[str](), threading.Event()

    def boot() -> None:
        """An agent that reads all the while: BOTH and ALIKE are always written together."""
        while not done.wait(0.05):
            found = read()
            halves.extend([str(found)] if found.get("BOTH") != found.get("ALIKE") else [])

    def command(number: int) -> str:
        """Four are processes of their own; to start fifty takes two cores half a minute."""
        words = [f"{name}={number}" for name in (f"KEY{number}", "BOTH", "ALIKE")]
        if number < 4:
            ran = subprocess.run([*COMMAND, "set", "-a", "web", *words], capture_output=True, text=True, check=False)
            return ran.stdout or ran.stderr
        new = plain(pairs(words))
        [written] = Writer(at).change("set", None, lambda seen: assigned("web", None, seen, new))
        return f"revision {written.number}: "

    with ThreadPoolExecutor(51) as pool:
        reading = pool.submit(boot)
        said = [*pool.map(command, range(50))]
        done.set()
        reading.result()
    assert sorted(line.split(":")[0] for line in said) == sorted(f"revision {number}" for number in range(1, 51))
    assert halves == []
    held = operator.config()["web"]
    assert {name: held[name] for name in held if name.startswith("KEY")} == {f"KEY{n}": str(n) for n in range(50)}
    assert [each["revision"] for each in history(operator)] == [*range(50, 0, -1)]
    assert revision(operator) == 50
