"""Callers at a steady rate: `python -m tests.bench.steady PORT RATE`; a line for each answer, until it is ended.

A line is `<monotonic seconds when it was due> <seconds from then to the last byte> <status>`; the status is 0 where
there was no answer. A caller who is late counts from when he was due, so that a pause is not hidden by waiting it out.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time

_PATIENCE_SECONDS = 30.0
_BODY = json.dumps({"model": "demo-small", "messages": [{"role": "user", "content": "hello"}]}).encode()
_REQUEST = (
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\ncache-control: no-store\r\n"
    b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(_BODY), _BODY)
)


async def _call(port: int, due: float) -> None:
    status = 0
    with contextlib.suppress(OSError, TimeoutError, ValueError, IndexError):
        async with asyncio.timeout(_PATIENCE_SECONDS):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(_REQUEST)
                status = int((await reader.read()).split(None, 2)[1])
            finally:
                writer.close()
    print(f"{due:.6f} {time.monotonic() - due:.6f} {status}", flush=True)


async def _run(port: int, rate: float) -> None:
    due = time.monotonic()
    async with asyncio.TaskGroup() as group:
        while True:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            group.create_task(_call(port, due))
            due += 1.0 / rate


if __name__ == "__main__":
    asyncio.run(_run(int(sys.argv[1]), float(sys.argv[2])))
