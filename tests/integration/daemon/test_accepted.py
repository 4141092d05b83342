"""What is kept of an accepted configuration, and when it stands in."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from watchdog.accepted import keep, last_good
from watchdog.errors import ConfigError
from watchdog.files import read_files

SHIPPED = Path(__file__).parents[3] / "config"


class Site:
    """A configuration whose rules stand elsewhere, by an absolute path, and whose routes name a file beside them."""

    def __init__(self, root: Path) -> None:
        self.state = root / "state"
        self.file = root / "etc/proxywatch.yaml"
        self.rules = root / "elsewhere/rules"
        shutil.copytree(SHIPPED / "rules", self.rules)
        shutil.copytree(SHIPPED / "playbooks", self.file.parent / "playbooks")
        (self.file.parent / "hook.url").write_text("http://127.0.0.1:9/\n")
        (self.file.parent / "hook.url").chmod(0o600)
        hook = {"webhook_configs": [{"url_file": "hook.url"}]}
        routes = {"route": {"receiver": "inbox"}, "receivers": [{"name": "inbox", **hook}]}
        (self.file.parent / "routes.yaml").write_text(yaml.safe_dump(routes))
        self.write(host="good")

    def write(self, **over: str) -> None:
        shape = {"state_dir": str(self.state), "rules": [str(self.rules / "*.yaml")], **over}
        self.file.write_text(yaml.safe_dump(shape))

    def refused(self) -> ConfigError:
        with pytest.raises(ConfigError) as caught:
            read_files(self.file)
        return caught.value


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    return Site(tmp_path)


def test_what_was_accepted_stands_in_whole(site: Site) -> None:
    """Configuration, rules, playbooks and routes are as they were when they were accepted, although each of them has
    been changed or removed since; a file that the routes name is sought where it was; the copy is its owner's alone."""
    before = read_files(site.file)
    keep(before)
    site.write(hots="typo")
    shutil.rmtree(site.rules)
    (site.file.parent / "playbooks/stop-leak.yaml").write_text("name: [\n")
    (site.file.parent / "routes.yaml").unlink()
    refused = site.refused()
    after = last_good(site.file, refused)
    assert after is not None
    assert after.refused == str(refused)
    assert (after.loaded.file, after.loaded.config) == (before.loaded.file, before.loaded.config)
    assert [(group.name, len(group.rules)) for group in after.groups] == [
        (group.name, len(group.rules)) for group in before.groups
    ]
    assert after.playbooks == before.playbooks
    assert (after.routes.route, after.routes.receivers) == (before.routes.route, before.routes.receivers)
    assert (site.state / "accepted").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (site.state / "accepted").rglob("*.yaml")} == {0o600}


def test_what_was_broken_between_reading_and_keeping_is_not_kept(site: Site) -> None:
    """The copy is judged as it lies there; one that would be refused leaves the one before in its place."""
    keep(read_files(site.file))
    site.write(host="better")
    files = read_files(site.file)
    site.write(hots="typo")
    with pytest.raises(ConfigError):
        keep(files)
    kept = last_good(site.file, site.refused())
    assert kept is not None
    assert kept.loaded.config.host == "good"
    assert len([path for path in (site.state / "accepted").iterdir() if path.is_dir()]) == 1


def test_the_same_is_kept_once_and_another_replaces_it(site: Site) -> None:
    """A start that changes nothing writes nothing; the next accepted one takes the place of the one before."""
    keep(read_files(site.file))
    note = site.state / "accepted/last.json"
    first = note.stat().st_mtime_ns
    keep(read_files(site.file))
    assert note.stat().st_mtime_ns == first
    site.write(host="better")
    keep(read_files(site.file))
    site.write(hots="typo")
    kept = last_good(site.file, site.refused())
    assert kept is not None
    assert kept.loaded.config.host == "better"
    assert len([path for path in (site.state / "accepted").iterdir() if path.is_dir()]) == 1


def test_it_stands_in_for_its_own_file_only(site: Site, tmp_path: Path) -> None:
    """A misspelt name is not answered with another configuration; nor is anything made up where nothing was kept."""
    assert last_good(site.file, ConfigError("x")) is None
    keep(read_files(site.file))
    other = tmp_path / "etc/other.yaml"
    other.write_text(yaml.safe_dump({"state_dir": str(site.state), "hots": "typo"}))
    assert last_good(other, ConfigError("x")) is None


def test_a_file_that_is_no_yaml_any_more_still_says_where_the_state_is(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plain line is read of what cannot be parsed; and systemd's own word is taken where the file has gone."""
    keep(read_files(site.file))
    site.file.write_text(f"state_dir: {site.state}  # here\nservices: {{\n")
    assert last_good(site.file, site.refused()) is not None
    site.file.unlink()
    monkeypatch.setenv("STATE_DIRECTORY", str(site.state))
    assert last_good(site.file, site.refused()) is not None


def test_a_copy_that_is_refused_too_says_so(site: Site) -> None:
    """After an upgrade that refuses both, the first reason is told and the second with it."""
    keep(read_files(site.file))
    (copy,) = (path for path in (site.state / "accepted").iterdir() if path.is_dir())
    next(copy.rglob("routes.yaml")).write_text("route: {}\n")
    site.write(hots="typo")
    refused = site.refused()
    assert last_good(site.file, refused) is None
    assert "the last good one cannot be used either: " in refused.hint
