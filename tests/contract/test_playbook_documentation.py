"""Every shipped playbook has its page, the page names what it is about, and the example is a playbook that loads."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from watchdog.actions import ActionSettings
from watchdog.playbooks.schema import Playbook, Rung, load_playbooks

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "playbooks"
SHIPPED = load_playbooks(sorted((ROOT / "config" / "playbooks").glob("*.yaml")))


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_a_page_tells_what_its_playbook_does(name: str) -> None:
    """Each rung and each alert that it answers stands on its page, and the page says how to do it by hand."""
    page = (PAGES / f"{name}.md").read_text()
    playbook = SHIPPED[name]
    alerts = {
        alert
        for matchers in playbook.answers
        for matcher in matchers
        if matcher.name == "alertname"
        for alert in matcher.value.strip("()").split("|")
    }
    missing = [word for word in [*(rung.rung for rung in playbook.ladder), *sorted(alerts)] if word not in page]
    assert not missing
    assert re.search("by hand", page, re.IGNORECASE)
    assert len(page.splitlines()) <= 90


def test_every_playbook_is_on_the_first_page() -> None:
    """The index names each shipped playbook once, and no other."""
    linked = re.findall(r"\]\(([a-z-]+)\.md\)", (PAGES / "README.md").read_text())
    assert sorted(linked) == sorted(SHIPPED)


def test_the_example_is_a_playbook(tmp_path: Path) -> None:
    """What the page shows loads as it stands, and it shows every key that a playbook, a rung and a step can have."""
    page = (PAGES / "README.md").read_text()
    (example,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "example.yaml").write_text(example)
    assert list(load_playbooks([tmp_path / "example.yaml"])) == [yaml.safe_load(example)["name"]]
    keys = {*Playbook.model_fields, *Rung.model_fields, *ActionSettings.model_fields}
    assert not [key for key in sorted(keys) if not re.search(rf"\b{key}\b", page)]
