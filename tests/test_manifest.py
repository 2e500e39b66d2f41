"""`adf.toml`, and the values that settings share with it."""

from dataclasses import fields
from pathlib import Path

import pytest

from adf_agent import notation
from adf_agent.errors import ReleaseError
from adf_agent.manifest import Build, Container, Health, Manifest
from adf_agent.notation import Port, Probe, Ulimit, Volume

EXAMPLE = Path(__file__).parents[1] / "examples" / "adf.toml"


def test_the_documented_example_means_what_it_says() -> None:
    """A user who copies the example gets an error, or something else than is written there."""
    assert Manifest.parse(EXAMPLE.read_bytes()) == Manifest(
        Build("docker/Dockerfile", "production", {"VERSION": "1.4.2"}),
        Container(
            publish=(Port(80, 8000), Port(9100, 9100), Port(53, 5353, "udp")),
            command=("serve", "--port", "8000"),
            memory=512 * 2**20,
            cpus=1.5,
            user="1000:1000",
            read_only=True,
            volumes=(
                Volume("tmp", "/tmp"),
                Volume("certificates", "/certificates", read_only=True),
                Volume("/var/cache/web", "/cache"),
            ),
            capabilities=("NET_BIND_SERVICE",),
            ulimits=(Ulimit("nofile", 4096, 8192), Ulimit("core", 0, 0)),
            stop_timeout=45.0,
        ),
        Health(Probe("http", 8000, "/health"), 10.0, 3.0, 2, 5, 120.0),
    )


@pytest.mark.parametrize("section", [Build, Container, Health])
def test_every_key_is_documented_and_in_the_example(section: type[Build | Container | Health]) -> None:
    """A key that nobody can read about is used by nobody."""
    example = Manifest.parse(EXAMPLE.read_bytes())
    for key in fields(section):
        assert f"- `{key.name}`: " in str(section.__doc__)
        assert getattr(getattr(example, section.__name__.lower()), key.name) != getattr(section(), key.name), key.name


def test_all_of_it_is_optional() -> None:
    """A release with nothing but a Dockerfile must boot."""
    assert Manifest.parse(b"") == Manifest() == Manifest.parse(b"[build]\n[container]\n[health]\n")
    assert Manifest().build.dockerfile == "Dockerfile"
    assert (Manifest().container.stop_timeout, Manifest().health.start_timeout) == (30.0, 300.0)


GOOD = [
    ('[build]\ndockerfile = "./docker//web"', "build", "dockerfile", "docker/web"),
    ("[container]\ncommand = \"serve --name 'a b'\"", "container", "command", ("serve", "--name", "a b")),
    ("[container]\ncommand = []", "container", "command", ()),
    ("[container]\nmemory = 6291456", "container", "memory", 6 * 2**20),
    ("[container]\ncpus = 2", "container", "cpus", 2.0),
    ("[container]\nulimits = {memlock = -1}", "container", "ulimits", (Ulimit("memlock", -1, -1),)),
    ("[container]\nulimits = {memlock = [9, -1]}", "container", "ulimits", (Ulimit("memlock", 9, -1),)),
    ("[container]\ncapabilities = []", "container", "capabilities", ()),
    ('[container]\ncapabilities = ["cap_chown", "KILL"]', "container", "capabilities", ("CHOWN", "KILL")),
    ('[container]\nvolumes = ["//srv/./web//:/x"]', "container", "volumes", (Volume("/srv/web", "/x"),)),
    ("[container]\nstop_timeout = 0", "container", "stop_timeout", 0.0),
    ("[health]\ninterval = 0.5", "health", "interval", 0.5),
    ('[health]\nprobe = "docker"', "health", "probe", Probe("docker")),
]


@pytest.mark.parametrize(("text", "section", "key", "value"), GOOD, ids=[text for text, *_ in GOOD])
def test_takes_each_form_of_a_value(text: str, section: str, key: str, value: object) -> None:
    """A form that Docker users know from elsewhere is refused here."""
    assert getattr(getattr(Manifest.parse(text.encode()), section), key) == value


BAD = {
    "[buidl]": r"unknown section 'buidl': 'build'",
    "port = 80": r"unknown section 'port'",
    "[container]\nmemroy = 1": r"unknown key 'memroy' in \[container\]: 'memory'",
    "[health]\nstart = 1": r"unknown key 'start' in \[health\]: 'start_timeout'",
    "container = 5": r"\[container\]: must be a table, not 5",
    "[build\n": "not valid TOML: .*line 1",
    "x = " + "[" * 10_000: "not valid TOML",
    '[build]\ndockerfile = "../Dockerfile"': r"\[build\] dockerfile: must be a relative path",
    '[build]\ndockerfile = "a/../b"': "must be a relative path",
    '[build]\ndockerfile = "/Dockerfile"': "must be a relative path",
    '[build]\ndockerfile = "."': "must be a relative path",
    '[build]\ndockerfile = ""': "must not be empty",
    "[build]\ntarget = 1": r"\[build\] target: must be a string, not 1",
    "[build]\nargs = {A = 12345678}": r"\[build\] args: 'A' must be a string, in quotes$",
    '[build]\nargs = ["A"]': "must be a table",
    '[container]\npublish = "80:8000"': "must be a list",
    "[container]\npublish = [70000]": "1 to 65535",
    "[container]\npublish = [true]": "must be a string, not True",
    "[container]\npublish = [8.5]": "must be a string, not 8.5",
    "[container]\ncommand = 1": "must be a list",
    "[container]\ncommand = [1]": "must be a string",
    '[container]\ncommand = "a \'b"': "quotation",
    '[container]\nmemory = "5m"': "6m at least",
    '[container]\nmemory = "much"': "'much' is no size",
    "[container]\nmemory = true": "True is no size",
    "[container]\ncpus = 0": "must be a number from 0.01 to 10000, not 0$",
    "[container]\ncpus = nan": "must be a number from 0.01",
    "[container]\ncpus = inf": "must be a number from 0.01",
    "[container]\ncpus = true": "must be a number from 0.01",
    '[container]\nuser = " "': "must not be empty",
    "[container]\nread_only = 1": "must be true or false, not 1",
    '[container]\nvolumes = ["data"]': "'data' is no volume",
    '[container]\nvolumes = ["../x:/x"]': "is no volume",
    '[container]\nvolumes = ["/x:x"]': "is no volume",
    '[container]\nvolumes = ["/x:/x:rx"]': "is no volume",
    '[container]\nvolumes = ["/srv/../etc:/x"]': r"write the folder without \.\.",
    '[container]\nvolumes = ["web:/../x"]': r"write the folder without \.\.",
    '[container]\nvolumes = ["/srv/\\u0000:/x"]': "without NUL",
    f'[container]\nvolumes = ["/{"x" * 300}:/x"]': "volumes: '/x+…",
    '[container]\ncapabilities = ["SYS_ADMIN"]': r"capabilities: 'SYS_ADMIN' is none that Docker gives by default",
    '[container]\ncapabilities = ["ALL"]': "'ALL' is none that Docker gives by default",
    '[container]\ncapabilities = ["cap_net_admin"]': "'NET_ADMIN' is none",
    '[container]\ncapabilities = [""]': "'' is none",
    '[container]\ncapabilities = "KILL"': "must be a list",
    "[container]\nprivileged = true": "unknown key 'privileged'",
    '[container]\nnetwork = "host"': "unknown key 'network'",
    '[container]\npid = "host"': "unknown key 'pid'",
    '[container]\ndevices = ["/dev/mem"]': "unknown key 'devices'",
    '[container]\nsecurity_opt = ["seccomp=unconfined"]': "unknown key 'security_opt'",
    "[container]\nulimits = {nofile = [9, 3]}": r"\[container\] ulimits: nofile must be",
    "[container]\nulimits = {nofile = [-1, 3]}": "nofile must be",
    "[container]\nulimits = {nofile = [1, 2, 3]}": "nofile must be",
    "[container]\nulimits = {nofile = true}": "nofile must be",
    '[container]\nulimits = {nofile = "9"}': "nofile must be",
    '[container]\nstop_timeout = "soon"': r"\[container\] stop_timeout: 'soon' is no duration",
    "[health]\ninterval = 0": r"\[health\] interval: must be more than 0",
    "[health]\ntimeout = inf": "inf is no duration",
    "[health]\ntimeout = -1": "-1 is no duration",
    "[health]\ntimeout = true": "True is no duration",
    "[health]\nhealthy_threshold = 0": "must be 1 or more, not 0",
    "[health]\nunhealthy_threshold = true": "must be a whole number, not True",
    "[health]\nprobe = 8000": "must be a string, not 8000",
    '[health]\nprobe = "https://:8000/"': "is no probe",
}


@pytest.mark.parametrize(("text", "sentence"), BAD.items(), ids=[text[:40] for text in BAD])
def test_a_bad_manifest_names_the_key_and_what_it_must_be(text: str, sentence: str) -> None:
    """A key that is mistyped and silently ignored is a limit that isn't there."""
    with pytest.raises(ReleaseError, match=sentence) as caught:
        Manifest.parse(text.encode())
    assert str(caught.value).startswith("adf.toml")
    assert caught.value.hint


def test_bytes_that_are_no_text_are_no_manifest() -> None:
    """A manifest saved as UTF-16 ended in a traceback."""
    with pytest.raises(ReleaseError, match="not valid TOML"):
        Manifest.parse("[build]".encode("utf-16"))


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("90s", 90.0), ("15m", 900.0), ("2h", 7200.0), ("90", 90.0), (5, 5.0), (0.25, 0.25), ("1.5h", 5400.0), ("0", 0.0)],
)
def test_reads_durations(value: str | float, seconds: float) -> None:
    """A boot time-out of fifteen minutes was read as fifteen seconds."""
    assert notation.duration(value) == seconds


@pytest.mark.parametrize("value", ["", "s", "15 m", "15d", "-5s", "1h30m", "1e3", "inf", "٣s", "5s\n", True])
def test_refuses_what_is_no_duration(value: str) -> None:
    """A duration that is guessed is a wait that nobody wanted."""
    with pytest.raises(ValueError, match="is no duration: write 90s"):
        notation.duration(value)


@pytest.mark.parametrize(
    ("value", "size"),
    [
        ("512m", 2**29),
        ("1g", 2**30),
        ("64K", 2**16),
        ("1.5GB", 3 * 2**29),
        ("2gib", 2**31),
        ("10b", 10),
        ("1 m", 2**20),
        (7, 7),
    ],
)
def test_reads_sizes_as_docker_does(value: str | int, size: int) -> None:
    """`1g` is 2^30 bytes to Docker: a container with less is killed."""
    assert notation.size(value) == size


@pytest.mark.parametrize("value", ["", "m", "-1", "1x", "1ib", "1  m", "0x10", True])
def test_refuses_what_is_no_size(value: str) -> None:
    """A limit that is guessed kills the app or the host."""
    with pytest.raises(ValueError, match="is no size"):
        notation.size(value)


@pytest.mark.parametrize(
    ("text", "port", "shown"),
    [
        ("80:8000", Port(80, 8000), "80:8000"),
        ("8000", Port(8000, 8000), "8000:8000"),
        ("53:5353/udp", Port(53, 5353, "udp"), "53:5353/udp"),
        (" 65535/tcp ", Port(65535, 65535), "65535:65535"),
    ],
)
def test_reads_and_writes_ports(text: str, port: Port, shown: str) -> None:
    """Host and container port, swapped, publish nothing that answers."""
    assert (Port.parse(text), str(port)) == (port, shown)
    assert Port.parse(shown) == port


@pytest.mark.parametrize("text", ["", ":8000", "80:", "0", "80:0", "65536", "1:2:3", "127.0.0.1:80:80", "80/sctp", "a"])
def test_refuses_what_is_no_port(text: str) -> None:
    """Docker's own message for a bad port comes minutes later and names no key."""
    with pytest.raises(ValueError, match="is no port to publish"):
        Port.parse(text)


@pytest.mark.parametrize(
    ("text", "probe"),
    [
        ("http://:8000/health?deep=1", Probe("http", 8000, "/health?deep=1")),
        ("tcp://:8000", Probe("tcp", 8000)),
        ("docker", Probe("docker")),
    ],
)
def test_reads_and_writes_probes(text: str, probe: Probe) -> None:
    """A probe of something else than was written calls a dead app healthy."""
    assert (Probe.parse(text), str(probe)) == (probe, text)


def test_a_probe_without_a_path_asks_for_the_root() -> None:
    """A GET of nothing is a bad request."""
    assert Probe.parse("http://:8000") == Probe("http", 8000, "/")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "http",
        "http://8000/",
        "http://localhost:8000/",
        "http://:0/",
        "http://:99999/",
        "tcp://:80/x",
        "udp://:53",
        "https://:443/",
        "http://:80/a b",
        "http://:80/\r\nHost: x",
        "http:///health",
        "Docker",
    ],
)
def test_refuses_what_is_no_probe(text: str) -> None:
    """A probe that can never answer fails every boot after its whole start time-out."""
    with pytest.raises(ValueError, match="is no probe"):
        Probe.parse(text)
