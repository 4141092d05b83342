"""A gateway in a process of its own: reads orders as lines of JSON, answers each with one line."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import orjson
from failover_callers import ask

from proxy.clock import SystemClock
from proxy.gateway import Gateway
from proxy.metrics import Metrics
from proxy.settings import Settings


async def main() -> None:
    settings = Settings.model_validate(orjson.loads(sys.argv[1]))
    gateway = Gateway(settings, Metrics(Path(settings.run_dir) / "metrics", sys.argv[2]), SystemClock())
    await gateway.start()
    tell({"ready": True})
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.buffer.readline):
        order = orjson.loads(line)
        if order["times"]:
            heard = await asyncio.gather(*(ask(gateway, **order["fields"]) for _ in range(order["times"])))
            tell([{"status": one.status, "provider": one.provider} for one in heard])
        else:
            tell(gateway.providers_health())
    await gateway.close()


def tell(what: Any) -> None:
    sys.stdout.buffer.write(orjson.dumps(what) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    asyncio.run(main())
