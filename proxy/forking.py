"""The master's hold on its zygote: starts it, has it judge configurations and fork workers, and buries what was forked.

All calls wait for the zygote's answer: some milliseconds once it is warm, which `warm` waits for.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from proxy.errors import ConfigError, ProxyError

_START_SECONDS = 30.0
"""For judging and warming, which import everything, on a machine under load."""
_FORK_SECONDS = 2.0
"""The master does nothing else meanwhile; a zygote that was stopped must not stop it."""
_SUBREAPER = 36
"""prctl(2), PR_SET_CHILD_SUBREAPER."""

Document = dict[str, Any]


class ZygoteFailed(ProxyError):  # noqa: N818 - it names what happened
    """The zygote is dead, does not answer, or could not fork."""


class Forked:
    """A process that the zygote forked and that is our child since the process between has ended."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def send_signal(self, number: int) -> None:
        """ProcessLookupError if it is gone; nothing once it has been waited for, when its pid may be another's."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def wait(self) -> int:
        """Waits for its end and takes its exit status: negative for a signal."""
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode


class Zygote:
    """One zygote process. It ends with `close`, or when this process does."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "proxy", "zygote", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
                # Looking for pydantic's plugins reads the metadata of every installed distribution.
                env={**os.environ, "PYDANTIC_DISABLE_PLUGINS": "__all__"},
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def judge(self, file: str | None, overrides: Document) -> Document:
        """What `zygote.py` tells of a configuration. ConfigError if it is not good; begins to warm."""
        with _memory({"file": file, "overrides": overrides}) as asked:
            answer = self._ask(b"J", [asked.fileno()], _START_SECONDS)
        if "error" in answer:
            raise ConfigError(answer["error"])
        return answer

    def warm(self) -> None:
        """Waits until it can fork at once. ZygoteFailed."""
        self._ask(b"W", [], _START_SECONDS)

    def launch(self, order: Document, descriptors: Sequence[int]) -> Forked:
        """Forks a worker, which gets the order and takes the descriptors (listener, ready, life, log, stderr) over.
        ZygoteFailed."""
        with _memory(order) as spoken:
            answer = self._ask(b"L", [spoken.fileno(), *descriptors], _FORK_SECONDS)
        if answer["pid"] < 0:
            raise ZygoteFailed("the zygote could not fork")
        return Forked(answer["pid"])

    def close(self) -> None:
        """Ends it, which has nothing to lose."""
        self._socket.close()
        self._process.kill()
        self._process.wait()

    def _ask(self, kind: bytes, descriptors: Sequence[int], seconds: float) -> Document:
        try:
            self._socket.settimeout(seconds)
            socket.send_fds(self._socket, [kind], descriptors)
            told = b""
            while not told.endswith(b"\n"):
                part = self._socket.recv(65536)
                if not part:
                    raise ZygoteFailed("the zygote has ended")
                told += part
        except OSError as error:
            raise ZygoteFailed(f"the zygote does not answer: {error}") from error
        answer: Document = json.loads(told)
        return answer


def adopt_orphans() -> None:
    """Makes this process the parent of what its descendants leave behind. OSError if the kernel refuses."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl: PR_SET_CHILD_SUBREAPER")


def bury_orphans(known: set[int]) -> None:
    """Reaps the dead among this process's children that are none of `known`: descendants whose parent had died."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    for pid in {int(child) for child in children} - known:
        try:
            os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            continue


def _memory(document: Document) -> IO[bytes]:
    """A file in memory that holds the document as JSON, open at its begin."""
    file = os.fdopen(os.memfd_create("llm-proxy-order", os.MFD_CLOEXEC), "r+b")
    file.write(json.dumps(document).encode())
    file.seek(0)
    return file
