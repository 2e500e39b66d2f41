"""What an operator is shown of an app's config: all of it, one key, and what differs."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fixtures_operator import TABLE, Operator

from adf_agent.ops.configure import held
from adf_agent.sandbox.front import AwsFault

SECRET = "canary-5f2a"  # of a secret: shown where --reveal is given alone
TABLE_HERE = "table adf-config in eu-west-1"
EXPIRED = "the AWS credentials are expired or not valid (ExpiredTokenException)"
NOT_JSON = "standard input is not JSON: Expecting value"


def encrypted(operator: Operator, name: str, text: str = SECRET) -> dict[str, bytes]:
    """*text* as KMS gives it, never the same twice."""
    kms = operator.cloud.client("kms")
    keys = kms.list_keys()["Keys"] or [kms.create_key()["KeyMetadata"]]
    context = {"App": "web", "Name": name}
    return {"B": kms.encrypt(KeyId=keys[0]["KeyId"], Plaintext=text, EncryptionContext=context)["CiphertextBlob"]}


def revision(operator: Operator, number: int) -> None:
    operator.put("web", "#revision", Revision={"N": str(number)})


@pytest.fixture
def shop(operator: Operator) -> Operator:
    """An operator of an app with a key of each form, in the base and for the release v42."""
    operator.cloud.client("ssm").put_parameter(Name="/web/db", Value=f"{SECRET}-db", Type="String")
    revision(operator, 7)
    operator.put("web", "HOST", Value={"S": "db.example"})
    operator.put("web", "PORT", Value={"S": "80"})
    operator.put("web", "DEBUG", Value={"S": "on"})
    operator.put("web", "PASSWORD", Secret=encrypted(operator, "PASSWORD"))
    operator.put("web@v42", "DATABASE", Ref={"S": "ssm:/web/db"})
    operator.put("web@v42", "PORT", Value={"S": "8080"})
    operator.put("web@v42", "DEBUG", Unset={"BOOL": True})
    return operator


def test_a_list_shows_what_a_release_gets_and_no_secret(shop: Operator) -> None:
    """A password on the screen of whoever looks over a shoulder, and in the terminal's scrollback."""
    shop.cloud.calls.clear()
    ran = shop("list", "-r", "v42")
    assert ran.out.splitlines() == [
        "DATABASE  *** ssm:/web/db  overlay",
        "DEBUG     (hidden)         overlay",
        "HOST      db.example       base",
        "PASSWORD  ***              base",
        "PORT      8080             overlay",
    ]
    assert (ran.code, ran.err) == (0, "4 keys of web and web@v42, revision 7\n")
    assert dict(shop.cloud.calls) == {"dynamodb:GetItem": 2, "dynamodb:Query": 2}
    base = shop("list")
    assert [line.split() for line in base.out.splitlines()] == [
        ["DEBUG", "on", "base"],
        ["HOST", "db.example", "base"],
        ["PASSWORD", "***", "base"],
        ["PORT", "80", "base"],
    ]
    assert base.err == "4 keys of web, revision 7\n"


def test_a_list_shows_secrets_to_who_asks_for_them(shop: Operator) -> None:
    """A wrong password that nobody can look at but by logging in to an instance."""
    lines = [line.split() for line in shop.done("list", "-r", "v42", "--reveal").splitlines()]
    assert ["DATABASE", f"{SECRET}-db", "overlay"] in lines
    assert ["PASSWORD", SECRET, "base"] in lines
    assert ["DEBUG", "(hidden)", "overlay"] in lines


def test_a_list_for_programs_tells_secrets_from_texts(shop: Operator) -> None:
    """A script that takes `***` for the password."""
    assert json.loads(shop.done("list", "-r", "v42", "--json")) == {
        "app": "web",
        "release": "v42",
        "revision": 7,
        "hidden": ["DEBUG"],
        "keys": {
            "DATABASE": {"value": None, "secret": True, "from": "overlay", "reference": "ssm:/web/db"},
            "HOST": {"value": "db.example", "secret": False, "from": "base"},
            "PASSWORD": {"value": None, "secret": True, "from": "base"},
            "PORT": {"value": "8080", "secret": False, "from": "overlay"},
        },
    }
    keys = json.loads(shop.done("list", "--json", "--reveal"))["keys"]
    assert keys["PASSWORD"] == {"value": SECRET, "secret": True, "from": "base"}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a b  c", "a b  c"),
        ("é", "é"),
        ("", '""'),
        (" a", '" a"'),
        ("a ", '"a "'),
        ('"a"', '"\\"a\\""'),
        ("two\nlines\\", '"two\\nlines\\\\"'),
        ("\x1b[2Ja", '"\\u001b[2Ja"'),
        ("\x9b2J", '"\\u009b2J"'),
        ("***", '"***"'),
        ("*** ssm:/a", '"*** ssm:/a"'),
        ("(hidden)", '"(hidden)"'),
    ],
)
def test_a_value_stays_on_its_line(text: str, shown: str) -> None:
    """A value with a line end that looks like two keys, or with an escape sequence that clears the screen."""
    assert held.one_line(text) == shown


def test_one_long_value_leaves_the_others_where_they_are(operator: Operator) -> None:
    """A certificate that pushes every other key's origin off the screen."""
    operator.put("web", "A", Value={"S": "x" * 5000})
    operator.put("web", "B", Value={"S": "1\n"})
    assert operator.done("list").splitlines() == [f"A  {'x' * 5000}  base", f'B  "1\\n"{" " * 43}  base']


def test_an_empty_list_prints_nothing_and_says_so(operator: Operator) -> None:
    """An empty line that a script counts as a key; a mistyped release that looks like one without keys."""
    ran = operator("list", "-r", "v24")
    assert (ran.code, ran.out) == (0, "")
    assert ran.err == "0 keys of web and web@v24, no revision\nweb@v24 holds no key: is v24 the release's name?\n"


def test_a_key_is_printed_alone(shop: Operator) -> None:
    """`$(adf-config get …)` with a heading in it."""
    assert shop.done("get", "PORT") == "80\n"
    assert shop.done("get", "-r", "v42", "PORT") == "8080\n"
    assert shop.done("get", "-r", "v42", "--reveal", "DATABASE") == f"{SECRET}-db\n"
    assert shop.done("get", "-r", "v42", "HOST") == "db.example\n"
    doubted = shop("get", "-r", "v24", "PORT")
    assert (doubted.out, doubted.err) == ("80\n", "web@v24 holds no key: is v24 the release's name?\n")


def test_a_key_does_not_suffer_from_the_others(shop: Operator) -> None:
    """One bad item, or one secret that may not be decrypted, keeps the operator from every key of the app."""
    shop.put("web", "A-B", Value={"N": "1"})
    shop.cloud.faults = [AwsFault("kms:Decrypt", "AccessDeniedException")]
    assert shop.done("get", "--reveal", "PORT") == "80\n"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["get", "PASSWORD"], "PASSWORD of web is a secret\n  → Give --reveal to have it shown."),
        (["get", "-r", "v42", "DATABASE"], "DATABASE of web@v42 is a secret\n  → Give --reveal to have it shown."),
        (["get", "PASSWROD"], "web has no PASSWROD\n  → Is it PASSWORD?"),
        (["get", "-r", "v42", "DATABASES"], "web and web@v42 have no DATABASES\n  → Is it DATABASE?"),
        (["get", "NOTHING_LIKE"], "web has no NOTHING_LIKE\n  → See the names with `list`."),
        (["get", "#revision"], "web has no #revision\n  → See the names with `list`."),
        (["get", "-r", "v42", "DEBUG"], "web@v42 hides DEBUG: v42 does not get it\n  → See web's without -r."),
    ],
)
def test_a_key_that_can_not_be_printed_is_explained(shop: Operator, words: list[str], sentence: str) -> None:
    """A script that goes on with an empty password, or with three stars."""
    ran = shop(*words)
    assert (ran.code, ran.out, ran.err) == (13, "", f"adf-config: {sentence}\n")


def test_two_releases_are_compared_in_order(shop: Operator) -> None:
    """A canary blamed on its code, while its port is another one."""
    shop.put("web@v43", "DEBUG", Value={"S": "off"})
    ran = shop("diff", "v42", "v43")
    assert ran.out.splitlines() == ["- DATABASE=*** ssm:/web/db", "+ DEBUG=off", "- PORT=8080", "+ PORT=80"]
    assert (ran.code, ran.err) == (0, "")
    base = ["+ DATABASE=*** ssm:/web/db", "- DEBUG=on", "- PORT=80", "+ PORT=8080"]
    assert shop.done("diff", "v42").splitlines() == base
    revealed = shop.done("diff", "v42", "--reveal").splitlines()
    assert revealed == [f"+ DATABASE={SECRET}-db", *base[1:]]


def test_no_difference_is_said_apart(shop: Operator) -> None:
    """A script that takes `no difference` for a key."""
    shop.put("web@v43", "PORT", Value={"S": "80"})
    for words, out in ((["diff", "v43"], ""), (["diff", "v43", "--json"], "[]\n")):
        ran = shop(*words)
        assert (ran.code, ran.out, ran.err) == (0, out, "no difference\n")


def test_secrets_are_compared_by_their_text_only_when_revealed(shop: Operator) -> None:
    """Two passwords called different, or the same, by somebody who can't know."""
    shop.put("web@v43", "PASSWORD", Secret=encrypted(shop, "PASSWORD"))
    masked = shop("diff", "v43")
    assert masked.out.splitlines() == ["- PASSWORD=***", "+ PASSWORD=***"]
    assert masked.err == "PASSWORD: encrypted twice, which may be the same text; --reveal compares that\n"
    assert shop("diff", "v43", "--reveal").err == "no difference\n"
    shop.put("web@v43", "PASSWORD", Secret=encrypted(shop, "PASSWORD", "other"))
    assert shop.done("diff", "v43", "--reveal").splitlines() == [f"- PASSWORD={SECRET}", "+ PASSWORD=other"]
    item = next(item for item in shop.held() if item["Name"]["S"] == "PASSWORD" and item["App"]["S"] == "web")
    shop.put("web@v43", "PASSWORD", Secret=item["Secret"])
    assert shop("diff", "v43").err == "no difference\n"


def test_a_difference_for_programs_is_by_name(shop: Operator) -> None:
    """A script that parses lines in which a value may say anything."""
    shop.put("web@v43", "PASSWORD", Ref={"S": "ssm:/web/db"})
    shop.put("web@v43", "MORE", Value={"S": "1"})
    shop.put("web@v43", "PORT", Unset={"BOOL": True})
    ran = shop("diff", "v43", "--json")
    assert ran.err == ""  # a reference is never a cipher
    assert json.loads(ran.out) == [
        {"name": "MORE", "from": None, "to": {"value": "1", "secret": False, "from": "overlay"}},
        {
            "name": "PASSWORD",
            "from": {"value": None, "secret": True, "from": "base"},
            "to": {"value": None, "secret": True, "from": "overlay", "reference": "ssm:/web/db"},
        },
        {"name": "PORT", "from": {"value": "80", "secret": False, "from": "base"}, "to": None},
    ]


def test_the_table_is_compared_with_a_file(shop: Operator, tmp_path: Path) -> None:
    """The file in the repository that everybody edits, and nobody ever imported."""
    path = tmp_path / "prod.env"
    path.write_text(f"HOST=db.example\nPORT=8080\nNEW='a b'\nPASSWORD={SECRET}\n")
    ran = shop("diff", "--file", str(path))
    assert ran.out.splitlines() == ["- DEBUG=on", "+ NEW=a b", "- PORT=80", "+ PORT=8080"]
    assert ran.err == "not compared without --reveal, as they are secrets: PASSWORD\n"
    release = shop.done("diff", "v42", "--file", str(path), "--reveal").splitlines()
    assert release == [f"- DATABASE={SECRET}-db", "+ NEW=a b"]
    path.write_text("PASSWORD=other")
    assert f"- PASSWORD={SECRET}" in shop.done("diff", "--file", str(path), "--reveal").splitlines()


def test_an_export_differs_from_its_table_in_nothing(shop: Operator) -> None:
    """A backup that can't be trusted: not even its own tool finds it the same."""
    shop.put("web", "KEY", Value={"S": "-----BEGIN\nit's $HOME\\\\\n"})
    for kind in ("env", "json"):
        exported = shop.done("export", "-r", "v42", "--format", kind)
        ran = shop("diff", "v42", "--file", "-", "--format", kind, "--reveal", typed=exported)
        assert (ran.code, ran.out, ran.err) == (0, "", "no difference\n")
    assert "PORT=8080\n" in shop.done("export", "-r", "v42")


def other_keys(operator: Operator) -> None:
    """A table of the right name that is somebody else's."""
    operator.cloud.client("dynamodb").create_table(
        TableName=TABLE,
        KeySchema=[{"AttributeName": "Id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "Id", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )


def fault(action: str, code: str) -> Callable[[Operator], None]:
    def order(operator: Operator) -> None:
        operator.done("init")
        operator.put("web", "A", Secret=encrypted(operator, "A"))
        operator.cloud.faults = [AwsFault(action, code, message="said so")]

    return order


def denied(action: str) -> Callable[[Operator], None]:
    return fault(action, "AccessDeniedException")


expired = fault("dynamodb:*", "ExpiredTokenException")


def item(**attributes: Any) -> Callable[[Operator], None]:
    def put(operator: Operator) -> None:
        operator.done("init")
        operator.put("web", "A", **attributes)

    return put


@pytest.mark.parametrize(
    ("prepare", "words", "sentence"),
    [
        (lambda _: None, ["list"], "there is no config table adf-config in eu-west-1"),
        (other_keys, ["list"], f"{TABLE_HERE} can't be read by hash key App (S) and range key Name (S)"),
        (denied("dynamodb:GetItem"), ["list"], f"dynamodb:GetItem on {TABLE_HERE} is denied (said so)"),
        (denied("dynamodb:Query"), ["get", "A"], f"dynamodb:Query on {TABLE_HERE} is denied (said so)"),
        (denied("kms:Decrypt"), ["list", "--reveal"], "kms:Decrypt on the key of secret A is denied (said so)"),
        (expired, ["diff", "v1"], f"dynamodb:GetItem on {TABLE_HERE} was refused: {EXPIRED}"),
        (item(Value={"N": "1"}), ["list"], "config key 'A' of web has Value of type N, not S"),
        (item(Ref={"S": SECRET}), ["list"], "A does not refer to ssm:… or secretsmanager:…"),
        (item(Value={"S": "1"}), ["diff", "v24"], "unknown release: v24 has no key of its own"),
        (item(Value={"S": "1"}), ["diff", "v24", "--file", "-"], "unknown release: v24 has no key of its own"),
        (item(Value={"S": "1"}), ["diff", "--file", "/none"], "/none can't be read: No such file or directory"),
        (item(Value={"S": "1"}), ["diff", "--file", "-", "--format", "json"], f"line 1 of {NOT_JSON}"),
    ],
)
def test_what_can_not_be_shown_is_a_sentence(
    bare_operator: Operator, prepare: Callable[[Operator], None], words: list[str], sentence: str
) -> None:
    """A traceback of botocore's, in which the one word that helps is on line 40."""
    prepare(bare_operator)
    ran = bare_operator(*words, typed="A=1")
    said, _, hint = ran.err.partition("\n  → ")
    assert (ran.code, ran.out, said) == (13, "", f"adf-config: {sentence}")
    assert hint.strip()
    assert SECRET not in ran.err


def test_who_reads_needs_two_actions_alone(shop: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    """A support team that has to be given the keys of the production's secrets to look at a port."""
    iam = shop.cloud.client("iam")
    iam.create_user(UserName="support")
    allowed = {"Effect": "Allow", "Action": ["dynamodb:GetItem", "dynamodb:Query"], "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
    iam.put_user_policy(UserName="support", PolicyName="read", PolicyDocument=policy)
    key = iam.create_access_key(UserName="support")["AccessKey"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
    shop.cloud.enforce_permissions()
    for words in (["list", "-r", "v42"], ["get", "PORT"], ["diff", "v42"]):
        assert shop(*words).code == 0
    assert shop("list", "--reveal").code != 0  # permissions were enforced


HELP = """
import sys
from adf_agent.ops.{0}.cli import main
try:
    main(["--help"])
finally:
    print(*sorted({{"boto3", "rich", "shutil", "structlog"}} & {{*sys.modules}}), file=sys.stderr)
"""


@pytest.mark.parametrize("command", ["configure", "release"])
@pytest.mark.parametrize(("columns", "most"), [("60", 58), ("", 78)])
def test_help_fits_the_terminal_and_imports_nothing_slow(command: str, columns: str, most: int) -> None:
    """Half a second for a line of help, since a module at the top of a file imports boto3."""
    ran = subprocess.run(
        [sys.executable, "-c", HELP.format(command)],
        env={**os.environ, "COLUMNS": columns},
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert ran.stderr == "\n"
    assert 40 < max(len(line) for line in ran.stdout.splitlines()[1:]) <= most  # the first is the usage, by hand
