"""The zygote: a process that has imported all that a worker needs, judges configurations and forks workers on order.

It runs no thread and no event loop and opens nothing of a worker's, so that a fork of it is a clean beginning. A worker
is forked twice over and so becomes the master's own child, for the master is its subreaper (prctl(2)); what both have
imported stays shared memory until written to.

Requests are one byte each, with descriptors (unix(7), SCM_RIGHTS); answers are JSON, a line each.
"""

from __future__ import annotations

import gc
import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

from proxy import config_file
from proxy.errors import ConfigError

_MOST_DESCRIPTORS = 6


def run(control_fd: int) -> int:
    """Serves the master until it hangs up; in a worker that was forked, the worker's exit status. ConfigError there."""
    gc.disable()
    _call_oneself("llm-proxy-zyg")
    control = socket.socket(fileno=control_fd)
    while True:
        kind, descriptors, _, _ = socket.recv_fds(control, 1, _MOST_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
        match kind:
            case b"J":
                _answer(control, _judge(_document(descriptors[0])))
                _warm()
            case b"W":
                _warm()
                _answer(control, {"warm": True})
            case b"L":
                _warm()
                pid = _fork()
                if pid == 0:
                    return _work(control, descriptors)
                _answer(control, {"pid": pid})
            case _:
                return 0
        for descriptor in descriptors:
            os.close(descriptor)


def _answer(control: socket.socket, answer: dict[str, Any]) -> None:
    control.sendall(json.dumps(answer, default=str).encode() + b"\n")


def _document(descriptor: int) -> dict[str, Any]:
    with os.fdopen(os.dup(descriptor), "rb") as file:
        document: dict[str, Any] = json.load(file)
    return document


def _warm() -> None:
    """Imports what a worker is made of, and takes it out of the collector's sight, lest collections write to it."""
    if "proxy.worker" not in sys.modules:
        from proxy import worker  # noqa: F401 - imported for those that are forked

        gc.collect()
        gc.freeze()


def _fork() -> int:
    """Forks a worker by way of a process that ends at once: its pid here, 0 in the worker, -1 if it cannot be."""
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    between = os.fork()
    if between == 0:
        try:
            pid = os.fork()
        except OSError:
            os._exit(1)
        if pid == 0:
            os.close(reader)
            os.close(writer)
            return 0
        os.write(writer, b"%d" % pid)
        os._exit(0)
    os.close(writer)
    told = os.read(reader, 32)
    os.close(reader)
    os.waitpid(between, 0)
    return int(told or b"-1")


def _work(control: socket.socket, descriptors: list[int]) -> int:
    """Becomes the worker: a session of its own, its own standard error, and nothing of the zygote's."""
    from proxy import worker

    control.close()
    os.setsid()
    order, listener, ready, life, log, stderr = descriptors
    for standard in (1, 2):
        os.dup2(stderr, standard)
    os.close(stderr)
    gc.enable()
    spoken = _document(order)
    os.close(order)
    _call_oneself(f"llm-proxy-w{spoken['slot']}")
    return worker.run(worker.Order(**spoken, listen_fd=listener, ready_fd=ready, life_fd=life, log_fd=log))


def _call_oneself(name: str) -> None:
    """The name that ps and top show (proc(5), comm): at most 15 bytes. The command line stays the zygote's."""
    Path("/proc/self/comm").write_text(name)


def _judge(asked: dict[str, Any]) -> dict[str, Any]:
    """The document of a configuration, and what the master itself needs of it; or what is wrong with it."""
    try:
        loaded = config_file.load(config_file.find(asked["file"]), os.environ, asked["overrides"])
    except ConfigError as error:
        return {"error": f"{error}{f' ({error.hint})' if error.hint else ''}"}
    settings = loaded.settings
    return {
        "document": loaded.document,
        "file": str(loaded.file),
        "host": settings.host,
        "port": settings.port,
        "workers": settings.workers,
        "run_dir": str(settings.run_dir),
        "state_dir": str(settings.state_dir),
        "recycle": settings.recycle.model_dump(),
        "admin_key_files": [str(key.key_file) for key in settings.auth.keys if key.key_file and key.role == "admin"],
        "demos": [(provider.name, provider.port) for provider in settings.providers if provider.kind == "local"],
    }
