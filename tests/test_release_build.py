"""A release built once where an operator or a CI job is, and pulled by the fleet."""

import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.errors import NotFound
from fixtures_agent import BASE, Files, Machine, app, tarball
from test_bad_input import registry
from test_boot import free_port, page

from adf_agent import build as builders
from adf_agent.deadline import Deadline
from adf_agent.errors import TRY_AGAIN, AgentError, DockerError, ImageError, ReleaseError, SettingsError, Stopped
from adf_agent.notation import Limits
from adf_agent.ops.release.build import build
from adf_agent.ops.release.registry import Found, find

COMMAND = "import sys; from adf_agent.ops.release.cli import main; sys.exit(main())"
IMAGE = 14
# What `htpasswd -nbB -C 4 me hunter2` prints.
LOGIN = ("me", "hunter2", "me:$2b$04$sb3ZwHNTMhh31Z3kIhbjLO7mMuUg3qFHDkUlABGspa90VuSdnwv5K")
READ_ONLY = "  maintenance: {readonly: {enabled: true}}\n"


def command(*arguments: str, **environment: str) -> "subprocess.Popen[str]":
    """`adf-release ARGUMENTS…`, started."""
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, *arguments],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One registry for this file; each test has a repository of its own there."""
    with registry(tmp_path_factory.mktemp("registry")) as found:
        yield found


@dataclass(frozen=True)
class Place:
    """A repository to push to, a folder of releases, and the engine that builds."""

    client: Any
    repository: str
    folder: Path
    mark: str  # a LABEL of all that is built here, as others may use the engine at the same time

    def release(self, name: str = "v1", files: Files | None = None) -> str:
        """The URL of a release, another one each time unless *files* say what is in it."""
        path = self.folder / f"{name}.tar.gz"
        files = files or app(os.urandom(6).hex())
        path.write_bytes(tarball({**files, "Dockerfile": f"{files['Dockerfile']!s}\nLABEL {self.mark}\n"}))
        return f"file://{path}"

    def renamed(self, name: str, other: str) -> str:
        """The URL of the release *name* under *other*, the same bytes."""
        return f"file://{(self.folder / f'{name}.tar.gz').rename(self.folder / f'{other}.tar.gz')}"

    def build(self, url: str, seconds: float = 60, push: str | None = None, **options: Any) -> str:
        deadline = Deadline(seconds, options.get("stop") or threading.Event())
        push = self.repository if push is None else push
        return build(url, push, options.get("builder", "auto"), Limits(), deadline)

    def error(self, url: str, seconds: float = 60, push: str | None = None, **options: Any) -> AgentError:
        with pytest.raises(AgentError) as caught:
            self.build(url, seconds, push, **options)
        return caught.value

    def there(self, tag: str) -> Found | None:
        return find(self.client, f"{self.repository}:{tag}", Deadline(10, threading.Event()))

    def left(self) -> list[Any]:
        """What the engine has of images that were built here, tagged or not."""
        found: list[Any] = self.client.api.images(all=True, filters={"label": self.mark})
        return found


@pytest.fixture
def place(docker_client: docker.DockerClient, base_image: str, address: str, tmp_path: Path) -> Iterator[Place]:
    """Whatever a test builds there, nothing of it is left in the engine at its end."""
    assert base_image
    name = os.urandom(4).hex()
    made = Place(docker_client, f"{address}/team/{name}", tmp_path, f"adf-test={name}")
    yield made
    assert made.left() == []
    assert docker_client.images.list(made.repository) == []


def test_what_the_command_prints_boots_under_the_releases_name(machine: Machine, place: Place) -> None:
    """A fleet that can't pull what the build server delivered, or takes its config for another release's."""
    with command("build", place.release("v7", app("once")), "--push", place.repository) as process:
        out, log = process.communicate(timeout=60)
    assert process.returncode == 0, log
    found = place.there("v7")
    assert found is not None
    assert out == f"docker://{place.repository}:v7@sha256:{found.digest}\n"
    assert "RELEASE_URL pins no digest" in log
    port = free_port()
    booted = machine.boot(RELEASE_URL=out.strip(), ADF_PUBLISH=f"{port}:8000")
    assert booted.code == 0, booted.log
    assert page(port) == "once"
    assert booted.status["release"]["name"] == "v7"
    assert machine.state()["release_digest"] == found.digest
    machine.clean()


@pytest.mark.parametrize("builder", ["buildkit", "classic"])
def test_a_release_is_built_once_whatever_it_is_called_later(
    place: Place, capsys: pytest.CaptureFixture[str], builder: str
) -> None:
    """A job that ran twice takes the tag, and so the bytes, from what a fleet is told to pull."""
    url = place.release("v1")
    first = place.build(url, builder=builder)
    said = capsys.readouterr().err
    assert "building" in said
    assert said.index(f"pushing {place.repository}:adf-") < said.index(f"pushing {place.repository}:v1"), (
        "a push that breaks off must leave no name without what it was made of"
    )
    assert place.build(url) == first
    assert "nothing is pushed" in capsys.readouterr().err
    second = place.build(place.renamed("v1", "v2"))
    assert second == first.replace(":v1@", ":v2@")
    said = capsys.readouterr().err
    assert "image pulled" in said
    assert "adf-" not in said.partition("image pulled")[2], "the tag that says what it was made of stays where it is"


def test_a_name_is_not_taken_from_another_releases_image(place: Place) -> None:
    """A branch's name, or a tag moved in git, that takes the image away from the fleet that runs it."""
    place.build(place.release("main"))
    before = place.there("main")
    error = place.error(place.release("main"))
    assert isinstance(error, ImageError)
    assert (error.exit_code, error.cause) == (IMAGE, "release")
    assert f"{place.repository}:main is there already" in error.sentence
    assert place.there("main") == before
    place.build(place.release("v3"))
    assert "is there already" in place.error(place.renamed("v3", "main")).sentence, "though both were made here"


def test_tags_that_the_engine_had_are_their_images_again(place: Place) -> None:
    """An operator's own image of that name, overwritten or lost on the machine where it was made."""
    name = f"{place.repository}:v1"
    dockerfile = io.BytesIO(f"FROM {BASE}\nLABEL own={name}\n".encode())
    own, _ = place.client.images.build(fileobj=dockerfile, tag=name, rm=True)
    place.error(place.release("v1", {"Dockerfile": f"FROM {BASE}\nRUN exit 3\n"}))
    assert place.client.images.get(name) == own
    place.build(place.release("v1"))
    assert place.client.images.get(name) == own
    place.client.images.remove(name)


def test_a_build_that_fails_shows_its_last_lines_and_leaves_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A red job that tells nobody which step failed; a build server whose disk fills with failures."""
    monkeypatch.setattr("tempfile.tempdir", str(place.folder / "tmp"))
    (place.folder / "tmp").mkdir()
    url = place.release(files={"Dockerfile": f"FROM {BASE}\nRUN echo https://me:hunter2@so.it.goes; exit 3\n"})
    error = place.error(url)
    assert error.exit_code == IMAGE
    assert "| " in (said := capsys.readouterr().err)
    assert "https://***@so.it.goes" in said
    assert "hunter2" not in said
    assert place.there("v1") is None
    assert list((place.folder / "tmp").iterdir()) == []


def test_a_build_that_takes_too_long_is_told_which_option_gives_it_longer(place: Place) -> None:
    """A hint at a boot's setting where nothing boots."""
    url = place.release(files={"Dockerfile": f"FROM {BASE}\nRUN sleep 60\n"})
    error = place.error(url, seconds=1, builder="classic")  # which ends at once
    assert error.exit_code == IMAGE
    assert "not finished" in error.sentence
    assert error.hint == "Give it more time: --timeout."


def test_a_stop_ends_it_at_once_and_leaves_nothing(place: Place) -> None:
    """Ctrl-C in the middle of a long build that leaves the release in /tmp, or goes on in the engine."""
    folder = place.folder / "tmp"
    folder.mkdir()
    url = place.release(files={"Dockerfile": f"FROM {BASE}\nRUN echo under way; sleep 30\n"})
    with command("build", url, "--push", place.repository, TMPDIR=str(folder)) as process:
        try:
            until(lambda: any("under way" in log.read_text() for log in folder.glob("**/build.log")), process)
            process.send_signal(signal.SIGINT)
            began = time.monotonic()
            out, log = process.communicate(timeout=20)
        finally:
            process.kill()
    assert time.monotonic() - began < builders.CANCEL_SECONDS + 5
    assert process.returncode == 128 + signal.SIGINT, log
    assert (out, list(folder.iterdir())) == ("", [])


def until(condition: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    limit = time.monotonic() + 30
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < limit
        time.sleep(0.02)


SHA = "a" * 64


@pytest.mark.parametrize(
    ("url", "push", "says"),
    [
        ("file:///none/v1.tar.gz", "registry.example/web:v1", "no registry/repository"),
        ("file:///none/v1.tar.gz", f"registry.example/web@sha256:{SHA}", "no registry/repository"),
        ("file:///none/v1.tar.gz", "registry.example:5000", "no registry/repository"),
        ("file:///none/v1.tar.gz", "https://registry.example/web", "no registry/repository"),
        ("file:///none/v1.tar.gz", "registry.example/Web", "no registry/repository"),
        ("file:///none/v1.tar.gz", "", "no registry/repository"),
        ("docker://registry.example/web:v1", "registry.example/web", "nothing to build"),
        ("file:///none/-v1.tar.gz", "registry.example/web", "can't be an image's tag: '-v1'"),
        ("ftp://dl.example/v1.tar.gz", "registry.example/web", "starts with none of"),
    ],
)
def test_what_can_not_be_pushed_is_refused_before_anything_is_fetched(
    place: Place, url: str, push: str, says: str
) -> None:
    """Minutes of building for a repository that no registry could have."""
    error = place.error(url, push=push)
    assert isinstance(error, SettingsError)
    assert says in error.sentence
    assert error.hint


def test_a_repository_without_a_host_is_docker_hubs(place: Place) -> None:
    """`owner/repo`, as everybody writes it, refused."""
    assert isinstance(place.error("file:///none/v1.tar.gz", push="owner/web"), ReleaseError)


def test_logins_are_dockers_own(
    place: Place, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that logged in, and is refused; one that did not, and is told so only after the build."""
    folder = tmp_path_factory.mktemp("locked")
    user, password, line = LOGIN
    (folder / "htpasswd").write_text(line)
    url = place.release()
    with registry(folder, f"auth: {{htpasswd: {{realm: test, path: {folder}/htpasswd}}}}\n") as locked:
        monkeypatch.setenv("DOCKER_CONFIG", str(folder))
        place.client.api.reload_config(str(folder / "config.json"))
        error = place.error(url, push=f"{locked}/web")
        assert isinstance(error, ImageError)
        assert "docker login" in error.hint
        login = b64encode(f"{user}:{password}".encode()).decode()
        (folder / "config.json").write_text(f'{{"auths": {{"{locked}": {{"auth": "{login}"}}}}}}')
        assert place.build(url, push=f"{locked}/web").startswith(f"docker://{locked}/web:v1@sha256:")


def test_a_registry_that_takes_no_images_is_quoted(place: Place, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A push that failed taken for one that went well, as Docker answers 200 first."""
    with registry(tmp_path_factory.mktemp("closed"), READ_ONLY) as closed:
        error = place.error(place.release(), push=f"{closed}/web")
        assert isinstance(error, ImageError)
        assert f"{closed}/web:adf-" in error.sentence
        assert "can't be pushed" in error.sentence
        assert not error.transient
        assert place.left() == []
        with pytest.raises(NotFound):
            place.client.images.get(f"{closed}/web:v1")


def test_a_registry_out_of_reach_is_tried_again_for_a_while(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry's hiccup that fails the job; a mistyped one that is asked for a quarter of an hour."""
    monkeypatch.setattr("adf_agent.ops.release.registry.ANSWER_SECONDS", 2.0)
    began = time.monotonic()
    error = place.error(place.release(), push=f"127.0.0.1:{free_port()}/web")
    assert error.exit_code == TRY_AGAIN
    assert "refused" in error.sentence
    assert "name is right" in error.hint
    assert time.monotonic() - began < 20


def test_a_registry_that_is_silent_holds_up_neither_the_deadline_nor_a_stop(place: Place) -> None:
    """Ctrl-C that does nothing while a firewall swallows what is sent."""
    url = place.release()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        push = f"127.0.0.1:{silent.getsockname()[1]}/web"
        error = place.error(url, seconds=1, push=push)
        assert (error.exit_code, "in time" in error.sentence) == (TRY_AGAIN, True)
        stop = threading.Event()
        timer = threading.Timer(0.5, stop.set)
        timer.start()
        began = time.monotonic()
        with pytest.raises(Stopped):
            place.build(url, stop=stop, push=push)
        assert time.monotonic() - began < 5
        timer.join()


def test_no_engine_is_waited_for_briefly(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A person who watches a quarter of an hour how no Docker comes up."""
    monkeypatch.setattr("adf_agent.ops.release.registry.ENGINE_SECONDS", 0.5)
    monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{free_port()}")
    began = time.monotonic()
    error = place.error("file:///none/v1.tar.gz")
    assert isinstance(error, DockerError)
    assert time.monotonic() - began < 5
