"""What stands for one instance on this machine: a folder, its processes' environment, what it leaves in Docker."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import docker
from docker.errors import APIError, DockerException

from adf_agent import image, state
from adf_agent.errors import DockerError
from adf_agent.root import Root
from adf_agent.sandbox.cloud import Cloud
from adf_agent.sandbox.imds import Instance

ANSWER_SECONDS = 10.0
PREFIX = "adf-sandbox-"  # of the name of its folder
BUCKET, KEY = "releases", "alias/adf-config"


def instance(user_data: bytes | Path | None = None, tags: dict[str, str] | None = None) -> Instance:
    """An instance under an id of its own: containers bear it, and several sandboxes may share one engine."""
    return Instance(instance_id=f"i-{os.urandom(9).hex()[1:]}", user_data=user_data, tags=tags)


def furnish(cloud: Cloud) -> None:
    """Puts into *cloud* what operators have made once: a bucket for releases, and a key for secrets."""
    place = {"LocationConstraint": cloud.imds.instance.region}
    cloud.client("s3").create_bucket(Bucket=BUCKET, CreateBucketConfiguration=place)
    kms = cloud.client("kms")
    kms.create_alias(AliasName=KEY, TargetKeyId=kms.create_key()["KeyMetadata"]["KeyId"])


@contextmanager
def folder() -> Iterator[Path]:
    """A folder to be the instance's disk (`ADF_ROOT`), for as long as the context lasts."""
    with TemporaryDirectory(prefix=PREFIX) as name:
        yield Path(name)


def environment(cloud: Cloud, root: Path) -> dict[str, str]:
    """What makes a process one of the instance's. Credentials come from IMDS.

    A region is given to the aws command line and to boto3, which don't ask IMDS for it, under the one name that the
    agent does not heed (https://docs.aws.amazon.com/boto3/latest/guide/configuration.html).
    """
    region = {"AWS_DEFAULT_REGION": cloud.imds.instance.region}
    return {**cloud.environment(), **region, "ADF_ROOT": str(root)}


def engine() -> Any:
    """A client of the Docker engine at DOCKER_HOST. Raises DockerError where none answers."""
    try:
        client = docker.DockerClient.from_env(timeout=ANSWER_SECONDS)
        client.ping()
    except (DockerException, OSError) as error:
        where = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
        raise DockerError(
            f"no Docker engine answers this user at {where}",
            hint="Start one, or name it in DOCKER_HOST; in a clone, `make demo` starts its own.",
        ) from error
    return client


def clear(client: Any, instance_id: str, root: Root | None) -> list[str]:
    """Removes the containers that bear *instance_id* and, where it is given, the images of the agent's state in *root*.

    Returns their names. An image that another instance's container is made from stays. Raises DockerError.
    """
    try:
        return [*_containers(client, instance_id), *(_images(client, root) if root else ())]
    except (DockerException, OSError) as error:
        raise DockerError(f"Docker did not let containers of {instance_id} be removed: {error}") from error


def _containers(client: Any, instance_id: str) -> Iterator[str]:
    for container in client.containers.list(
        all=True, ignore_removed=True, filters={"label": f"adf.instance={instance_id}"}
    ):
        container.remove(force=True, v=True)
        yield f"container {container.name}"


def _images(client: Any, root: Root) -> Iterator[str]:
    image.discard_unfinished(client, root.var)
    for name in state.load(root).images:
        with suppress(APIError):  # never built, or in another's use
            client.api.remove_image(name)
            yield f"image {name[:24]}"
