"""No secret is where it does not belong: canaries in every input, and a look through all that is written and sent."""

import base64
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import canary
import pytest
from canary import CONFIG, Listening, Places
from fixtures_agent import BASE, Booted, Daemon, Files, Machine, app, tarball
from test_boot import free_port, table
from web import Answer, Asked, Web

from adf_agent.engine import find_buildkit
from adf_agent.errors import ImageError
from adf_agent.record import Record
from adf_agent.root import Root
from adf_agent.sandbox.cloud import Cloud
from adf_agent.sandbox.front import AwsFault
from adf_agent.sandbox.imds import Fault
from adf_agent.state import Ledger, prepare
from adf_agent.works import give_up

if TYPE_CHECKING:
    from adf_agent.host import Host

RELEASE = "https://github.com/o/r/releases/download/v1/v1.tar.gz"
API = "https://api.github.com/repos/o/r/releases"
ROLE = "/latest/meta-data/iam/security-credentials/adf-agent"
TOML = f'[build.args]\nNPM_TOKEN = "{canary.ARGUMENT}"\nFLAVOUR = "plain"\n'
BUILDS = "ARG NPM_TOKEN\nARG FLAVOUR\nRUN test -n $NPM_TOKEN && test -n $FLAVOUR\n"

# Where a canary may be, and why. "" is every canary; a place counts by its beginning.
ALLOWED = {
    ("", "file config.json 600"): "the last config that worked serves a restart in an outage, for the agent's eyes",
    ("ARGUMENT", "file state.json 600"): "adf.toml as the release brought it, for the agent's eyes",
    ("ARGUMENT", "docker environment"): "the build gets it so; a process's environment is for its own user's eyes",
    ("ARGUMENT", "history"): "Docker writes a build's arguments into the image that they made",
    ("ARGUMENT", "image"): "likewise, in the image's own JSON",
    ("STRAY", "docker environment"): "a line of agent.env that is no setting is the environment of all that runs",
    ("PROXY", "docker environment"): "the docker command asks the same proxy for what registries want",
    ("ROLE_KEY", "aws signature"): "who signs",
    ("ROLE_TOKEN", "aws signature"): "belongs to the signature of a role",
    ("TOKEN", "web https://api.github.com/"): "the first host, whose token it is",
    ("SIGNATURE", "web https://objects.example/"): "the URL that GitHub gave for it",
    ("LOGIN", "web https://releases.example/"): "the host that they are for",
    ("PASSWORD", "web https://releases.example/"): "likewise",
    ("QUERY", "web https://releases.example/"): "likewise",
    ("TOKEN", "web https://releases.example/"): "the first host",
}


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    """AWS that keeps what it is asked, and gives the role's credentials, which are canaries."""
    made = Cloud()
    made.front = Listening()
    made.imds.instance.access_key, made.imds.instance.secret_key = canary.ROLE_KEY, canary.ROLE_SECRET
    role = {
        "Code": "Success",
        "Type": "AWS-HMAC",
        "AccessKeyId": canary.ROLE_KEY,
        "SecretAccessKey": canary.ROLE_SECRET,
        "Token": canary.ROLE_TOKEN,
        "LastUpdated": "2026-01-01T00:00:00Z",
        "Expiration": "2099-01-01T00:00:00Z",
    }
    made.imds.faults = [Fault(200, path=ROLE, body=json.dumps(role).encode())]
    with made:
        yield made


@dataclass
class Leaky:
    """An instance with a canary in every input."""

    machine: Machine
    internet: Web
    tell: Path  # what `docker` was told

    def launch(self, files: Files | None = None, **settings: str) -> None:
        """A release from GitHub, whose storage a signed URL leads to."""
        self.internet.serve("https://objects.example/7", Answer(200, tarball(files or healthy())))
        stray = {"STRAY": canary.STRAY, "#STRAY": canary.STRAY}
        port = f"{free_port()}:8000"
        health = f"http://:8000/?token={canary.PROBE}"
        given = {"RELEASE_URL": RELEASE, "ADF_APP": "web", "ADF_PUBLISH": port, "ADF_HEALTH": health}
        self.machine.user_data(**{**given, "ADF_RELEASE_TOKEN": "ssm:/web/github", **stray, **settings})

    def boot(self) -> Booted:
        return self.machine.run("boot")

    def look(self, *booted: Booted) -> Places:
        """All that there is to look through by now."""
        places = Places()
        for each in booted:
            places.put("output", each.log + each.out)
        root, machine = self.machine.root, self.machine
        places.folder(root, [root / "etc", *root.glob("*.tar.gz"), self.tell, root / "collected"])
        for item in machine.cloud.client("dynamodb").scan(TableName="adf-config")["Items"]:
            if item["App"]["S"] == "web#fleet":
                places.put("fleet record", json.dumps(item, ensure_ascii=False))
        front = machine.cloud.front
        assert isinstance(front, Listening)
        for place, text in front.heard:
            places.put(f"aws {place}", text)
        places.put("aws signature", "\n".join(front.signed))
        places.put("imds", "\n".join(machine.cloud.imds.requests))
        for asked in self.internet.asked:
            places.put(f"web {asked.path}", f"{asked.path} {asked.headers}".encode() + asked.body)
        for name in ("arguments", "environment"):
            path = self.tell / name
            places.put(f"docker {name}", path.read_bytes() if path.exists() else b"")
        for container in machine.containers():
            places.put("labels", json.dumps([container.labels, container.name]))
        return places

    def ask(self, *words: str) -> Booted:
        """What a person reads."""
        return self.machine.run(*words)


def healthy() -> Files:
    files = app(adf_toml=TOML)
    return {**files, "Dockerfile": f"{files['Dockerfile']!s}{BUILDS}"}


def dying(command: str) -> Files:
    """An app that runs *command* in its shell."""
    dockerfile = f"FROM {BASE}\n{BUILDS}EXPOSE 8000\nSTOPSIGNAL SIGKILL\n"
    script = f"#!/bin/sh\n{command}\n"
    return {"Dockerfile": f'{dockerfile}COPY run /run.sh\nCMD ["/run.sh"]\n', "run": script, "adf.toml": TOML}


def plant_config(machine: Machine) -> None:
    """The app's config, a secret in each form that there is; and the token."""
    table(machine, GREETING="hello", PLAIN_PASSWORD=CONFIG["PLAIN_PASSWORD"])
    client = machine.cloud.client
    for name in ("SSM_TOKEN", "PEM", "URLISH"):
        client("ssm").put_parameter(Name=f"/web/{name}", Value=CONFIG[name], Type="SecureString")
        item(machine, name, Ref={"S": f"ssm:/web/{name}"})
    for name in ("MANAGER_REGEX", "UMLAUT"):
        client("secretsmanager").create_secret(Name=f"web/{name}", SecretString=CONFIG[name])
        item(machine, name, Ref={"S": f"secretsmanager:web/{name}"})
    key = client("kms").create_key()["KeyMetadata"]["KeyId"]
    context = {"App": "web", "Name": "KMS_PASSWORD"}
    sealed = client("kms").encrypt(KeyId=key, Plaintext=CONFIG["KMS_PASSWORD"].encode(), EncryptionContext=context)
    item(machine, "KMS_PASSWORD", Secret={"B": sealed["CiphertextBlob"]})
    client("ssm").put_parameter(Name="/web/github", Value=canary.TOKEN, Type="SecureString")


def item(machine: Machine, name: str, **attributes: Any) -> None:
    key = {"App": {"S": "web"}, "Name": {"S": name}}
    machine.cloud.client("dynamodb").put_item(TableName="adf-config", Item={**key, **attributes})


@pytest.fixture
def leaky(machine: Machine, internet: Web) -> Iterator[Leaky]:
    """An instance with a canary in every place that has room for one, not launched yet."""
    plant_config(machine)
    proxy = internet.url.replace("//", f"//me:{canary.PROXY}@")
    machine.agent_env(HTTPS_PROXY=proxy, SOME_TOKEN=canary.STRAY)
    machine.cloud.imds.instance.tags = {"Password": canary.STRAY, "ADF_STRAY": canary.STRAY}
    docker = machine.root / "etc/adf-agent/docker"
    docker.mkdir()
    login = base64.b64encode(f"me:{canary.REGISTRY}".encode()).decode()
    (docker / "config.json").write_text(json.dumps({"auths": {"registry.example": {"auth": login}}}))
    internet.routes[f"{API}/tags/v1"] = lambda _: Answer(
        200, json.dumps({"assets": [{"name": "v1.tar.gz", "id": 7}]}).encode()
    )
    signed = f"https://objects.example/7?X-Amz-Signature={canary.SIGNATURE}"
    internet.serve(f"{API}/assets/7", Answer(302, headers={"Location": signed}))
    builds = find_buildkit(os.environ["PATH"])
    assert builds, "no docker command here builds with BuildKit"
    with canary.docker_that_tells(machine.root / "bin", builds) as folder:
        machine.environment |= {"PATH": f"{folder}:{os.environ['PATH']}", "NO_PROXY": ""}
        machine.environment["REQUESTS_CA_BUNDLE"] = str(internet.certificate)
        yield Leaky(machine, internet, folder)


def test_an_instance_in_service_has_told_nobody(leaky: Leaky, tmp_path: Path) -> None:
    """A password in the journal, in `ps`, in a status that every user reads, or at a host that it is not for."""
    leaky.launch({**healthy(), "adf.toml": f"{TOML}[health]\ninterval = 0.2\ntimeout = 0.3\nunhealthy_threshold = 2\n"})
    with manager(tmp_path / "notify") as told:
        agent = leaky.machine.daemon(NOTIFY_SOCKET=str(tmp_path / "notify"))
        agent.reach("in service")
        status = leaky.machine.status()
        silent = unanswered(leaky.machine, agent)
        asked = [leaky.ask(*words.split()) for words in READ]
        collected = leaky.ask("doctor", "--collect", str(tmp_path / "collected"))
        image = inside(leaky.machine)
        table(leaky.machine, GREETING="again")
        reloaded = leaky.ask("reload", "--json")
        leaky.machine.cloud.faults = [quoting("dynamodb:*")]
        refused = leaky.ask("reload", "--json")
        leaky.machine.cloud.faults = []
        drained = leaky.ask("drain", "--json")
        assert agent.end() == 0, agent.log()
    places = leaky.look(*asked, collected, reloaded, refused, drained)
    places.put("notify", b"\n".join(told))
    places.texts += image.texts + silent.texts
    places.archive("collected", (tmp_path / "collected").read_bytes())
    assert not (leaks := places.leaks(ALLOWED)), "\n".join(sorted(leaks))
    # All of it was looked at.
    assert (reloaded.code, drained.code) == (0, 0), agent.log()
    assert "reload failed" in refused.log + refused.out, refused
    assert status["degraded"], "the tag that is no setting"
    for place, text in LOOKED:
        assert places.has(place, text), f"{text} in {place}"


def unanswered(machine: Machine, agent: Daemon) -> Places:
    """What is told of an app that does not answer its probe for a while, and of its answer after that."""
    places = Places()

    def told(*, healthy: bool) -> bool:
        return bool(machine.status()["probe"]["healthy"] is healthy)

    [app] = machine.containers()
    app.pause()
    agent.until(lambda: told(healthy=False), "the app is missed")
    places.put("status of an app that is paused", json.dumps(machine.status(), ensure_ascii=False))
    places.put("output", machine.run("status").out)
    app.unpause()
    agent.until(lambda: told(healthy=True), "the app answers again")
    places.put("status of an app that was paused", json.dumps(machine.status(), ensure_ascii=False))
    return places


READ = (
    "status", "status --json", "settings", "settings --json", "config", "config --json", "analyze", "analyze --json",
    "doctor", "doctor --json", "logs --build", "logs",
)  # fmt: skip
LOOKED = (
    ("output", "in service"), ("output", "KMS_PASSWORD"), ("file agent.log 6", "stage.finished"),
    ("file status.json 644", "schema"), ("file boots.json", "release"),
    ("file config.json 600", CONFIG["KMS_PASSWORD"]), ("file build.log 640", "RUN test"),
    ("fleet record", "Phase"), ("aws DynamoDB_20120810.PutItem", "in service"), ("aws signature", canary.ROLE_KEY),
    ("imds", "/latest/user-data"), ("web https://api.github.com/", canary.TOKEN),
    ("web https://objects.example/", canary.SIGNATURE), ("docker arguments", "--build-arg"),
    ("docker environment", canary.PROXY), ("history", "FLAVOUR"), ("labels", "adf.release"), ("image", "busybox"),
    ("notify", "STATUS=in service"), ("collected", "GREETING=***"),
    ("status of an app that is paused", "does not answer its probe"),
)  # fmt: skip


@contextmanager
def manager(path: Path) -> Iterator[list[bytes]]:
    """A service manager at the socket *path*: what it is told."""
    told: list[bytes] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener, ExitStack() as stack:
        listener.bind(str(path))
        reader = threading.Thread(target=lambda: told.extend(iter(lambda: listener.recv(4096), b"END")))
        reader.start()
        stack.callback(reader.join)
        stack.callback(listener.sendto, b"END", str(path))
        yield told


def inside(machine: Machine) -> Places:
    """The image of the app's container: its history, its layers, and the builder's cache."""
    places, client = Places(), machine.engine
    [container] = machine.containers()
    places.put("labels", json.dumps([container.labels, container.name]))
    image = container.image
    places.put("history", json.dumps(image.history()))
    places.archive("image", b"".join(image.save()))
    places.put("history cache", json.dumps(client.df().get("BuildCache")))
    return places


def quoting(action: str, code: str = "IncompleteSignatureException") -> AwsFault:
    """AWS that answers with the request's own signature, as it does where that is wrong, and with more."""
    told = f"Authorization=AWS4-HMAC-SHA256 Credential={canary.ROLE_KEY}/20260101/eu-west-1/dynamodb/aws4_request"
    canonical = f"should have been 'POST\n/\n\nx-amz-security-token:{canary.ROLE_TOKEN}\n';"
    canonical += f" {told}, {canary.ROLE_SECRET} {canary.ROLE_TOKEN}"
    return AwsFault(action, code, message=canonical)


@dataclass(frozen=True)
class Failure:
    """A boot that ends with *code*: *prepare* has it do so; and the last lines, or the sentence, then hold *says*."""

    code: int
    prepare: Callable[[Leaky], None]
    says: str


def unauthorized(leaky: Leaky) -> None:
    """A server that says in every way what it was sent: login, query and, at the first host, the token."""

    def answer(asked: Asked) -> Answer:
        sent = f"{asked.headers.get('Authorization')} {asked.path} {canary.TOKEN} {canary.PASSWORD}"
        return Answer(401, sent.encode(), {"WWW-Authenticate": f'Basic realm="{sent}"', "X-Sent": sent}, reason=sent)

    leaky.internet.routes["https://releases.example/v1.tar.gz"] = answer
    login = f"{canary.LOGIN}:{canary.PASSWORD}"
    leaky.launch(RELEASE_URL=f"https://{login}@releases.example/v1.tar.gz?key={canary.QUERY}")


def denied(leaky: Leaky) -> None:
    leaky.machine.cloud.faults = [quoting("dynamodb:*", "AccessDeniedException")]
    leaky.launch()


def misread(leaky: Leaky) -> None:
    """A secret that can't be had, and one in the wrong place."""
    item(leaky.machine, "MISPLACED", Ref={"S": canary.STRAY})
    leaky.launch()


def unbuilt(leaky: Leaky, **settings: str) -> None:
    files = healthy()
    tell = "RUN echo it is $NPM_TOKEN; echo $NPM_TOKEN | base64; exit 3\n"
    leaky.launch({**files, "Dockerfile": f"FROM {BASE}\n{BUILDS}{tell}"}, **settings)


def unbuilt_by_the_classic(leaky: Leaky) -> None:
    unbuilt(leaky, ADF_BUILDER="classic")


def unpulled(leaky: Leaky) -> None:
    """A registry that quotes the login, after it had too much to do."""
    web = leaky.machine.web
    login = base64.b64encode(f"me:{canary.REGISTRY}".encode()).decode()
    config = {"auths": {web.host: {"auth": login}}}
    (leaky.machine.root / "etc/adf-agent/docker/config.json").write_text(json.dumps(config))
    challenge = {"WWW-Authenticate": 'Basic realm="here"', "Content-Type": "application/json"}

    busy = [429, 429]

    def answer(asked: Asked) -> Answer:
        sent = asked.headers.get("Authorization", "")
        status = (busy.pop() if busy else 403) if sent else 401
        code = "TOOMANYREQUESTS" if status == 429 else "DENIED"
        said = {"errors": [{"code": code, "message": f"no right for {canary.REGISTRY} ({sent})"}]}
        return Answer(status, json.dumps(said).encode(), challenge)

    web.routes["/v2/"] = web.routes["/v2/team/web/manifests/v1"] = answer
    leaky.launch(RELEASE_URL=f"docker://{web.host}/team/web:v1")


def unstarted(leaky: Leaky) -> None:
    """A log driver that does not like its options."""
    leaky.launch(ADF_LOG_DRIVER="splunk", ADF_LOG_OPT_SPLUNK_TOKEN=canary.LOG_OPTION)


TELL = """
env
for each in "$URLISH" "me:$KMS_PASSWORD" "I:$SSM_TOKEN" "$MANAGER_REGEX" "$PLAIN_PASSWORD" "$UMLAUT"; do
  echo "basic: $(printf %s "$each" | base64 | tr -d '\\n')"
done
"""


def dead(leaky: Leaky) -> None:
    """An app that prints all that it knows, and ends."""
    leaky.launch(dying(f"{TELL}exit 3"))


def ill(leaky: Leaky) -> None:
    """An app whose own check prints what it may not."""
    check = "HEALTHCHECK --interval=100ms CMD echo $KMS_PASSWORD $PLAIN_PASSWORD; exit 1"
    toml = f"{TOML}[health]\nstart_timeout = 2\n"
    files = dying("exec sleep 60")
    leaky.launch({**files, "Dockerfile": f"{files['Dockerfile']!s}{check}\n", "adf.toml": toml}, ADF_HEALTH="docker")


FAILURES = {
    "release": Failure(12, unauthorized, "answers 401 Unauthorized"),
    "config": Failure(13, denied, "is denied"),
    "reference": Failure(13, misread, "MISPLACED does not refer"),
    "build": Failure(14, unbuilt, "it is ***"),
    "classic build": Failure(14, unbuilt_by_the_classic, "it is ***"),
    "pull": Failure(14, unpulled, "toomanyrequests: no right for ***"),
    "container": Failure(15, unstarted, "splunk"),
    "app": Failure(16, dead, "KMS_PASSWORD=***"),
    "health": Failure(16, ill, "the probe was told: *** ***"),
}


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
def test_a_boot_that_fails_tells_why_without_a_secret(leaky: Leaky, failure: Failure) -> None:
    """The token in a public ticket: what has failed is read by everybody, and says most."""
    failure.prepare(leaky)
    booted = leaky.boot()
    leaky.machine.cloud.faults = []
    assert booted.code == failure.code, booted.log
    shown = [leaky.ask("status"), leaky.ask("logs", "--build" if failure.code == 14 else "--app")]
    places = leaky.look(booted, *shown)
    assert not (leaks := places.leaks(ALLOWED)), "\n".join(sorted(leaks))
    assert places.has("output", failure.says), booted


# The last one is booted, too.
SLIPS = {
    "no pair": f"RELEASE_URL=file:///v1.tar.gz\nexport {canary.TOKEN}\n",
    "a setting that is none": f"RELEASE_URL=file:///v1.tar.gz\nADF_GITHUB={canary.TOKEN}\nDB={canary.PASSWORD}\n",
    "no scheme": f"RELEASE_URL=me:{canary.PASSWORD}@releases.example/v1.tar.gz?key={canary.QUERY}\n",
    "a blank": f"RELEASE_URL=https://releases.example/v1.tar.gz?key=a {canary.SIGNATURE}\n",
    "a login at a registry": f"RELEASE_URL=docker://me:{canary.PASSWORD}@registry.example/web:v1\n",
    "a port that is none": f"RELEASE_URL=https://me:{canary.PASSWORD}@releases.example:99999/v1.tar.gz\n",
    "a signed URL for s3": f"RELEASE_URL=s3://releases/v1.tar.gz?X-Amz-Signature={canary.SIGNATURE}\n",
    "broken JSON": f'{{"RELEASE_URL": "https://me:{canary.PASSWORD}@h/v1.tar.gz", {canary.TOKEN}',
    "broken YAML": f"#cloud-config\nadf:\n  RELEASE_URL: [{canary.TOKEN}\n",
    "a shell's $": f"#!/bin/sh\nRELEASE_URL=https://me:{canary.PASSWORD}@h/$VERSION.tar.gz\n",
    "the token itself": f"RELEASE_URL=file:///v1.tar.gz\nADF_RELEASE_TOKEN={canary.TOKEN}\n",
}  # fmt: skip


def test_a_slip_in_user_data_is_told_without_its_values(leaky: Leaky) -> None:
    """The token that was pasted into the wrong line, in the journal of every instance of the launch."""
    for slip, user_data in SLIPS.items():
        leaky.machine.cloud.imds.instance.user_data = user_data.encode()
        settings = leaky.ask("settings")
        assert settings.code == 10, slip + settings.log
        assert not (leaks := leaky.look(settings).leaks(ALLOWED)), f"{slip}: {sorted(leaks)}"
        assert "ADF_STRAY            tag        ***\n" in settings.log, slip
    booted = leaky.boot()
    assert booted.code == 10, booted.log
    assert leaky.look(booted).leaks(ALLOWED) == set()


def test_why_an_instance_was_given_up_is_kept_without_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A password in the status of the next start, when nobody knows any more that it is one."""
    root = Root(tmp_path)
    prepare(root)
    record, ledger = Record(root, "run"), Ledger(root)
    record.mask.add([CONFIG["KMS_PASSWORD"]])
    monkeypatch.setattr("adf_agent.report.give_up", lambda *_: "told")
    give_up(cast("Host", None), record, ledger, None, ImageError(f"the build failed: {CONFIG['KMS_PASSWORD']}"))
    assert ledger.state.given_up == "the build failed: ***"
