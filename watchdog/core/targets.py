"""What a repair touches, as one string: `worker:SERVICE/SLOT`, `service:NAME`, `provider:NAME`, `filesystem:PATH`, …

Rules name it in the label `target`; incidents, budgets, locks and backoff are all kept by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

KINDS: Mapping[str, tuple[str, ...]] = {
    "worker": ("service", "worker"),
    "service": ("service",),
    "provider": ("provider",),
    "cache": ("service",),
    "providers": ("service",),
    "process": ("process",),
    "probe": ("probe",),
    "host": (),
    "filesystem": ("mountpoint",),
    "source": ("source",),
    "caller": ("service", "key"),
    "alert": ("alert",),
}
"""Kinds of target, and the labels that its name is made of. `alert` is for alerts whose rule names no target,
`source` for an address that attacks, `caller` for the owner of one key of a service."""

_STRANGERS = ("source:", "caller:")


def is_stranger(target: str) -> bool:
    """Whether it is somebody who calls rather than a part of this host. Anybody can become one, as often as they like,
    so that what is done about them has a budget apart and makes no storm: else an attack could end all repairs."""
    return target.startswith(_STRANGERS)


@dataclass(frozen=True, slots=True)
class Target:
    """A parsed target. `str()` gives the string back."""

    kind: str
    parts: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.kind}:{'/'.join(self.parts)}" if self.parts else self.kind

    @property
    def labels(self) -> dict[str, str]:
        """The labels that the name is made of, such as `{"service": "llm-proxy", "worker": "0"}`."""
        return dict(zip(KINDS[self.kind], self.parts, strict=True))

    @property
    def remote(self) -> bool:
        """Whether it stands outside this host, so that nothing local may be restarted for its sake."""
        return self.kind in {"provider", "providers"}

    @property
    def parent(self) -> Target | None:
        """What contains it: a repair of the parent makes one of the child pointless."""
        return Target("service", self.parts[:1]) if self.kind in {"worker", "cache"} else None


@lru_cache(maxsize=16_384)
def parse_target(text: str) -> Target:
    """Raises ValueError for an unknown kind, a missing part or an empty one: an empty selector is never «all»."""
    kind, colon, rest = text.partition(":")
    if kind not in KINDS:
        raise ValueError(f"unknown kind of target {kind!r} in {text!r}; expected one of {', '.join(KINDS)}")
    wanted = KINDS[kind]
    parts = tuple(rest.split("/", len(wanted) - 1)) if wanted else ()
    if (not wanted and colon) or len(parts) != len(wanted) or not all(part.strip() for part in parts):
        shape = kind + (":" + "/".join(name.upper() for name in wanted) if wanted else "")
        raise ValueError(f"target {text!r} is incomplete; expected {shape}")
    return Target(kind, parts)


def target_of(labels: Mapping[str, str], fingerprint: str) -> Target:
    """The target that an alert's rule named, else one of kind `alert` that stands for this alert alone."""
    try:
        return parse_target(labels.get("target", ""))
    except ValueError:
        return Target("alert", (f"{labels.get('alertname', 'unnamed')}-{fingerprint}",))
