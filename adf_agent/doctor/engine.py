"""Docker: does it answer, can it build, has it a login for the release's registry."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from docker.auth import convert_to_hostname, resolve_index_name, resolve_repository_name
from docker.errors import APIError

from adf_agent import engine, image
from adf_agent.build import Builder
from adf_agent.doctor.case import ENGINE_SECONDS, Case, is_ordinary
from adf_agent.doctor.check import NETWORK, Finding, Skipped
from adf_agent.errors import DockerError, ImageError

START = "Its journal says why (sudo journalctl -u docker -n 50); to start it where it does not run"


def docker(case: Case) -> Iterator[Finding]:
    """Whether the engine answers this user."""
    try:
        reached = case.engine.own()
    except DockerError as error:
        if "may not use" in error.sentence and is_ordinary():
            raise Skipped(error.sentence, "sudo adf-agent doctor") from error
        yield Finding(
            "fail", error.sentence, f"{START}: sudo systemctl start docker" if error.transient else error.hint
        )
        return
    yield Finding("ok", f"{reached.fact}, data in {reached.folder}")


def builder(case: Case) -> Iterator[Finding]:
    """What a release is built with."""
    reached, launched = case.engine.need(), case.launched.need()
    wanted = launched.settings.builder
    if launched.settings.release_url.scheme == "docker":
        return
    if Builder.choose(wanted, reached, case.root.var).command:  # raises where it is missing
        yield Finding("ok", f"builds with BuildKit, by {reached.buildkit}")
    elif wanted == "classic":
        yield Finding("ok", "builds with the classic builder, as ADF_BUILDER says")
    else:
        yield Finding(
            "warn",
            "no docker command here builds with BuildKit: the classic builder serves, which knows no RUN --mount",
            f"Install {engine.BUILDKIT_PACKAGES} into the AMI.",
        )


def registry(case: Case) -> Iterator[Finding]:
    """For an image in a registry: a login or helper for it, and the manifest, which the engine itself asks for."""
    location = case.launched.need().settings.release_url
    if location.scheme != "docker":
        return
    host, _ = resolve_repository_name(location.reference)
    path = Path(os.environ.get("DOCKER_CONFIG") or case.root.etc / "docker") / "config.json"
    login = judge_login(host, _logins(path), path)
    yield login
    if login.level == "fail":
        return
    reached = case.engine.need()
    try:
        with engine.asking(f"asking {host} for {location.reference}", ImageError):
            found = reached.client.api.inspect_distribution(location.reference)
    except ImageError as error:
        if not isinstance(error.__cause__, APIError):  # Docker itself answers, as it was reached
            raise ImageError(f"{host} does not answer Docker within {ENGINE_SECONDS:.1f} s", hint=NETWORK) from error
        said = str(getattr(error.__cause__, "explanation", "") or error.sentence)
        raise image.pull_failure(location.reference, said) from error  # the same words as the boot's
    digest = str((found.get("Descriptor") or {}).get("digest"))
    yield Finding("ok", f"{host} has {location.reference}, {digest[:19]}")


def _logins(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except PermissionError as error:
        raise Skipped(f"this user may not read {path}", "sudo adf-agent doctor") from error
    except ValueError as error:
        raise ImageError(f"{path} is no JSON", hint="Write it by docker login.", cause="settings") from error
    return found if isinstance(found, dict) else {}


def judge_login(host: str, logins: Mapping[str, Any], path: Path) -> Finding:
    """*logins* is Docker's config.json (https://docs.docker.com/reference/cli/docker/login/#credential-helpers)."""
    helper = (logins.get("credHelpers") or {}).get(host) or logins.get("credsStore")
    if helper:
        command = f"docker-credential-{helper}"
        if shutil.which(command) is None:
            hint = f"Install {command} into the AMI, or take it out of {path}."
            return Finding("fail", f"the credential helper {command} for {host} is not installed", hint)
        return Finding("ok", f"logs in to {host} by {command}")
    if host in {resolve_index_name(convert_to_hostname(name)) for name in logins.get("auths") or {}}:
        return Finding("ok", f"{path} has a login for {host}")
    ours = f"no login for {host} in {path}: it is asked as anybody"
    return Finding("ok", ours, f"For a private image: docker --config {path.parent} login {host}")
