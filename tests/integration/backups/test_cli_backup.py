"""`proxywatch backup`, without a daemon: what it prints, what it returns, and with a configuration of ours that is
broken."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import JUDGE, corrupt, fill

from watchdog.cli.main import main

RULES = """
groups:
  - name: small
    rules:
      - alert: Strange
        expr: strange > 1
"""
PLAYBOOK = {
    "name": "look",
    "answers": ['alertname="Strange"'],
    "targets": ["host"],
    "ladder": [{"rung": "wait", "verify": {"hold": "1s", "within": "2s"}}],
}
Run = Callable[..., tuple[int, str]]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An agent's configuration and a service `web` with a database, in a working directory of their own."""
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "config"
    for name in ("rules", "playbooks"):
        (config / name).mkdir(parents=True)
    (config / "rules/small.yaml").write_text(RULES)
    (config / "playbooks/look.yaml").write_text(yaml.safe_dump(PLAYBOOK))
    plain = {"route": {"receiver": "journal"}, "receivers": [{"name": "journal"}]}
    (config / "routes.yaml").write_text(yaml.safe_dump(plain))
    recovery = {
        "files": ["web/web.yaml"],
        "databases": ["web/rows.sqlite"],
        "check": [sys.executable, "-I", "-S", str(tmp_path / "judge.py"), "{file}"],
    }
    web = {"kind": "child", "argv": ["sleep", "9"], "recovery": recovery}
    (config / "proxywatch.yaml").write_text(yaml.safe_dump({"services": {"web": web}}))
    (tmp_path / "web/conf.d").mkdir(parents=True)
    (tmp_path / "web/web.yaml").write_text("port: 1\n")
    (tmp_path / "web/key").write_text("secret")
    (tmp_path / "judge.py").write_text(JUDGE)
    fill(tmp_path / "web/rows.sqlite", 300)
    return tmp_path


@pytest.fixture
def run(site: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Exit code, and what it said on both streams."""

    def run(*argv: str) -> tuple[int, str]:
        try:
            code = main(["--config", str(site / "config/proxywatch.yaml"), *argv])
        except SystemExit as stop:
            code = int(stop.code or 0)
        said = capsys.readouterr()
        return code, said.out + said.err

    return run


def shape(said: str) -> Any:
    return json.loads(said[said.index("{") :])


def test_made_listed_and_verified(site: Path, run: Run) -> None:
    """Both programs' configuration and databases; a damaged archive is told and returns 1."""
    code, said = run("backup", "create", "web")
    assert code == 0, said
    assert "verified" in said
    code, said = run("backup", "list", "--json")
    (archive,) = shape(said)["archives"]
    assert (archive["of"], archive["files"], archive["said"]) == ("web", 1, "by hand")
    assert archive["databases"] == [str(site / "web/rows.sqlite")]
    assert run("backup", "verify")[0] == 0
    file = site / "var/lib/proxywatch/backups" / archive["name"]
    file.write_bytes(file.read_bytes()[:-9])
    code, said = run("backup", "verify", "web")
    assert code == 1
    assert f"{archive['name']}" in said
    assert "truncated" in said


def test_put_back_and_taken_back(site: Path, run: Run) -> None:
    """The broken file and the corrupt database come from the archive; `undo` brings every byte back."""
    assert run("backup", "create", "web")[0] == 0
    (site / "web/web.yaml").write_text("prot: 1\n")
    corrupt(site / "web/rows.sqlite")
    broken = (site / "web/rows.sqlite").read_bytes()
    code, said = run("backup", "restore", "web", "--databases")
    assert code == 0, said
    assert "configuration from web-" in said
    assert "`proxywatch backup undo web` takes it back" in said
    assert (site / "web/web.yaml").read_text() == "port: 1\n"
    code, said = run("backup", "undo", "web")
    assert code == 0, said
    assert (site / "web/web.yaml").read_text() == "prot: 1\n"
    assert (site / "web/rows.sqlite").read_bytes() == broken
    code, said = run("backup", "undo", "web")
    assert (code, "there is no restore point of web" in said) == (1, True)


def test_a_restore_that_changed_nothing_is_not_the_one_to_undo(site: Path, run: Run) -> None:
    """The last restore by hand is the last that put something in place."""
    assert run("backup", "create", "web")[0] == 0
    (site / "web/web.yaml").write_text("prot: 1\n")
    assert run("backup", "restore", "web")[0] == 0
    code, said = run("backup", "restore", "web", "--different")
    assert (code, "it holds what is in place already" in said) == (1, True)
    assert run("backup", "undo", "web")[0] == 0
    assert (site / "web/web.yaml").read_text() == "prot: 1\n"


def test_what_was_written_since_is_kept_named_and_put_back(site: Path, run: Run) -> None:
    """An undo goes on, and says where the edit and the new file are; nothing is left beside the point that it used."""
    assert run("backup", "create", "proxywatch")[0] == 0
    main, mine = site / "config/proxywatch.yaml", site / "config/conf.d/zz-mine.yaml"
    found = main.read_text()
    assert run("backup", "restore", "proxywatch")[0] == 0
    edited = f"{found}# by hand\n"
    main.write_text(edited)
    mine.parent.mkdir()
    mine.write_text("backups: {keep_at_least: 2}\n")
    code, said = run("backup", "undo", "proxywatch")
    assert code == 0, said
    assert (main.read_text(), mine.exists()) == (found, False)
    (kept,) = (site / "var/lib/proxywatch/backups/points").iterdir()
    assert f"{main}, {mine}: kept in {kept}" in " ".join(said.split())
    assert kept.name in run("backup", "list", "proxywatch")[1]
    code, said = run("backup", "restore", "proxywatch", "--archive", kept.name)
    assert code == 0, said
    assert (main.read_text(), mine.read_text()) == (edited, "backups: {keep_at_least: 2}\n")


def test_our_own_files_come_back_while_they_are_broken(site: Path, run: Run) -> None:
    """With a configuration that cannot be read the archives say themselves what they are of."""
    assert run("backup", "create", "proxywatch")[0] == 0
    file = site / "config/proxywatch.yaml"
    good = file.read_text()
    file.write_text("services: [")
    code, said = run("backup", "restore", "proxywatch")
    assert code == 0, said
    assert "going by what the archives say of themselves" in said
    assert "the daemon does not run" in said
    assert file.read_text() == good


@pytest.mark.parametrize(
    ("argv", "code", "says"),
    [
        (["restore", "shop"], 2, "nothing is kept of 'shop'"),
        (["restore", "web"], 1, "no archive of web has a configuration to put back: there is none"),
        (["restore", "web", "--archive", "web-1.tar.gz"], 1, "there is no archive web-1.tar.gz"),
        (["verify", "nobody"], 1, "there is no archive nobody"),
        (["create", "shop"], 2, "kept are: proxywatch, web"),
        (["list"], 0, "there is no archive in"),
        (["prune"], 0, "nothing is too old"),
        (["restore"], 2, "NAME"),
    ],
)
def test_what_cannot_be_done_is_one_line(run: Run, argv: list[str], code: int, says: str) -> None:
    """Exit 2 for what was written wrongly, 1 for what went wrong, and what to do about it."""
    found, said = run("backup", *argv)
    assert (found, says in said) == (code, True), said
