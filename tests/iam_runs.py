"""Who acts in the tests of packaging/iam: somebody with the credentials of an operator, their config and releases."""

import contextlib
import io
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from fixtures_agent import app
from fixtures_operator import TABLE, Operator, environment
from fixtures_repository import Clone
from iam_guard import Account, Asked, account

from adf_agent.ops import account as accounts
from adf_agent.ops.release import cli as releases

BUCKET = "releases"
STOP = "[container]\nstop_timeout = 1\n"
NAMES = {"App": "web", "Group": "web", "Table": TABLE, "Bucket": BUCKET}
NONE = {"TargetGroup": "arn:aws:none", "LaunchTemplate": "none", "InstanceRole": "arn:aws:none"}


@dataclass
class Told:
    """What the runs came to, besides the permissions that were asked for."""

    asked: list[Asked] = field(default_factory=list)
    came_to: dict[str, Any] = field(default_factory=dict)
    refused: dict[str, tuple[int, str]] = field(default_factory=dict)  # by action that was taken away: code, and words


class Person:
    """Who types commands in this process, as one user of *place* after another."""

    def __init__(self, place: Account, patch: pytest.MonkeyPatch) -> None:
        self.place, self._patch, self._key = place, patch, ""
        self.config = Operator(place.cloud)
        for name, value in environment(place.cloud).items():
            patch.setenv(name, value)
        patch.delenv("AWS_PROFILE", raising=False)
        made = accounts.Account
        known = cache(lambda _: made())
        patch.setattr(accounts, "Account", lambda: known(self._key))  # its clients take longer than all commands

    def become(self, credentials: Mapping[str, str]) -> None:
        for name, value in credentials.items():
            self._patch.setenv(name, value)
        self._key = credentials["AWS_ACCESS_KEY_ID"]

    def release(self, *words: str, folder: Path) -> str:
        """What `adf-release WORDS…` prints in *folder*, where it must go well."""
        out, said = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
        with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(said):
            code = releases.main(words)
        for each in (out, said):
            each.seek(0)
        assert code == 0, said.read()
        return out.read().strip()


@contextlib.contextmanager
def person(asked: list[Asked]) -> Iterator[Person]:
    """Somebody in a new account; what commands do with signals is undone."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        with account(asked) as place, pytest.MonkeyPatch.context() as patch:
            yield Person(place, patch)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


# The app's config and releases


def stocked(place: Account) -> None:
    """A key, references and a bucket that remembers versions."""
    client = place.cloud.client
    key = client("kms").create_key()["KeyMetadata"]["KeyId"]
    client("kms").create_alias(AliasName="alias/adf-config", TargetKeyId=key)
    client("ssm").put_parameter(Name="/web/token", Value="of ssm", Type="String")
    client("secretsmanager").create_secret(Name="web/key", SecretString="of secretsmanager")
    here = {"LocationConstraint": place.cloud.imds.instance.region}
    client("s3").create_bucket(Bucket=BUCKET, CreateBucketConfiguration=here)
    client("s3").put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})


def configured(person: Person) -> None:
    """What `adf-config` has to change and show config, but for `clean`. GREETING, PASSWORD, TOKEN and KEY are left."""
    done = person.config.done
    done("set", "GREETING=one", "OLD=1")
    done("set", "--secret", "PASSWORD", typed="of kms")
    done("set", "--ref", "TOKEN=ssm:/web/token", "--ref", "KEY=secretsmanager:web/key")
    done("import", "-", typed="LEVEL=info\n")
    done("-r", "v0", "set", "LEVEL=debug")
    done("promote", "v0")
    done("rollback", "3")
    done("unset", "OLD")
    done("-r", "v0", "set", "MORE=1")
    for words in (["list", "--reveal"], ["get", "GREETING"], ["diff", "v0"], ["history"], ["export"]):
        done(*words)


def delivered(person: Person, folder: Path) -> str:
    """The RELEASE_URL of a release that was made and verified, with its version."""
    clone = Clone(folder)
    clone.git("init", "--quiet")
    clone.commit(app(adf_toml=STOP))
    words = ("create", "--name", "v1", "--to", f"s3://{BUCKET}/web")
    made = person.release(*words, folder=folder).removeprefix("RELEASE_URL=")
    assert person.release(*words, folder=folder).endswith(made)  # it is there already
    person.release("verify", made, folder=folder)
    place, _, digest = made.partition("#")
    found = person.place.cloud.client("s3").head_object(Bucket=BUCKET, Key=place.removeprefix(f"s3://{BUCKET}/"))
    exact = f"{place}?versionId={found['VersionId']}#{digest}"
    person.release("verify", exact, folder=folder)
    return exact
