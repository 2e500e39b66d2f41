"""The config table itself: made, and made right."""

from collections.abc import Collection, Iterator
from functools import partial
from typing import Any

from adf_agent import aws
from adf_agent.deadline import Deadline
from adf_agent.errors import ConfigError
from adf_agent.table import SCHEMA, Table

KEYS = {"App": "HASH", "Name": "RANGE"}
EXPIRES = "Expires"  # of a fleet record, seven days after its last touch


def make(table: Table, client: Any, deadline: Deadline) -> Iterator[str]:
    """Makes the table with all that it should have, or adds what it lacks; says what it did. Raises ConfigError."""
    with _asking("CreateTable", table, expected=["ResourceInUseException"]):
        yield from _created(table, client)
    deadline.retry(lambda: _check(table, client))
    deadline.retry(partial(_expire, table, client))
    yield f"{EXPIRES} is the time to live: fleet records of instances that are gone go by themselves"
    deadline.retry(partial(_protect, table, client))
    yield "point-in-time recovery is on"


def _created(table: Table, client: Any) -> Iterator[str]:
    client.create_table(
        TableName=table.name,
        KeySchema=[{"AttributeName": name, "KeyType": kind} for name, kind in KEYS.items()],
        AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in KEYS],
        BillingMode="PAY_PER_REQUEST",
    )
    yield f"made table {table.name} in {table.region}: {SCHEMA}, on-demand"


def _check(table: Table, client: Any) -> None:
    with _asking("DescribeTable", table):
        facts = client.describe_table(TableName=table.name)["Table"]
    types = {each["AttributeName"]: each["AttributeType"] for each in facts["AttributeDefinitions"]}
    if {each["AttributeName"]: each["KeyType"] for each in facts["KeySchema"]} != KEYS or {
        types[key] for key in KEYS
    } != {"S"}:
        has = ", ".join(f"{each['AttributeName']} ({types[each['AttributeName']]})" for each in facts["KeySchema"])
        raise ConfigError(f"table {table.name} in {table.region} has the key {has}, not {SCHEMA}", hint="Name another.")
    if facts["TableStatus"] != "ACTIVE":
        raise ConfigError(f"table {table.name} is {facts['TableStatus']}", hint="Try again.", transient=True)


def _expire(table: Table, client: Any) -> None:
    with _asking("DescribeTimeToLive", table):
        facts = client.describe_time_to_live(TableName=table.name)["TimeToLiveDescription"]
    if facts["TimeToLiveStatus"] in ("ENABLED", "ENABLING"):
        if facts["AttributeName"] != EXPIRES:
            sentence = f"the time to live of table {table.name} is {facts['AttributeName']}, not {EXPIRES}"
            raise ConfigError(sentence, hint="Switch it off, and run this again an hour later; or name another table.")
        return
    with _asking("UpdateTimeToLive", table):
        to_live = {"Enabled": True, "AttributeName": EXPIRES}
        client.update_time_to_live(TableName=table.name, TimeToLiveSpecification=to_live)


def _protect(table: Table, client: Any) -> None:
    with _asking("DescribeContinuousBackups", table):
        facts = client.describe_continuous_backups(TableName=table.name)["ContinuousBackupsDescription"]
    if facts.get("PointInTimeRecoveryDescription", {}).get("PointInTimeRecoveryStatus") == "ENABLED":
        return  # for as many days as somebody has chosen
    with _asking("UpdateContinuousBackups", table):
        recovery = {"PointInTimeRecoveryEnabled": True}
        client.update_continuous_backups(TableName=table.name, PointInTimeRecoverySpecification=recovery)


def _asking(action: str, table: Table, expected: Collection[str] = ()) -> Any:
    return aws.asking(ConfigError, f"dynamodb:{action}", f"table {table.name} in {table.region}", expected)
