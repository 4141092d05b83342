"""What docs/llm-proxy.md says is so."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from proxy.endpoints.description import SAID
from proxy.settings import Settings

TEXT = (Path(__file__).parents[2] / "docs" / "llm-proxy.md").read_text(encoding="utf-8")


def test_the_example_is_a_good_configuration() -> None:
    """The whole configuration loads, and has every section that there is."""
    (example,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    document = yaml.safe_load(example)
    Settings.model_validate(document)
    left_out = {"run_dir", "state_dir", "max_body_mb", "max_in_flight", "recycle", "faults"}
    assert set(document) == set(Settings.model_fields) - left_out


def test_the_table_of_endpoints_is_complete() -> None:
    """Every route stands in the table, and nothing else but the fault for demonstrations is left out."""
    told = set(re.findall(r"^\| `([A-Z]+) (/\S*)` \|", TEXT, re.MULTILINE))
    assert told == set(SAID) - {("POST", "/debug/fault")}
