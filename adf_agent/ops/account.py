"""The AWS account that an operator works in: region, credentials and clients, as boto3 finds them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError

from adf_agent import aws, config
from adf_agent.errors import ConfigError, SettingsError
from adf_agent.table import Table

# Who calls is good to know, and no reason to wait: a network may have no way to STS.
BRIEF = Config(retries={"total_max_attempts": 1}, connect_timeout=2, read_timeout=5)
STANDARD = Config(retries={"mode": "standard"}, connect_timeout=5, read_timeout=20)


class Account:
    """One boto3 session; each client is made when it is first asked for. What it can't find is an SettingsError."""

    def __init__(self) -> None:
        self._made: dict[tuple[str, Config], Any] = {}

    @property
    def region(self) -> str:
        if region := os.environ.get("AWS_REGION") or self._session.region_name:
            return str(region)
        raise SettingsError("no AWS region is set", hint="Set AWS_REGION, or a region in the profile.")

    def client(self, service: str, options: Config = STANDARD) -> Any:
        if (service, options) not in self._made:
            with _finding():
                if self._session.get_credentials() is None:
                    hint = "Log in (aws sso login, aws configure), or name a profile by AWS_PROFILE."
                    raise SettingsError("there are no AWS credentials", hint=hint)
                made = self._session.client(service, region_name=self.region, config=options)
                self._made[service, options] = made
        return self._made[service, options]

    def table(self, name: str, options: Config = STANDARD) -> Table:
        """The config table *name*."""
        return Table(name, self.region, self.client("dynamodb", options))

    def config(self) -> config.Clients:
        """What a whole config, secrets included, is read with."""
        return config.Clients(
            region=self.region,
            dynamodb=self.client("dynamodb"),
            kms=lambda: self.client("kms"),
            ssm=lambda: self.client("ssm"),
            secretsmanager=lambda: self.client("secretsmanager"),
        )

    def caller(self) -> str:
        """The ARN of whoever calls; where STS does not say, the access key's id.

        https://docs.aws.amazon.com/STS/latest/APIReference/API_GetCallerIdentity.html
        """
        try:
            return str(self.client("sts", BRIEF).get_caller_identity()["Arn"])
        except aws.faults() as error:
            failure = aws.fault(error, ConfigError, "sts:GetCallerIdentity", "*")
            if not (failure.transient or aws.code(error) in aws.DENIED):
                raise failure from error
        return str(self._session.get_credentials().access_key)

    @cached_property
    def _session(self) -> Any:
        with _finding():
            return boto3.session.Session()


@contextmanager
def _finding() -> Iterator[None]:
    """Raises as SettingsError what boto3 says of a profile that is not there, or of credentials by half."""
    try:
        yield
    except (BotoCoreError, ValueError) as error:  # the latter of an endpoint that is no URL
        hint = "See AWS_PROFILE, and ~/.aws/config."
        raise SettingsError(f"the AWS settings can't be used: {error}", hint=hint) from error
