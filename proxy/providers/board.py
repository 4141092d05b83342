"""Small facts that all workers know of providers, in the shared store: circuits and the lives of keys.

They are read together, and only when one of them has changed since; each change is written at once. Never raises for
the store's sake: a broken one is begun anew, a busy one is done without.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any, TypeVar

from proxy.clock import Clock
from proxy.shared import Shared, StoreBrokenError, StoreBusyError

T = TypeVar("T")
Change = Callable[[bytes | None], bytes | None]
"""From what stands there to what shall; None: leave it."""

_STAMP = b"facts' stamp"
_PREFIX = b"fact "


class Board:
    """One per worker."""

    def __init__(self, shared: Shared, clock: Clock) -> None:
        self._shared = shared
        self._clock = clock
        self._facts: dict[bytes, bytes] = {}
        self._stamp: bytes | None = b"never read"
        self._read_at = -math.inf
        self._readers: list[Callable[[], None]] = []

    def on_news(self, reader: Callable[[], None]) -> None:
        """`reader` is called whenever another worker has changed something."""
        self._readers.append(reader)

    def get(self, name: bytes) -> bytes | None:
        """The fact as of the last `refresh` or `change`."""
        return self._facts.get(name)

    def refresh(self, *, older_than: float = 0.0) -> None:
        """Reads what is new, unless that was done in the last `older_than` seconds."""
        now = self._clock.monotonic()
        if now - self._read_at < older_than:
            return
        self._read_at = now
        if self.safely(self._read, False):
            for reader in self._readers:
                reader()

    def change(self, name: bytes, change: Change) -> bool:
        """Applies `change` to the shared fact; False if the store is out of reach now, and nothing is changed."""

        def write() -> bool:
            with self._shared.write() as txn:
                database = self._database()
                raw = change(txn.get(_PREFIX + name, db=database))
                if raw is not None:
                    txn.put(_PREFIX + name, raw, db=database)
                    txn.put(_STAMP, os.urandom(8), db=database)
                    self._facts[name] = raw
            return True

        return self.safely(write, False)

    def lease(self, name: bytes, seconds: float) -> bool:
        """Whether this worker, alone of all, may do what `name` says for so long."""

        def lease() -> bool:
            with self._shared.write() as txn:
                now, key = self._clock.monotonic(), b"lease " + name
                raw = txn.get(key, db=self._database())
                if raw is not None and float(raw) > now:
                    return False
                txn.put(key, repr(now + seconds).encode(), db=self._database())
                return True

        return self.safely(lease, False)

    def read(self, names: list[bytes]) -> list[bytes | None]:
        """Rows that are no facts, read afresh."""

        def read() -> list[bytes | None]:
            with self._shared.read() as txn:
                return [txn.get(name, db=self._database()) for name in names]

        return self.safely(read, [None] * len(names))

    def fold(self, name: bytes, change: Change) -> bool:
        """Like `change` for a row that is no fact, so that nobody need read everything anew."""

        def write() -> bool:
            with self._shared.write() as txn:
                raw = change(txn.get(name, db=self._database()))
                if raw is not None:
                    txn.put(name, raw, db=self._database())
            return True

        return self.safely(write, False)

    def safely(self, do: Callable[[], T], otherwise: T, /) -> T:
        """What `do` gives, or `otherwise` if the store is out of reach."""
        try:
            return do()
        except StoreBrokenError:
            self._shared.recover()
        except StoreBusyError:
            pass
        return otherwise

    def _database(self) -> Any:
        return self._shared.database("providers")

    def _read(self) -> bool:
        with self._shared.read() as txn:
            stamp = txn.get(_STAMP, db=self._database())
            if stamp == self._stamp:
                return False
            cursor = txn.cursor(db=self._database())
            facts = {}
            found = cursor.set_range(_PREFIX)
            while found and (name := bytes(cursor.key())).startswith(_PREFIX):
                facts[name.removeprefix(_PREFIX)] = bytes(cursor.value())
                found = cursor.next()
            self._facts, self._stamp = facts, None if stamp is None else bytes(stamp)
        return True
