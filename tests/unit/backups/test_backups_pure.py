"""What needs no disk: the overlay, which paths a holding covers, what a manifest refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from watchdog.backups.holding import Holding
from watchdog.backups.manifest import Manifest, parse_manifest, plain_path
from watchdog.backups.minimal import is_minimal, minimal_of
from watchdog.errors import BackupError
from watchdog.system.services.recovery import Recovery

WHOLE = b"workers: 4\ncache: {size: 9, warming: {top: 3}}\nkeys: [a, b]\nstart: on\n"


@pytest.mark.parametrize(
    ("overlay", "expected"),
    [
        (
            {"workers": 1},
            {"workers": 1, "cache": {"size": 9, "warming": {"top": 3}}, "keys": ["a", "b"], "start": True},
        ),
        ({"cache": {"warming": None}}, {"workers": 4, "cache": {"size": 9}, "keys": ["a", "b"], "start": True}),
        ({"cache": None, "nothing": None}, {"workers": 4, "keys": ["a", "b"], "start": True}),
        ({"keys": ["c"], "cache": 1}, {"workers": 4, "cache": 1, "keys": ["c"], "start": True}),
    ],
    ids=["replaced", "taken-away-inside", "taken-away", "lists-are-replaced-whole"],
)
def test_an_overlay_is_laid_over(overlay: dict[str, Any], expected: dict[str, Any]) -> None:
    """Mappings key by key, null takes away, everything else is replaced; the result is known as minimal."""
    made = minimal_of(WHOLE, overlay)
    assert yaml.safe_load(made) == expected
    assert is_minimal(made)
    assert not is_minimal(WHOLE)


@pytest.mark.parametrize("text", [b"- a\n", b"a: [", b"\xff"], ids=["a-list", "no-yaml", "no-text"])
def test_what_is_no_mapping_has_no_minimal_form(text: bytes) -> None:
    """It is an error of one line, not a traceback."""
    with pytest.raises(BackupError):
        minimal_of(text, {"a": 1})


@pytest.mark.parametrize(
    ("path", "covered"),
    [
        ("/etc/web/web.yaml", True),
        ("/etc/web/conf.d/one.yaml", True),
        ("/etc/web/conf.d/deep/one.yaml", False),
        ("/etc/web/conf.d/one.yml", False),
        ("/etc/web/key", False),
        ("/var/rows.sqlite", True),
        ("/var/rows.sqlite-wal", True),
        ("/var/rows.sqlite.old", False),
        ("/etc/passwd", False),
    ],
)
def test_nothing_else_is_covered(path: str, covered: bool) -> None:
    """Patterns match in their own directory only; of a database what SQLite keeps beside it too."""
    holding = Holding("web", ("/etc/web/web.yaml", "/etc/web/conf.d/*.yaml"), (Path("/var/rows.sqlite"),))
    assert holding.covers(path) is covered


@pytest.mark.parametrize("path", ["a", "//a", "/a/../b", "/a/./b", "/a//b", "/", "/a\nb", "/a/", ""])
def test_a_path_that_hides_where_it_leads_is_refused(path: str) -> None:
    """Only plain absolute paths stand in a manifest."""
    with pytest.raises(ValueError, match=r"absolute path|control characters"):
        plain_path(path)


def test_a_manifest_survives_being_written() -> None:
    """What is read back is what was written; a later format is told as such."""
    manifest = Manifest(
        format=1, holding="web", made_at=1.5, reason="r", versions={}, main="/etc/a", patterns=("/etc/a",), members=()
    )
    assert parse_manifest(manifest.model_dump_json().encode()) == manifest
    with pytest.raises(BackupError, match=r"newer proxywatch \(format 7"):
        parse_manifest(b'{"format": 7}')


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"files": []}, "at least 1"),
        ({"files": ["conf.d/*.yaml"]}, "the main one and no pattern"),
        ({"files": ["a.yaml", "conf*/b.yaml"]}, "in one directory"),
        ({"files": ["../a.yaml"]}, "in one directory"),
        ({"files": ["a.yaml"], "minimal": {"file": "b.yaml", "overlay": {"a": 1}}}, "none of `files`"),
        ({"files": ["a.yaml"], "temporary": [{"directory": "/etc", "patterns": ["*.tmp"]}]}, "below those at the top"),
        ({"files": ["a.yaml"], "cache": [{"directory": "var/x", "patterns": ["*"]}]}, "would match everything"),
        ({"files": ["a.yaml"], "needs": {"ports": [0]}}, "no TCP port"),
    ],
    ids=[
        "no-file",
        "main-is-a-pattern",
        "wild-directory",
        "upwards",
        "other-file",
        "too-high",
        "everything",
        "no-port",
    ],
)
def test_a_recovery_that_cannot_be_meant_is_refused_at_load(keys: dict[str, Any], says: str) -> None:
    """It would archive the wrong files, or clear too many."""
    with pytest.raises(ValueError, match=says):
        Recovery.model_validate(keys)
