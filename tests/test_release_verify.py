"""What an instance would refuse of a release is found before one is told to boot it, with the same exit code."""

import json
import signal
import socket
from hashlib import sha256
from pathlib import Path
from typing import Any

import docker
import pytest
from fixtures_agent import BASE, Files, app, tarball
from test_bad_input import registry
from test_release_build import command, until
from web import Answer, Web

from adf_agent.sandbox.cloud import Cloud

GOOD = tarball(app(adf_toml="[container]\nmemory = '64m'\n"))
PIN = f"#sha256={sha256(GOOD).hexdigest()}"
TOKEN = "ghp_hunter2"


def run(*arguments: str, **environment: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of `adf-release verify ARGUMENTS…`."""
    with command("verify", *arguments, **environment) as process:
        out, log = process.communicate(timeout=60)
    return process.returncode, out, log


def file(folder: Path, data: bytes = GOOD, name: str = "v42.tar.gz") -> str:
    path = folder / name
    path.write_bytes(data)
    return f"file://{path}"


def test_it_says_what_a_release_is_and_how_to_pin_it(tmp_path: Path) -> None:
    """A release that nobody pinned, as nobody was told how; gigabytes of a repository shipped by mistake."""
    url = file(tmp_path)
    (tmp_path / "tmp").mkdir()
    code, out, log = run(url, TMPDIR=str(tmp_path / "tmp"))
    assert code == 0, log
    facts = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert facts == {
        "name": "v42",
        "url": url,
        "digest": PIN.removeprefix("#sha256="),
        "size": "1 kB",
        "members": "3",
        "unpacked": "1 kB",
        "dockerfile": "Dockerfile",
        "pinned": url + PIN,
    }
    assert list((tmp_path / "tmp").iterdir()) == []
    code, out, log = run(facts["pinned"], "--json")
    assert code == 0, log
    found = json.loads(out)
    assert "pinned" not in found
    assert (found["size"], found["members"], found["digest"]) == (len(GOOD), 3, facts["digest"])


def test_a_terminal_without_arrows_and_accents_is_told_too(tmp_path: Path) -> None:
    """A traceback in a container whose locale is C."""
    files: Files = {"é": f"FROM {BASE}\n", "adf.toml": "[build]\ndockerfile = 'é'\n"}
    code, out, log = run(file(tmp_path, tarball(files)), PYTHONIOENCODING="ascii")
    assert (code, "dockerfile  ?\n" in out) == (0, True), log
    code, _, log = run("ftp://v1.tar.gz", PYTHONIOENCODING="ascii")
    assert (code, "\n  ? Give the whole URL" in log) == (10, True)


@pytest.mark.parametrize(
    ("files", "code", "says"),
    [
        ({"www/index.html": "no Dockerfile"}, 12, "no Dockerfile"),
        (app(adf_toml="[container]\nmemroy = '64m'\n"), 12, "memroy"),
        ({**app(), "../escape": "x"}, 12, "../escape"),
    ],
)
def test_what_an_instance_refuses_is_refused(tmp_path: Path, files: Files, code: int, says: str) -> None:
    """A release that passes in CI, and fails on the first instance."""
    ended, out, log = run(file(tmp_path, tarball(files)))
    assert (ended, out) == (code, "")
    assert says in log


def test_other_bytes_than_those_pinned_and_a_url_that_is_none_are_refused(tmp_path: Path) -> None:
    """A wrong digest, or a typo in RELEASE_URL, that the launch template carries to every instance."""
    url = file(tmp_path, GOOD + b"x")
    code, _, log = run(url + PIN)
    assert code == 12
    assert "pins" in log
    code, _, log = run(url.replace("file://", "fiel://"))
    assert code == 10
    assert "starts with none of" in log


def test_limits_are_those_of_the_ami(tmp_path: Path) -> None:
    """A release within the default limits that the fleet's own AMI refuses."""
    url = file(tmp_path)
    code, _, log = run(url, "--archive-limit", "members=2")
    assert code == 12
    assert "more than 2 members" in log
    code, _, log = run(url, "--archive-limit", "menbers=2")
    assert code == 2
    assert "'menbers=2' is no archive limit" in log


def surfing(internet: Web) -> dict[str, str]:
    return {"HTTPS_PROXY": internet.url, "NO_PROXY": "", "REQUESTS_CA_BUNDLE": str(internet.certificate)}


@pytest.mark.parametrize("variables", [{"GH_TOKEN": TOKEN, "GITHUB_TOKEN": "old"}, {"GITHUB_TOKEN": TOKEN}])
def test_githubs_token_is_the_environments_and_githubs_alone(internet: Web, variables: dict[str, str]) -> None:
    """A private release that CI can't see; CI's token handed to whoever RELEASE_URL names."""
    internet.serve("https://github.com/me/web/archive/v1.tar.gz", Answer(200, GOOD))
    internet.serve("https://releases.example/v1.tar.gz", Answer(200, GOOD))
    environment = {"GH_TOKEN": "", "GITHUB_TOKEN": "", **surfing(internet), **variables}
    for url in ("https://github.com/me/web/archive/v1.tar.gz", "https://releases.example/v1.tar.gz"):
        code, out, log = run(url, **environment)
        assert code == 0, log
        assert TOKEN not in out + log
    assert [asked.headers.get("Authorization") for asked in internet.asked] == [f"Bearer {TOKEN}", None]


def test_no_secret_of_a_url_is_printed(internet: Web) -> None:
    """A presigned URL's signature in a CI job's log."""
    internet.serve("https://releases.example/v1.tar.gz", Answer(200, GOOD))
    code, out, log = run("https://releases.example/v1.tar.gz?X-Amz-Signature=hunter2", **surfing(internet))
    assert code == 0, log
    assert "hunter2" not in out + log
    assert f"add {PIN}" in out


def test_a_private_release_without_a_token_says_which_variable_is_asked_for(internet: Web) -> None:
    """An operator who sets a setting of instances, and is refused again."""
    environment = {"GH_TOKEN": "", "GITHUB_TOKEN": "", **surfing(internet)}
    code, _, log = run("https://github.com/me/secret/archive/v1.tar.gz", **environment)
    assert code == 12
    assert "for adf-release, GH_TOKEN" in log


def test_s3_is_read_with_the_operators_credentials(tmp_path: Path) -> None:
    """A release in S3 that only instances can look at."""
    with Cloud() as cloud:
        s3 = cloud.client("s3")
        s3.create_bucket(Bucket="releases", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
        s3.put_object(Bucket="releases", Key="web/v9.tar.gz", Body=GOOD)
        environment = {**cloud.environment(), "AWS_REGION": "eu-west-1", "AWS_EC2_METADATA_DISABLED": "true"}
        keys = {"AWS_ACCESS_KEY_ID": "operator", "AWS_SECRET_ACCESS_KEY": "operator"}
        code, out, log = run("s3://releases/web/v9.tar.gz", "--json", **environment, **keys)
        assert code == 0, log
        assert json.loads(out)["pinned"] == f"s3://releases/web/v9.tar.gz{PIN}"
        code, _, log = run("s3://releases/web/v9.tar.gz", **environment, HOME=str(tmp_path))
        assert code == 10
        assert "no AWS credentials" in log


def test_an_image_is_asked_of_its_registry(docker_client: docker.DockerClient, base_image: str, tmp_path: Path) -> None:
    """A tag that was cleared away, noticed by the first instance of a night's scale-out."""
    assert base_image
    with registry(tmp_path) as address:
        name = f"{address}/web"
        docker_client.api.tag(BASE, name, "v3")
        pushed: list[dict[str, Any]] = list(docker_client.api.push(name, "v3", stream=True, decode=True))
        docker_client.images.remove(f"{name}:v3")
        digest = pushed[-1]["aux"]["Digest"]
        code, out, log = run(f"docker://{name}:v3")
        assert code == 0, log
        facts = dict(line.split(maxsplit=1) for line in out.splitlines())
        assert facts.pop("platforms").startswith("linux/")
        assert facts == {
            "name": "v3",
            "url": f"docker://{name}:v3",
            "digest": digest.removeprefix("sha256:"),
            "pinned": f"docker://{name}:v3@{digest}",
        }
        code, out, log = run(f"docker://{name}:v3@{digest}", "--json")
        assert code == 0, log
        assert "pinned" not in json.loads(out)
        code, _, log = run(f"docker://{name}:v4")
        assert code == 14
        assert f"the registry has no {name}:v4" in log


def test_a_stop_ends_it_and_leaves_nothing(tmp_path: Path) -> None:
    """A server that is silent, a Ctrl-C, and a part of a release in /tmp."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1.tar.gz{PIN}"
        with command("verify", url, TMPDIR=str(folder), NO_PROXY="127.0.0.1") as process:
            try:
                until(lambda: any(folder.glob("**/release.tar")), process)
                process.send_signal(signal.SIGTERM)
                out, log = process.communicate(timeout=10)
            finally:
                process.kill()
    assert process.returncode == 128 + signal.SIGINT, log
    assert (out, list(folder.iterdir())) == ("", [])


def test_a_download_has_its_time(tmp_path: Path) -> None:
    """A job that waits a quarter of an hour for a server that is down."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1.tar.gz{PIN}"
        code, _, log = run(url, "--timeout", "1s", TMPDIR=str(tmp_path), NO_PROXY="127.0.0.1")
    assert code == 75
    assert "not finished in time" in log
    assert list(tmp_path.iterdir()) == []
