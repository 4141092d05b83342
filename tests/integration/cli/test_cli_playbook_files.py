"""Playbook files judged without a daemon, and the schema by which editors judge them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml
from small_daemon import write_config

from watchdog.actions import actions
from watchdog.cli.main import main
from watchdog.errors import ConfigError
from watchdog.playbooks.json_schema import playbook_schema
from watchdog.playbooks.schema import load_playbooks

SHIPPED = sorted((Path(__file__).resolve().parents[3] / "config/playbooks").glob("*.yaml"))
GOOD = {
    "name": "mine",
    "answers": ['alertname="X"'],
    "targets": ["service"],
    "budget": {"1h": 3},
    "wait_at_most": "5m",
    "ladder": [{"rung": "one", "steps": [{"kind": "command", "argv": ["true"], "timeout": "30s"}]}],
}


def test_the_schema_is_printed_and_knows_every_action(capsys: pytest.CaptureFixture[str]) -> None:
    """`playbook schema` prints JSON whose steps are told apart by `kind`, one for each registered action."""
    assert main(["playbook", "schema"]) == 0
    shape = json.loads(capsys.readouterr().out)
    steps = shape["$defs"]["Rung"]["properties"]["steps"]["items"]
    assert set(steps["discriminator"]["mapping"]) == set(actions.kinds)
    assert shape["properties"]["wait_at_most"]["default"] == "900s"


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_shipped_playbooks_fit_the_schema(file: Path) -> None:
    """Another program's validator agrees with our loader on what we ship."""
    jsonschema_rs.validator_for(playbook_schema()).validate(yaml.safe_load(file.read_text()))


@pytest.mark.parametrize(
    "wrong",
    [
        {"nmae": "mine"},
        {"wait_at_most": 300},
        {"wait_at_most": "5 minutes"},
        {"budget": {"1h": "three"}},
        {"autonomy": "sometimes"},
        {"ladder": [{"rung": "one", "steps": [{"kind": "comand"}]}]},
        {"ladder": [{"rung": "one", "steps": [{"kind": "command"}]}]},
    ],
    ids=lambda wrong: "-".join(wrong) + "-" + str(len(str(wrong))),
)
def test_schema_and_loader_refuse_the_same(tmp_path: Path, wrong: dict[str, Any]) -> None:
    """What the loader refuses by form the schema refuses too, so that an editor marks it while it is written."""
    validator = jsonschema_rs.validator_for(playbook_schema())
    assert validator.is_valid(GOOD)
    assert not validator.is_valid({**GOOD, **wrong})
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({**GOOD, **wrong}))
    with pytest.raises(ConfigError):
        load_playbooks([file])


def test_files_are_judged_by_name_or_by_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 0 with a count, exit 2 with each file's first problem and its place."""
    config = write_config(tmp_path)
    assert main(["--config", str(config), "playbook", "check"]) == 0
    assert capsys.readouterr().out == "OK: 2 playbooks in 2 files\n"
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(yaml.safe_dump(GOOD))
    bad.write_text(yaml.safe_dump({**GOOD, "name": "other", "wait": "5m"}, sort_keys=False))
    assert main(["playbook", "check", str(good), str(bad)]) == 2
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{bad}:")
    assert "unknown key" in line
    assert main(["playbook", "check", str(good), str(good), "--json"]) == 2
    assert "defined twice" in json.loads(capsys.readouterr().out)["problems"][0]
