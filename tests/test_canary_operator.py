"""Nor does an operator's command show, send or keep a secret where it does not belong."""

import base64
import hashlib
import json
from pathlib import Path

import canary
import pytest
from canary import CONFIG, Places
from fixtures_agent import BASE, SERVE, tarball
from fixtures_operator import Operator
from fixtures_repository import Clone
from test_release_build import command
from web import Answer, Asked, Web

# Where a canary may be, and why.
ALLOWED = {
    ("", "revealed"): "asked for by --reveal, or by a command that is for nothing else",
    ("PLAIN_PASSWORD", "shown"): "no secret to the table, and nothing else is listed of such a key than its value",
    ("PLAIN_PASSWORD", "table"): "likewise",
    ("TOKEN", "web https://api.github.com/"): "the host whose token it is",
    ("LOGIN", "web https://releases.example/"): "the host that they are for",
    ("PASSWORD", "web https://releases.example/"): "likewise",
    ("QUERY", "web https://releases.example/"): "likewise",
}
SECRETS = [name for name in CONFIG if name != "PLAIN_PASSWORD"]
SHOWN = (
    "list", "list --json", "list -r v1", "list -r v1 --json", "diff v1", "diff v1 --json", "diff v1 v2", "history",
    "history --json", "get KMS_PASSWORD", "promote v1", "rollback 3", "unset URLISH", "clean v1 --yes",
)  # fmt: skip
REVEALED = ("list --reveal", "get KMS_PASSWORD --reveal", "diff v1 --reveal", "export", "export -r v1")


def test_adf_config_shows_secrets_to_who_asks_for_them_alone(operator: Operator) -> None:
    """A password in a terminal's scrollback, a CI job's log or the app's history."""
    places, kms = Places(), operator.cloud.client("kms")
    kms.create_alias(AliasName="alias/adf-config", TargetKeyId=kms.create_key()["KeyMetadata"]["KeyId"])
    operator.done("set", f"PLAIN_PASSWORD={CONFIG['PLAIN_PASSWORD']}", "URLISH=first")
    for name in SECRETS:
        places.put("shown set", operator.done("set", "--secret", name, typed=CONFIG[name]))
    places.put("shown set", operator.done("-r", "v1", "set", "--secret", "PEM", typed=CONFIG["PEM"]))
    for words in REVEALED:
        places.put("revealed", operator.done(*words.split()))
    for words in SHOWN:
        ran = operator(*words.split())
        places.put("shown", ran.out + ran.err)
    places.put("table", json.dumps(operator.held(), default=lambda data: bytes(data).decode(errors="replace")))
    assert not (leaks := places.leaks(ALLOWED)), "\n".join(sorted(leaks))
    assert places.has("revealed", CONFIG["KMS_PASSWORD"])
    assert places.has("shown", "KMS_PASSWORD")
    assert places.has("table", "#history")


def quoted(asked: Asked) -> Answer:
    """An answer that says what it was sent, in its reason and in its body; without a login, that it wants one."""
    login = asked.headers.get("Authorization", "")
    if not login:
        return Answer(401, headers={"WWW-Authenticate": 'Basic realm="here"'})
    known = base64.b64decode(login.removeprefix("Basic ")) if login.startswith("Basic ") else b""
    sent = f"no right by {login} ({known.decode()}) for {asked.path}"
    return Answer(
        403, json.dumps({"message": sent, "errors": [{"code": "DENIED", "message": sent}]}).encode(), reason=sent
    )


@pytest.fixture
def places(internet: Web, web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    """What is left of `adf-release` run where every server quotes what it is sent, and every login is a canary."""
    for url in ("https://api.github.com/repos/o/r/commits/tags/v1", "https://releases.example/v1.tar.gz"):
        internet.routes[url] = quoted
    web.routes["/v2/"] = lambda asked: Answer(200) if "Authorization" in asked.headers else quoted(asked)
    web.routes["/v2/team/web/manifests/v1"] = quoted
    login = base64.b64encode(f"me:{canary.REGISTRY}".encode()).decode()
    (tmp_path / "docker").mkdir()
    (tmp_path / "docker/config.json").write_text(json.dumps({"auths": {web.host: {"auth": login}}}))
    proxy = internet.url.replace("//", f"//me:{canary.PROXY}@")
    environment = {
        "HTTPS_PROXY": proxy, "NO_PROXY": "127.0.0.1", "GH_TOKEN": canary.TOKEN,
        "REQUESTS_CA_BUNDLE": str(internet.certificate), "DOCKER_CONFIG": str(tmp_path / "docker"),
    }  # fmt: skip
    for name, text in environment.items():
        monkeypatch.setenv(name, text)
    return Places()


SAID = (
    ("web https://api.github.com/", canary.TOKEN), ("web https://releases.example/", "Authorization"),
    ("shown create", "403 Forbidden"), ("shown verify", "403 Forbidden"), ("shown verify", "no right by"),
    ("shown build", "it is ***"),
)  # fmt: skip


def test_adf_release_says_why_without_what_it_sent(
    places: Places, clone: Clone, internet: Web, web: Web, base_image: str, tmp_path: Path
) -> None:
    """A token for every private repository in the log of a CI job that is public."""
    assert base_image
    clone.git("tag", "v1")
    code, out, err = clone.ran("--to", "github:o/r")
    places.put("shown create", out + err)
    assert code == 12, err
    path = tmp_path / "v1.tar.gz"
    toml = f'[build.args]\nNPM_TOKEN = "{canary.ARGUMENT}"\n'
    dockerfile = f"FROM {BASE}\nARG NPM_TOKEN\nRUN echo it is $NPM_TOKEN; exit 3\n{SERVE}\n"
    path.write_bytes(tarball({"Dockerfile": dockerfile, "adf.toml": toml}))
    unknown = json.dumps({"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}).encode()
    for tag in ("v1", f"adf-{hashlib.sha256(path.read_bytes()).hexdigest()}"):
        web.serve(f"/v2/team/new/manifests/{tag}", Answer(404, unknown, {"Content-Type": "application/json"}))
    url = f"https://{canary.LOGIN}:{canary.PASSWORD}@releases.example/v1.tar.gz?key={canary.QUERY}"
    runs: tuple[tuple[str, ...], ...] = (
        ("verify", url),
        ("verify", f"docker://{web.host}/team/web:v1"),
        ("build", f"file://{path}", "--push", f"{web.host}/team/new"),
    )
    for words in runs:
        with command(*words) as process:
            said = "".join(process.communicate(timeout=30))
        assert process.returncode, said
        places.put(f"shown {words[0]}", said)
    for asked in internet.asked:
        places.put(f"web {asked.path}", f"{asked.path} {asked.headers}".encode() + asked.body)
    assert not (leaks := places.leaks(ALLOWED)), "\n".join(sorted(leaks))
    for place, said in SAID:
        assert places.has(place, said), f"{said} in {place}: {places.texts}"
