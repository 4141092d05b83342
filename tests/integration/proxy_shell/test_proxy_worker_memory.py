"""A worker's own account of itself on its private socket, tracing, and its share of the traffic meanwhile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
from proxy_service import Service

from proxy.control import request

HELLO = {"model": "demo-small", "messages": [{"role": "user", "content": "hello"}]}


def worker(service: Service, slot: int, method: str, target: str, body: dict[str, Any] | None = None) -> Any:
    return request(service.place / f"run/worker-{slot}.sock", method, target, body, timeout=60)


def test_a_worker_counts_what_it_holds(shared: Service) -> None:
    """Requests, threads, tasks, descriptors, sockets among them, and how many descriptors it may have: as the kernel
    and its callers know them."""
    _, before = worker(shared, 0, "GET", "/health")
    pid = before["pid"]
    with httpx.Client() as client:
        for _ in range(8):
            assert client.get(shared.url("/health/live"), headers={"connection": "close"}).status_code == 200
    _, after = worker(shared, 0, "GET", "/health")
    _, other = worker(shared, 1, "GET", "/health")
    assert after["requests"] + other["requests"] >= before["requests"] + 8
    process = Path(f"/proc/{pid}")
    assert after["threads"] == len(list((process / "task").iterdir()))
    links = [str(entry.readlink()) for entry in (process / "fd").iterdir()]
    assert abs(after["descriptors"] - len(links)) <= 2
    assert abs(after["sockets"] - sum(link.startswith("socket:") for link in links)) <= 2
    limits = (process / "limits").read_text().splitlines()
    (limit,) = [line.split()[3] for line in limits if line.startswith("Max open files")]
    assert after["descriptors_limit"] == int(limit)
