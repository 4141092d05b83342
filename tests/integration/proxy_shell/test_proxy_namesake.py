"""Another distribution under our import name is found by what it says of its files."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy import namesake


def installed(place: Path, directory: str, **lists: str) -> None:
    """A distribution's metadata in `place`: names of files, `_` for a dot, and their text."""
    (place / directory).mkdir()
    for name, text in lists.items():
        (place / directory / name.replace("_txt", ".txt")).write_text(text)


@pytest.mark.parametrize(
    "lists",
    [{"top_level_txt": "other\nproxy\n"}, {"RECORD": "bin/x,,\nproxy/main.py,sha256=x,7\n"}],
    ids=["names", "files"],
)
def test_another_owner_of_our_name_is_told(tmp_path: Path, lists: dict[str, str]) -> None:
    """Whoever lists the package `proxy`, or a file in it, is named with what to do."""
    installed(tmp_path, "proxywatch-0.1.0.dist-info", RECORD="proxy/__init__.py,,\n")
    installed(tmp_path, "proxy_py-2.4.8.dist-info", **lists)
    told = namesake.fault([str(tmp_path)])
    assert told is not None
    assert "pip uninstall proxy_py," in told


def test_names_that_only_look_alike_are_none_of_ours(tmp_path: Path) -> None:
    """Neither ourselves, nor `proxy_tools`, nor a `proxy` inside another package, nor a place that is not there."""
    installed(tmp_path, "proxywatch-0.1.0.dist-info", RECORD="proxy/__init__.py,,\n")
    installed(tmp_path, "proxywatch.egg-info", top_level_txt="proxy\nwatchdog\n")
    installed(tmp_path, "tools-1.dist-info", top_level_txt="proxy_tools\n", RECORD="proxy/x.py,,\n")
    installed(tmp_path, "web-1.dist-info", RECORD="web/proxy/x.py,,\nproxy_x/y.py,,\n")
    installed(tmp_path, "bare-1.egg-info")
    assert namesake.fault([str(tmp_path), str(tmp_path / "missing")]) is None


def test_the_environment_of_these_tests_is_our_own() -> None:
    """Where Python imports from here, nobody else owns the name."""
    assert namesake.fault() is None
