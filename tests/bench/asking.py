"""`python -m tests.bench.asking SOCKET PATH …`: asks a control socket all the time and says how long each answer took.

One line of JSON an answer, to standard output: [path, when it was asked, seconds, status]; times are CLOCK_MONOTONIC.
It runs until it is ended: a process of its own, so that nothing but the daemon can hold it up.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from itertools import cycle

PAUSE_SECONDS = 0.02
_PATIENCE_SECONDS = 60.0


def ask(path: str, target: str) -> int:
    """The status of one GET over a fresh connection, whose answer is read to its end."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_PATIENCE_SECONDS)
        connection.connect(path)
        connection.sendall(f"GET {target} HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n".encode())
        head = connection.recv(65536)
        while connection.recv(1 << 20):
            pass
    return int(head.split(maxsplit=2)[1])


def main() -> None:
    """See the module."""
    path, *targets = sys.argv[1:]
    for target in cycle(targets):
        began = time.monotonic()
        status = ask(path, target)
        print(json.dumps([target, began, time.monotonic() - began, status]), flush=True)
        time.sleep(PAUSE_SECONDS)


if __name__ == "__main__":
    main()
