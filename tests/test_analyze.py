import json
import os
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import Unprivileged
from fixtures_agent import Machine, app
from test_boot import free_port
from test_status import fill

from adf_agent import analyze, history, screen, timeline, waterfall
from adf_agent.root import Root
from adf_agent.state import prepare
from adf_agent.timeline import Boot, Stage

NOW = 1_714_564_800.0  # 2024-05-01 12:00:00Z
AGENT = {"pid": 7, "started": 70, "boot_id": "this", "mode": "run"}
BUILT, REUSED = "built adf/release:0123", "reused adf/release:0123"


def entry(name: str, at: float, seconds: float | None, state: str = "done", **more: object) -> dict[str, Any]:
    """A stage as a record has it; None: it has no end."""
    end = {} if seconds is None else {"seconds": seconds}
    return {"name": name, "state": state, "started": NOW + at, "at": at, "fact": "", **end, **more}


def stages(image: str = BUILT, build: float = 8.0) -> list[dict[str, Any]]:
    """A boot of an app with config: the release takes longest before the image, and that longest of all."""
    tries = {"number": 3, "seconds": 1.5, "reason": "Docker does not answer"}
    end = 3.0 + build
    return [
        entry("settings", 0.3, 0.1),
        entry("docker", 0.4, 2.0, retries=tries),
        entry("release", 0.4, 2.5),
        entry("config", 0.4, 1.0),
        entry("image", 3.0, build, fact=image),
        entry("container", end, 0.5),
        entry("health", end + 0.5, 1.0),
        entry("report", end + 1.5, 0.5),
    ]


def parts(phase: str = "in service", entries: Sequence[Mapping[str, Any]] = (), **more: Any) -> dict[str, Any]:
    shown = {"instance": {"id": "i-0abc"}, "release": {"name": "v1"}, "error": None}
    return {"agent": AGENT, "phase": phase, "since": NOW, "stages": list(entries or stages()), **shown, **more}


def boot(*arguments: Any, alive: bool = False, now: float = NOW, **more: Any) -> Boot:
    return Boot.of(parts(*arguments, **more), now, alive=alive)


def names(stages: Sequence[Stage]) -> list[str]:
    return [stage.name for stage in stages]


def test_the_slowest_come_first_and_what_precedes_the_first_stage_counts() -> None:
    """Seconds in the interpreter's imports that no stage is blamed for."""
    assert names(boot().blame())[:4] == ["image", "release", "docker", "config"]
    assert boot().all[0] == Stage("start", "done", 0.0, 0.3)


@pytest.mark.parametrize(
    ("left_out", "chain"),
    [
        ((), ["start", "settings", "release", "image", "container", "health", "report"]),
        (("release",), ["start", "settings", "docker", "image", "container", "health", "report"]),
        (("image", "release", "config"), ["start", "settings", "docker", "container", "health", "report"]),
        (("health", "report", "container"), ["start", "settings", "release", "image"]),
        (("config", "container", "docker", "health", "image", "release", "report", "settings"), ["start"]),
    ],
)
def test_the_critical_path_is_what_the_boot_s_length_hangs_on(left_out: Sequence[str], chain: list[str]) -> None:
    """A week spent on a stage that another one hides anyway."""
    left = [each for each in stages() if each["name"] not in left_out]
    found = Boot.of({**parts(), "stages": left}, NOW, alive=False)
    assert names(found.critical()) == chain


def test_a_slow_config_is_on_the_critical_path_though_the_image_has_more_before_it() -> None:
    """A path that follows the stages' order in the code, and not the time."""
    config, image = entry("config", 0.4, 10.5), entry("image", 3.0, 7.0)
    entries = [{"config": config, "image": image}.get(each["name"], each) for each in stages()]
    assert names(boot("in service", entries).critical())[:3] == ["start", "settings", "config"]


def test_what_ran_at_once_is_named_with_how_long() -> None:
    """An overlap that was lost in a change, and that nobody misses."""
    found = [(a.name, b.name, seconds) for a, b, seconds in boot().overlaps()]
    assert found == [("docker", "release", 2.0), ("docker", "config", 1.0), ("release", "config", 1.0)]


@pytest.mark.parametrize(("alive", "state", "seconds"), [(True, "running", 12.0), (False, "cut off", 0.0)])
def test_a_stage_that_runs_is_as_long_as_it_runs_by_now(alive: bool, state: str, seconds: float) -> None:
    """A boot that hangs and whose analysis says that all went fast; an agent that died days ago and seems to go on."""
    found = boot("booting", [*stages()[:4], entry("image", 3.0, None, "running")], alive=alive, now=NOW + 15)
    last = found.stages[-1]
    assert (last.state, last.seconds, found.seconds) == (state, seconds, 3.0 + seconds)


def test_a_record_of_a_former_version_is_read_by_the_clock() -> None:
    """An upgrade, after which the boots before it can't be looked at."""
    entries = [{key: value for key, value in each.items() if key != "at"} for each in stages()]
    found = boot("in service", entries)
    assert [round(stage.at, 3) for stage in found.stages[:3]] == [0.0, 0.1, 0.1]


@pytest.mark.parametrize(
    ("now", "former", "like"),
    [
        (parts(), [parts(), parts("warmed"), parts("failed")], 2),
        (parts(), [parts("in service", stages(REUSED))], 0),
        (parts(), [parts("in service", stages()[:4])], 0),
        (parts("booting", stages()[:4]), [parts(), parts("in service", stages(REUSED))], 2),
        (parts("failed", stages()[:5]), [parts(), parts("in service", stages(REUSED))], 1),
    ],
)
def test_a_boot_is_measured_by_its_like(now: Any, former: list[Any], like: int) -> None:
    """A first boot that seems slow, as it is compared with restarts that build nothing."""
    known = [Boot.of(each, NOW, alive=False) for each in former]
    assert len(timeline.like(Boot.of(now, NOW, alive=False), known)) == like


@pytest.mark.parametrize(("seconds", "median"), [([4.0], 4.0), ([4.0, 8.0], 6.0), ([9.0, 4.0, 8.0], 8.0)])
def test_usual_is_the_median(seconds: list[float], median: float) -> None:
    """One boot in a bad hour that makes all later ones look fast."""
    boots = [boot("in service", stages(build=each)) for each in seconds]
    assert timeline.usual(boots)["image"] == median
    assert timeline.usual([]) == {}


SCREEN = """\
i-0abc v1: in service, 13.00 s from the start at 2024-05-01 12:00:00Z

                    at      took     usual
* start           0.00      0.30      0.30  █
* settings        0.30      0.10      0.10   █
  docker          0.40      2.00      2.00   ██████
* release         0.40      2.50      2.50   ████████
  config          0.40      1.00      1.00   ███
* image           3.00      8.00      4.00           █████████████████████████
* container      11.00      0.50      0.50                                    ██
* health         11.50      1.00      1.00                                     ███
* report         12.50      0.50      0.50                                        ██
  * on the critical path: the boot is as long as these

slowest first
      8.00 s  image       built adf/release:0123
      2.50 s  release
      2.00 s  docker
      1.00 s  config
      1.00 s  health
      0.50 s  container
      0.50 s  report
      0.30 s  start
      0.10 s  settings

at once
      2.00 s  docker and release
      1.00 s  docker and config
      1.00 s  release and config

tried again
      1.50 s  docker: waited after 3 tries: Docker does not answer

former boots (1 of them count as usual)
  2024-05-01 12:00:00Z     9.00 s  in service  v1  slowest: image 4.00 s"""


def test_all_of_it_is_on_one_screen() -> None:
    """Five tools and a spreadsheet, to learn why a boot takes twice as long as last week."""
    found = analyze.Analysis.of(boot(), [boot("in service", stages(build=4.0))])
    assert "\n".join(analyze.lines(found)) == SCREEN


def test_programs_get_all_of_it_too() -> None:
    """A dashboard that parses the screen."""
    found = analyze.Analysis.of(boot(), [boot("in service", stages(build=4.0))])
    shown = json.loads(json.dumps(analyze.shown(found)))
    image = next(each for each in shown["stages"] if each["name"] == "image")
    assert (image["seconds"], image["usual"], image["critical"]) == (8.0, 4.0, True)
    assert (shown["blame"][0], shown["critical"][1], shown["like"]) == ("image", "settings", 1)
    assert shown["overlaps"][0] == {"stages": ["docker", "release"], "seconds": 2.0}
    assert shown["former"][0]["seconds"] == 9.0


def place(folder: Path, record: object, *kept: Mapping[str, Any]) -> Root:
    root = Root(folder)
    prepare(root)
    root.status.write_text(json.dumps(record))
    (root.var / "boots.json").write_text(json.dumps({"boots": kept}))
    return root


def look(root: Root, ticks: int = 70) -> analyze.Analysis | None:
    return analyze.look(root, NOW + 15, "this", lambda _: ticks)


LATER = {**AGENT, "started": 99}
OTHER = parts(agent=LATER, release={"name": "v0"})


@pytest.mark.parametrize(
    ("record", "kept", "release", "former"),
    [
        (parts("booting", stages()[:4]), [OTHER], "v1", 1),
        (parts("in service", stages()[:1], release={"name": "reloaded"}), [OTHER, parts()], "v1", 1),
        (parts(), [OTHER], "v1", 1),
        (parts("booting"), [OTHER, parts("drained", release={"name": "before"})], "v1", 2),
        ({}, [OTHER, parts()], "v1", 1),
        ([], [OTHER], "v0", 0),
        ({"stages": "?", "phase": "booting"}, [{"stages": 7}, OTHER, {}], "v0", 0),
        (parts("booting") | {"stages": []}, [OTHER], "v0", 0),
    ],
)
def test_it_is_the_boot_under_way_or_else_the_last(
    tmp_path: Path, record: Any, kept: list[Any], release: str, former: int
) -> None:
    """The stages of a reload, taken for a boot; a boot that hangs, and the last good one is shown."""
    found = look(place(tmp_path, record, *kept))
    assert found is not None
    assert (found.boot.release, len(found.former)) == (release, former)


def test_where_no_boot_is_known_there_is_none(tmp_path: Path) -> None:
    """A traceback on an instance that never booted."""
    assert look(place(tmp_path, {})) is None
    assert look(Root(tmp_path / "nowhere")) is None


HOSTILE = '</title><script>alert(1)</script>&"\x1b[2J\x00\ud800\ufffe'
SVG = "{http://www.w3.org/2000/svg}"


def hostile() -> Boot:
    tries = {"number": 2, "seconds": 1.0, "reason": HOSTILE}
    entries = [entry("settings", 0.1, 0.2, fact=HOSTILE, retries=tries), entry(HOSTILE, 0.3, 1.0, "failed")]
    return Boot.of(screen.printable(parts(HOSTILE, entries, release={"name": HOSTILE})), NOW, alive=False)


def drawn(boot: Boot, usual: Mapping[str, float] | None = None) -> ET.Element:
    return ET.fromstring(waterfall.draw(boot, usual or {}, 1 if usual else 0))  # noqa: S314  our own


def test_no_text_of_a_record_is_more_than_text_in_the_drawing() -> None:
    """A release's name that runs as a script in the browser of whoever opens the drawing; a drawing that is no XML."""
    tree = drawn(hostile())
    assert {element.tag.removeprefix(SVG) for element in tree.iter()} == {
        "svg",
        "title",
        "style",
        "rect",
        "text",
        "path",
        "g",
    }
    assert any("<script>" in (element.text or "") for element in tree.iter(f"{SVG}text"))


def test_nothing_that_a_terminal_obeys_comes_from_a_record(tmp_path: Path) -> None:
    """A Dockerfile's output that takes over the terminal of whoever looks why the boot was slow."""
    found = look(
        place(tmp_path, parts("failed", [entry("image", 0.1, 1.0, fact=HOSTILE)]), parts(HOSTILE, agent=LATER))
    )
    assert found is not None
    shown = "".join(analyze.lines(found))
    assert "alert(1)" in shown
    assert [character for character in shown if not character.isprintable() and character != "\n"] == []


def bars(tree: ET.Element) -> list[tuple[str, float, float]]:
    """Each stage's kind, and where its bar begins and ends, in pixels."""
    found = [group.find(f"{SVG}rect") for group in tree.iter(f"{SVG}g")]
    return [
        (bar.attrib["class"], float(bar.attrib["x"]), float(bar.attrib["width"])) for bar in found if bar is not None
    ]


def test_the_bars_are_where_and_as_long_as_the_stages_were() -> None:
    """A drawing that is pretty and wrong."""
    scale = (waterfall.WIDTH - waterfall.LEFT - waterfall.RIGHT) / 13.0
    found = bars(drawn(boot()))
    expected = [(stage.at, max(stage.seconds, 2 / scale)) for stage in boot().all]
    for (_, x, width), (at, seconds) in zip(found, expected, strict=True):
        assert (x - waterfall.LEFT) / scale == pytest.approx(at, abs=0.01)
        assert width / scale == pytest.approx(seconds, abs=0.01)
    assert [kind for kind, _, _ in found][:5] == ["critical", "critical", "other", "critical", "other"]
    assert [kind for kind, _, _ in bars(drawn(hostile()))][-1] == "failed"


def test_the_drawing_shows_seconds_tries_and_what_is_usual_within_its_width() -> None:
    """Bars without figures; marks beyond the right edge, where nobody sees them."""
    tree = drawn(boot(), {"image": 30.0, "docker": 1.0})
    texts = [element.text for element in tree.iter(f"{SVG}text")]
    assert "8.00 s" in texts
    assert "2.00 s  ↻ 3: 1.5 s waited" in texts
    marks = [path.attrib["d"] for path in tree.iter(f"{SVG}path") if path.attrib["class"] == "usual"]
    assert len(marks) == 3, "two, and the legend's"
    assert all(float(mark[1:].split()[0]) <= waterfall.WIDTH for mark in marks)
    assert len([text for text in texts if text and text.endswith(" s") and text[:-2].isdigit()]) <= waterfall.TICKS + 1
    empty = Boot("i-0abc", "v1", "booting", NOW, 0.0, ())
    assert len(bars(drawn(empty))) == 1, "the start"


def test_the_drawing_needs_nothing_else_and_follows_light_and_dark() -> None:
    """Black text on a black page; a drawing in a ticket that loads something from somewhere."""
    text = waterfall.draw(boot(), {}, 0)
    assert "@media (prefers-color-scheme: dark)" in text
    assert text.replace('xmlns="http://www.w3.org/2000/svg"', "").count("://") == 0


def test_boots_of_a_machine_are_told_apart_drawn_and_compared(machine: Machine, unprivileged: Unprivileged) -> None:
    """An analysis of what the tests made up."""
    for number in range(2):
        url = machine.release(app(f"page {number}"), f"v{number}.tar.gz")
        booted = machine.boot(RELEASE_URL=url, ADF_PUBLISH=f"{free_port()}:8000")
        assert booted.code == 0, booted.log
    shown = machine.run("analyze", "--json")
    assert shown.code == 0, shown.log
    found = json.loads(shown.out)
    assert (found["release"], found["phase"], found["like"]) == ("v1", "in service", 1)
    assert [each["release"] for each in found["former"]] == ["v0"]
    took = {each["name"]: each["seconds"] for each in found["stages"]}
    assert list(took) == ["start", "settings", "docker", "release", "image", "container", "health", "report"]
    assert 0.02 < took["start"] < found["seconds"] < 60
    assert sum(took[name] for name in found["critical"]) <= found["seconds"] + 0.1
    file = machine.root / "boot.svg"
    assert machine.run("analyze", "--svg", str(file)).out.startswith(found["instance"])
    assert len(bars(ET.fromstring(file.read_bytes()))) == 8  # noqa: S314  our own
    assert ET.fromstring(machine.run("analyze", "--svg", "-").out).tag == f"{SVG}svg"  # noqa: S314
    nowhere = machine.run("analyze", "--svg", str(machine.root / "no/boot.svg"))
    assert (nowhere.code, nowhere.log.splitlines()[1]) == (1, "  → Name another FILE.")
    seen = unprivileged.folder / "seen"
    (machine.root / "run").rename(seen)  # pytest's own folder is for its user only
    (machine.root / "var").rename(unprivileged.folder / "var")
    (unprivileged.folder / "run").symlink_to(seen)
    process = unprivileged("-m", "adf_agent", "analyze", env={"ADF_ROOT": str(unprivileged.folder)})
    out, log = process.communicate(timeout=60)
    assert (process.returncode, "former boots" in out) == (0, True), log
    (unprivileged.folder / "run").unlink()
    seen.rename(machine.root / "run")
    (unprivileged.folder / "var").rename(machine.root / "var")


def test_a_boot_that_is_waiting_and_one_whose_agent_was_killed_are_analyzed(machine: Machine) -> None:
    """An instance that hangs right now: the one that the command is for."""
    away = machine.root / "away.sock"
    machine.user_data(RELEASE_URL=machine.release(app()), ADF_PUBLISH=f"{free_port()}:8000")
    agent = machine.daemon(DOCKER_HOST=f"unix://{away}")
    agent.until(lambda: any("retries" in stage for stage in machine.status().get("stages", ())), "Docker is waited for")
    shown = machine.run("analyze")
    assert shown.code == 0, shown.log
    assert "tried again" in shown.out
    assert "docker: waited after" in shown.out
    assert "running" in shown.out
    agent.kill()
    assert "cut off" in machine.run("analyze").out


@pytest.fixture
def disk(machine: Machine) -> Iterator[Path]:
    """The machine's state folder, on a disk of its own."""
    if os.geteuid() != 0:
        pytest.fail("a disk of its own needs root: sudo make test", pytrace=False)
    place = machine.root / "var/lib/adf-agent"
    place.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(place)], check=True)
    yield place
    machine.clean()
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_on_a_full_disk_a_boot_is_analyzed_though_it_is_not_kept(machine: Machine, disk: Path) -> None:
    """A boot that fails for a file that nobody needs; the boot before it, shown in its place."""
    machine.user_data(RELEASE_URL=machine.release(app()), ADF_PUBLISH=f"{free_port()}:8000")
    for _ in range(2):
        agent = machine.daemon()
        agent.reach("in service")
        agent.kill()
        fill(disk / "filler")
    shown = machine.run("analyze", "--json")
    assert shown.code == 0, shown.log
    found = json.loads(shown.out)
    assert [each["fact"].split()[0] for each in found["stages"] if each["name"] == "container"] == ["adopted"]
    assert (len(found["former"]), len(history.load(Root(machine.root)))) == (1, 1)
    (disk / "filler").unlink()


def test_before_any_boot_the_next_step_is_named(machine: Machine) -> None:
    """A traceback where a sentence is due."""
    shown = machine.run("analyze")
    assert (shown.code, shown.log) == (1, "adf-agent: no boot is known here\n  → sudo systemctl start adf-agent\n")
