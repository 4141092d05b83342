"""Whether another distribution has our import names, asked of real metadata on the import path."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from watchdog.environment import check_environment, strangers
from watchdog.errors import EnvironmentUnfit

LEGACY = {"top_level.txt": "watchdog\nwatchdog_extras\n"}
FOLDER = {"RECORD": "watchdog/__init__.py,sha256=x,10\nother/proxy/__init__.py,,\n"}
FILE = {"RECORD": "something.py,,\nproxy.py,sha256=x,10\n"}
NEITHER = {"RECORD": "watchdogs/__init__.py,,\nproxying.py,,\nlib/watchdog/x.py,,\n", "top_level.txt": ""}


def install(site: Path, name: str, files: Mapping[str, str]) -> None:
    """What pip leaves of a distribution."""
    metadata = site / f"{name}-1.0.dist-info"
    metadata.mkdir(parents=True)
    for file, text in {"METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", **files}.items():
        (metadata / file).write_text(text)


@pytest.mark.parametrize(
    ("files", "names"),
    [(LEGACY, ["watchdog"]), (FOLDER, ["watchdog"]), (FILE, ["proxy"]), (NEITHER, [])],
    ids=["declared", "folder", "file", "neither"],
)
def test_who_else_brings_our_names_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: Mapping[str, str], names: list[str]
) -> None:
    """By what a distribution declares or by what it installed; names that only begin alike are nobody's concern."""
    install(tmp_path, "stranger", files)
    monkeypatch.syspath_prepend(tmp_path)
    assert strangers() == {name: ["stranger"] for name in names}


def test_the_start_is_refused_and_says_what_to_remove(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside a distribution that overwrites our files nothing begins."""
    check_environment()
    install(tmp_path, "watchdog", FOLDER)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(EnvironmentUnfit, match="the distribution watchdog owns the import name 'watchdog'"):
        check_environment()
