"""Serves the demo upstream on a port of this machine."""

from __future__ import annotations

import signal
import socket
import sys
from typing import Any, NoReturn, cast


def run(name: str, port: int) -> None:
    """Serves 127.0.0.1:`port` until SIGTERM or SIGINT; 0 takes a free port. Prints the port as its first line.

    It listens before it imports what answers, so that who comes first waits instead of being refused. OSError if the
    port is taken.
    """

    def leave(*_: object) -> NoReturn:
        sys.exit(0)

    # uvicorn raises the signal that ended it again once it has shut down; this is who hears it then.
    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, leave)
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(1024)
    sys.stdout.write(f"{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    import uvicorn

    from proxy.demo.upstream import DemoUpstream

    config = uvicorn.Config(
        cast("Any", DemoUpstream(name)),
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="critical",
        access_log=False,
        timeout_graceful_shutdown=1,
        server_header=False,
    )
    uvicorn.Server(config).run(sockets=[listener])
