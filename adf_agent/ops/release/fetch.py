"""A release on an operator's machine: fetched and verified by the agent's own rules, in folders that go away."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from adf_agent import mask, release, state, store
from adf_agent.deadline import Deadline
from adf_agent.download import Source
from adf_agent.location import Location
from adf_agent.notation import Limits
from adf_agent.release import Release
from adf_agent.root import Root
from adf_agent.signature import Key


@contextmanager
def root() -> Iterator[Root]:
    """Folders such as an agent's, for as long as this lasts."""
    # A download that was left behind may still write there: no reason to end with an error.
    with TemporaryDirectory(prefix="adf-release-", ignore_cleanup_errors=True) as name:
        made = Root(Path(name))
        state.prepare(made)
        yield made


def obtain(location: Location, folder: Path, limits: Limits, deadline: Deadline, keys: tuple[Key, ...] = ()) -> Release:
    """The release at *location*, its file in *folder*, verified as an instance does whose AMI has these *keys*.

    Raises ReleaseError.
    """
    signers = release.signers(location, keys, _source)
    say(f"fetching {location.shown}")
    return release.obtain(location, location.name, _source(location), folder, limits, deadline, signers)


def say(fact: str) -> None:
    """To standard error: standard output is for the command's answer."""
    print(mask.urls(fact), file=sys.stderr, flush=True)


def _source(location: Location) -> Source:
    """GitHub's token is in the environment of many a CI job: no other host gets it."""
    return store.source(location, _s3, _token if location.github else None)


def _s3() -> Any:
    from adf_agent.ops.account import Account  # noqa: PLC0415  half a second of imports that other stores don't need

    return Account().client("s3")


def _token() -> str:
    """The token that GitHub's own command uses (https://cli.github.com/manual/gh_help_environment)."""
    return os.environ.get("GH_TOKEN") or os.environ.get("GITHUB_TOKEN", "")
