"""What can be wrong with a launch, one row each, by the real command: a sentence, a code, and nothing left."""

import gzip
import hashlib
import io
import json
import os
import socket
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import Unprivileged
from fixtures_agent import BASE, DOCKERFILE, SERVE, Machine, app, tarball
from test_boot import free_port, page, table
from web import Answer

SETTINGS, DOCKER, RELEASE, CONFIG, IMAGE, CONTAINER, HEALTH, TRY_AGAIN = 10, 11, 12, 13, 14, 15, 16, 75


@dataclass(frozen=True)
class Case:
    """*launch* prepares the machine; then the boot ends with *code*, and the sentence or the last lines hold *says*."""

    name: str
    launch: Callable[[Machine], None]
    code: int
    says: str


def raw(user_data: bytes) -> Callable[[Machine], None]:
    def launch(machine: Machine) -> None:
        machine.cloud.imds.instance.user_data = user_data

    return launch


def tag(machine: Machine) -> None:
    machine.cloud.imds.instance.tags = {"ADF_BOOT_TIMEOUT": "soon"}
    machine.user_data(RELEASE_URL=machine.release(app()))


def launched(**settings: str) -> Callable[[Machine], None]:
    return lambda machine: machine.user_data(**{"RELEASE_URL": machine.release(app()), **settings})


def served(*answers: Answer, pin: str = "", **settings: str) -> Callable[[Machine], None]:
    """A release on the web; *pin* is its digest where it is not that of the last answer's body."""

    def launch(machine: Machine) -> None:
        sha256 = pin or hashlib.sha256(answers[-1].body).hexdigest()
        url = machine.web.serve("/v1.tar.gz", *answers)
        machine.user_data(RELEASE_URL=f"{url}#sha256={sha256}", **settings)

    return launch


def holding(data: bytes | Callable[[], bytes]) -> Callable[[Machine], None]:
    """A release file of these bytes."""

    def launch(machine: Machine) -> None:
        (machine.root / "v1.tar.gz").write_bytes(data if isinstance(data, bytes) else data())
        machine.user_data(RELEASE_URL=f"file://{machine.root}/v1.tar.gz")

    return launch


def building(dockerfile: str, **settings: str) -> Callable[[Machine], None]:
    return lambda machine: machine.user_data(
        RELEASE_URL=machine.release({**app(), "Dockerfile": dockerfile}), **settings
    )


def running(command: str, toml: str = "") -> Callable[[Machine], None]:
    """An app that runs *command* in the shell, published on a free port."""
    dockerfile = f'FROM {BASE}\nSTOPSIGNAL SIGKILL\nEXPOSE 8000\nCMD ["sh", "-c", {json.dumps(command)}]\n'
    files = {"Dockerfile": dockerfile, "adf.toml": f"[health]\nstart_timeout = 2\n{toml}"}
    return lambda machine: machine.user_data(RELEASE_URL=machine.release(files), ADF_PUBLISH=f"{free_port()}:8000")


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> Callable[[Machine], None]:
    """A release with one more member than is well."""

    def archive() -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
            for path, text in app().items():
                info = tarfile.TarInfo(path)
                info.size = len(text)
                tar.addfile(info, io.BytesIO(text.encode() if isinstance(text, str) else text))
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, link
            tar.addfile(info)
        return buffer.getvalue()

    return holding(archive)


def many_members(machine: Machine) -> None:
    machine.agent_env(ADF_ARCHIVE_LIMIT="members=3")
    machine.user_data(RELEASE_URL=machine.release({**app(), "a": "", "b": ""}))


def many_bytes(machine: Machine) -> None:
    machine.agent_env(ADF_ARCHIVE_LIMIT="bytes=64k")
    machine.user_data(RELEASE_URL=machine.release({**app(), "zeros": bytes(100_000)}))


def high_ratio(machine: Machine) -> None:
    machine.agent_env(ADF_ARCHIVE_LIMIT="ratio=100")
    machine.user_data(RELEASE_URL=machine.release({**app(), "zeros": bytes(120_000_000)}))


def configured(prepare: Callable[[Machine], None]) -> Callable[[Machine], None]:
    def launch(machine: Machine) -> None:
        prepare(machine)
        machine.user_data(RELEASE_URL=machine.release(app()), ADF_APP="web", ADF_PUBLISH=f"{free_port()}:8000")

    return launch


def denied(machine: Machine) -> None:
    """The instance's role may do nothing: moto evaluates its policies."""
    table(machine, KEY="value")
    iam, instance = machine.cloud.client("iam"), machine.cloud.imds.instance
    iam.create_user(UserName="instance")
    key = iam.create_access_key(UserName="instance")["AccessKey"]
    instance.access_key, instance.secret_key = key["AccessKeyId"], key["SecretAccessKey"]
    instance.tags = {}
    machine.cloud.enforce_permissions()


def throttled(machine: Machine) -> None:
    """A table that answers nothing but a throttle."""
    body = json.dumps({"__type": "com.amazonaws.dynamodb#ThrottlingException", "message": "slow down"}).encode()
    machine.web.posts = Answer(400, body, {"Content-Type": "application/x-amz-json-1.0"})
    machine.environment["AWS_ENDPOINT_URL_DYNAMODB"] = machine.web.url
    machine.agent_env(ADF_BOOT_TIMEOUT="3s")


def port_taken(machine: Machine) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    machine.closing.append(listener.close)
    port = listener.getsockname()[1]
    machine.user_data(RELEASE_URL=machine.release(app()), ADF_PUBLISH=f"{port}:8000")


def no_docker(machine: Machine) -> None:
    machine.environment["DOCKER_HOST"] = f"unix://{machine.root}/none.sock"
    machine.user_data(RELEASE_URL=machine.release(app()), ADF_BOOT_TIMEOUT="2s")


def hung_docker(machine: Machine) -> None:
    """A socket that takes connections and says nothing, as an engine under SIGSTOP."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{machine.root}/hung.sock")
    listener.listen(64)
    machine.closing.append(listener.close)
    machine.environment["DOCKER_HOST"] = f"unix://{machine.root}/hung.sock"
    machine.user_data(RELEASE_URL=machine.release(app()), ADF_BOOT_TIMEOUT="2s")


def no_imds(machine: Machine) -> None:
    machine.environment["AWS_EC2_METADATA_SERVICE_ENDPOINT"] = "http://127.0.0.1:9"
    machine.agent_env(ADF_BOOT_TIMEOUT="1s")


GOOD = tarball(app())
CASES = [
    Case("no RELEASE_URL", raw(b"ADF_APP=web\n"), SETTINGS, "RELEASE_URL"),
    Case("no user-data at all", lambda _: None, SETTINGS, "RELEASE_URL"),
    Case("malformed lines", raw(b"RELEASE_URL='https://example.com\n"), SETTINGS, "line 1"),
    Case("malformed JSON", raw(b'{"RELEASE_URL": '), SETTINGS, "JSON"),
    Case("malformed cloud-config", raw(b"#cloud-config\nadf: [\n"), SETTINGS, "YAML"),
    Case("shell with a variable", raw(b"#!/bin/sh\nRELEASE_URL=https://x/$V.tar.gz\n"), SETTINGS, "RELEASE_URL"),
    Case("malformed gzip", raw(gzip.compress(b"RELEASE_URL=x\n")[:-9]), SETTINGS, "gzip"),
    Case("user-data that is no form", raw(b"\x89PNG\r\n\x1a\n\x00"), SETTINGS, "user-data"),
    Case("unknown setting in user-data", launched(ADF_PUBLISHED="80:80"), SETTINGS, "ADF_PUBLISH"),
    Case("wrong value in user-data", launched(ADF_PUBLISH="http"), SETTINGS, "ADF_PUBLISH"),
    Case("wrong value in a tag", tag, SETTINGS, "ADF_BOOT_TIMEOUT"),
    Case("guard setting in user-data", launched(ADF_ARCHIVE_LIMIT="members=1"), SETTINGS, "agent.env"),
    Case("http without a digest", launched(RELEASE_URL="http://127.0.0.1/v1.tar.gz"), SETTINGS, "digest"),
    Case("unknown scheme", launched(RELEASE_URL="ftp://127.0.0.1/v1.tar.gz"), SETTINGS, "https://"),
    Case("IMDS can't be read", no_imds, TRY_AGAIN, "IMDS can't be read"),
    Case("404", served(Answer(404)), RELEASE, "404"),
    Case("403", served(Answer(403)), RELEASE, "403"),
    Case("500 for ever", served(Answer(500), ADF_BOOT_TIMEOUT="2s"), TRY_AGAIN, "500"),
    Case("no such file", launched(RELEASE_URL="file:///nowhere/v1.tar.gz"), RELEASE, "/nowhere/v1.tar.gz"),
    Case("no such bucket", launched(RELEASE_URL="s3://nobodys-bucket/v1.tar.gz"), RELEASE, "NoSuchBucket"),
    Case("wrong digest", served(Answer(200, GOOD), pin="0" * 64), RELEASE, "digest"),
    Case("truncated body", served(Answer(200, GOOD, cut=100), ADF_BOOT_TIMEOUT="2s"), TRY_AGAIN, "broke off"),
    Case("truncated archive", holding(GOOD[: len(GOOD) // 2]), RELEASE, "cut short"),
    Case("not a tarball", holding(b"<html>Not found</html>" * 100), RELEASE, "web page"),
    Case("empty file", holding(b""), RELEASE, "tarball"),
    Case("no Dockerfile", holding(tarball({"README": "x"})), RELEASE, "Dockerfile"),
    Case(
        "unknown key in adf.toml", holding(tarball(app(adf_toml="[build]\ndockefile = 'x'\n"))), RELEASE, "dockerfile"
    ),
    Case("absolute name in the archive", member("/etc/passwd"), RELEASE, "absolute"),
    Case("'..' in the archive", member("../outside"), RELEASE, "'..'"),
    Case("symlink out of the context", member("link", tarfile.SYMTYPE, "../../etc"), RELEASE, "leaves"),
    Case("absolute symlink", member("link", tarfile.SYMTYPE, "/etc/passwd"), RELEASE, "leaves"),
    Case("hard link out of the context", member("link", tarfile.LNKTYPE, "/etc/passwd"), RELEASE, "absolute"),
    Case("device in the archive", member("null", tarfile.CHRTYPE), RELEASE, "device"),
    Case("pipe in the archive", member("pipe", tarfile.FIFOTYPE), RELEASE, "pipe"),
    Case("too many members", many_members, RELEASE, "3 members"),
    Case("too many bytes", many_bytes, RELEASE, "65536 bytes"),
    Case("ratio too high", high_ratio, RELEASE, "100 times"),
    Case("Dockerfile that fails", building(f"FROM {BASE}\nRUN echo the-reason >&2; exit 3\n"), IMAGE, "the-reason"),
    Case(
        "Dockerfile out of memory", building(f"FROM {BASE}\nRUN sh -c 'kill -9 $$'; exit $?\n"), IMAGE, "out of memory"
    ),
    Case("Dockerfile that is none", building("HELLO\n"), IMAGE, "HELLO"),
    Case("classic: fails", building(f"FROM {BASE}\nRUN exit 3\n", ADF_BUILDER="classic"), IMAGE, "code: 3"),
    Case(
        "classic: needs BuildKit",
        building(f"FROM {BASE}\nRUN --mount=type=cache,target=/c true\n", ADF_BUILDER="classic"),
        IMAGE,
        "docker-buildx",
    ),
    Case("config table missing", configured(lambda _: None), CONFIG, "adf-config"),
    Case("config denied", configured(denied), CONFIG, "dynamodb:GetItem"),
    Case("config throttled", configured(throttled), TRY_AGAIN, "ThrottlingException"),
    Case("bad key name", configured(lambda machine: table(machine, **{"MY-KEY": "x"})), CONFIG, "MY-KEY"),
    Case("value over the limit", configured(lambda m: table(m, BIG="x" * 140_000)), CONFIG, "BIG"),
    Case("port taken on the host", port_taken, CONTAINER, "port"),
    Case("command that is not there", building(f'FROM {BASE}\nEXPOSE 8000\nCMD ["/nowhere"]\n'), CONTAINER, "command"),
    Case("app that exits at once", running("echo last words; exit 7"), HEALTH, "code 7"),
    Case("app's last words", running("echo last words; exit 7"), HEALTH, "last words"),
    Case("app that never listens", running("sleep 600"), HEALTH, "nothing listens"),
    Case(
        "app that answers 500",
        running(
            "while :; do printf 'HTTP/1.1 500 Oh\\r\\nContent-Length: 0\\r\\n\\r\\n' | nc -l -p 8000; done",
            'probe = "http://:8000/"\n',
        ),
        HEALTH,
        "500",
    ),
    Case("probe of a port not published", launched(ADF_HEALTH="tcp://:9", ADF_PUBLISH="0:0"), SETTINGS, "ADF_PUBLISH"),
    Case("Docker absent", no_docker, TRY_AGAIN, "does not answer"),
    Case("Docker hung", hung_docker, TRY_AGAIN, "does not answer"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input_ends_with_a_sentence_its_exit_code_and_nothing_left(machine: Machine, case: Case) -> None:
    """A boot that fails without a word, with a code that misleads systemd, or leaves something running."""
    case.launch(machine)
    booted = machine.run("boot")
    assert booted.code == case.code, booted.log
    assert booted.status["phase"] == "failed"
    assert booted.error["exit_code"] == case.code
    shown = machine.run("status")
    assert shown.code == 1
    assert case.says in shown.out
    assert booted.error["hint"], "an error says what to do next"
    assert "Traceback" not in booted.log
    assert machine.containers() == []
    left = {path.name for path in (machine.root / "var/lib/adf-agent").iterdir()}
    assert left <= {"state.json", "last-lines", "boots.json", "build.log", "buildx"}
    assert case.code not in (SETTINGS, DOCKER, RELEASE, IMAGE) or machine.state().get("images", []) == []


def test_an_unknown_setting_in_a_tag_degrades_and_does_not_stop_the_fleet(machine: Machine) -> None:
    """Somebody tags a group ADF_OWNER, and no instance boots any more."""
    machine.cloud.imds.instance.tags = {"ADF_OWNER": "me"}
    booted = machine.boot(RELEASE_URL=machine.release(app()), ADF_PUBLISH=f"{free_port()}:8000")
    assert booted.code == 0, booted.log
    assert any("ADF_OWNER" in reason for reason in booted.status["degraded"])
    assert machine.run("status").code == 0
    assert machine.run("status", "--strict").code == 1


def test_docker_that_appears_later_is_waited_for(machine: Machine) -> None:
    """An agent that gives up before Docker's socket exists (aws/amazon-ecs-agent#688)."""
    late = machine.root / "late.sock"
    machine.environment["DOCKER_HOST"] = f"unix://{late}"
    port = free_port()
    machine.user_data(RELEASE_URL=machine.release(app("late")), ADF_PUBLISH=f"{port}:8000")
    with machine.start("boot") as process:
        assert process.stderr is not None
        for line in process.stderr:
            if json.loads(line)["event"] == "retry":
                late.symlink_to(os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://"))
                break
        _, log = process.communicate(timeout=60)
    assert process.returncode == 0, log
    assert page(port) == "late"


def test_a_docker_that_may_not_be_used_is_no_reason_to_wait(machine: Machine, unprivileged: Unprivileged) -> None:
    """A boot that waits a quarter of an hour for a socket whose group the agent's user is not in."""
    folder = unprivileged.folder
    (folder / "v1.tar.gz").write_bytes(GOOD)
    machine.user_data(RELEASE_URL=f"file://{folder}/v1.tar.gz")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "root-only.sock"))
        (folder / "root-only.sock").chmod(0o600)
        host = f"unix://{folder}/root-only.sock"
        environment = {**machine.environment, "ADF_ROOT": str(folder), "DOCKER_HOST": host}
        process = unprivileged("-m", "adf_agent", "boot", env=environment)
        _, log = process.communicate(timeout=60)
    assert process.returncode == DOCKER, log
    assert "may not use Docker" in log


@contextmanager
def registry(folder: Path, more: str = "") -> Iterator[str]:
    """A real registry on loopback, with *more* lines in its configuration; yields its address."""
    port = free_port()
    configuration = folder / "registry.yml"
    configuration.write_text(
        f"version: 0.1\nlog: {{level: error}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n"
        f"storage:\n  filesystem: {{rootdirectory: {folder}/registry}}\n{more}"
    )
    with subprocess.Popen(["docker-registry", "serve", configuration], stderr=subprocess.DEVNULL) as process:
        try:
            while process.poll() is None:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except ConnectionRefusedError:
                    threading.Event().wait(0.05)
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()


def test_a_base_image_that_is_not_there_fails_and_one_out_of_reach_is_tried_again(machine: Machine) -> None:
    """A typo in FROM that keeps a fleet waiting; a registry's hiccup that costs an instance."""
    with registry(machine.root) as address:
        machine.user_data(RELEASE_URL=machine.release({"Dockerfile": f"FROM {address}/none:1\n{SERVE}\n"}))
        missing = machine.run("boot")
    assert missing.code == IMAGE
    assert "not found" in missing.error["sentence"]
    machine.user_data(
        RELEASE_URL=machine.release({"Dockerfile": f"FROM {address}/none:2\n{SERVE}\n"}), ADF_BOOT_TIMEOUT="4s"
    )
    unreachable = machine.run("boot")
    assert unreachable.code == TRY_AGAIN, unreachable.log
    assert unreachable.error["cause"] == "dependency"


@pytest.mark.parametrize("by", ["tag", "digest"])
def test_an_image_is_pulled_from_a_registry(machine: Machine, by: str) -> None:
    """A release built once on a build server that the fleet can't run."""
    with registry(machine.root) as address:
        name = f"{address}/web"
        files = tarball({**app(f"pulled by {by}"), "Dockerfile": DOCKERFILE})
        image, _ = machine.engine.images.build(
            fileobj=io.BytesIO(files), custom_context=True, encoding="gzip", tag=f"{name}:v3"
        )
        machine.engine.images.push(name, "v3")
        image.reload()
        pinned = image.attrs["RepoDigests"][0].partition("@")[2]
        machine.engine.images.remove(image.id, force=True)
        port = free_port()
        url = f"docker://{name}:v3" if by == "tag" else f"docker://{name}@{pinned}"
        booted = machine.boot(RELEASE_URL=url, ADF_PUBLISH=f"{port}:8000")
        assert booted.code == 0, booted.log
        assert page(port) == f"pulled by {by}"
        assert machine.state()["release_digest"] == pinned.removeprefix("sha256:")
        absent = machine.boot(RELEASE_URL=f"docker://{name}:v4")
        assert absent.code == IMAGE
        assert "v4" in absent.error["sentence"]
