"""A small asyncio service that is not ours: it serves two hundred imaginary requests a second and leaks as it is told.

python leaking_service.py AGENT_FILE DIRECTORY SOCKET objects|native|tasks|nothing
"""

from __future__ import annotations

import asyncio
import ctypes
import importlib.util
import sys
from pathlib import Path
from typing import Any

KEPT: list[Any] = []
SERVED = 0
LIBC = ctypes.CDLL(None)
LIBC.malloc.restype = ctypes.c_void_p
LIBC.memset.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t)


def keep_objects() -> None:
    KEPT.append([str(SERVED) * 100 for _ in range(4)])  # leaks here


def keep_native() -> None:
    LIBC.memset(LIBC.malloc(4000), 1, 4000)


def keep_tasks() -> None:
    KEPT.append(asyncio.get_running_loop().create_task(wait_for_ever()))  # makes tasks here


async def wait_for_ever() -> None:
    await asyncio.get_running_loop().create_future()


def keep_nothing() -> None:
    sum(len(str(number)) for number in range(100))


def agent_of(file: str, directory: str) -> Any:
    spec = importlib.util.spec_from_file_location("mounted_agent", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["mounted_agent"] = module
    spec.loader.exec_module(module)
    return module.MemoryAgent(Path(directory), requests=lambda: SERVED)


async def main(file: str, directory: str, socket: str, leak: str) -> None:
    global SERVED  # noqa: PLW0603
    agent = agent_of(file, directory)
    await agent.serve(Path(socket))
    print("serving", flush=True)
    serve = {"objects": keep_objects, "native": keep_native, "tasks": keep_tasks, "nothing": keep_nothing}[leak]
    while True:
        SERVED += 1
        serve()
        await asyncio.sleep(0.005)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
