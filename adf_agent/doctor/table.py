"""The app's config: the table, its key schema and revision, and that every secret can be resolved."""

from collections.abc import Iterator

from adf_agent.doctor.case import Case
from adf_agent.doctor.check import Finding


def config(case: Case) -> Iterator[Finding]:
    """All of it is read as the boot reads it, which a GetItem by the table's own keys begins; no value is shown."""
    given = case.launched.need().settings
    if given.app is None:
        yield Finding("ok", "ADF_APP is not set: no config is read")
        return
    case.region.need()
    read = case.config.own()
    if read is None or not read.values:
        fix = f"See ADF_APP and ADF_CONFIG_TABLE, and what is there: adf-config -a {given.app} list"
        yield Finding("warn", f"{given.app} has no config in {given.config_table}", fix)
        return
    secrets = sum(value.secret for value in read.values.values())
    resolved = f"; {secrets} of them are secrets, each resolved" if secrets else ""
    yield Finding("ok", f"{read.fact} in {given.config_table}{resolved}")
