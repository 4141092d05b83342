"""`proxywatch memory` against a daemon and the agent in a live service that leaks."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from small_daemon import SmallDaemon, small_daemon, write_config

from watchdog.cli.main import main
from watchdog.cli.spark import spark

AGENT = Path(__file__).parents[3] / "proxy" / "memory.py"
SERVICE = Path(__file__).with_name("leaking_service.py")
LEAK = next(number for number, line in enumerate(SERVICE.read_text().splitlines(), 1) if "# leaks here" in line)


@pytest.fixture(scope="module")
def agent_socket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Of a service that keeps some objects for every request."""
    place = tmp_path_factory.mktemp("shop")
    argv = [sys.executable, SERVICE, AGENT, place / "snapshots", place / "agent.sock", "objects"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as service:
        assert service.stdout is not None
        assert service.stdout.readline() == "serving\n"
        yield place / "agent.sock"
        service.kill()


@pytest.fixture
async def shop(tmp_path: Path, agent_socket: Path) -> AsyncIterator[SmallDaemon]:
    """A daemon that knows this service and no other."""
    async with small_daemon(tmp_path) as made:
        write_config(tmp_path, services={"shop": {"kind": "external", "memory_agents": [str(agent_socket)]}})
        await made.parts.reload()
        yield made


@pytest.fixture
def proxywatch(shop: SmallDaemon, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs one command line; exit code, standard output, standard error."""

    async def run(*argv: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = await asyncio.to_thread(main, ["--socket", str(shop.socket), "--config", str(shop.file), *argv])
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


async def test_what_leaks_is_named_and_can_be_looked_up(shop: SmallDaemon, proxywatch: Any, tmp_path: Path) -> None:
    """One diagnosis by hand: the line first, then its figures; snapshots, their difference and the report stay."""
    for number in range(8):
        shop.measured("proxywatch_worker_anon_bytes", 1e7 + 1e6 * number, service="shop", worker="0")
    shop.measured("proxywatch_leak_shape", 1, service="shop", worker="0", shape="leak")
    shop.measured("proxywatch_leak_slope_bytes_per_hour", 3e6, service="shop", worker="0")
    shop.measured("proxywatch_resource_leak_shape", 1, service="shop", worker="0", shape="plateau", resource="tasks")
    code, out, err = await proxywatch("memory", "status")
    assert (code, err) == (0, "")
    assert re.search(r"shop/0 .*2\.9 MiB  +leak", out)
    code, out, err = await proxywatch("memory", "trend")
    assert (code, err) == (0, "")
    assert "it leaks: the floor rises and does not slow down, 2.9 MiB an hour" in out
    assert "tasks: it stays" in out
    code, out, err = await proxywatch("memory", "trace", "--yes", "--duration", "2s")
    assert code == 0, err
    first, *_ = out.splitlines()
    assert first.startswith(f"{SERVICE}:{LEAK} keeps "), out
    assert "in keep_objects (own code)" in out
    assert "snapshot 4 of 4" in err
    code, out, _ = await proxywatch("memory", "snapshots", "--json")
    older, *_, newer = [one["name"] for one in json.loads(out)["snapshots"]]
    code, out, err = await proxywatch("memory", "diff", older, newer)
    assert (code, err) == (0, "")
    assert f"{SERVICE.name}:{LEAK}" in "".join(line.strip() for line in out.splitlines())
    code, out, err = await proxywatch("memory", "report", "--output", str(tmp_path / "leak.html"))
    assert (code, err) == (0, "")
    page = (tmp_path / "leak.html").read_text()
    assert first in page
    assert page.count("<svg") >= 3
    assert not re.search(r"<script|https?://|src=|@import", page)
    (name,) = json.loads((await proxywatch("memory", "report", "--list", "--json"))[1])["findings"]
    assert Path(json.loads((await proxywatch("memory", "report", name, "--json"))[1])["report"]).read_text() == page


async def test_who_hangs_up_ends_the_tracing(shop: SmallDaemon) -> None:
    """A diagnosis lives as long as somebody listens, and leaves the process as it was."""
    body: dict[str, object] = {"service": "shop", "duration": "10m", "quiet": "500ms"}

    def listen_until_traced() -> None:
        lines = shop.control.follow("/v1/memory/trace", body, timeout=60.0)
        while not next(lines)["tell"].startswith("tracing"):
            continue
        lines.close()  # type: ignore[attr-defined]

    await asyncio.to_thread(listen_until_traced)
    deadline = time.monotonic() + 30
    while (await shop.get("/v1/memory"))["processes"][0]["tracing"] is not None:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("argv", "said", "code"),
    [
        (("trace",), "nobody can be asked here; say --yes", 2),
        (("trace", "--yes", "--snapshots", "2"), "snapshots: ", 2),
        (("trace", "--yes", "--service", "shoop"), "there is no service 'shoop'; services with agents: shop", 1),
        (("trace", "--yes", "--worker", "7"), "no process of shop is meant by '7'", 1),
        (("diff", "a", "b"), "no process keeps both snapshots", 1),
        (("report", "leak-nothing"), "there is no finding 'leak-nothing'", 1),
        (("report", "../state"), "there is no finding '../state'", 1),
        (("status", "--worker", "7"), "there is no process '7'", 1),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
async def test_what_cannot_be_done_says_why(proxywatch: Any, argv: tuple[str, ...], said: str, code: int) -> None:
    """One line with what is wrong and what to do; nothing is traced."""
    found, out, err = await proxywatch("memory", *argv)
    assert (found, out) == (code, "")
    assert said in err
    assert err.count("\n") == 1


def test_a_spark_line_does_not_make_noise_look_like_growth() -> None:
    """Values over the whole height where they really differ, flat where they hardly do, no wider than it may be."""
    assert spark([1, 2, 3, 4, 5, 6, 7, 8], 8) == "▁▂▃▄▅▆▇█"
    assert len(set(spark([1000.0, 1000.5, 1000.2, 1000.1], 8))) == 1
    assert len(spark(range(1000), 16)) <= 16
    assert spark([], 8) == ""
