"""The journal's native protocol, over a real socket, read as journald reads it."""

from __future__ import annotations

import array
import logging
import os
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from watchdog.journal import _to_journal
from watchdog.journal.entry import encode
from watchdog.journal.message_ids import MESSAGE_IDS, message_id
from watchdog.journal.native import NativeHandler


def decode(datagram: bytes) -> dict[str, str]:
    """As systemd.journal-fields(7) and the native protocol's page tell it."""
    found, rest = {}, datagram
    while rest:
        line, _, after = rest.partition(b"\n")
        if b"=" in line:
            name, _, value = line.partition(b"=")
            rest = after
        else:
            name, (length,) = line, struct.unpack_from("<Q", after)
            value, rest = after[8 : 8 + length], after[8 + length + 1 :]
        found[name.decode()] = value.decode()
    return found


class Journal:
    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(10)

    def read(self) -> dict[str, str]:
        data, ancillary, _, _ = self.socket.recvmsg(1 << 20, 1024)
        for _level, kind, rights in ancillary:
            assert kind == socket.SCM_RIGHTS
            (descriptor,) = array.array("i", rights[:4])
            with os.fdopen(descriptor, "rb") as file:
                file.seek(0)
                data = file.read()
        return decode(data)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "journal")
    yield journal
    journal.socket.close()


@pytest.fixture
def log(journal: Journal, tmp_path: Path) -> Iterator[logging.Logger]:
    handler = NativeHandler(tmp_path / "journal")
    handler.setFormatter(logging.Formatter("%(message)s"))
    log = logging.getLogger("test.native")
    log.setLevel(logging.INFO)
    log.propagate = False
    log.addHandler(handler)
    yield log
    log.removeHandler(handler)
    handler.close()


def test_a_line_of_a_story_is_found_by_its_fields(log: logging.Logger, journal: Journal) -> None:
    """Incident, target, playbook, step and result are fields, the kind has its stable id, the level a priority."""
    extra = {"incident": 7, "target": "worker:llm-proxy/0", "playbook": "restore-worker", "step": "3/recycle/1/0/0"}
    log.warning("incident %d: %s", 7, "killed", extra={**extra, "kind": "failed", "result": "failed"})
    entry = journal.read()
    assert entry["MESSAGE"] == "incident 7: killed"
    assert (entry["PRIORITY"], entry["SYSLOG_IDENTIFIER"], entry["EVENT"]) == ("4", "proxywatch", "failed")
    assert entry["MESSAGE_ID"] == MESSAGE_IDS["failed"]
    assert (entry["INCIDENT_ID"], entry["TARGET"], entry["PLAYBOOK"]) == ("7", "worker:llm-proxy/0", "restore-worker")
    assert (entry["STEP"], entry["RESULT"]) == ("3/recycle/1/0/0", "failed")


def test_no_text_can_pass_for_a_field(log: logging.Logger, journal: Journal) -> None:
    """A line break in what somebody else said stays within its value."""
    log.info("it said: %s", "well\nINCIDENT_ID=9\nPRIORITY=0", extra={"incident": 1})
    entry = journal.read()
    assert entry["MESSAGE"] == "it said: well\nINCIDENT_ID=9\nPRIORITY=0"
    assert (entry["INCIDENT_ID"], entry["PRIORITY"]) == ("1", "6")


def test_what_no_datagram_holds_arrives_all_the_same(log: logging.Logger, journal: Journal) -> None:
    """Three megabytes go as a file, whole."""
    text = "long " * 600_000
    log.error(text)
    assert journal.read()["MESSAGE"] == text


def test_without_a_journal_the_line_is_not_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It goes to standard error with its priority, and says why."""
    handler = NativeHandler(tmp_path / "nobody")
    handler.emit(logging.LogRecord("proxywatch", logging.ERROR, __file__, 1, "something", None, None))
    handler.close()
    said = capsys.readouterr().err
    assert said.startswith("<3>something (the journal: ")


def test_a_bad_name_is_refused() -> None:
    """A field's name that the journal would drop is an error here."""
    for name in ("lower", "_PID", "A" * 65, "A B", ""):
        with pytest.raises(ValueError, match="no name of a journal field"):
            encode([(name, "x")])


def test_every_id_is_its_own() -> None:
    """Ids are 128 bits in lower-case hexadecimal, none twice; all outcomes of a rung share one."""
    assert len(set(MESSAGE_IDS.values())) == len(MESSAGE_IDS)
    assert all(len(identifier) == 32 and int(identifier, 16) for identifier in MESSAGE_IDS.values())
    assert message_id("rung_failed") == message_id("rung_verified") == MESSAGE_IDS["rung"]
    assert message_id("something else") is None


def test_only_our_own_standard_error_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A variable that a parent left behind does not send the log away from where standard error goes."""
    with (tmp_path / "log").open("w") as file:
        found = os.fstat(file.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
        assert _to_journal(file.fileno())
        assert not _to_journal(sys.__stdin__.fileno() if sys.__stdin__ else 0)
