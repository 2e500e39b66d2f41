"""The daemon, with no group around it: boot, supervise, leave, come back."""

import json
import signal
import socket
from collections.abc import Callable
from contextlib import ExitStack

from fixtures_agent import BASE, Files, Machine, app
from gate import gated
from test_boot import free_port, page, table

from adf_agent.release import FILE
from adf_agent.sandbox.imds import SILENCE, Fault


def serving(machine: Machine, files: Files | None = None, **settings: object) -> int:
    """Launches a release of *files* on a free port of the host, which is returned."""
    port = free_port()
    machine.user_data(RELEASE_URL=machine.release(files or app()), ADF_PUBLISH=f"{port}:8000", **settings)
    return port


def pid_of_app(machine: Machine) -> int:
    [container] = machine.containers()
    pid: int = container.attrs["State"]["Pid"]
    return pid


def answers(port: int, text: str = "hello") -> Callable[[], bool]:
    def ask() -> bool:
        try:
            return page(port) == text
        except OSError:
            return False

    return ask


def test_release_file_is_gone_before_the_container_is_made(machine: Machine) -> None:
    """Docker waits until the disk has all that was written to it: for a file that nobody needs any more, too."""
    serving(machine)
    gate = gated(machine, "stage.started|container")
    gate.reach()
    folder = machine.root / "var/lib/adf-agent"
    assert (folder / "build.log").exists()
    assert not (folder / FILE).exists()
    gate.open()
    gate.agent.reach("in service")


def test_run_boots_serves_and_leaves_on_sigterm(machine: Machine) -> None:
    """A machine that is shut down with its app cut off, or an agent that systemd has to kill."""
    port = serving(machine)
    agent = machine.daemon()
    agent.reach("in service")
    assert page(port) == "hello"
    assert machine.run("status").code == 0
    assert agent.end() == 0, agent.log()
    assert machine.containers() == []
    assert machine.status()["phase"] == "stopped"
    assert machine.run("status").code == 3


def test_a_container_that_ends_is_started_again_with_the_config_that_it_had(machine: Machine) -> None:
    """A crash at night that takes the app down until somebody comes, or brings half-changed config in."""
    table(machine, GREETING="first")
    port = serving(machine, ADF_APP="web")
    agent = machine.daemon()
    agent.reach("in service")
    table(machine, GREETING="second")
    [before] = machine.containers()
    before.kill()
    agent.until(lambda: agent.events("container.started_again"), "it was started again")
    agent.reach("in service")
    agent.until(answers(port), "it answers again")
    [after] = machine.containers()
    assert after.id == before.id
    assert "GREETING=first" in after.attrs["Config"]["Env"]
    assert machine.status()["restarts"] == 1
    assert any("exited with code 137" in reason for reason in machine.status()["degraded"])
    after.remove(force=True)
    agent.until(lambda: any(each.id != after.id for each in machine.containers()), "it was made anew")
    agent.reach("in service")
    assert "GREETING=first" in machine.containers()[0].attrs["Config"]["Env"]


def test_a_killed_agent_adopts_what_runs(machine: Machine) -> None:
    """An agent that crashed, or was upgraded, and restarts the app for it."""
    serving(machine)
    first = machine.daemon()
    first.reach("in service")
    pid = pid_of_app(machine)
    first.kill()
    again = machine.daemon()
    again.reach("in service")
    assert pid_of_app(machine) == pid
    assert again.end() == 0


def test_a_second_agent_is_refused(machine: Machine) -> None:
    """Two agents that each start the container, and each complete the hook."""
    serving(machine)
    first = machine.daemon()
    first.reach("in service")
    second = machine.daemon()
    assert second.ended() == 1
    assert "another adf-agent is running" in second.log()
    assert first.process.poll() is None


def test_a_reload_that_changes_nothing_leaves_the_process_alone(machine: Machine) -> None:
    """A reload by a timer or a nervous operator that costs requests."""
    table(machine, GREETING="first")
    serving(machine, ADF_APP="web")
    agent = machine.daemon()
    agent.reach("in service")
    pid = pid_of_app(machine)
    reloaded = machine.run("reload")
    assert reloaded.code == 0, reloaded.log
    assert pid_of_app(machine) == pid
    table(machine, GREETING="second")
    assert machine.run("reload").code == 0
    [container] = machine.containers()
    assert "GREETING=second" in container.attrs["Config"]["Env"]
    agent.reach("in service")


def test_a_reload_that_can_not_be_leaves_the_former_config_in_service(machine: Machine) -> None:
    """A typing error in the config that takes a whole fleet down at its reload."""
    table(machine, GREETING="first")
    port = serving(machine, ADF_APP="web")
    agent = machine.daemon()
    agent.reach("in service")
    pid = pid_of_app(machine)
    table(machine, **{"BAD-NAME": "x"})
    reloaded = machine.run("reload")
    assert reloaded.code == 1
    assert "the former config serves on" in reloaded.log
    assert "→ Rename it" in reloaded.log
    assert pid_of_app(machine) == pid
    assert page(port) == "hello"


def test_a_reload_to_another_release_is_refused_and_the_status_names_the_one_that_runs(machine: Machine) -> None:
    """A fleet record that says v2 of an instance which serves v1, and a canary that is judged by it."""
    serving(machine)
    agent = machine.daemon()
    agent.reach("in service")
    before = machine.status()["release"]
    machine.user_data(RELEASE_URL="file:///srv/v9.tar.gz")
    assert machine.run("reload").code == 1
    assert machine.status()["release"] == before
    assert before["digest"]
    agent.kill()
    serving(machine)
    machine.daemon().reach("in service")
    assert machine.status()["release"]["digest"] == before["digest"]


def test_a_reload_that_makes_the_app_fail_brings_the_former_config_back(machine: Machine) -> None:
    """One wrong value, reloaded everywhere, and nothing serves any more."""
    table(machine, FAIL="")
    command = 'test -z "$FAIL" || exit 3; exec httpd -f -p 8000 -h /www'
    dockerfile = (
        f"FROM {BASE}\nCOPY www /www\nEXPOSE 8000\nSTOPSIGNAL SIGKILL\nCMD {json.dumps(['sh', '-c', command])}\n"
    )
    port = serving(machine, {"Dockerfile": dockerfile, "www/index.html": "hello"}, ADF_APP="web")
    agent = machine.daemon()
    agent.reach("in service")
    table(machine, FAIL="yes")
    reloaded = machine.run("reload")
    assert reloaded.code == 1
    agent.reach("in service")
    agent.until(answers(port), "the former config serves")
    assert "FAIL=" in machine.containers()[0].attrs["Config"]["Env"]
    assert any("the reload failed" in reason for reason in machine.status()["degraded"])


def test_drain_stops_the_app_and_the_agent_stays_away_until_it_is_told_otherwise(machine: Machine) -> None:
    """An operator who drained an instance to look at it, and finds it serving again after a crash of the agent."""
    port = serving(machine)
    agent = machine.daemon()
    agent.reach("in service")
    drained = machine.run("drain")
    assert drained.code == 0, drained.log
    assert "container stopped" in drained.out
    assert machine.containers() == []
    assert machine.run("status").code == 4
    agent.kill()
    again = machine.daemon()
    again.reach("drained")
    refused = machine.run("drain")
    assert refused.code == 0, "it has drained"
    assert machine.run("reload").code == 0, "back by its word"
    again.reach("in service")
    assert page(port) == "hello"


def test_what_was_drained_comes_back_with_new_config(machine: Machine) -> None:
    """An instance drained to have its config mended, which comes back with what was wrong with it."""
    table(machine, GREETING="old")
    serving(machine, ADF_APP="web")
    agent = machine.daemon()
    agent.reach("in service")
    assert machine.run("drain").code == 0
    table(machine, GREETING="new")
    assert machine.run("reload").code == 0
    agent.reach("in service")
    assert "GREETING=new" in machine.containers()[0].attrs["Config"]["Env"]


def test_a_port_that_was_taken_meanwhile_is_named_and_tried_for_without_haste(machine: Machine) -> None:
    """A restart loop that fills the journal and says that the app is at fault."""
    port = serving(machine)
    agent = machine.daemon()
    agent.reach("in service")
    [container] = machine.containers()
    with ExitStack() as stack:
        container.kill()

        def take() -> bool:
            try:
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
            except OSError:
                return False
            return True

        agent.until(take, "the port is taken from it")
        [again] = machine.containers()
        again.kill() if again.status == "running" else None
        agent.until(lambda: any(str(port) in reason for reason in machine.status()["degraded"]), "it is named")
        agent.until(lambda: machine.status()["restarts"] >= 3, "it is tried for")
        pauses = [event for event in agent.events("phase") if event["phase"] == "restarting"]
        assert len(pauses) <= 5
    agent.reach("in service")


def test_a_config_mended_and_reloaded_cures_an_app_that_keeps_falling(machine: Machine) -> None:
    """An operator whose cure has to wait for the app to be well."""
    table(machine, FAIL="")
    command = 'test -z "$(cat /shared/fail)$FAIL" || exit 3; exec httpd -f -p 8000 -h /www'
    (machine.root / "shared").mkdir()
    (machine.root / "shared/fail").write_text("")
    dockerfile = (
        f"FROM {BASE}\nCOPY www /www\nEXPOSE 8000\nSTOPSIGNAL SIGKILL\nCMD {json.dumps(['sh', '-c', command])}\n"
    )
    toml = f'[container]\nvolumes = ["{machine.root}/shared:/shared"]\n'
    machine.agent_env(ADF_VOLUMES=machine.root / "shared")
    serving(machine, {"Dockerfile": dockerfile, "www/index.html": "hello", "adf.toml": toml}, ADF_APP="web")
    agent = machine.daemon()
    agent.reach("in service")
    (machine.root / "shared/fail").write_text("yes")
    machine.containers()[0].kill()
    agent.until(lambda: machine.status()["restarts"] >= 3, "it falls")
    (machine.root / "shared/fail").write_text("")
    table(machine, FAIL="", MENDED="yes")
    assert machine.run("reload").code == 0
    agent.reach("in service")
    assert "MENDED=yes" in machine.containers()[0].attrs["Config"]["Env"]


def test_a_failed_boot_ends_with_the_stages_code_and_leaves_nothing(machine: Machine) -> None:
    """A daemon that goes on without its app, and calls itself running."""
    serving(machine, app(adf_toml='[health]\nprobe = "http://:8000/never"\nstart_timeout = 1\n'))
    agent = machine.daemon()
    assert agent.ended() == 16, agent.log()
    assert machine.containers() == []
    assert machine.status()["phase"] == "failed"
    assert len(agent.events("boot.failed")) == 1


def test_hold_keeps_the_body_until_somebody_lets_go(machine: Machine) -> None:
    """A failed container that is gone before anybody can look into it; one that is kept for ever."""
    serving(
        machine,
        app(adf_toml='[health]\nprobe = "http://:8000/never"\nstart_timeout = 1\n'),
        ADF_ON_FAILURE="hold",
    )
    agent = machine.daemon()
    agent.reach("held")
    assert len(machine.containers()) == 1
    assert machine.run("status").code == 1
    assert machine.run("hold", "2h").code == 0
    assert machine.run("hold", "--off").code == 0
    assert agent.ended() == 16, agent.log()
    assert machine.containers() == []


def test_sigterm_in_a_boot_takes_it_back(machine: Machine) -> None:
    """A machine that is shut down while it boots, and hangs until systemd kills the agent."""
    serving(machine, app(adf_toml='[health]\nprobe = "http://:8000/never"\n'))
    agent = machine.daemon()
    agent.until(machine.containers, "the container ran")
    assert agent.end(signal.SIGTERM) == 0
    assert machine.containers() == []
    assert machine.status()["phase"] == "stopped"


def test_a_drain_is_heard_while_the_metadata_service_is_silent(machine: Machine) -> None:
    """An operator who is to take a broken instance away, and whose `adf-agent drain` never ends."""
    serving(machine)
    machine.cloud.imds.faults = [Fault(SILENCE)]
    agent = machine.daemon()
    agent.reach("booting")
    assert machine.run("drain").code == 0
    machine.cloud.imds.faults = []
    agent.kill()
    machine.daemon().reach("drained")
    assert machine.run("reload").code == 0
    assert machine.status()["phase"] == "in service"


def test_orders_without_an_agent_say_so(machine: Machine) -> None:
    """A `drain` that seems to have worked on an instance whose agent is dead."""
    for order in ("drain", "reload"):
        ordered = machine.run(order)
        assert ordered.code == 3
        assert "no agent is running" in ordered.log


def test_the_probe_in_the_status_is_the_last_one(machine: Machine) -> None:
    """An app that hangs, degraded for an hour beside “200 OK”, and the operator who believes the latter."""
    serving(machine, app(adf_toml='[health]\nprobe = "http://:8000/"\ninterval = 0.1\ntimeout = 0.5\n'))
    agent = machine.daemon()
    agent.reach("in service")
    [container] = machine.containers()
    assert machine.status()["probe"]["healthy"]
    container.pause()
    agent.until(lambda: not machine.status()["probe"]["healthy"], "the probe fails")
    assert "does not answer its probe" in machine.status()["degraded"][0]
    assert "200" not in machine.status()["probe"]["answer"]
    container.unpause()
    agent.until(lambda: machine.status()["probe"]["healthy"], "it answers again")
    assert not machine.status()["degraded"]


def test_an_image_whose_tag_was_taken_away_is_no_matter_to_what_runs(machine: Machine) -> None:
    """A clean-up job on the host by which a healthy instance is replaced."""
    serving(machine)
    agent = machine.daemon()
    agent.reach("in service")
    pid = pid_of_app(machine)
    machine.engine.images.remove(machine.state()["image"], force=True)
    agent.kill()
    again = machine.daemon()
    again.reach("in service")
    assert pid_of_app(machine) == pid


def test_a_reload_that_is_overtaken_by_a_drain_says_so(machine: Machine) -> None:
    """A `reload` in a script that never returns, as the instance has left meanwhile."""
    table(machine, GREETING="first")
    dockerfile = (
        f"FROM {BASE}\nCOPY www /www\nEXPOSE 8000\nSTOPSIGNAL SIGKILL\n"
        'CMD ["sh", "-c", "test -n \\"$SLOW\\" || echo x >/www/late; exec httpd -f -p 8000 -h /www"]\n'
    )
    files = {**app(adf_toml='[health]\nprobe = "http://:8000/late"\n'), "Dockerfile": dockerfile}
    serving(machine, files, ADF_APP="web")
    agent = machine.daemon()
    agent.reach("in service")
    table(machine, SLOW="yes")
    with machine.start("reload") as reload:
        agent.until(lambda: len(agent.events("container.started")) > 1, "it reloads")
        assert machine.run("drain").code == 0
        _, log = reload.communicate(timeout=30)
    assert reload.returncode == 1
    assert "before the reload had ended" in log
    assert machine.containers() == []


def test_what_was_mended_is_no_longer_called_degraded(machine: Machine) -> None:
    """A status that cries wolf: `--strict` stays 1 for what a reload has mended long ago."""
    table(machine, GREETING="hi")
    machine.cloud.imds.instance.tags = {"ADF_OWNER": "me"}
    serving(machine, ADF_APP="web")
    agent = machine.daemon()
    agent.reach("in service")
    assert machine.run("status", "--strict").code == 1
    machine.cloud.imds.instance.tags = {}
    assert machine.run("reload").code == 0
    agent.reach("in service")
    assert machine.status()["degraded"] == []


def test_a_sighup_in_a_drain_does_not_bring_the_instance_back(machine: Machine) -> None:
    """A `systemctl reload` by a timer that undoes what an operator does by hand."""
    serving(machine)
    agent = machine.daemon()
    agent.reach("in service")
    agent.process.send_signal(signal.SIGUSR1)
    agent.until(lambda: agent.events("drain.started"), "it drains")
    agent.process.send_signal(signal.SIGHUP)
    agent.reach("drained")
    assert agent.end() == 0
    assert len(agent.events("stage.started")) == len({event["stage"] for event in agent.events("stage.started")})
