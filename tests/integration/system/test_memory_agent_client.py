"""The typed client of the memory agent against a real socket that answers as told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from watchdog.errors import ActionError, ProbeError
from watchdog.system.http import HttpClient
from watchdog.system.memory_agent import AgentRefusedError, MemoryAgent, MemoryAgents
from watchdog.system.proxy_api import ProxyEndpoint
from watchdog.system.services import ServiceSettings

FIGURES = {"rss_bytes": 3, "uss_bytes": 2, "anon_bytes": 1, "heap": None, "tracing": None, "newer_key": 7}


class Agent:
    """One answer to everything, and what was asked."""

    def __init__(self) -> None:
        self.status, self.document = 200, dict[str, Any]()
        self.asked: list[tuple[str, dict[str, Any]]] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = next((int(line[15:]) for line in head.lower().splitlines() if line[:15] == "content-length:"), 0)
            body = json.loads(await reader.readexactly(length) or b"{}")
            self.asked.append((head.split(" HTTP")[0], body))
            content = json.dumps(self.document).encode()
            reply = f"HTTP/1.1 {self.status} X\r\nconnection: close\r\ncontent-length: {len(content)}\r\n\r\n"
            writer.write(reply.encode() + content)
            await writer.drain()
        finally:
            writer.close()
            await writer.wait_closed()


@pytest.fixture
async def http() -> AsyncIterator[HttpClient]:
    made = HttpClient()
    yield made
    await made.close()


@pytest.fixture
async def agent(tmp_path: Path) -> AsyncIterator[Agent]:
    made = Agent()
    server = await asyncio.start_unix_server(made.serve, tmp_path / "a.sock")
    yield made
    server.close()
    await server.wait_closed()


@pytest.fixture
async def client(tmp_path: Path, agent: Agent, http: HttpClient) -> MemoryAgent:
    (found,) = await MemoryAgents(http, {}, {"shop": [tmp_path / "a.sock"], "bare": []}).of("shop")
    return found


async def test_figures_are_typed_and_what_is_newer_is_ignored(agent: Agent, client: MemoryAgent) -> None:
    """The first of a service's sockets is its process 0, and its target is the service."""
    agent.document = FIGURES
    assert (await client.memory()).anon_bytes == 1
    assert agent.asked == [("GET /memory", {})]
    assert (client.worker, client.target) == ("0", "service:shop")


async def test_a_refusal_carries_its_status(agent: Agent, client: MemoryAgent) -> None:
    """An effect that is refused says why and with which status; a question that fails is a measurement that failed."""
    agent.status, agent.document = 503, {"error": "too little memory is free"}
    with pytest.raises(AgentRefusedError, match="too little memory is free") as caught:
        await client.trace()
    assert (caught.value.status, caught.value.permanent) == (503, False)
    with pytest.raises(ProbeError, match="503"):
        await client.memory()


async def test_ending_what_is_not_traced_is_no_error(agent: Agent, client: MemoryAgent) -> None:
    """Only what could not be ended is."""
    agent.status, agent.document = 409, {"error": "not tracing"}
    await client.stop_tracing()
    agent.status = 500
    with pytest.raises(AgentRefusedError):
        await client.stop_tracing()


async def test_only_a_worker_is_told_a_share(agent: Agent, client: MemoryAgent) -> None:
    """The agent by itself knows of no connections and refuses keys that it does not know."""
    agent.document = {"frames": 1}
    await client.trace(frames=2, limit_seconds=60.0, share=0.1)
    assert agent.asked == [("POST /memory/trace", {"frames": 2, "limit_seconds": 60.0})]


async def test_an_answer_of_another_kind_is_an_error(agent: Agent, client: MemoryAgent) -> None:
    """It says which call and which key, and is no traceback."""
    agent.document = {"name": "a"}
    with pytest.raises(ActionError, match="POST /memory/snapshots: unexpected answer: taken_at"):
        await client.snapshot()


async def test_services_without_agents_are_said(http: HttpClient, tmp_path: Path) -> None:
    """An unknown service and one without sockets fail for good; a master that does not answer may answer later."""
    gone = ProxyEndpoint("http://127.0.0.1:9", tmp_path / "master.sock")
    agents = MemoryAgents(http, {"proxy": gone}, {"shop": [tmp_path / "a.sock"], "bare": []})
    assert agents.services == ("proxy", "shop")
    for name, permanent in (("bare", True), ("nobody", True), ("proxy", False)):
        with pytest.raises(ProbeError) as caught:
            await agents.of(name)
        assert caught.value.permanent is permanent


def test_an_llm_proxy_needs_no_sockets(tmp_path: Path) -> None:
    """Its workers are known by the master, so naming them beside it is a mistake."""
    with pytest.raises(ValidationError, match="workers of an llm-proxy are its agents"):
        ServiceSettings.model_validate(
            {
                "kind": "external",
                "proxy": {"url": "http://127.0.0.1:9", "master_socket": "m.sock"},
                "memory_agents": ["a.sock"],
            }
        )
