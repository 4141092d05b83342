"""What an operator holds back for a time, for the whole service: load, callers' limits, a provider's rate, a key.

Each ends by itself and leaves nothing behind. All workers share them in their store and see a new one within a second;
the newest word on a subject replaces the one before. A store that had to be begun anew has forgotten them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Protocol

import orjson

from proxy.clock import Clock
from proxy.errors import ApiError
from proxy.limits.spread import Spread
from proxy.metrics import Metrics


class Notices(Protocol):
    """The small facts that all workers share: `providers.board.Board`."""

    def get(self, name: bytes) -> bytes | None: ...
    def change(self, name: bytes, change: Callable[[bytes | None], bytes | None]) -> bool: ...
    def on_news(self, reader: Callable[[], None]) -> None: ...
    def refresh(self) -> None: ...


class Kind(StrEnum):
    """What is held back."""

    LOAD = "load"
    """New requests of callers, refused with 503."""
    LIMITS = "limits"
    """Callers' requests and tokens, and failed keys of an address."""
    RATE = "rate"
    """A provider's traffic, which goes to the next one."""
    KEY = "key"
    """A caller's key, refused with 403."""


@dataclass(frozen=True, slots=True)
class Restraint:
    """One that was put in force. `passes` is the share that is let through; `until` is monotonic, `since` wall."""

    passes: float
    until: float
    since: float
    reason: str


Subject = tuple[Kind, str]
"""The kind, and the provider's name or the key's id; empty for what concerns all."""


class Restraints:
    """Those in force, as one worker knows them; `attach` to what is shared before any can be put in force."""

    def __init__(self, providers: Iterable[str], keys: Iterable[str], measured: Metrics, clock: Clock) -> None:
        self._clock = clock
        self._subjects: dict[Subject, bytes] = {
            (kind, name): f"restraint {kind} {name}".encode()
            for kind, names in (
                (Kind.LOAD, [""]),
                (Kind.LIMITS, [""]),
                (Kind.RATE, providers),
                (Kind.KEY, keys),
            )
            for name in names
        }
        self._notices: Notices | None = None
        self._changed: list[Callable[[], None]] = []
        self._in_force: dict[Subject, Restraint] = {}
        self._spreads: dict[Subject, Spread] = {}
        self._shown: set[Subject] = set()
        self._shed = measured.counter("http_requests_shed_total", "Requests refused to shed load.")
        self._limited = measured.counter("rate_limited_total", "Requests refused for a caller's limit.", ("type",))
        self._held_back = measured.gauge(
            "restrained_ratio", "Share that an operator holds back for a time.", ("what", "subject"), combine="max"
        )

    def attach(self, notices: Notices) -> None:
        """From now on what is in force is what stands there."""
        self._notices = notices
        notices.on_news(self._read)
        self._read()

    def on_change(self, do: Callable[[], None]) -> None:
        """`do` is called when one begins or ends, at the latest a second afterwards."""
        self._changed.append(do)

    def tick(self) -> None:
        """Every second: forgets what is over, and sets the gauges."""
        now = self._clock.monotonic()
        if over := [subject for subject, one in self._in_force.items() if one.until <= now]:
            for subject in over:
                del self._in_force[subject]
            self._tell()
        for kind, name in self._shown - self._in_force.keys():
            self._held_back.set(0.0, kind, name)
        for (kind, name), one in self._in_force.items():
            self._held_back.set(1.0 - one.passes, kind, name)
        self._shown |= self._in_force.keys()

    def put(self, kind: Kind, name: str, passes: float, seconds: float, reason: str) -> dict[str, Any]:
        """Puts one in force, in place of what was; `seconds` 0 ends that. What is told of it. KeyError for an unknown
        name; ApiError 503 while the store is busy."""
        subject = kind, name
        fact = self._subjects[subject]
        one = Restraint(passes, self._clock.monotonic() + seconds, self._clock.wall(), reason)
        raw = orjson.dumps(asdict(one))
        if self._notices is None or not self._notices.change(fact, lambda _before: raw):
            raise ApiError(503, "The shared store is busy; try again.", type="server_error", code="store_busy")
        self._read()
        self.tick()
        return self._told(subject, one)

    @property
    def active(self) -> bool:
        """Whether anything is held back, as far as this worker knows."""
        return bool(self._in_force)

    def told(self) -> list[dict[str, Any]]:
        """All that are in force, for operators: also what another worker was told a moment ago."""
        if self._notices is not None:
            self._notices.refresh()
        now = self._clock.monotonic()
        return [self._told(subject, one) for subject, one in self._in_force.items() if one.until > now]

    def in_words(self) -> list[str]:
        """The same for everybody: neither reasons nor keys."""
        now = self._clock.monotonic()
        found = {_words(*subject, one) for subject, one in self._in_force.items() if one.until > now}
        return sorted(found)

    def check_load(self) -> None:
        """ApiError 503 for those new requests that are refused to shed load, as evenly spread as they can be."""
        if not self._in_force:
            return
        subject = Kind.LOAD, ""
        one = self._now(subject)
        if one is None or self._spread(subject).admits(one.passes):
            return
        self._shed.inc()
        raise ApiError(
            503,
            "The proxy sheds load for a while; try again in a moment.",
            type="server_error",
            code="overloaded",
            headers=((b"retry-after", b"%d" % max(1, min(5, math.ceil(self._left(one))))),),
        )

    def check_key(self, key: str) -> None:
        """ApiError 403 for a key that is suspended."""
        if not self._in_force:
            return
        one = self._now((Kind.KEY, key))
        if one is None:
            return
        self._limited.inc("suspended")
        raise ApiError(
            403,
            "This API key is suspended for a while; ask the operator of the proxy.",
            type="permission_error",
            code="key_suspended",
            retryable=False,
            headers=((b"retry-after", b"%d" % math.ceil(self._left(one))),),
        )

    def limits(self) -> float:
        """The share of their limits that callers have now."""
        one = self._now((Kind.LIMITS, ""))
        return 1.0 if one is None else one.passes

    def spared(self, providers: Iterable[str]) -> frozenset[str]:
        """Of the providers in their order of preference, those that one request should pass by for another that takes
        it; it may still go there if no other does."""
        spared: set[str] = set()
        for provider in providers:
            subject = Kind.RATE, provider
            one = self._now(subject)
            if provider not in spared and (one is None or self._spread(subject).admits(one.passes)):
                break
            spared.add(provider)
        return frozenset(spared)

    def _now(self, subject: Subject) -> Restraint | None:
        one = self._in_force.get(subject)
        return None if one is None or one.until <= self._clock.monotonic() else one

    def _left(self, one: Restraint) -> float:
        return max(0.0, one.until - self._clock.monotonic())

    def _spread(self, subject: Subject) -> Spread:
        return self._spreads.setdefault(subject, Spread())

    def _read(self) -> None:
        if self._notices is None:
            return
        now, found = self._clock.monotonic(), dict[Subject, Restraint]()
        for subject, fact in self._subjects.items():
            raw = self._notices.get(fact)
            if raw is not None and (one := Restraint(**orjson.loads(raw))).until > now:
                found[subject] = one
        if found != self._in_force:
            self._in_force = found
            self._tell()

    def _tell(self) -> None:
        for do in self._changed:
            do()

    def _told(self, subject: Subject, one: Restraint) -> dict[str, Any]:
        kind, name = subject
        left = self._left(one)
        return {
            "what": kind,
            "subject": name,
            "share": round(one.passes if kind in (Kind.LIMITS, Kind.RATE) else 1.0 - one.passes, 6),
            "since": round(one.since, 3),
            "until": round(self._clock.wall() + left, 3),
            "seconds": round(left, 3),
            "reason": one.reason,
        }


def _words(kind: Kind, name: str, one: Restraint) -> str:
    match kind:
        case Kind.LOAD:
            return f"{100 * (1 - one.passes):.3g}% of new requests are refused to shed load"
        case Kind.LIMITS:
            return f"callers have {100 * one.passes:.3g}% of their limits"
        case Kind.RATE:
            return f"provider {name} gets {100 * one.passes:.3g}% of its traffic"
        case Kind.KEY:
            return "a key is suspended"
