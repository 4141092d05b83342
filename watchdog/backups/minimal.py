"""The smallest configuration that still serves: made from the whole one by an overlay, and marked as what it is."""

from __future__ import annotations

import hashlib
from typing import Any

from watchdog.errors import BackupError

_MARK = b"# minimal configuration, made by proxywatch"


def minimal_of(whole: bytes, overlay: dict[str, Any]) -> bytes:
    """The YAML document with the overlay over it: mappings key by key, null takes away, the rest is replaced. Raises
    BackupError for what is no mapping."""
    import yaml

    try:
        document = yaml.safe_load(whole)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise BackupError(f"not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(document, dict):
        raise BackupError("it is no mapping, so nothing can be laid over it")
    said = _MARK + b"; `proxywatch backup list` shows the whole one's archives; sha256 of what follows: "
    smaller = yaml.safe_dump(_over(document, overlay), sort_keys=False, allow_unicode=True).encode()
    return said + _digest(smaller) + b"\n" + smaller


def is_minimal(content: bytes) -> bool:
    """Whether `minimal_of` made it."""
    return content.startswith(_MARK)


def is_untouched(content: bytes) -> bool:
    """Whether it is what `minimal_of` made, and nobody has edited it since."""
    first, _, rest = content.partition(b"\n")
    return is_minimal(content) and first.endswith(b" " + _digest(rest))


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()


def _over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = _over(merged[key], value)
        else:
            merged[key] = value
    return merged
