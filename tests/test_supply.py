"""What the packages and the tests are made of: which bytes, from whom, and what is known against them."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.utils import canonicalize_name
from web import Answer, Asked, Web

REPOSITORY = Path(__file__).parents[1]
LIBRARY = "usr/lib/adf-agent"
BILL = "usr/share/doc/adf-agent/sbom.cdx.json"
FILES = sorted(path.name for path in REPOSITORY.glob("requirements*.txt"))
ASK = "POST /v1/querybatch"


def requirements(name: str) -> list[str]:
    """Each requirement of a file, in one line."""
    lines = (REPOSITORY / name).read_text().replace("\\\n", " ").splitlines()
    return [line for line in lines if line and not line.lstrip().startswith("#")]


def pins(name: str) -> set[tuple[str, str]]:
    """The name and version of each."""
    return {(line.split("==")[0], line.split("==")[1].split()[0]) for line in requirements(name)}


@pytest.mark.parametrize("name", FILES)
def test_requirements_are_pinned_with_hashes_and_name_no_index(name: str) -> None:
    """A pinned index address breaks every build behind another mirror; a lost hash lets other bytes in."""
    text = (REPOSITORY / name).read_text()
    assert not re.findall(
        r"^\s*(?:--index-url|--extra-index-url|--find-links|-[if]\b).*|.*\w+://.*", text, re.MULTILINE
    )
    lines = requirements(name)
    assert lines
    assert [line for line in lines if not re.match(r"[\w.-]+==\S+ .*--hash=sha256:[0-9a-f]{64}", line)] == []


def test_the_packages_hold_the_versions_that_the_tests_ran_with() -> None:
    """A release of a library that nobody has tried boots the fleet."""
    assert pins("requirements.txt") < pins("requirements-dev.txt")


def installations() -> Iterator[str]:
    """Every call of pip that make and the packages' scripts may come to, with lines that go on in one."""
    targets = ("venv", "lock", "audit", "build/tree.stamp")
    made = subprocess.run(
        ["make", "--dry-run", "--always-make", *targets], cwd=REPOSITORY, check=True, capture_output=True, text=True
    )
    scripts = [path for folder in ("packaging", "tools", ".ci") for path in (REPOSITORY / folder).rglob("*")]
    texts = [made.stdout, *(path.read_text() for path in scripts if path.is_file())]
    for text in texts:
        yield from re.findall(r"pip\"? (?:install|download|wheel)\b.*", text.replace("\\\n", " "))


def test_nothing_is_installed_without_a_hash_nor_built_with_what_has_none() -> None:
    """Pip fetches what builds a package by itself, whatever hashes the files have: anybody's code, as root in CI."""
    calls = list(installations())
    assert len(calls) == 5  # setuptools, the rest, the wheel; uv; the packages' libraries
    for call in calls:
        assert "--no-index" in call or "--require-hashes" in call, call
        assert "--no-index" in call or "--only-binary :all:" in call or "--no-build-isolation" in call, call
    assert re.findall(r"-m build (.*)", (REPOSITORY / "Makefile").read_text())[0].startswith("--wheel --no-isolation")


@pytest.fixture(scope="module")
def bill(unpacked: Path) -> Any:
    """The packages' own list of what is in them."""
    return json.loads((unpacked / BILL).read_bytes())


def test_both_packages_carry_a_bill_that_scanners_can_read(unpacked: Path, rpm: Path) -> None:
    """A scanner that stumbles over the bill reports nothing, which reads as no vulnerability."""
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str((unpacked / BILL).read_text()) is None
    listed = subprocess.run(["rpm", "-qpl", rpm], check=True, capture_output=True, text=True).stdout
    assert f"/{BILL}\n" in listed


def test_the_bill_lists_what_is_there_and_nothing_else(unpacked: Path, bill: Any) -> None:
    """The one library that is missing from it is the one with the hole."""
    held = {(canonicalize_name(each.name), each.version) for each in distributions(path=[str(unpacked / LIBRARY)])}
    assert {(each["name"], each["version"]) for each in bill["components"]} == held
    assert {each["purl"] for each in bill["components"]} == {f"pkg:pypi/{name}@{version}" for name, version in held}


def test_each_entry_of_the_bill_has_a_licence_and_the_hash_of_a_pinned_wheel(bill: Any) -> None:
    """Nobody can tell whether what was shipped is what its authors released."""
    pinned = {line.split("==")[0]: re.findall(r"sha256:(\w+)", line) for line in requirements("requirements.txt")}
    for each in bill["components"]:
        (digest,) = each["hashes"]
        assert digest["alg"] == "SHA-256"
        assert digest["content"] in pinned[each["name"]]
        for licence in each["licenses"]:
            assert licence.get("expression") or licence["license"].get("id") or licence["license"].get("name")
        assert each["licenses"]


def test_every_library_is_there_because_another_needs_it(bill: Any) -> None:
    """What is left behind in the packages by a dependency of old is attacked on every instance, for nothing."""
    needs = {each["ref"]: set(each.get("dependsOn", ())) for each in bill["dependencies"]}
    seen, todo = set[str](), {bill["metadata"]["component"]["bom-ref"]}
    while todo:
        seen |= todo
        todo = set[str]().union(*(needs[each] for each in todo)) - seen
    assert seen == needs.keys()


def test_the_bill_gives_away_nothing_of_the_machine_that_made_it(unpacked: Path) -> None:
    """Where a wheel was fetched from, a mirror behind a login maybe, is in every package."""
    assert not re.search(
        r"https?://|file:|/tmp|\bHOME\b", (unpacked / BILL).read_text().replace("http://cyclonedx.org/", "")
    )


def audit(service: str, *options: str, of: str = "requirements.txt") -> "subprocess.CompletedProcess[str]":
    """What `make audit` runs, of one file, with *service* in the place of osv.dev."""
    return subprocess.run(
        [sys.executable, REPOSITORY / "tools/audit", *options, REPOSITORY / of],
        env={**os.environ, "OSV_URL": service, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"},
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )


def advisories(**known: list[str]) -> Any:
    """A service that knows these vulnerabilities, by a package's name. One to a page."""

    def answer(asked: Asked) -> Answer:
        results: list[dict[str, Any]] = []
        for query in json.loads(asked.body)["queries"]:
            numbers, page = known.get(query["package"]["name"], []), int(query.get("page_token", "0"))
            result: dict[str, Any] = {"vulns": [{"id": each} for each in numbers[page : page + 1]]} if numbers else {}
            if len(numbers) > page + 1:
                result["next_page_token"] = str(page + 1)
            results.append(result)
        return Answer(body=json.dumps({"results": results}).encode())

    return answer


def test_an_audit_asks_for_every_package_that_is_pinned() -> None:
    """The package with the hole is the one that was not asked for."""
    with Web() as osv:
        osv.routes[ASK] = advisories()
        done = audit(osv.url)
        (asked,) = osv.asked
    queries = json.loads(asked.body)["queries"]
    assert {(each["package"]["name"], each["version"]) for each in queries} == pins("requirements.txt")
    assert {each["package"]["ecosystem"] for each in queries} == {"PyPI"}
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"audit: 0 known vulnerabilities in {len(queries)} packages\n"


def test_a_pin_is_known_in_every_form_that_pip_takes(tmp_path: Path) -> None:
    """A package with a hole that was never asked for, as its line had a blank or an extra."""
    file = tmp_path / "requirements.txt"
    file.write_text(
        "a==1\nb[x,y]==2\nc == 3\n d===4\ne[x] == 5 ; python_version < '4'\nf==6#x\n# g==7\nh>=8\n-r i==9\n"
    )
    with Web() as osv:
        osv.routes[ASK] = advisories()
        audit(osv.url, of=str(file))
        (asked,) = osv.asked
    queries = json.loads(asked.body)["queries"]
    assert "".join(each["package"]["name"] + each["version"] for each in queries) == "a1b2c3d4e5f6"


def test_an_audit_names_each_vulnerability_of_every_page_and_what_to_do() -> None:
    """A fleet runs for months what everybody else knows how to break into."""
    with Web() as osv:
        osv.routes[ASK] = advisories(urllib3=["GHSA-1", "PYSEC-2"], six=["GHSA-3"])
        done = audit(osv.url)
    versions = dict(pins("requirements.txt"))
    assert done.returncode == 1
    assert done.stdout.split("\n")[1:] == [
        f"six {versions['six']}: https://osv.dev/GHSA-3",
        f"urllib3 {versions['urllib3']}: https://osv.dev/GHSA-1",
        f"urllib3 {versions['urllib3']}: https://osv.dev/PYSEC-2",
        "",
    ]
    assert "make lock" in done.stderr


FAULTS = {
    "busy": lambda _: Answer(503, b'{"code": 14, "message": "unavailable"}'),
    "a portal's page": lambda _: Answer(body=b"<html>Please log in"),
    "cut": lambda _: Answer(body=b'{"results": [', cut=5),
    "another's JSON": lambda _: Answer(body=b"[]"),
    "no results": lambda _: Answer(body=b"{}"),
    "too few results": lambda _: Answer(body=b'{"results": []}'),
    "results that are none": lambda _: Answer(body=b'{"results": [null]}'),
    "a vulnerability without a number": lambda _: Answer(body=b'{"results": [{"vulns": [{}]}]}'),
    "deep": lambda _: Answer(body=b"[" * 100_000),
    "endless": lambda asked: Answer(
        body=json.dumps({"results": [{"next_page_token": "1"} for _ in json.loads(asked.body)["queries"]]}).encode()
    ),
}


def says_so(service: str) -> None:
    """Holds an audit that gets no answer to its word."""
    for options, code in (((), 0), (("--strict",), 2)):
        done = audit(service, *options)
        assert (done.returncode, done.stdout) == (code, "")
        assert re.fullmatch(r"audit: not done, osv\.dev gives no answer: .+\n", done.stderr)


@pytest.mark.parametrize("fault", FAULTS)
def test_an_audit_without_an_answer_says_so_and_stops_only_who_asks_for_it(fault: str) -> None:
    """A silence is taken for a clean bill, or a service's bad day stops every build."""
    with Web() as osv:
        osv.routes[ASK] = FAULTS[fault]
        says_so(osv.url)


def test_an_audit_without_a_network_says_so_and_stops_only_who_asks_for_it() -> None:
    """Nothing can be built behind a firewall."""
    with Web() as gone:
        pass
    says_so(gone.url)


def test_what_was_found_counts_though_the_service_went_away_meanwhile() -> None:
    """A time-out on the second page hides what the first has said."""
    first = advisories(six=["GHSA-1", "GHSA-2"])
    with Web() as osv:
        osv.routes[ASK] = lambda asked: Answer(503) if b"page_token" in asked.body else first(asked)
        done = audit(osv.url)
    assert done.returncode == 1
    assert "GHSA-1" in done.stdout
    assert "not done" in done.stderr
