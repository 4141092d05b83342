"""A small web service that is not ours and remembers every visitor. No part of the program.

`python small_service.py PORT PLACE`, with the memory agent's file beside it as `memory_agent.py`.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from aiohttp import web
from memory_agent import MemoryAgent

_VISITORS: list[bytearray] = []


async def greet(request: web.Request) -> web.Response:
    _VISITORS.append(bytearray(64 * 1024))  # leak: visitors
    return web.Response(text=f"hello, number {len(_VISITORS)}\n")


async def main(port: int, place: Path) -> None:
    agent = MemoryAgent(place / "memory", requests=lambda: len(_VISITORS))
    await agent.serve(place / "memory.sock")
    application = web.Application()
    application.router.add_get("/", greet)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), Path(sys.argv[2])))
