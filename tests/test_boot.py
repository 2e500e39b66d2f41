"""A release boots for real: the command, a Docker engine, AWS on loopback."""

import gzip
import hashlib
import json
import os
import signal
import subprocess
import urllib.request
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from pathlib import Path
from socket import socket

import pytest
from conftest import Unprivileged
from fixtures_agent import BASE, Machine, app, tarball
from web import Answer


def free_port() -> int:
    with socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def page(port: int, path: str = "/") -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        text: str = answer.read().decode()
        return text


def reach_health(process: "subprocess.Popen[str]") -> None:
    """Returns when the boot of *process* has come to its last stage."""
    assert process.stderr is not None
    assert any(json.loads(line).get("stage") == "health" for line in process.stderr), "it ended before"


def stages(machine: Machine) -> dict[str, str]:
    return {stage["name"]: stage["state"] for stage in machine.status()["stages"]}


def test_a_release_boots_to_an_app_that_answers_and_the_record_tells_how(machine: Machine) -> None:
    """An instance that says it is in service while nobody answers on its port."""
    port = free_port()
    booted = machine.boot(RELEASE_URL=machine.release(app("first")), ADF_PUBLISH=f"{port}:8000")
    assert booted.code == 0, booted.log
    assert page(port) == "first"
    assert booted.status["phase"] == "in service"
    names = ["settings", "docker", "release", "image", "container", "health", "report"]
    assert stages(machine) == dict.fromkeys(names, "done")
    assert booted.status["release"]["name"] == "v1"
    assert booted.status["container"]["ports"] == [f"{port}:8000"]
    screen = machine.run("status")
    assert screen.code == 0
    assert "in service" in screen.out
    assert f"127.0.0.1:{port}" in screen.out


def test_config_reaches_the_container_with_the_names_of_app_and_release(machine: Machine) -> None:
    """An app that starts with half its config, or with another app's."""
    table(machine, GREETING="hi", PORT="9")
    port = free_port()
    url = machine.release(app(), "v7.tar.gz")
    booted = machine.boot(RELEASE_URL=url, ADF_APP="web", ADF_PUBLISH=f"{port}:8000")
    assert booted.code == 0, booted.log
    container = machine.containers()[0]
    environment = dict(pair.split("=", 1) for pair in container.attrs["Config"]["Env"])
    instance = machine.cloud.imds.instance
    assert environment["GREETING"] == "hi"
    assert environment["PORT"] == "9", "config outranks the port that is published"
    assert environment["ADF_APP"] == "web"
    assert environment["ADF_RELEASE"] == "v7"
    assert environment["ADF_INSTANCE_ID"] == instance.instance_id
    assert environment["AWS_REGION"] == instance.region
    labels = container.labels
    assert labels["adf.app"] == "web"
    assert labels["adf.digest"] == machine.state()["release_digest"]
    assert container.attrs["HostConfig"]["RestartPolicy"]["Name"] in ("", "no")
    assert container.attrs["HostConfig"]["LogConfig"]["Type"] == "local"
    assert booted.status["config"]["keys"] == 2
    assert "hi" not in (machine.root / "run/adf-agent/status.json").read_text()


def test_the_agent_alone_restarted_adopts_what_runs(machine: Machine) -> None:
    """A package upgrade or a crash of the agent that restarts the app and cuts its requests."""
    machine.user_data(RELEASE_URL=machine.release(app()), ADF_PUBLISH=f"{free_port()}:8000")
    assert machine.run("boot").code == 0
    before = machine.containers()[0].attrs["State"]["Pid"]
    again = machine.run("boot")
    assert again.code == 0, again.log
    assert machine.containers()[0].attrs["State"]["Pid"] == before
    assert set(stages(machine)) == {"settings", "docker", "container"}


def test_a_restarted_instance_reuses_the_image_and_makes_a_new_container(machine: Machine) -> None:
    """A reboot that runs with the former config, or builds anew and fails as the URL's bytes are gone."""
    table(machine, GREETING="old")
    url = machine.release(app())
    machine.user_data(RELEASE_URL=url, ADF_APP="web", ADF_PUBLISH=f"{free_port()}:8000")
    assert machine.run("boot").code == 0
    before = machine.containers()[0].id
    reboot(machine)
    table(machine, GREETING="new")
    Path(url.removeprefix("file://")).unlink()
    again = machine.run("boot")
    assert again.code == 0, again.log
    container = machine.containers()[0]
    assert container.id != before
    assert "GREETING=new" in container.attrs["Config"]["Env"]
    facts = {stage["name"]: stage["fact"] for stage in again.status["stages"]}
    assert facts["image"].startswith("reused")


def test_another_release_url_is_another_release(machine: Machine) -> None:
    """A reboot after a new launch that goes on with the release of before."""
    port = free_port()
    assert machine.boot(RELEASE_URL=machine.release(app("one")), ADF_PUBLISH=f"{port}:8000").code == 0
    again = machine.boot(RELEASE_URL=machine.release(app("two"), "v2.tar.gz"), ADF_PUBLISH=f"{port}:8000")
    assert again.code == 0, again.log
    assert page(port) == "two"
    assert len(machine.containers()) == 1


def test_a_release_that_failed_is_not_taken_for_the_one_that_runs(machine: Machine) -> None:
    """A second boot that finds the former release's container healthy and calls it the new release."""
    port = free_port()
    assert machine.boot(RELEASE_URL=machine.release(app("old")), ADF_PUBLISH=f"{port}:8000").code == 0
    table(machine, **{"BAD-NAME": "x"})
    url = machine.release(app("new"), "v2.tar.gz")
    assert machine.boot(RELEASE_URL=url, ADF_PUBLISH=f"{port}:8000", ADF_APP="web").code == 13
    again = machine.run("boot")
    assert again.code == 13, again.log
    delete(machine, "BAD-NAME")
    assert machine.run("boot").code == 0
    assert page(port) == "new"


def test_what_a_crash_left_running_is_gone_before_the_next_boot_can_fail(machine: Machine) -> None:
    """A container that no agent knows of, on an instance that is reported as failed."""
    toml = '[health]\nprobe = "http://:8000/never"\n'
    machine.user_data(RELEASE_URL=machine.release(app(adf_toml=toml)), ADF_PUBLISH=f"{free_port()}:8000")
    with machine.start("boot") as process:
        reach_health(process)
        process.kill()
        process.communicate(timeout=60)
    assert len(machine.containers()) == 1
    assert machine.boot(RELEASE_URL="file:///nowhere.tar.gz").code == 12
    assert machine.containers() == []


def test_the_last_config_serves_a_restart_while_the_table_is_out_of_reach(machine: Machine) -> None:
    """A DynamoDB outage that takes down every instance which happens to restart in it."""
    table(machine, GREETING="hi")
    settings = {"RELEASE_URL": machine.release(app()), "ADF_APP": "web", "ADF_PUBLISH": f"{free_port()}:8000"}
    machine.user_data(**settings, ADF_BOOT_TIMEOUT="40s")
    assert machine.run("boot").code == 0
    kept = machine.root / "var/lib/adf-agent/config.json"
    assert kept.stat().st_mode & 0o777 == 0o600
    reboot(machine)
    again = machine.run("boot", AWS_ENDPOINT_URL_DYNAMODB="http://127.0.0.1:9")
    assert again.code == 0, again.log
    assert "GREETING=hi" in machine.containers()[0].attrs["Config"]["Env"]
    assert any("last config that worked" in reason for reason in again.status["degraded"])
    kept.unlink()
    reboot(machine)
    machine.user_data(**settings, ADF_BOOT_TIMEOUT="3s")
    assert machine.run("boot", AWS_ENDPOINT_URL_DYNAMODB="http://127.0.0.1:9").code == 75


def test_secrets_are_in_nothing_that_others_can_read(machine: Machine) -> None:
    """A database password in the journal, in a world-readable status or in the app's last lines."""
    table(machine)
    ssm, canary = machine.cloud.client("ssm"), "c4n4ry-of-the-secret"
    ssm.put_parameter(Name="/web/password", Value=canary, Type="SecureString")
    item = {"App": {"S": "web"}, "Name": {"S": "PASSWORD"}, "Ref": {"S": "ssm:/web/password"}}
    machine.cloud.client("dynamodb").put_item(TableName="adf-config", Item=item)
    dockerfile = f'FROM {BASE}\nEXPOSE 8000\nCMD ["sh", "-c", "echo it is $PASSWORD; exit 1"]\n'
    url = machine.release({"Dockerfile": dockerfile})
    booted = machine.boot(RELEASE_URL=url, ADF_APP="web", ADF_PUBLISH=f"{free_port()}:8000")
    assert booted.code == 16, booted.log
    assert "it is ***" in machine.run("status").out
    written = [path for path in machine.root.rglob("*") if path.is_file() and path.stat().st_mode & 0o077]
    assert [path for path in written if canary in path.read_text(errors="replace")] == []
    assert canary not in booted.log + booted.out


def test_state_of_another_instance_is_discarded_with_its_container(machine: Machine) -> None:
    """An AMI made from a used instance that boots with the app of its former self."""
    machine.user_data(RELEASE_URL=machine.release(app()), ADF_PUBLISH=f"{free_port()}:8000")
    assert machine.run("boot").code == 0
    former = machine.containers()[0].id
    machine.cloud.imds.instance.instance_id = f"i-{os.urandom(8).hex()}"
    again = machine.run("boot")
    assert again.code == 0, again.log
    assert former not in {container.id for container in machine.engine.containers.list(all=True, ignore_removed=True)}
    assert len(machine.containers()) == 1
    assert "release" in stages(machine), "the former instance's release was not taken for ours"


def test_a_stopped_boot_leaves_nothing(machine: Machine) -> None:
    """A SIGTERM in the middle of a boot that leaves a container which nobody supervises."""
    toml = '[health]\nprobe = "http://:8000/never"\n'
    machine.user_data(RELEASE_URL=machine.release(app(adf_toml=toml)), ADF_PUBLISH=f"{free_port()}:8000")
    with machine.start("boot") as process:
        reach_health(process)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert machine.containers() == []


def test_hold_keeps_the_body(machine: Machine) -> None:
    """A failed container that is gone before anybody can look into it."""
    files = app(adf_toml='[health]\nprobe = "http://:8000/never"\nstart_timeout = 1\n')
    booted = machine.boot(RELEASE_URL=machine.release(files), ADF_PUBLISH=f"{free_port()}:8000", ADF_ON_FAILURE="hold")
    assert booted.code == 16
    assert len(machine.containers()) == 1


@pytest.mark.parametrize("form", ["lines", "json", "cloud-config", "shell", "mime", "gzip"])
def test_every_form_of_user_data_boots_as_an_unprivileged_user(
    machine: Machine, unprivileged: Unprivileged, form: str
) -> None:
    """A launch template that works with one form of user-data only; an agent that turns out to need root."""
    folder = unprivileged.folder
    (folder / "v1.tar.gz").write_bytes(tarball(app(form)))
    (folder / "v1.tar.gz").chmod(0o644)
    port = free_port()
    settings = {
        "RELEASE_URL": f"file://{folder}/v1.tar.gz",
        "ADF_PUBLISH": f"{port}:8000",
        "ADF_PUBLISH_ADDRESS": "127.0.0.1",
    }
    machine.cloud.imds.instance.user_data = user_data(form, settings)
    machine.root = folder
    environment = {**machine.environment, "ADF_ROOT": str(folder)}
    process = unprivileged("-m", "adf_agent", "boot", env=environment)
    _, log = process.communicate(timeout=120)
    assert process.returncode == 0, log
    assert page(port) == form
    shown = unprivileged("-m", "adf_agent", "settings", "--json", env=environment)
    out, _ = shown.communicate(timeout=60)
    assert json.loads(out)["ADF_PUBLISH"] == {"value": f"{port}:8000", "source": "user-data"}
    machine.clean()


def user_data(form: str, settings: dict[str, str]) -> bytes:
    lines = "".join(f"{key}={value}\n" for key, value in settings.items())
    yaml = "#cloud-config\npackages: [htop]\nadf:\n" + "".join(f"  {k}: '{v}'\n" for k, v in settings.items())
    if form == "mime":
        parts = MIMEMultipart()
        parts.attach(MIMEText("#!/bin/sh\necho hello\n", "x-shellscript"))
        parts.attach(MIMEText(yaml, "cloud-config"))
        return parts.as_bytes()
    forms = {
        "lines": f"# this instance\n{lines}",
        "json": json.dumps(settings),
        "cloud-config": yaml,
        "shell": "#!/bin/bash\nset -e\n"
        + "".join(f'export {k}="{v}"\n' for k, v in settings.items())
        + "apt-get update\n",
        "gzip": lines,
    }
    data = forms[form].encode()
    return gzip.compress(data) if form == "gzip" else data


def test_settings_in_tags_and_agent_env_yield_to_user_data(machine: Machine) -> None:
    """A re-tag after the launch that changes what a reboot runs."""
    machine.cloud.imds.instance.tags = {"Name": "x", "ADF_RELEASE": "from-tag", "ADF_BOOT_TIMEOUT": "5m"}
    machine.agent_env(ADF_BOOT_TIMEOUT="3m", ADF_LOG_DRIVER="json-file")
    machine.user_data(RELEASE_URL="https://example.com/v1.tar.gz", ADF_RELEASE="from-user-data")
    shown = json.loads(machine.run("settings", "--json").out)
    assert shown["ADF_RELEASE"] == {"value": "from-user-data", "source": "user-data"}
    assert shown["ADF_BOOT_TIMEOUT"] == {"value": "5m", "source": "tag"}
    assert shown["ADF_LOG_DRIVER"] == {"value": "json-file", "source": "agent.env"}
    assert shown["ADF_CONFIG_TABLE"] == {"value": "adf-config", "source": "default"}


def test_a_release_comes_from_s3_by_the_instances_role(machine: Machine) -> None:
    """A release in a private bucket that only a presigned URL could reach."""
    s3 = machine.cloud.client("s3")
    place = {"LocationConstraint": machine.cloud.imds.instance.region}
    s3.create_bucket(Bucket="releases", CreateBucketConfiguration=place)
    s3.put_bucket_versioning(Bucket="releases", VersioningConfiguration={"Status": "Enabled"})
    version = s3.put_object(Bucket="releases", Key="web/v1.tar.gz", Body=tarball(app("of s3")))["VersionId"]
    s3.put_object(Bucket="releases", Key="web/v1.tar.gz", Body=b"another one")
    port = free_port()
    url = f"s3://releases/web/v1.tar.gz?versionId={version}"
    booted = machine.boot(RELEASE_URL=url, ADF_PUBLISH=f"{port}:8000")
    assert booted.code == 0, booted.log
    assert page(port) == "of s3"


def test_a_server_that_fails_for_a_while_is_tried_again(machine: Machine) -> None:
    """A hiccup of the store that costs an instance."""
    body = tarball(app("at last"))
    machine.web.serve("/v1.tar.gz", Answer(500), Answer(503), Answer(429), Answer(200, body))
    port = free_port()
    url = f"{machine.web.url}/v1.tar.gz#sha256={digest(body)}"
    booted = machine.boot(RELEASE_URL=url, ADF_PUBLISH=f"{port}:8000")
    assert booted.code == 0, booted.log
    assert page(port) == "at last"
    assert len(machine.web.asked) == 4


def test_the_status_screen_waits_for_a_boot_and_tells_it_apart_from_its_end(machine: Machine) -> None:
    """A deploy script that goes on while the instance is still booting, or waits for one that is dead."""
    assert machine.run("status").code == 3
    toml = '[health]\nprobe = "http://:8000/never"\n'
    machine.user_data(RELEASE_URL=machine.release(app(adf_toml=toml)), ADF_PUBLISH=f"{free_port()}:8000")
    with machine.start("boot") as process:
        reach_health(process)
        assert machine.run("status").code == 4
        with machine.start("status", "--wait") as waiting:
            process.kill()
            assert waiting.wait(timeout=30) == 3
        process.communicate()


def table(machine: Machine, **keys: str) -> None:
    client = machine.cloud.client("dynamodb")
    if not client.list_tables()["TableNames"]:
        names = {"App": "HASH", "Name": "RANGE"}
        client.create_table(
            TableName="adf-config",
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in names],
            KeySchema=[{"AttributeName": name, "KeyType": kind} for name, kind in names.items()],
        )
    for name, value in keys.items():
        item = {"App": {"S": "web"}, "Name": {"S": name}, "Value": {"S": value}}
        client.put_item(TableName="adf-config", Item=item)


def delete(machine: Machine, name: str) -> None:
    key = {"App": {"S": "web"}, "Name": {"S": name}}
    machine.cloud.client("dynamodb").delete_item(TableName="adf-config", Key=key)


def digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def reboot(machine: Machine) -> None:
    """The kernel's boot id can't be changed: the state's is made another one. The container stops with its machine."""
    path = machine.root / "var/lib/adf-agent/state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "boot_id": "before"}))
    for container in machine.containers():
        container.stop(timeout=0)
