"""The machine below the agent: its clock, its disks, its memory."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

from adf_agent.doctor.case import MARGIN, Case, skew
from adf_agent.doctor.check import Finding
from adf_agent.image import LEAST_MEMORY, SPARE_BYTES, available_memory
from adf_agent.vitals import LEAST_FREE_BYTES

# AWS takes a signature that is up to five minutes off (S3: fifteen).
# https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-troubleshooting.html
CLOCK_FAILS, CLOCK_WARNS = 300.0, 30.0
FEW_INODES = 0.02
LARGER = "Give the instance a larger volume, or see what fills it: du -xh --max-depth=2"


def clock(case: Case) -> Iterator[Finding]:
    """This machine's time against IMDS'; AWS' where its answers do not tell theirs."""
    case.identity.need()
    if not case.skews:
        case.skews += _asked(case, case.region.need())
    yield judge_clock(min(case.skews, key=abs) if case.skews else None)


def _asked(case: Case, region: str) -> list[float]:
    """By the Date of an answer that takes no signature: DynamoDB's ping."""
    import requests  # noqa: PLC0415

    endpoint = case.host.config(region).dynamodb.meta.endpoint_url  # type: ignore[attr-defined]
    try:
        answer = requests.get(f"{endpoint}/ping", timeout=case.deadline.remaining() or MARGIN)
    except requests.RequestException:  # other checks say that it can't be reached
        return []
    return skew(answer.headers.get("Date", ""), time.time())


def judge_clock(ahead: float | None) -> Finding:
    """*ahead* is by how many seconds AWS is ahead of this machine's clock; None where nobody tells."""
    if ahead is None:
        return Finding("warn", "nobody here tells the time to compare the clock with", "timedatectl status")
    off = f"the clock is {abs(ahead):.0f} s {'behind' if ahead > 0 else 'ahead of'} AWS's"
    fix = "Where chrony runs, `sudo chronyc makestep`; else: sudo timedatectl set-ntp true"
    if abs(ahead) > CLOCK_FAILS:
        return Finding("fail", f"{off}: AWS refuses every signature that is more than 5 minutes off", fix)
    return Finding("warn", off, fix) if abs(ahead) > CLOCK_WARNS else Finding("ok", "the clock agrees with AWS's")


def disk(case: Case) -> Iterator[Finding]:
    """Where the agent keeps its state, and where it tells its status."""
    yield from room("the agent's state", case.root.var)
    yield from room("the agent's status", case.root.run, spare=0)


def data_root(case: Case) -> Iterator[Finding]:
    """Where Docker keeps images, containers and their logs."""
    yield from room("Docker's data", case.engine.need().folder)


def room(what: str, folder: Path, spare: int = SPARE_BYTES) -> Iterator[Finding]:
    """How much room *folder*, or where it would be made, has; *spare* bytes of it are needed for a build."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        facts = os.statvfs(folder)
    except OSError as error:
        yield Finding("skipped", f"skipped because {folder} can't be looked at: {error.strerror}")
        return
    yield judge_room(what, folder, facts, spare)


def judge_room(what: str, folder: Path, facts: os.statvfs_result, spare: int) -> Finding:
    """*facts* are those of the file system that *folder*, with *what* in it, lies on."""
    free = facts.f_bavail * facts.f_frsize
    where = f"{folder} ({what}) has {_gigabytes(free)} free"
    if free < LEAST_FREE_BYTES:
        return Finding("fail", f"the disk is full: {where}", f"{LARGER} {folder}")
    if facts.f_files and not facts.f_favail:
        return Finding("fail", f"{folder} ({what}) has no inode left: no file can be made", f"{LARGER} {folder}")
    if facts.f_files and facts.f_favail < FEW_INODES * facts.f_files:
        return Finding("warn", f"{folder} ({what}) has {facts.f_favail} inodes left", f"df -i {folder}")
    if free < spare:
        sentence = f"{where}: a build needs {_gigabytes(spare)} and twice the release"
        return Finding("warn", sentence, f"{LARGER} {folder}")
    return Finding("ok", where)


def memory(_: Case) -> Iterator[Finding]:
    """What the kernel says is available."""
    yield judge_memory(available_memory())


def judge_memory(available: int) -> Finding:
    """*available* is in bytes."""
    sentence = f"{_gigabytes(available)} of memory are available"
    if available < LEAST_MEMORY:
        fix = "Use an instance type with more memory, or see what takes it: ps aux --sort=-rss | head"
        return Finding("fail", f"only {sentence}: a build would be killed", fix)
    return Finding("ok", sentence)


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"  # noqa: PLR2004
