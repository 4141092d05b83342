"""`llm-proxy usage` sums the ledger up."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from ledger_place import Place, values


@pytest.fixture
async def config(place: Place) -> Path:
    """Of a service whose ledger has five requests, one of them old."""
    now = time.time()
    ledger = await place.open()
    ledger.record(values(1, time=now - 60, model="small-2", caller="joe", cost_usd=0.25))
    ledger.record(values(2, time=now - 50, model="small-2", caller="ann", cost_usd=None, cache="hit"))
    ledger.record(values(3, time=now - 40, model="large-1", caller="ann", cost_usd=2.5, error="stream_cut"))
    ledger.record(values(4, time=now - 30, model=None, model_asked="typo", provider=None, status=404, caller="ann"))
    ledger.record(values(5, time=now - 30 * 86_400, model="old"))
    await ledger.close()
    file = place.path / "c.yaml"
    file.write_text(
        yaml.safe_dump(
            {"state_dir": str(place.path / "state"), "providers": [{"name": "p", "kind": "local", "port": 1}]}
        )
    )
    return file


def usage(config: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "proxy", "usage", "--config", str(config), *arguments]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


async def test_usage_by_model(config: Path) -> None:
    """Requests of the last day by model, the dearest first, with failures, hits, tokens and cost."""
    rows = json.loads(usage(config, "--json").stdout)
    assert [(row["name"], row["requests"], row["failed"], row["cached"]) for row in rows] == [
        ("large-1", 1, 1, 0),
        ("small-2", 2, 0, 1),
        ("typo", 1, 1, 0),
    ]
    assert (rows[1]["cost_usd"], rows[1]["input_tokens"], rows[1]["mean_latency_ms"]) == (0.25, 20, 12.5)


async def test_usage_by_others_and_since(config: Path) -> None:
    """By caller and provider, and of as long ago as is asked for, as a table for people."""
    by_caller = usage(config, "--by", "caller").stdout.splitlines()
    assert [line.split()[:2] for line in by_caller[1:]] == [["ann", "3"], ["joe", "1"]]
    assert len({len(line) for line in by_caller}) == 1
    assert {row["name"] for row in json.loads(usage(config, "--by", "provider", "--json").stdout)} == {"alpha", "none"}
    assert "old" in usage(config, "--since", "60d").stdout


async def test_usage_of_nothing_says_so(config: Path, place: Place) -> None:
    """A ledger that is not there and a duration that is none are one line each, and exit 2."""
    bad = usage(config, "--since", "soon")
    assert (bad.returncode, bad.stderr.count("\n")) == (2, 1)
    place.file.unlink()
    gone = usage(config)
    assert (gone.returncode, gone.stderr.count("\n")) == (2, 1)
    assert "ledger.sqlite" in gone.stderr
