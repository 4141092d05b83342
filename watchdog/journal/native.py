"""Sends log records to the journal in its native protocol, with the fields by which `journalctl` finds them."""

from __future__ import annotations

import array
import errno
import fcntl
import logging
import os
import socket
import sys
from pathlib import Path

from watchdog.journal.entry import encode
from watchdog.journal.message_ids import message_id

SOCKET = Path("/run/systemd/journal/socket")
PRIORITY = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
_FIELDS = {"incident": "INCIDENT_ID", "target": "TARGET", "playbook": "PLAYBOOK", "step": "STEP", "result": "RESULT"}
"""A record's extras and the fields that they become."""


class NativeHandler(logging.Handler):
    """One datagram a record; what is too long for one goes as a sealed memory file. Where the journal does not listen
    the record goes to standard error, so that nothing is lost."""

    def __init__(self, path: Path = SOCKET) -> None:
        super().__init__()
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def emit(self, record: logging.LogRecord) -> None:
        """Never raises: a log that cannot be written must not end what it tells of."""
        try:
            self._send(encode(self._fields(record)))
        except (OSError, ValueError) as error:
            sys.stderr.write(f"<{PRIORITY.get(record.levelno, 6)}>{self.format(record)} (the journal: {error})\n")

    def close(self) -> None:
        """Lets the socket go."""
        self._socket.close()
        super().close()

    def _fields(self, record: logging.LogRecord) -> list[tuple[str, str]]:
        found = [
            ("MESSAGE", self.format(record)),
            ("PRIORITY", str(PRIORITY.get(record.levelno, 6))),
            ("SYSLOG_IDENTIFIER", "proxywatch"),
            ("LOGGER", record.name),
            ("CODE_FILE", record.pathname),
            ("CODE_LINE", str(record.lineno)),
            ("CODE_FUNC", record.funcName or ""),
        ]
        kind = getattr(record, "kind", "")
        if kind:
            found.append(("EVENT", kind))
            if (identifier := message_id(kind)) is not None:
                found.append(("MESSAGE_ID", identifier))
        for extra, name in _FIELDS.items():
            value = getattr(record, extra, None)
            if value not in (None, ""):
                found.append((name, str(value)))
        return found

    def _send(self, datagram: bytes) -> None:
        try:
            self._socket.sendto(datagram, str(self._path))
        except OSError as error:
            if error.errno not in _TOO_LONG:
                raise
            self._send_as_file(datagram)

    def _send_as_file(self, datagram: bytes) -> None:
        descriptor = os.memfd_create("journal-entry", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
        try:
            os.write(descriptor, datagram)
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
            rights = array.array("i", [descriptor])
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]
            self._socket.sendmsg([b""], ancillary, 0, str(self._path))
        finally:
            os.close(descriptor)


_TOO_LONG = {errno.EMSGSIZE, errno.ENOBUFS}
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
