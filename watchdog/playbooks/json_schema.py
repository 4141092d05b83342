"""The JSON schema of playbook files, as editors and other programs want it."""

from __future__ import annotations

from typing import Any

from watchdog.playbooks.schema import playbook_model

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def playbook_schema() -> dict[str, Any]:
    """What a playbook file may hold: the model with every registered action, durations as they are written."""
    shape: dict[str, Any] = playbook_model().model_json_schema(mode="validation")
    _write_defaults(shape)
    return {"$schema": DIALECT, **shape, "title": "proxywatch playbook"}


def _write_defaults(part: object) -> None:
    """The model keeps seconds; a default must stand in the schema as one could write it in the file."""
    if isinstance(part, list):
        for item in part:
            _write_defaults(item)
    if not isinstance(part, dict):
        return
    default, forms = part.get("default"), part.get("anyOf", ())
    if isinstance(default, float) and any("pattern" in form for form in forms):
        part["default"] = f"{default:g}s"
    for value in part.values():
        _write_defaults(value)
