"""The command line against a running daemon, over its socket."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import Any

import pytest
from small_daemon import WORKER, SmallDaemon

from watchdog.cli.main import main

HEAVY = {"pydantic", "httpx", "rich", "asyncio", "starlette", "uvicorn", "psutil", "promql_parser"}


@pytest.fixture
def proxywatch(small: SmallDaemon, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs one command line; exit code, standard output, standard error."""

    async def run(*argv: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = await asyncio.to_thread(main, ["--socket", str(small.socket), "--config", str(small.file), *argv])
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


COMMANDS = [
    ("status",),
    ("alerts",),
    ("probe", "list"),
    ("rules", "list"),
    ("incident", "list", "--all"),
    ("incidents", "show", "1"),
    ("history", "--since", "2h"),
    ("silence", "list"),
    ("maintenance", "list"),
    ("explain",),
    ("explain", "1"),
    ("explain", WORKER),
    ("playbook", "list"),
    ("playbooks", "show", "restore-worker"),
    ("playbook", "run", "restore-worker", "--target", WORKER, "--dry-run"),
    ("query", "strange_ratio"),
]


@pytest.mark.parametrize("argv", COMMANDS, ids=" ".join)
async def test_every_question_is_answered_for_people_and_for_machines(
    small: SmallDaemon, proxywatch: Any, argv: tuple[str, ...]
) -> None:
    """Each command exits 0, prints something no wider than 100 columns, and one JSON document with --json."""
    small.measured("strange_ratio", 2)
    code, out, err = await proxywatch(*argv)
    assert (code, err) == (0, "")
    assert out.strip()
    assert max(map(len, out.splitlines())) <= 100
    assert "\x1b" not in out
    code, out, err = await proxywatch(*argv, "--json")
    assert (code, err) == (0, "")
    assert isinstance(json.loads(out), dict)


async def test_check_speaks_nagios(small: SmallDaemon, proxywatch: Any) -> None:
    """OK, then WARNING and CRITICAL with what fires; exit codes 0, 1, 2; one line with perfdata."""
    code, out, _ = await proxywatch("check")
    assert code == 0
    assert out.startswith("PROXYWATCH OK - all well | alerts_critical=0")
    small.measured("strange_ratio", 2)
    assert (await proxywatch("check"))[0] == 1
    small.hang()
    code, out, _ = await proxywatch("check")
    assert code == 2
    assert "Worker 0 hangs" in out
    assert len(out.splitlines()) == 1


async def test_check_is_unknown_without_a_daemon(small: SmallDaemon, proxywatch: Any) -> None:
    """When nobody answers, nothing is known: exit 3, not 2."""
    await small.server.stop()
    code, out, _ = await proxywatch("check")
    assert code == 3
    assert out.startswith("PROXYWATCH UNKNOWN")


async def test_without_a_daemon_one_line_says_what_where_and_what_to_do(small: SmallDaemon, proxywatch: Any) -> None:
    """Exit 1 and a line on standard error that names the socket and the way out."""
    await small.server.stop()
    code, out, err = await proxywatch("status")
    assert (code, out) == (1, "")
    assert err.startswith("proxywatch: the daemon does not answer; ")
    assert str(small.socket) in err
    assert "proxywatch run" in err
    assert len(err.splitlines()) == 1


async def test_a_person_acknowledges_pauses_and_resumes(small: SmallDaemon, proxywatch: Any) -> None:
    """Each command says what it did, and the daemon knows it."""
    small.measured("strange_ratio", 2)
    assert "acknowledged by" in (await proxywatch("incident", "ack", "1"))[1]
    code, out, _ = await proxywatch("pause", "a", "new", "disk", "--for", "1h")
    assert code == 0
    assert "a new disk" in out
    assert small.parts.facts.pauses(small.parts.clock.now())[0].reason == "a new disk"
    assert "1 pause ended" in (await proxywatch("resume"))[1]
    assert "nothing was paused" in (await proxywatch("resume"))[1]


async def test_a_playbook_is_run_and_waited_for(small: SmallDaemon, proxywatch: Any) -> None:
    """--wait ends with the run's end: exit 0 when it verified, 1 when it did not."""
    small.hang(1.0)
    code, out, _ = await proxywatch("playbook", "run", "restore-worker", "--target", WORKER, "--wait")
    assert code == 0
    assert "verified" in out
    assert (small.root / "mark-0").exists()
    small.hang(0.0)
    await small.post("/v1/pause", {"reason": "leave it to me", "duration": 3600})
    code, out, err = await proxywatch("playbook", "run", "restore-worker", "--target", WORKER)
    assert code == 1
    assert "already under way" in err


@pytest.mark.parametrize(
    ("argv", "code", "says"),
    [
        (("incident", "show", "99"), 1, "no incident 99"),
        (("playbook", "show", "nope"), 1, "no playbook"),
        (("playbook", "run", "restore-worker", "--target", "moon"), 2, "unknown kind of target"),
        (("query", "sum("), 2, "unclosed"),
        (("explain", "moon:1"), 2, "unknown kind of target"),
    ],
)
async def test_failures_and_mistakes_have_their_own_codes(
    small: SmallDaemon, proxywatch: Any, argv: tuple[str, ...], code: int, says: str
) -> None:
    """1 for what is not there, 2 for what was written wrongly; one line on standard error."""
    got, out, err = await proxywatch(*argv)
    assert (got, out) == (code, "")
    assert says in err
    assert err.count("\n") == 1


async def test_a_probe_run_goes_through_the_daemon(small: SmallDaemon, proxywatch: Any) -> None:
    """A probe that fails is CRITICAL, one that does not exist UNKNOWN; the daemon keeps the result."""
    code, out, _ = await proxywatch("probe", "run", "front")
    assert code == 2
    assert out.startswith("PROBE front CRITICAL")
    assert "probe_success_kind_http_probe_front=0" in out
    assert small.parts.pipeline.results["front"].error
    assert (await proxywatch("probe", "run", "nope"))[0] == 3


async def test_a_refused_reload_exits_2(small: SmallDaemon, proxywatch: Any) -> None:
    """The broken file's place reaches the terminal, and the code says that a file is wrong."""
    small.file.write_text(small.file.read_text().replace("interval: 1h", "interval: soon"))
    code, _, err = await proxywatch("reload")
    assert code == 2
    assert f"{small.file}:" in err
    assert "soon" in err


async def test_status_loads_nothing_heavy(small: SmallDaemon) -> None:
    """`proxywatch status` answers at once because it imports neither pydantic nor httpx, rich or asyncio."""
    program = (
        "import sys; from watchdog.cli.main import main; "
        f"code = main(['--config', {str(small.file)!r}, 'status']); "
        "print(sorted({name.partition('.')[0] for name in sys.modules})); sys.exit(code)"
    )
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 0, done.stderr
    loaded = set(json.loads(done.stdout.splitlines()[-1].replace("'", '"')))
    assert not loaded & HEAVY
    assert done.stdout.startswith("OK")
