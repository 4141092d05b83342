"""Playbook files judged without a daemon, and the schema by which editors judge them."""

from __future__ import annotations

import json
import re
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


STEP = {"kind": "command", "argv": ["true"]}
DEAR = {**GOOD, "budget": {"1h": 2, "24h": 4}, "ladder": [{"rung": "one", "steps": [STEP] * 3}]}


def test_a_rung_dearer_than_its_budget_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Three disruptive effects at once with two an hour could never act: an error at the budget, or at the rung where
    the budget is the configuration's; steps that nobody notices are not counted."""
    file = tmp_path / "dear.yaml"
    file.write_text(yaml.safe_dump(DEAR, sort_keys=False))
    line = next(i for i, text in enumerate(file.read_text().splitlines(), start=1) if text.startswith("budget"))
    assert main(["playbook", "check", str(file)]) == 2
    said = capsys.readouterr().out
    assert said.startswith(f"{file}:{line}: budget: rung 'one' comes to 3 disruptive effects")
    assert "more than 2 in 1h" in said

    ladder = [{"rung": "one", "steps": [STEP, STEP, STEP, STEP]}]
    file.write_text(
        yaml.safe_dump({key: value for key, value in {**DEAR, "ladder": ladder}.items() if key != "budget"})
    )
    assert main(["playbook", "check", str(file)]) == 2
    assert ": ladder.0: rung 'one' comes to 4" in capsys.readouterr().out

    gentle = [STEP, STEP, {**STEP, "disruptive": False}]
    file.write_text(yaml.safe_dump({**DEAR, "ladder": [{"rung": "one", "steps": gentle}]}))
    assert main(["playbook", "check", str(file)]) == 0
    assert capsys.readouterr().out == "OK: 1 playbook in 1 file\n"


def test_a_ladder_dearer_than_its_budget_is_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each rung fits, and all their attempts together do not: it is said, for `config check` too, and is no error."""
    file = tmp_path / "long.yaml"
    file.write_text(yaml.safe_dump({**DEAR, "ladder": [{"rung": "one", "attempts": 3, "steps": [STEP]}]}))
    assert main(["playbook", "check", str(file)]) == 0
    warning, verdict = capsys.readouterr().out.splitlines()
    assert warning.startswith(f"warning: {file}:")
    assert "budget: the whole ladder comes to 3 disruptive effects, and the budget allows 2 in 1h" in warning
    assert verdict == "OK: 1 playbook in 1 file"

    config = write_config(tmp_path / "whole")
    (config.parent / "playbooks/long.yaml").write_text(file.read_text())
    assert main(["config", "check", str(config)]) == 0
    assert "the whole ladder comes to 3" in capsys.readouterr().out
    assert main(["config", "check", str(config), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["warnings"]) == 1


def test_the_configuration_gives_the_budget(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A playbook without a budget is held to `guards.budget`."""
    config = write_config(tmp_path)
    chosen = yaml.safe_load(config.read_text())
    chosen["guards"]["budget"] = {"1h": 0}
    config.write_text(yaml.safe_dump(chosen))
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({key: value for key, value in GOOD.items() if key != "budget"}))
    assert main(["playbook", "check", str(file)]) == 0
    assert main(["--config", str(config), "playbook", "check", str(file)]) == 2
    assert "never allows more than 0 in 1h" in capsys.readouterr().out


def test_what_is_shipped_fits_its_budgets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a warning, and so does the example of the playbooks' first page."""
    page = SHIPPED[0].parents[2] / "docs/playbooks/README.md"
    (example,) = re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL)
    (tmp_path / "example.yaml").write_text(example)
    assert main(["playbook", "check", *map(str, SHIPPED), str(tmp_path / "example.yaml")]) == 0
    assert "warning" not in capsys.readouterr().out
