"""The stable ids of what the agent writes to the journal, by the kind of a story's line; the catalogue that systemd
shows with `journalctl -x` is systemd/catalog/proxywatch.catalog."""

from __future__ import annotations

MESSAGE_IDS = {
    "opened": "27fc25144c644a2f95ec5bc749bc77d2",
    "alert": "1defdd38c01a42f89f6124426d2e7836",
    "cleared": "f7ae60f7a3c64b338f60934fddb7aeeb",
    "resolved": "e8f3a91534254c9a85f62479c7f2591f",
    "run": "2affba89a29b4575b0158c1034702060",
    "evidence": "c11e6627b55346d8bad63b5c3e01eef3",
    "refused": "8df4680f8a064d35bee842035610e514",
    "approval": "3d47571e1f244051bf028a46f502191a",
    "intent": "742828300e6647618580f6d9af27ab2f",
    "done": "f311b7f7598f48399cf73b9df4cf4a66",
    "failed": "8725ff96c9e24dffae1102807b547683",
    "reconciled": "071739092766480aa0377a99af7e22ab",
    "rolling_back": "d14937198a9f4e21ae8dd636300bea10",
    "rung": "4324d2c47616483eae14aedca48cd9f5",
    "verified": "5609f0add217497fb1ef2e9a8788ad76",
    "escalated": "af638c121f0b4155a720ae815b852ac0",
    "person_needed": "e5959ff2db4c4a8aa6ebd623a7295639",
    "unhandled": "788245f2c5c44c86aad04f5821059ddc",
    "suppressed": "1116e40dbdd54474a16c686f2e903095",
    "acknowledged": "b1effe055b7c43aaa1756a81040fdfd2",
    "cancelled": "ae1fb830f46e45d9a54172151724bad5",
    "storm": "b9842894bbab4ac2aeaeeb578efdea90",
}
"""Never reused, never changed: rules of other programs match them."""

_RUNG = "rung_"


def message_id(kind: str) -> str | None:
    """The id for a line of this kind; all outcomes of a rung share one, and what is rare has none."""
    return MESSAGE_IDS.get("rung" if kind.startswith(_RUNG) else kind)
