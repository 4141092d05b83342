"""Services of every kind as real processes: start, stop, restart, adoption after the starter's death, evidence."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from watchdog.clock import SystemClock
from watchdog.system import process
from watchdog.system.http import HttpClient
from watchdog.system.process import ProcessIdentity
from watchdog.system.services import ServiceContext, ServiceController, ServiceError, services
from watchdog.system.services.child import ChildService, ChildSettings
from watchdog.system.services.command import CommandService, CommandSettings
from watchdog.system.services.external import ExternalService, ExternalSettings, read_pidfile

SLEEPER = (sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)")
STARTER = """
import asyncio, sys
from pathlib import Path
from watchdog.clock import SystemClock
from watchdog.system.http import HttpClient
from watchdog.system.services import ServiceContext
from watchdog.system.services.child import ChildService, ChildSettings

async def main():
    root = Path(sys.argv[1])
    context = ServiceContext("demo", root, root, SystemClock(), HttpClient())
    await ChildService(ChildSettings(kind="child", argv=("sleep", "600")), context).start()
    print("started", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""

MakeChild = Callable[..., ChildService]


@pytest.fixture
async def context(tmp_path: Path) -> AsyncIterator[ServiceContext]:
    http = HttpClient()
    yield ServiceContext("demo", tmp_path / "run", tmp_path / "log", SystemClock(), http)
    await http.close()


@pytest.fixture
async def make(context: ServiceContext) -> AsyncIterator[MakeChild]:
    """Makes controllers of one service; whatever runs in the end is stopped."""
    made: list[ChildService] = []

    def new(*argv: str, **settings: object) -> ChildService:
        data = {"kind": "child", "argv": argv or SLEEPER, "stop_timeout": "2s", **settings}
        made.append(ChildService(ChildSettings.model_validate(data), context))
        return made[-1]

    yield new
    for service in made:
        await service.stop()
        await service.status()


async def identity_of(service: ServiceController) -> ProcessIdentity:
    identity = (await service.status()).identity
    assert identity is not None
    return identity


async def test_a_child_lives_apart_from_its_starter(make: MakeChild, context: ServiceContext) -> None:
    """It runs in a session of its own and its words are in its log."""
    service = make()
    assert (await service.status()).state == "stopped"
    await service.start()
    status = await service.status()
    assert (status.state, status.on_purpose) == ("running", False)
    assert status.since is not None
    identity = await identity_of(service)
    stat = process.read_stat(identity.pid)
    assert stat is not None
    assert stat.session == identity.pid != os.getsid(0)
    assert (context.log_dir / "demo.log").read_text() == "up\n"


async def test_starting_twice_makes_one_process(make: MakeChild) -> None:
    """Two starts at once, from two controllers, end with one process and no error."""
    first, second = make(), make()
    await asyncio.gather(first.start(), second.start())
    assert await identity_of(first) == await identity_of(second)
    before = await identity_of(first)
    await first.start()
    assert await identity_of(first) == before


async def test_stopped_by_us_is_on_purpose_and_killed_is_a_failure(make: MakeChild) -> None:
    """What `stop` ended counts as stopped on purpose; what somebody else killed counts as failed, with the signal."""
    service = make()
    await service.start()
    ended = asyncio.create_task(service.wait_exit())
    os.kill((await identity_of(service)).pid, signal.SIGKILL)
    await asyncio.wait_for(ended, 45)
    status = await service.status()
    assert (status.state, status.on_purpose) == ("failed", False)
    assert "killed by signal 9" in status.note
    await service.start()
    await service.stop()
    status = await service.status()
    assert (status.state, status.on_purpose) == ("stopped", True)


async def test_a_restart_replaces_the_process(make: MakeChild) -> None:
    """Another process runs afterwards, and nothing looks stopped on purpose."""
    service = make()
    await service.start()
    before = await identity_of(service)
    await service.restart()
    assert await identity_of(service) != before
    assert not process.alive(before)
    assert not (await service.status()).on_purpose


async def test_a_stop_leaves_no_descendants(make: MakeChild) -> None:
    """Processes that the service started in its session end with it, even those that it forgot."""
    service = make("sh", "-c", "sleep 601 & echo $!; wait")
    await service.start()
    leader = await identity_of(service)
    family = [pid for pid in process.list_pids() if (s := process.read_stat(pid)) and s.session == leader.pid]
    assert len(family) == 2
    await service.stop()
    assert [pid for pid in family if process.identify(pid)] == []


async def test_a_start_that_dies_brings_its_evidence(make: MakeChild) -> None:
    """Exit status and last log lines are in the error; a later status still says that it failed."""
    service = make("sh", "-c", "echo first; echo the reason >&2; exit 7")
    with pytest.raises(ServiceError, match="exit status 7") as caught:
        await service.start()
    assert caught.value.exit_code == 7
    assert caught.value.log_lines[-1] == "the reason"
    assert (await service.status()).state == "failed"


async def test_a_program_that_is_not_there_is_a_permanent_error(make: MakeChild) -> None:
    """The error names the program."""
    service = make("/nowhere/at-all")
    with pytest.raises(ServiceError, match="/nowhere/at-all: No such file") as caught:
        await service.start()
    assert caught.value.permanent


async def test_a_start_is_complete_when_the_service_answers(make: MakeChild, tmp_path: Path) -> None:
    """With a ready_url the start waits for an answer; without an answer in time it fails and says where it asked."""
    (tmp_path / "port").touch()
    code = (
        "import http.server, sys; s = http.server.HTTPServer(('127.0.0.1', 0), http.server.SimpleHTTPRequestHandler);"
        f"open({str(tmp_path / 'port')!r}, 'w').write(str(s.server_port)); s.serve_forever()"
    )
    nobody = make(sys.executable, "-c", code, ready_url="http://127.0.0.1:9/", start_timeout="2s")
    with pytest.raises(ServiceError, match=r"http://127\.0\.0\.1:9/ did not answer within 2 s"):
        await nobody.start()
    port = (tmp_path / "port").read_text()
    service = make(sys.executable, "-c", code.replace("0)", f"{port})"), ready_url=f"http://127.0.0.1:{port}/")
    await service.restart()
    assert (await service.status()).state == "running"


async def test_a_stranger_on_its_port_is_no_answer(make: MakeChild, tmp_path: Path) -> None:
    """Where somebody else answers at the ready_url, a start whose process ends over the taken port fails."""
    serve = (
        "import http.server as h, sys; s = h.HTTPServer(('127.0.0.1', int(sys.argv[1])), h.SimpleHTTPRequestHandler);"
    )
    said = f"open({str(tmp_path / 'port')!r}, 'w').write(str(s.server_port));"
    stranger = subprocess.Popen((sys.executable, "-c", f"{serve}{said} s.serve_forever()", "0"))
    try:
        async with asyncio.timeout(20):
            while not (tmp_path / "port").exists() or not (tmp_path / "port").read_text():
                await asyncio.sleep(0.01)
        port = (tmp_path / "port").read_text()
        ours = make(sys.executable, "-c", f"{serve} s.serve_forever()", port, ready_url=f"http://127.0.0.1:{port}/")
        with pytest.raises(ServiceError, match="ended during its start: exit status 1") as caught:
            await ours.start()
        assert "Address already in use" in caught.value.log_lines[-1]
    finally:
        stranger.kill()
        stranger.wait()


async def test_a_service_outlives_its_starter_and_is_adopted(make: MakeChild, context: ServiceContext) -> None:
    """After SIGKILL of the process that started it, it still runs, and another one can watch and stop it."""
    starter = subprocess.Popen(
        (sys.executable, "-c", STARTER, str(context.run_dir)), stdout=subprocess.PIPE, start_new_session=True
    )
    assert starter.stdout is not None
    assert await asyncio.to_thread(starter.stdout.readline) == b"started\n"
    starter.kill()
    starter.wait()
    starter.stdout.close()
    adopted = make("sleep", "600")
    identity = await identity_of(adopted)
    await adopted.start()
    assert await identity_of(adopted) == identity, "starting what runs does nothing"
    ended = asyncio.create_task(adopted.wait_exit())
    await adopted.stop()
    await asyncio.wait_for(ended, 45)
    assert not process.alive(identity)


async def test_a_process_that_was_not_recorded_in_time_is_found(make: MakeChild, context: ServiceContext) -> None:
    """If the starter died between start and record, the token in the environment still leads to the process."""
    service = make()
    await service.start()
    identity = await identity_of(service)
    environment = Path(f"/proc/{identity.pid}/environ").read_bytes().split(b"\0")
    token = next(x.partition(b"=")[2].decode() for x in environment if x.startswith(b"PROXYWATCH_START="))
    record = context.run_dir / "services" / "demo.json"
    record.write_text(f'{{"wanted": true, "token": "{token}", "boot": "{process.boot_id()}"}}')
    assert await identity_of(make()) == identity


async def test_a_record_of_another_boot_names_nobody(make: MakeChild, context: ServiceContext) -> None:
    """A number that is alive now, recorded before a reboot, is not the service."""
    service = make()
    await service.start()
    identity = await identity_of(service)
    record = context.run_dir / "services" / "demo.json"
    text = record.read_text()
    record.write_text(text.replace(process.boot_id(), "another-boot"))
    assert (await service.status()).state == "failed"
    record.write_text(text)
    assert await identity_of(service) == identity


async def test_a_record_that_cannot_be_read_is_an_error(make: MakeChild, context: ServiceContext) -> None:
    """A broken record is told, not taken for a service that never ran: that would start a second one."""
    service = make()
    record = context.run_dir / "services" / "demo.json"
    record.parent.mkdir(parents=True)
    record.write_text("{")
    with pytest.raises(ServiceError, match=r"demo\.json: the service's record cannot be read"):
        await service.start()
    record.unlink()


async def test_a_stop_by_hand_is_told_by_what_status_prints(context: ServiceContext, tmp_path: Path) -> None:
    """systemctl prints `inactive` of a unit that somebody stopped, `failed` of one that nobody wanted to end."""
    says = tmp_path / "says"
    settings = CommandSettings(
        kind="command",
        start=("true",),
        stop=("true",),
        status=("sh", "-c", f"cat {says}; exit 3"),
        stopped_output="inactive",
    )
    service = CommandService(settings, context)
    says.write_text("failed\n")
    assert not (await service.status()).on_purpose
    says.write_text("inactive\n")
    status = await service.status()
    assert (status.state, status.on_purpose) == ("stopped", True)


async def test_commands_of_an_init_system(context: ServiceContext, tmp_path: Path) -> None:
    """Start, stop and status run as configured; exit 3 is stopped, on purpose only if we stopped it."""
    flag = tmp_path / "flag"
    status = ("sh", "-c", f"test -e {flag} && echo active || {{ echo inactive; exit 3; }}")
    service = CommandService(
        CommandSettings(kind="command", start=("touch", str(flag)), stop=("rm", str(flag)), status=status), context
    )
    assert ((await service.status()).state, (await service.status()).on_purpose) == ("stopped", False)
    await service.start()
    assert ((await service.status()).state, (await service.status()).note) == ("running", "active")
    await service.restart()
    assert (await service.status()).state == "running"
    await service.stop()
    assert ((await service.status()).state, (await service.status()).on_purpose) == ("stopped", True)
    with pytest.raises(ServiceError, match="rm exited with 1") as caught:
        await service.stop()
    assert caught.value.exit_code == 1
    with pytest.raises(ServiceError, match="no `pidfile`"):
        await service.wait_exit()


async def test_an_external_service_is_never_touched(context: ServiceContext, tmp_path: Path) -> None:
    """It is seen through its pidfile, its end is announced, and every command is refused."""
    pidfile = tmp_path / "x.pid"
    service = ExternalService(ExternalSettings(kind="external", pidfile=pidfile), context)
    assert (await service.status()).state == "stopped"
    with subprocess.Popen(("sleep", "600")) as child:
        pidfile.write_text(f"{child.pid}\n")
        assert (await service.status()).identity == process.identify(child.pid)
        for command in (service.start, service.stop, service.restart):
            with pytest.raises(ServiceError, match="watched and never"):
                await command()
        ended = asyncio.create_task(service.wait_exit())
        child.kill()
        await asyncio.wait_for(ended, 45)
    assert (await service.status()).state == "stopped"


def test_a_pidfile_older_than_its_process_names_another_one(tmp_path: Path) -> None:
    """A process that started long after its pidfile was written has a reused number."""
    pidfile = tmp_path / "x.pid"
    pidfile.write_text(str(os.getpid()))
    assert read_pidfile(pidfile) == process.identify(os.getpid())
    os.utime(pidfile, (1, 1))
    assert read_pidfile(pidfile) is None
    pidfile.write_text("soon")
    with pytest.raises(ServiceError, match="does not begin with a process number"):
        read_pidfile(pidfile)


def test_every_kind_of_service_is_registered() -> None:
    """The kinds are found by looking into the package."""
    import watchdog.system.services

    services.discover(watchdog.system.services)
    assert list(services.kinds) == ["child", "command", "external", "unit"]
