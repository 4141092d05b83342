"""`proxywatch heartbeat` against a running daemon: reports, the list, and what is refused."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
import yaml
from small_daemon import SmallDaemon

from watchdog.cli.main import main


@pytest.fixture
async def proxywatch(small: SmallDaemon, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs one command line against a daemon with two heartbeats: exit code, standard output, standard error."""
    shape = yaml.safe_load(small.file.read_text())
    beat = {"kind": "heartbeat", "interval": "1h", "period": "1d"}
    shape["probes"] |= {"backup": beat, "rotate": beat}
    small.file.write_text(yaml.safe_dump(shape))
    await small.post("/v1/reload")

    async def run(*argv: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = await asyncio.to_thread(main, ["--socket", str(small.socket), "--config", str(small.file), *argv])
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


async def beat(proxywatch: Any, name: str) -> dict[str, Any]:
    code, said, _ = await proxywatch("--json", "heartbeat")
    assert code == 0
    (found,) = [one for one in json.loads(said)["heartbeats"] if one["name"] == name]
    return dict(found)


async def test_a_success_is_kept_and_measured_at_once(proxywatch: Any, small: SmallDaemon) -> None:
    """It moves what is due, and the series that rules read has it without waiting for the interval."""
    assert (await beat(proxywatch, "backup"))["last_success"] is None
    code, said, _ = await proxywatch("heartbeat", "backup", "--log", "kept for the next", "--exit-code", "0")
    assert code == 0
    assert said.startswith("backup succeeded; its next success is due in 1d")
    known = await beat(proxywatch, "backup")
    assert known["due"]["epoch"] == pytest.approx(known["last_success"]["epoch"] + 86_400 + 300, abs=0.01)
    query = "heartbeat_last_success_timestamp_seconds"
    (series,) = [s for s in small.parts.pipeline.results["backup"].samples if s.name == query]
    assert series.value == pytest.approx(known["last_success"]["epoch"], abs=0.01)
    assert known["log"] == "kept for the next"


async def test_a_run_is_told_from_start_to_failure(proxywatch: Any) -> None:
    """Start, text, failure: running, what it said, then its exit code; the other job is not touched."""
    assert (await proxywatch("heartbeat", "backup", "--start"))[:1] == (0,)
    assert (await beat(proxywatch, "backup"))["running_since"] is not None
    _, said, _ = await proxywatch("heartbeat", "backup", "--log", "half done")
    assert said.startswith("backup says something")
    known = await beat(proxywatch, "backup")
    assert (known["log"], known["last_end"]) == ("half done", None)
    _, said, _ = await proxywatch("heartbeat", "backup", "--fail")
    assert said.startswith("backup failed (exit 1)")
    known = await beat(proxywatch, "backup")
    assert (known["exit_code"], known["running_since"], known["last_success"]) == (1, None, None)
    assert (await beat(proxywatch, "rotate"))["reports"] == 0
    code, said, _ = await proxywatch("heartbeat")
    assert code == 0
    assert "failed (exit 1)" in said
    assert "never reported" in said


@pytest.mark.parametrize(
    ("argv", "code", "complaint"),
    [
        pytest.param(("bakcup",), 1, "there is no heartbeat 'bakcup'; did you mean 'backup'?", id="unknown"),
        pytest.param(("front",), 1, "there is no heartbeat 'front'", id="other-kind"),
        pytest.param(("backup", "--exit-code", "300"), 2, "`exit_code` is 300", id="exit-code"),
        pytest.param(("--fail",), 2, "a report needs a name", id="no-name"),
    ],
)
async def test_what_is_no_report_is_refused(argv: tuple[str, ...], code: int, complaint: str, proxywatch: Any) -> None:
    """A job whose name is wrong must not look well: it is told, with what to do."""
    found, _, said = await proxywatch("heartbeat", *argv)
    assert found == code
    assert complaint in said


@pytest.mark.parametrize(
    "body",
    [{"report": "begin"}, {"exit_code": True}, {"exit_code": -1}, {"log": 7}],
    ids=["report", "bool", "low", "log"],
)
async def test_a_malformed_report_changes_nothing(body: dict[str, Any], proxywatch: Any, small: SmallDaemon) -> None:
    """Over the socket as well: refused by name, and not counted."""
    with pytest.raises(Exception, match=f"`{next(iter(body))}` is"):
        await small.post("/v1/heartbeats/backup", body)
    assert (await beat(proxywatch, "backup"))["reports"] == 0
