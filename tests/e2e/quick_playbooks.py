"""Shipped playbooks and rules with shorter watches, and what their runs have done."""

from __future__ import annotations

from typing import Any

from world import World, eventually, story


def hasten(world: World, name: str, changes: dict[str, str]) -> None:
    """The shipped file with other numbers in the places that are named."""
    file = world.root / "config" / name
    text = file.read_text()
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    file.write_text(text)


def done(incident: dict[str, Any], playbook: str) -> list[str]:
    """What the runs of a playbook have done, in order."""
    runs = [run for run in incident["runs"] if run["playbook"] == playbook]
    return [e["action"] for run in runs for e in run["effects"] if e["outcome"] == "done"]


async def acted(world: World, target: str, action: str, seconds: float = 40) -> dict[str, Any]:
    """The newest incident of a target, once that action has been done for it and no run is under way."""

    async def look() -> dict[str, Any] | None:
        for incident in (await world.incidents(target))[:1]:
            whole: dict[str, Any] = await world.ask(f"/v1/incidents/{incident['id']}")
            actions = [e["action"] for run in whole["runs"] for e in run["effects"] if e["outcome"] == "done"]
            if action in actions and incident["run"] is None:
                return whole
        return None

    try:
        found: dict[str, Any] = await eventually(f"{target}: {action} is done", look, seconds)
    except AssertionError as error:
        stories = [story(await world.ask(f"/v1/incidents/{i['id']}")) for i in await world.incidents(target)]
        raise AssertionError("\n\n".join([str(error), *stories, world.tail()])) from None
    return found
