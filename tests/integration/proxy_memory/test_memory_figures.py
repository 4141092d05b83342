"""What the agent says of memory, types, and what is left open; what it refuses; its own socket."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import socket
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from agent_bench import children, mounted, set_up, until

from proxy.memory import head_room


class Planted:
    """An object that a census must find."""

    def __init__(self) -> None:
        self.circle = self


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "text"),
    [
        ("GET", "/", {}, 404, "no such call"),
        ("POST", "/memory", {}, 404, "no such call: POST /memory"),
        ("GET", "/memory", {"top": 1}, 400, "unknown key 'top'; expected none"),
        ("POST", "/memory/census", {"tops": 1}, 400, "unknown key 'tops'; expected top"),
        ("POST", "/memory/census", {"top": 0}, 400, "top: expected a whole number from 1 to 1000"),
        ("POST", "/memory/census", {"top": True}, 400, "top: expected a whole number"),
        ("POST", "/memory/resources", {"top": 2.5}, 400, "top: expected a whole number"),
        ("POST", "/memory/trace", {"frames": 101}, 400, "frames: expected a whole number from 1 to 100"),
        ("POST", "/memory/trace", {"limit_seconds": "9"}, 400, "limit_seconds: expected a number from 1 to 86400"),
        ("POST", "/memory/trace", {"limit_seconds": float("nan")}, 400, "limit_seconds: expected a number"),
        ("POST", "/memory/compare", {"older": "a"}, 400, "newer: expected a text"),
        ("POST", "/memory/compare", {"older": "../a", "newer": "b"}, 400, "'../a' is no snapshot's name"),
        (
            "POST",
            "/memory/compare",
            {"older": "0-1795426847877-1.pwmem", "newer": "0-1795426847877-1.pwmem"},
            404,
            "there is no snapshot 0-1795426847877-1.pwmem",
        ),
    ],
    ids=lambda value: None if not isinstance(value, str) else value.strip("/").replace("/", "-")[:24].replace(" ", "_"),
)
async def test_what_cannot_be_asked(
    tmp_path: Path, method: str, path: str, body: dict[str, Any], status: int, text: str
) -> None:
    """A call that does not exist, or a body that is not as expected, is refused with what was expected."""
    async with mounted(tmp_path) as ask:
        refused, error = await ask.refused(method, path, **body)
    assert refused == status
    assert text in error
    assert not tracemalloc.is_tracing()


async def test_figures_follow_what_the_process_does(tmp_path: Path) -> None:
    """Resident, private, anonymous, malloc's own, requests, descriptors, sockets, threads and tasks, as they are."""
    served = 41
    async with mounted(tmp_path, requests=lambda: served) as ask:
        before = await ask("GET", "/memory")
        here, there = socket.socketpair()
        kept = bytearray(os.urandom(32 << 20))
        ready = threading.Event()
        thread = threading.Thread(target=ready.wait)
        thread.start()
        task = asyncio.create_task(asyncio.sleep(3600))
        served = 42
        after = await ask("GET", "/memory")
        ready.set()
        thread.join()
        task.cancel()
        here.close()
        there.close()
    for name in ("rss_bytes", "uss_bytes", "anon_bytes"):
        assert after[name] - before[name] > len(kept) * 3 // 4
    more = ("requests", "threads", "tasks", "sockets", "descriptors")
    assert {name: after[name] - before[name] for name in more} == dict(zip(more, (1, 1, 1, 2, 2), strict=True))
    assert after["heap"]["mmapped_bytes"] - before["heap"]["mmapped_bytes"] >= len(kept)
    assert after["pid"] == os.getpid()
    assert [sorted(generation) for generation in after["gc"]] == [["collected", "collections", "uncollectable"]] * 3


async def test_a_collection_frees_circles_and_trimming_gives_pages_back(tmp_path: Path) -> None:
    """Both say how much the process held before and after, and how long they stopped it."""
    async with mounted(tmp_path) as ask:
        await ask("POST", "/gc")
        circles = [Planted() for _ in range(3000)]
        circles.clear()
        collected = await ask("POST", "/gc")
        trimmed = await ask("POST", "/memory/trim")
        pauses = (await ask("GET", "/memory"))["pauses"]
    assert collected["collected"] >= 3000
    assert collected["uncollectable"] == 0
    assert trimmed["before_bytes"] >= trimmed["after_bytes"] > 0
    assert trimmed["heap_after"]["arena_bytes"] > 0
    assert pauses == {"gc": collected["pause_ms"], "trim": trimmed["pause_ms"]}


async def test_a_census_counts_types_and_what_they_hold(tmp_path: Path) -> None:
    """Each living object once, and the large strings and bytes that are held, which the collector does not track."""
    gc.collect()
    async with mounted(tmp_path, requests=lambda: 7) as ask:
        before = await ask("POST", "/memory/census", top=1000)
        kept: list[Any] = [Planted() for _ in range(5000)]
        text = bytes(2000)
        kept += [bytes(2000 + number) for number in range(1000)] + [text] * 1000
        after = await ask("POST", "/memory/census", top=1000)

    def of(census: dict[str, Any], kind: str) -> tuple[int, int]:
        return next(((row["count"], row["bytes"]) for row in census["types"] if row["type"] == kind), (0, 0))

    assert of(after, "Planted")[0] - of(before, "Planted")[0] == 5000
    count, size = (now - then for now, then in zip(of(after, "bytes"), of(before, "bytes"), strict=True))
    assert abs(count - 1001) < 20
    assert size > 2_400_000
    assert after["objects"] - before["objects"] > 4500
    assert after["requests"] == 7
    assert after["pymalloc"]["arenas_bytes"] >= after["pymalloc"]["in_use_bytes"] > 0
    assert after["pause_ms"] > 0
    assert after["child_nice"] == 19
    assert [row["bytes"] for row in after["types"]] == sorted((row["bytes"] for row in after["types"]), reverse=True)


async def test_what_is_open_is_told_with_its_origin(tmp_path: Path) -> None:
    """Sockets by peer and state, tasks by what they wait for, threads by name and target, and where sockets and files
    were created while allocations were traced."""

    async def lingering() -> None:
        await asyncio.sleep(3600)

    def origin(function: Any) -> str:
        return f"{__file__}:{function.__code__.co_firstlineno + 1}"

    def opened(address: tuple[str, int]) -> socket.socket:
        return socket.create_connection(address)

    async with mounted(tmp_path) as ask:
        listener = socket.create_server(("127.0.0.1", 0))
        await ask("POST", "/memory/trace", frames=5)
        port = listener.getsockname()[1]
        clients = [opened(listener.getsockname()) for _ in range(4)]
        accepted = [listener.accept()[0] for _ in clients]
        clients[0].close()
        tasks = [asyncio.create_task(lingering()) for _ in range(3)]
        ready = threading.Event()
        threads = [threading.Thread(target=ready.wait, name=f"left-{number}") for number in range(2)]
        files = [(tmp_path / "open").open("wb") for _ in range(5)]
        for thread in threads:
            thread.start()
        await asyncio.sleep(0)
        told = await ask("POST", "/memory/resources", top=100)
        ready.set()
        for thread in threads:
            thread.join()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for each in (*clients, *accepted, *files, listener):
            each.close()
    sockets = {(row["kind"], row["peer"], row["state"]): row["count"] for row in told["sockets"]}
    assert sockets["tcp", f"127.0.0.1:{port}", "listen"] == 1
    assert sockets["tcp", f"127.0.0.1:{port}", "established"] == 3
    assert sockets["tcp", f"accepted at 127.0.0.1:{port}", "established"] == 3
    assert sockets["tcp", f"accepted at 127.0.0.1:{port}", "close_wait"] == 1
    assert told["descriptors"]["socket"] >= 8
    assert told["descriptors"]["file"] >= 5
    (row,) = (row for row in told["tasks"] if row["what"].endswith("lingering"))
    assert row["count"] == 3
    assert row["waiting_at"].partition(":")[0].endswith("asyncio/tasks.py")
    (row,) = (row for row in told["threads"] if row["name"] == "left-N")
    assert (row["count"], row["target"]) == (2, "Event.wait")
    assert {"created_at": origin(opened), "count": 4} in told["sockets_created"]
    assert [row["count"] for row in told["files_created"] if row["created_at"].startswith(__file__)] == [5]


def test_room_is_the_least_of_machine_and_groups(tmp_path: Path) -> None:
    """Of both versions of control groups and every group above; file pages that can be dropped are room."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal: 8000 kB\nMemAvailable: 4000 kB\n")
    groups = tmp_path / "proc/self/cgroup"
    groups.write_text("")
    assert head_room(tmp_path) == 4_096_000
    groups.write_text("5:cpu,memory:/a\n1:name=systemd:/b\n0::/c/d\n")
    assert head_room(tmp_path) == 4_096_000

    def limit(directory: str, **files: str) -> None:
        (tmp_path / "sys/fs/cgroup" / directory).mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (tmp_path / "sys/fs/cgroup" / directory / name.replace("__", ".")).write_text(text)

    limit("c/d", memory__max="max\n", memory__current="1000\n", memory__stat="anon 1\ninactive_file 100\n")
    assert head_room(tmp_path) == 4_096_000
    limit("c", memory__max="3000000\n", memory__current="1000000\n", memory__stat="inactive_file 100\n")
    assert head_room(tmp_path) == 2_000_100
    limit("c", memory__high="2000000\n")
    assert head_room(tmp_path) == 1_000_100
    limit(
        "memory/a",
        memory__limit_in_bytes="500000",
        memory__usage_in_bytes="400000",
        memory__stat="inactive_file 7\ntotal_inactive_file 9\n",
    )
    assert head_room(tmp_path) == 100_009
    limit("memory", memory__limit_in_bytes="1000", memory__usage_in_bytes="2000", memory__stat="x 1\n")
    assert head_room(tmp_path) == 0


async def _said(path: Path, text: bytes) -> tuple[int, dict[str, Any]]:
    reader, writer = await asyncio.open_unix_connection(str(path))
    try:
        writer.write(text)
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    finally:
        writer.close()
        await writer.wait_closed()
    return int(head.split()[1]), json.loads(body)


async def test_its_own_socket_speaks_http(tmp_path: Path) -> None:
    """Only this user may open it; what is no request of its kind is refused; it is gone when the agent is closed."""
    path = tmp_path / "agent.sock"
    path.touch()
    async with mounted(tmp_path) as ask:
        await ask.agent.serve(path)
        assert path.stat().st_mode & 0o777 == 0o600
        status, document = await _said(path, b"GET /memory?x=1 HTTP/1.1\r\nhost: agent\r\n\r\n")
        assert (status, document["pid"]) == (200, os.getpid())
        body = b'{"top": 3}'
        head = b"POST /memory/census HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body)
        status, document = await _said(path, head + body)
        assert (status, len(document["types"])) == (200, 3)
        for text, wanted in (
            (b"\r\n\r\n", "this is not HTTP/1.1"),
            (b"POST /gc HTTP/1.1\r\ncontent-length: 2\r\n\r\n[]", "the body must be a JSON object"),
            (b"POST /gc HTTP/1.1\r\ncontent-length: 2\r\n\r\n{]", "the body is not JSON"),
            (b"POST /gc HTTP/1.1\r\ncontent-length: 99999\r\n\r\n", "expected a content-length"),
            (b"POST /gc HTTP/1.1\r\ncontent-length: -1\r\n\r\n", "expected a content-length"),
            (b"POST /gc HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n", "expected a content-length"),
            (b"x" * 200_000, "incomplete or too long"),
        ):
            status, document = await _said(path, text)
            assert (status, wanted in document["error"]) == (400, True), document
    assert not path.exists()


async def test_who_hangs_up_has_cancelled(tmp_path: Path) -> None:
    """The child of a caller who went away is killed, and others are served."""
    crowd = [Planted() for _ in range(150_000)]
    async with mounted(tmp_path) as ask:
        await ask.agent.serve(tmp_path / "agent.sock")
        _, writer = await asyncio.open_unix_connection(str(tmp_path / "agent.sock"))
        others = children()
        writer.write(b"POST /memory/census HTTP/1.1\r\n\r\n")
        pid = (await until(lambda: children() - others, "a child")).pop()
        await until(lambda: set_up(pid), "the child to have let go of the connection")
        os.kill(pid, signal.SIGSTOP)
        writer.close()
        await writer.wait_closed()
        await until(lambda: pid not in children(), "the child to be gone")
        status, _ = await _said(tmp_path / "agent.sock", b"GET /memory HTTP/1.1\r\n\r\n")
        assert status == 200
    assert len(crowd) == 150_000
