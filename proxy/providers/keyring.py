"""The keys of one provider: which one a request takes, what all workers have learnt of each, and their files.

What is shared of a key is its life and a fingerprint of it, so that another key in the same file begins a life of its
own. The key itself stays in this process.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import orjson

from proxy.clock import Clock
from proxy.errors import ConfigError
from proxy.providers.board import Board
from proxy.providers.endpoint import ConfiguredKey, Endpoint, read_secret
from proxy.routing.keys import (
    KEPT_BACK,
    UNKNOWN,
    KeyLife,
    KeyState,
    choose,
    limited,
    refused,
    reinstated,
    retire,
    soonest,
    worked,
)
from proxy.routing.outcome import Failure, Fault
from proxy.routing.retry import KeyChoice

security = logging.getLogger("proxy.security")

PREVIOUS = ".previous"
"""Ends the id of a key that another one has replaced in its file."""
_NO_KEY = KeyChoice(None)
_OUT_OF_USE = (KeyState.DEAD, KeyState.RETIRED, KeyState.SPARE)


@dataclass(slots=True)
class _Held:
    configured: ConfiguredKey
    name: bytes
    life: KeyLife = UNKNOWN
    raw: bytes | None = None
    unwritten: bool = False
    stamp: tuple[int, int, int] | None = None
    """Of the file when it was read: time, inode and size."""
    seen: tuple[int, int, int] | None = None
    """Of the file when it was last looked at. A new content is read once it has stood still for one look."""
    choice: KeyChoice = field(init=False)

    def __post_init__(self) -> None:
        self.choice = KeyChoice(self.configured.id)
        self.life = self.loaded(None)

    def loaded(self, raw: bytes | None) -> KeyLife:
        """The life that is shared, or the one that the configuration gives it."""
        if raw is None:
            return KEPT_BACK if self.configured.spare else UNKNOWN
        return KeyLife(**orjson.loads(raw))


class Keyring:
    """Of one provider in one worker."""

    def __init__(self, endpoint: Endpoint, board: Board, clock: Clock) -> None:
        self._provider = endpoint.name
        self._grace = endpoint.rotation_grace
        self._board = board
        self._clock = clock
        self._turn = 0
        self._held = [self._hold(key) for key in endpoint.keys]
        self._keyless = not self._held
        self._untouched = True
        """Whether every key is as on its first day, so that the next one in turn is right."""
        board.on_news(self._read)
        self._read()

    def choose(self, tried: AbstractSet[str]) -> KeyChoice | Failure:
        """A usable key that is not among `tried`; each new request takes the next one in turn."""
        if self._keyless:
            return _NO_KEY
        if not tried:
            self._turn += 1
            if self._untouched:
                return self._held[self._turn % len(self._held)].choice
        now = self._clock.monotonic()
        lives = [held.life for held in self._held]
        for place in choose(lives, self._turn, now):
            if self._held[place].configured.id not in tried:
                return self._held[place].choice
        if all(life.state(now) in _OUT_OF_USE for life in lives):
            return Failure(Fault.AUTH, "no usable key is left", asked=False)
        return Failure(Fault.QUOTA, "every key is cooling down", retry_after=soonest(lives, now), asked=False)

    def usable(self) -> bool:
        """Whether a request could have a key now."""
        now = self._clock.monotonic()
        states = (KeyState.ACTIVE, KeyState.RETIRING)
        return self._keyless or any(held.life.state(now) in states for held in self._held)

    def secret(self, key_id: str | None) -> tuple[str | None, bytes]:
        """The key itself, and its mark, which another key in the same file would not have; empty without a key.
        KeyError if unknown."""
        if key_id is None:
            return None, b""
        held = self._find(key_id)
        return held.configured.secret, held.name

    def failed(self, mark: bytes, failure: Failure) -> Failure | None:
        """Learns of a refused or limited key. None if another one can be used now; else the failure of the provider,
        with the time until the first of its keys is back."""
        if not mark or failure.fault not in (Fault.AUTH, Fault.QUOTA):
            return failure
        now, held = self._clock.monotonic(), self._marked(mark)
        if held is not None and failure.fault is Fault.AUTH:
            why = f"refused with {failure.status}"
            if self._change(held, lambda life: refused(life, why, now)):
                self._tell("key is dead: %s", why, key=held.configured.id, event="provider_key_dead", success=False)
        elif held is not None:
            wait, spent = failure.retry_after, failure.spent
            self._change(held, lambda life: limited(life, wait, now, spent=spent))
        if self.usable():
            return None
        wait = soonest([other.life for other in self._held], now)
        fault = Fault.AUTH if wait is None else Fault.QUOTA
        return Failure(fault, failure.message, failure.status, failure.body, wait, failure.spent)

    def worked(self, mark: bytes) -> None:
        """Learns that a key was accepted. Costs nothing for one that always was."""
        if self._untouched or not mark:
            return
        held, now = self._marked(mark), self._clock.monotonic()
        if held is not None and worked(held.life, now) is not held.life:
            self._change(held, lambda life: worked(life, now))

    def dead_to_ask(self) -> list[str]:
        """Ids of dead keys whose time has come to be asked again."""
        now = self._clock.monotonic()
        return [
            held.configured.id
            for held in self._held
            if held.life.state(now) is KeyState.DEAD and now >= held.life.ask_at
        ]

    def set_state(self, key_id: str, state: KeyState, grace_seconds: float) -> None:
        """An operator's will: RETIRED after a grace as a spare, or ACTIVE again. KeyError if unknown."""
        held, now = self._find(key_id), self._clock.monotonic()
        if state is KeyState.RETIRED:
            self._change(held, lambda life: retire(life, now + grace_seconds))
        else:
            self._change(held, reinstated)
        self._tell("key set %s, grace %g s", state, grace_seconds, key=key_id, event="provider_key_set")

    def health(self) -> list[dict[str, Any]]:
        """Each key's id and state, and when that ends, in epoch seconds; never the key."""
        now, wall = self._clock.monotonic(), self._clock.wall()
        shown = []
        for held in self._held:
            until = held.life.until(now)
            end = {} if until is None else {"until": round(wall + max(0.0, until - now), 3)}
            shown.append({"id": held.configured.id, "state": held.life.state(now).value} | end)
        return shown

    def tick(self) -> None:
        """To be called about every second: takes new contents of files, forgets old keys, shares what is not shared."""
        now = self._clock.monotonic()
        for held in self._held:
            if held.unwritten:
                held.unwritten = not self._board.change(held.name, partial(_written, held.life))
        for held in [held for held in self._held if held.configured.file is not None]:
            self._reread(held)
        gone = [
            held
            for held in self._held
            if held.configured.id.endswith(PREVIOUS) and held.life.state(now) is KeyState.RETIRED
        ]
        for held in gone:
            self._held.remove(held)

    def _reread(self, held: _Held) -> None:
        file = held.configured.file
        assert file is not None
        try:
            found = file.stat()
        except OSError:
            return
        stamp = (found.st_mtime_ns, found.st_ino, found.st_size)
        settled, held.seen = stamp == held.seen, stamp
        if stamp == held.stamp or not settled:
            return
        held.stamp = stamp
        try:
            secret = read_secret(file, f"providers.{self._provider}")
        except ConfigError as error:
            name = held.configured.id
            self._tell("new key not taken: %s", error, key=name, event="provider_key_changed", success=False)
            return
        if secret != held.configured.secret:
            self._replace(held, secret)

    def _replace(self, held: _Held, secret: str) -> None:
        """The new key takes the old one's place; the old one stays as a spare until the grace has passed."""
        key = held.configured
        spare = held.life.state(self._clock.monotonic()) is KeyState.SPARE
        fresh = self._hold(ConfiguredKey(key.id, secret, key.file, spare))
        old = self._hold(ConfiguredKey(key.id + PREVIOUS, key.secret, spare=spare))
        self._held = [
            *(fresh if other is held else other for other in self._held if other.configured.id != old.configured.id),
            old,
        ]
        self._read()
        self._change(old, lambda life: retire(life, self._clock.monotonic() + self._grace))
        if fresh.life.retire_at is not None:
            self._change(fresh, reinstated)
        self._tell("key was replaced in its file", key=key.id, event="provider_key_changed")

    def _tell(self, message: str, *values: object, key: str, event: str, success: bool = True) -> None:
        told = {"event": event, "category": "key", "success": success, "key_id": key, "provider": self._provider}
        security.warning(f"provider {message}", *values, extra=told)

    def _hold(self, key: ConfiguredKey) -> _Held:
        fingerprint = hashlib.blake2b(key.secret.encode(), digest_size=12).hexdigest()
        held = _Held(key, f"key {self._provider} {fingerprint}".encode())
        if key.file is not None:
            try:
                found = key.file.stat()
                held.stamp = (found.st_mtime_ns, found.st_ino, found.st_size)
            except OSError:
                held.stamp = None
        return held

    def _find(self, key_id: str) -> _Held:
        for held in self._held:
            if held.configured.id == key_id:
                return held
        raise KeyError(key_id)

    def _marked(self, mark: bytes) -> _Held | None:
        return next((held for held in self._held if held.name == mark), None)

    def _read(self) -> None:
        for held in self._held:
            raw = self._board.get(held.name)
            if raw != held.raw:
                held.life, held.raw = held.loaded(raw), raw
        self._untouched = all(held.life is UNKNOWN for held in self._held)

    def _change(self, held: _Held, change: Callable[[KeyLife], KeyLife]) -> bool:
        """Applies `change` to the shared life; whether it did anything."""
        if change(held.life) is held.life:
            return False
        self._untouched = False

        def write(raw: bytes | None) -> bytes:
            held.life = change(held.loaded(raw))
            held.raw = _dumped(held.life)
            return held.raw

        if not self._board.change(held.name, write):
            held.life = change(held.life)
            held.unwritten = True
        return True


def _written(life: KeyLife, _raw: bytes | None) -> bytes:
    return _dumped(life)


def _dumped(life: KeyLife) -> bytes:
    return orjson.dumps(asdict(life))
