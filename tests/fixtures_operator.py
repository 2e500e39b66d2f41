"""An operator: `adf-config` on an AWS on loopback, in this process, as starting one takes most of the time."""

import contextlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest

from adf_agent.ops import account
from adf_agent.ops.account import Account
from adf_agent.ops.configure import cli as configure
from adf_agent.sandbox.cloud import Cloud

TABLE = "adf-config"


@dataclass(frozen=True)
class Ran:
    """What a command came to."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Operator:
    """Somebody with credentials for *cloud* and the app web; `operator("set", "A=1")`."""

    cloud: Cloud

    def __call__(self, *words: str, typed: str | bytes = "") -> Ran:
        """Runs `adf-config -a web WORDS…`, with *typed* on its standard input, which is no terminal."""
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding) for encoding in ("ascii", "utf-8"))
        raw = typed.encode() if isinstance(typed, str) else typed
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(raw), encoding="utf-8", newline=""))
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                try:
                    code = configure.main(["-a", "web", *words])
                except SystemExit as usage:
                    code = int(str(usage.code))
        return Ran(code, _said(out), _said(err))

    def done(self, *words: str, typed: str | bytes = "") -> str:
        """The same where it must go well; returns its standard output."""
        ran = self(*words, typed=typed)
        assert ran.code == 0, ran.err
        return ran.out

    def refused(self, *words: str, typed: str | bytes = "", code: int = 13) -> str:
        """The same where it must not; returns the first line of its standard error, without `adf-config: `."""
        before = self.held()
        ran = self(*words, typed=typed)
        assert (ran.code, ran.out) == (code, ""), ran
        assert self.held() == before  # nothing half-written
        sentence, _, hint = ran.err.partition("\n  → ")
        assert hint
        return sentence.removeprefix("adf-config: ")

    def held(self) -> list[dict[str, Any]]:
        """Every item of the table, whoever put it there."""
        client = self.cloud.client("dynamodb")
        if TABLE not in client.list_tables()["TableNames"]:
            return []
        return [item for page in client.get_paginator("scan").paginate(TableName=TABLE) for item in page["Items"]]

    def config(self) -> dict[str, dict[str, Any]]:
        """By partition and name, what each config item holds; revision, history and fleet are not in it."""
        found: dict[str, dict[str, Any]] = {}
        for item in self.held():
            place, name = item.pop("App")["S"], item.pop("Name")["S"]
            if not ("#" in place or name.startswith("#")):
                found.setdefault(place, {})[name] = next(iter(next(iter(item.values())).values()))
        return found

    def put(self, place: str, name: str, **attributes: Any) -> None:
        """Puts an item by hand."""
        key = {"App": {"S": place}, "Name": {"S": name}}
        self.cloud.client("dynamodb").put_item(TableName=TABLE, Item={**key, **attributes})


def _said(stream: io.TextIOWrapper) -> str:
    stream.flush()
    return stream.buffer.getvalue().decode()  # type: ignore[attr-defined, no-any-return]


@pytest.fixture(scope="module")
def office() -> Iterator[Operator]:
    """One AWS for a file of tests, and its credentials in the environment."""
    with Cloud() as cloud, pytest.MonkeyPatch.context() as patch:
        for name, value in environment(cloud).items():
            patch.setenv(name, value)
        patch.delenv("AWS_PROFILE", raising=False)
        # One account for each who calls: to make its clients takes longer than all that a command does.
        known = cache(lambda _: Account())
        patch.setattr(account, "Account", lambda: known(frozenset(_of_aws())))
        yield Operator(cloud)


def _of_aws() -> Iterator[tuple[str, str]]:
    return ((name, value) for name, value in os.environ.items() if name.startswith("AWS_"))


def environment(cloud: Cloud) -> dict[str, str]:
    """What makes a process an operator's."""
    keys = {"AWS_ACCESS_KEY_ID": "sandbox", "AWS_SECRET_ACCESS_KEY": "sandbox", "AWS_DEFAULT_REGION": "eu-west-1"}
    return {**cloud.environment(), **keys}


@pytest.fixture
def bare_operator(office: Operator) -> Operator:
    """An operator before there is a table."""
    office.cloud.reset()
    office.cloud.faults = []
    return office


@pytest.fixture
def operator(bare_operator: Operator) -> Operator:
    """An operator of an app without config."""
    bare_operator.done("init")
    return bare_operator
