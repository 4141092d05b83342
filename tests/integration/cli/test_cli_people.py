"""The commands by which people decide, against a running daemon, and without one that answers."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_daemon import WORKER, SmallDaemon, write_config

from watchdog.cli.main import main
from watchdog.playbooks.surroundings import read_kill_switch


@pytest.fixture
def proxywatch(small: SmallDaemon, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs one command line; exit code, standard output, standard error."""

    async def run(*argv: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = await asyncio.to_thread(main, ["--socket", str(small.socket), "--config", str(small.file), *argv])
        told = capsys.readouterr()
        assert max(map(len, told.out.splitlines()), default=0) <= 100
        return code, told.out, told.err

    return run


async def asking(small: SmallDaemon) -> None:
    """A repair waits for a person's word."""
    file = small.file.parent / "playbooks/restore-worker.yaml"
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), "autonomy": "approve"}, sort_keys=False))
    await small.post("/v1/reload")
    small.hang()
    async with asyncio.timeout(45):
        while not any(run.approval for run in small.parts.runs.unended()):
            await asyncio.sleep(0.01)


async def test_the_only_question_is_answered_by_approve(small: SmallDaemon, proxywatch: Any) -> None:
    """`approve` without a number means the one that waits; `status` showed it with what it would do."""
    code, out, _ = await proxywatch("approve")
    assert (code, out) == (1, "no repair waits for a person\n")
    await asking(small)
    status = (await proxywatch("status"))[1]
    assert "waits for `proxywatch approve|deny RUN`" in status
    assert f"restore-worker on {WORKER} would, at rung mark: " in status  # the rest is cut where the terminal ends
    code, out, _ = await proxywatch("approve")
    assert code == 0
    assert f"run 1 of restore-worker on {WORKER} approved" in out
    async with asyncio.timeout(45):
        while not (small.root / "mark-0").exists():
            await asyncio.sleep(0.01)


async def test_deny_and_cancel_say_what_becomes_of_the_incident(small: SmallDaemon, proxywatch: Any) -> None:
    """A denied run is over; another one is not there to cancel."""
    await asking(small)
    code, out, _ = await proxywatch("deny", "1", "--json")
    assert (code, json.loads(out)["approval"]["granted"]) == (0, False)
    await small.get("/v1/runs/1", wait=20)
    code, _, err = await proxywatch("playbook", "cancel", "1")
    assert code == 1
    assert "run 1 is over already: refused" in err


async def test_a_run_is_cancelled(small: SmallDaemon, proxywatch: Any) -> None:
    """The command says that the incident is left to people, and the run ends."""
    await asking(small)
    code, out, _ = await proxywatch("playbook", "cancel", "1")
    assert code == 0
    assert "incident 1 is left to people" in out
    assert (await small.get("/v1/runs/1", wait=20))["state"] == "cancelled"


async def test_silences_and_maintenance_are_added_listed_and_ended(small: SmallDaemon, proxywatch: Any) -> None:
    """Each noun says what it did, lists what is in force, shows it in `status`, and ends it by its name."""
    for noun, argv, end in (
        ("silence", ("alertname=Strange", "severity=warning"), "expire"),
        ("maintenance", ("service:llm-proxy", "worker:*"), "end"),
    ):
        assert "nothing is" in (await proxywatch(noun, "list"))[1]
        code, out, _ = await proxywatch(noun, "add", *argv, "--for", "2h", "--comment", "a new disk", "--json")
        assert code == 0
        identifier = json.loads(out)["id"]
        for shown in ((await proxywatch(noun, "list"))[1], (await proxywatch("status"))[1]):
            assert identifier in shown
            assert "ends in " in shown
        code, out, _ = await proxywatch(noun, end, identifier)
        assert code == 0
        assert "ended" in out
        assert "nothing is" in (await proxywatch(noun, "list"))[1]
        assert (await proxywatch(noun, "add", *argv, "--for", "1h"))[0] == 0


@pytest.mark.parametrize(
    "argv",
    [("maintenance", "add", "service:lm-proxy"), ("silence", "add", "target=service:lm-proxy")],
    ids=lambda a: a[0],
)
async def test_a_misspelt_name_is_refused_unless_forced(proxywatch: Any, argv: tuple[str, ...]) -> None:
    """The command says which name was meant, and `--force` takes the other one."""
    code, _, err = await proxywatch(*argv, "--for", "1h")
    assert code == 1
    assert "did you mean service:llm-proxy?" in err
    assert (await proxywatch(*argv, "--for", "1h", "--force"))[0] == 0


async def test_without_an_answer_pause_throws_the_kill_switch(small: SmallDaemon, proxywatch: Any) -> None:
    """A daemon that accepts and never answers is stopped by the file, within about two seconds; `resume` of an
    answering daemon takes the file back."""
    switch = small.parts.loaded.config.state_dir / "pause"
    await small.server.stop()
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(small.socket))
        deaf.listen()
        began = asyncio.get_running_loop().time()
        code, out, _ = await proxywatch("pause", "it", "hangs", "--for", "1h")
        assert asyncio.get_running_loop().time() - began < 5
    small.socket.unlink()
    assert code == 0
    assert "nothing acts" in out
    thrown = read_kill_switch(switch)
    assert thrown is not None
    assert thrown.reason == "it hangs"
    assert thrown.until is not None
    assert 3500 < thrown.until - thrown.since <= 3600
    await small.server.start()
    assert "it hangs" in (await proxywatch("status"))[1]
    assert "1 pause ended" in (await proxywatch("resume"))[1]
    assert not switch.exists()


def test_without_a_daemon_resume_takes_the_kill_switch_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file goes although nobody answers; that the daemon's own pauses stand is said, and exit 1 says it too."""
    file = write_config(tmp_path)
    command = ["--config", str(file)]
    (tmp_path / "state").mkdir()
    assert main([*command, "pause", "moving"]) == 0
    assert (tmp_path / "state/pause").exists()
    assert main([*command, "resume"]) == 1
    assert not (tmp_path / "state/pause").exists()
    assert "the kill switch is taken back" in capsys.readouterr().err


def test_a_kill_switch_that_cannot_be_thrown_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where there is no state directory the command fails, names the file, and does not pretend."""
    assert main(["--config", str(write_config(tmp_path)), "pause"]) == 1
    assert f"{tmp_path}/state/pause: the kill switch cannot be thrown" in capsys.readouterr().err


async def test_a_daemon_that_cannot_remember_a_pause_is_stopped_by_the_switch(
    small: SmallDaemon, proxywatch: Any
) -> None:
    """With a store that fails the daemon answers and refuses; the pause holds all the same."""
    small.daemon.database.close()
    code, out, _ = await proxywatch("pause", "disk", "full")
    assert code == 0
    assert "the kill switch is thrown instead" in out
    assert (small.parts.loaded.config.state_dir / "pause").exists()
