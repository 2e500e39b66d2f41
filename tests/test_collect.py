"""`adf-agent doctor --collect`: an archive that a ticket can have, as no secret of the instance is in it."""

import base64
import json
import signal
import stat
import tarfile
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from fixtures_agent import BASE, Machine, app
from test_boot import free_port, table
from test_doctor import MOST_SECONDS, half_an_engine, silent

from adf_agent.doctor.collect import without_values
from adf_agent.doctor.redact import Redactor
from adf_agent.mask import url_secrets
from adf_agent.sandbox.front import AwsFault

# Each in its own place, and each found again by these letters.
CANARY = "CaNaRy"
PLAIN = f"{CANARY}-plain-value-of-the-config"
KEY = f"-----BEGIN RSA KEY-----\n{CANARY}line1AAAA\n{CANARY}line2BBBB\n-----END RSA KEY-----"
SECRET = f'{CANARY}"quoted\\and€uro&more'
PASSWORD, LOGIN, SPLUNK, HERE = f"{CANARY}password", f"{CANARY}login", f"{CANARY}splunk", f"{CANARY}environ"
ROLE, SIGNATURE = f"{CANARY}role/secret+key", f"{CANARY}signature"
LOUD = (
    f"FROM {BASE}\nCOPY www /www\nEXPOSE 8000\nSTOPSIGNAL SIGKILL\n"
    f"RUN echo Authorization: Bearer {CANARY}bearer0123456789\n"
    f"ENV IMAGE_TOKEN={CANARY}image\n"
    'CMD ["/bin/sh", "-c", "env; {command}"]\n'
)
STOP = "[container]\nstop_timeout = 1\n"


def collect(machine: Machine, path: Path, **environment: str) -> dict[str, str]:
    """The parts of the archive that is made at *path*."""
    ran = machine.run("doctor", "--json", "--collect", str(path), **environment)
    assert ran.out, ran.log
    with tarfile.open(path) as tar:
        files = {member.name.partition("/")[2]: tar.extractfile(member) for member in tar.getmembers()}
        parts = {name: file.read().decode() for name, file in files.items() if file}
    listed = {each["name"]: each["size"] for each in json.loads(ran.out)["collected"]}
    assert listed == {name: len(text.encode()) for name, text in parts.items()}
    return parts


@pytest.fixture
def leaky(machine: Machine) -> Machine:
    """An instance with a secret in every place that has room for one, whose app and build print theirs."""
    cloud = machine.cloud
    cloud.imds.instance.access_key, cloud.imds.instance.secret_key = "ASIA" + "Z" * 16, ROLE
    table(machine, GREETING=PLAIN)
    cloud.client("ssm").put_parameter(Name="/web/key", Value=KEY, Type="SecureString")
    cloud.client("secretsmanager").create_secret(Name="web/quoted", SecretString=SECRET)
    for name, reference in (("DATABASE_KEY", "ssm:/web/key"), ("QUOTED", "secretsmanager:web/quoted")):
        item = {"App": {"S": "web"}, "Name": {"S": name}, "Ref": {"S": reference}}
        cloud.client("dynamodb").put_item(TableName="adf-config", Item=item)
    login = {"registry.example": {"auth": base64.b64encode(f"me:{LOGIN}".encode()).decode()}}
    docker = machine.root / "etc/adf-agent/docker"
    docker.mkdir(parents=True)
    (docker / "config.json").write_text(json.dumps({"auths": login}))
    return machine


def launch(machine: Machine, command: str) -> None:
    """Boots a release that runs *command* after it printed its environment; only its boot may have failed."""
    files = app(Dockerfile=LOUD.format(command=command), adf_toml=STOP)
    machine.user_data(RELEASE_URL=machine.release(files), ADF_APP="web", ADF_PUBLISH=f"{free_port()}:8000")
    booted = machine.run("boot")
    assert booted.code in (0, 16), booted.log
    url = f"http://127.0.0.1:1/v1.tar.gz?X-Signature={SIGNATURE}#sha256={'0' * 64}"
    machine.user_data(RELEASE_URL=url, ADF_APP="web")
    # Later, too: no log driver that is here takes a token.
    machine.agent_env(ADF_LOG_OPT_SPLUNK_TOKEN=SPLUNK, HTTPS_PROXY=f"http://me:{PASSWORD}@127.0.0.1:1")


def canaries(parts: dict[str, str]) -> list[str]:
    return [f"{name}: {line}" for name, text in parts.items() for line in text.splitlines() if CANARY in line]


def test_no_secret_is_in_the_archive_of_a_boot_that_failed(leaky: Machine, tmp_path: Path) -> None:
    """The database's password in a public ticket: archives for support are where secrets leak."""
    launch(leaky, "exit 3")
    with (leaky.root / "var/lib/adf-agent/build.log").open("a") as log:
        log.writelines(f"said {each}\n" for each in (ROLE, PASSWORD, LOGIN, SPLUNK, HERE, SIGNATURE, PLAIN, SECRET))
    parts = collect(leaky, tmp_path / "x.tar.gz", SOME_API_TOKEN=HERE)
    assert canaries(parts) == []
    text = "\n".join(parts.values())
    for hidden in ("ASIA" + "Z" * 16, base64.b64encode(f"me:{LOGIN}".encode()).decode(), quote(SECRET, safe="")):
        assert hidden not in text
    assert "GREETING=***" in parts["last-lines"], "what the app printed is there, and masked"
    assert "Authorization: Bearer ***" in parts["build.log"]
    assert json.loads(parts["status.json"])["error"]["stage"] == "health"
    assert json.loads(parts["doctor.json"])["summary"]["fail"] > 0
    assert "manifest" not in json.loads(parts["state.json"])
    assert json.loads(parts["settings.json"])["settings"]["ADF_APP"] == {"value": "web", "source": "user-data"}


@pytest.mark.parametrize("table_denied", [False, True])
def test_nor_is_one_in_that_of_an_app_that_runs(leaky: Machine, tmp_path: Path, table_denied: bool) -> None:
    """Docker tells the whole environment of a container to whoever asks."""
    launch(leaky, "exec /bin/httpd -f -p 8000 -h /www")
    if table_denied:  # nobody tells then what the secrets are, but the container itself
        leaky.cloud.faults = [AwsFault("dynamodb:*", "AccessDeniedException", message=f"Bearer {CANARY}0123456789")]
        (leaky.root / "var/lib/adf-agent/config.json").unlink()
    (leaky.root / "var/lib/adf-agent/last-lines").write_text(f"GREETING={PLAIN}\n{KEY}\n{SECRET}\n")
    parts = collect(leaky, tmp_path / "x.tar.gz")
    leaky.cloud.faults = []
    assert canaries(parts) == []
    shown = json.loads(parts["container.json"])["Config"]["Env"]
    assert {"GREETING=***", "DATABASE_KEY=***", "QUOTED=***", "ADF_APP=***"} <= set(shown)
    assert parts["last-lines"].startswith("GREETING=***\n")
    assert [each["State"] for each in json.loads(parts["docker-ps.json"]) if "adf-app" in str(each["Names"])]


def test_the_archive_is_for_its_maker_alone_and_replaces_nothing(machine: Machine, tmp_path: Path) -> None:
    """A link in /tmp that has root overwrite a file, or an archive that every user can read."""
    machine.user_data(RELEASE_URL=machine.release(app()))
    path, link = tmp_path / "x.tar.gz", tmp_path / "link"
    parts = collect(machine, path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert {"doctor.json", "df", "free", "uname", "docker-info.json", "agent.log", "unit", "boots.json"} <= parts.keys()
    link.symlink_to(tmp_path / "elsewhere")
    for taken in (path, link):
        ran = machine.run("doctor", "--collect", str(taken))
        assert (ran.code, ran.out) == (1, "")
        assert f"{taken} exists already" in ran.log
        assert "→ Name another file" in ran.log
    assert not (tmp_path / "elsewhere").exists()
    ran = machine.run("doctor", "--collect", str(tmp_path / "y.tar.gz"))
    assert "doctor.json" in ran.out
    assert "with every known secret masked" in ran.out


@pytest.mark.parametrize("metadata_too", [True, False])
def test_it_is_made_where_everything_hangs(machine: Machine, tmp_path: Path, metadata_too: bool) -> None:
    """The ticket that needs the archive most, and can't have it."""
    machine.user_data(RELEASE_URL=machine.release(app()), ADF_APP="web", ADF_RELEASE_TOKEN="ssm:/web/token")
    with silent() as (http, docker_host):
        environment = {"DOCKER_HOST": docker_host, "AWS_ENDPOINT_URL": http}
        if metadata_too:
            environment["AWS_EC2_METADATA_SERVICE_ENDPOINT"] = http
        began = time.monotonic()
        parts = collect(machine, tmp_path / "x.tar.gz", **environment)
    assert time.monotonic() - began < MOST_SECONDS + 10.0, "what the doctor takes, and what the archive may"
    assert parts["docker-info.json"] == "(not there, as Docker does not answer)\n"
    assert "Linux" in parts["uname"]


@pytest.mark.parametrize("record", [{"container": ["x"], "schema": 2}, {"container": {"id": ["x"]}}])
def test_a_record_of_another_schema_is_no_end_of_it(machine: Machine, tmp_path: Path, record: dict[str, Any]) -> None:
    """A traceback and an empty file, in place of what the ticket needs."""
    machine.user_data(RELEASE_URL=machine.release(app()))
    (machine.root / "run/adf-agent").mkdir(parents=True)
    (machine.root / "run/adf-agent/status.json").write_text(json.dumps(record))
    parts = collect(machine, tmp_path / "x.tar.gz")
    assert json.loads(parts["status.json"]) == record
    assert parts["container.json"] == "{}\n"


def test_docker_that_hangs_at_its_containers_costs_little_of_the_time(machine: Machine, tmp_path: Path) -> None:
    """An archive without the parts that come after Docker's, as its SDK waits a minute for an answer."""
    machine.user_data(RELEASE_URL=machine.release(app()))
    with half_an_engine() as host:
        parts = collect(machine, tmp_path / "x.tar.gz", DOCKER_HOST=host)
    assert parts["docker-ps.json"].startswith("(Docker did not answer telling "), "and not: did not answer within 10 s"
    assert "Linux" in parts["uname"]


def test_an_archive_that_was_not_finished_is_not_left(machine: Machine, tmp_path: Path) -> None:
    """“It exists already”, of an empty file that Ctrl-C left behind."""
    machine.user_data(RELEASE_URL=machine.release(app()))
    path = tmp_path / "x.tar.gz"
    with silent() as (http, docker_host):
        environment = {"DOCKER_HOST": docker_host, "AWS_EC2_METADATA_SERVICE_ENDPOINT": http}
        process = machine.start("doctor", "--collect", str(path), **environment)
        limit = time.monotonic() + 30
        while not path.exists():
            assert time.monotonic() < limit
            threading.Event().wait(0.01)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert not path.exists()
    machine.run("doctor", "--collect", str(path))
    assert path.stat().st_size


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "https://me:secret@example.com/a?X-Amz-Signature=abc&versionId=1",
            "https://***@example.com/a?X-Amz-Signature=***&versionId=1",
        ),
        ("key AKIAIOSFODNN7EXAMPLE, it is", "key ***, it is"),
        ("gho_0123456789abcdefghij0123", "***"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc-_", "***"),
        ("-----BEGIN EC PRIVATE KEY-----\nabc\n-----END EC PRIVATE KEY-----\nrest", "***\nrest"),
        ("PGPASSWORD=*hunter2", "PGPASSWORD=***"),
        ('{"api_key": "hunter2"}', '{"api_key": "***"}'),
        ("authorization: Basic bWU6c2VjcmV0", "authorization: Basic ***"),
        ('"ADF_RELEASE_TOKEN": {"value": "ssm:/web/token"', '"ADF_RELEASE_TOKEN": {"value": "ssm:/web/token"'),
        ("ADF_RELEASE_TOKEN=ssm:/web/token", "ADF_RELEASE_TOKEN=ssm:/web/token"),
        ("the token was refused", "the token was refused"),
        ("mysql --password hunter2secret -h db", "mysql --password *** -h db"),
        ("--password --verbose", "--password --verbose"),
        ("X-Api-Key: abcd1234", "X-Api-Key: ***"),
        ("DATABASE_KEY=abcd,1234", "DATABASE_KEY=***"),
        ("url pwd=abcd1234;x", "url pwd=***"),
        ("passphrase: abcd1234", "passphrase: ***"),
        ("npm_0123456789abcdefghij0123", "***"),
        ("xoxb-0123456789-abcdef", "***"),
        ("SECRET_KEY_BASE='correct horse battery' rest", "SECRET_KEY_BASE='***' rest"),
        ('{"token": "a \\"quoted\\" one", "x": "y"}', '{"token": "***", "x": "y"}'),
        (r'"{\"password\": \"correct horse\", \"x\": 1}"', r'"{\"password\": \"***\", \"x\": 1}"'),
        ('{"password": 123456, "x": 1}', '{"password": "***", "x": 1}'),
        ('{"release_token": null, "token": "", "x": "y"}', '{"release_token": null, "token": "", "x": "y"}'),
    ],
)
def test_what_looks_like_a_secret_is_masked(text: str, expected: str) -> None:
    """A key in a build's output that no setting and no config knows of."""
    assert Redactor([])(text) == expected


@pytest.mark.parametrize("secret", ["1", "no", "fig"])
def test_a_secret_that_is_a_word_leaves_the_archive_readable(secret: str) -> None:
    """`{"schema": ***`: an archive that no program reads, as somebody's PIN is 1."""
    text = json.dumps({"schema": 1, "ok": "no fig", "environment": [f"PIN={secret}", "A=b"], "PIN": secret})
    shown = json.loads(Redactor([secret])(text))
    assert shown == {"schema": 1, "ok": "no fig", "environment": ["PIN=***", "A=b"], "PIN": "***"}


@pytest.mark.parametrize("form", [str, json.dumps, quote, lambda each: base64.b64encode(each.encode()).decode()])
def test_a_known_secret_is_masked_in_every_form(form: Any) -> None:
    """A password with a quote in it, which JSON writes with a backslash."""
    for secret in (SECRET, KEY, "pass word"):
        said = Redactor([secret])(f"before {form(secret)} after")
        assert CANARY not in said
        assert "word" not in said
        assert said.startswith("before ")
        assert said.endswith(" after")


def test_urls_and_log_options_give_their_secrets_up() -> None:
    """A presigned URL is a key to the bucket's object for as long as it lasts."""
    url = "https://someone:password@h/x?X-Amz-Signature=0123456789&versionId=abcdefgh&a=b"
    assert [*url_secrets(url)] == ["someone", "password", "0123456789"]
    options = {"splunk-token": "x", "dd-api-key": "x", "tag": "y"}
    said = {
        "Cmd": ["--key", CANARY],
        "Entrypoint": [CANARY],
        "Labels": {"a": CANARY},
        "Healthcheck": {"Test": [CANARY]},
    }
    facts = {
        "Path": CANARY,
        "Args": [CANARY],
        "Name": "/adf-app",
        "Config": {"Env": ["A=b"], **said},
        "HostConfig": {"LogConfig": {"Config": options}},
    }
    shown = without_values(facts)
    assert shown["Config"]["Env"] == ["A=***"]
    assert shown["HostConfig"]["LogConfig"]["Config"] == {"splunk-token": "***", "dd-api-key": "***", "tag": "y"}
    assert CANARY not in json.dumps(shown)
    assert shown["Name"] == "/adf-app"
    assert without_values({}) == {}
