"""The durable outbox: what must be told, until it was told or given up, and the grouping state that decides it.

A row is taken by compare-and-swap with a lease. If the process dies between the receiver's acceptance and `sent`, the
row is taken again when its lease ends, and the receiver gets the same message with the same idempotency key (the
`Message-ID` of an e-mail, the `Idempotency-Key` of a webhook): a duplicate is possible then, a loss never.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from pydantic import TypeAdapter

from watchdog.clock import Clock
from watchdog.core.grouping import Group, GroupingState, Member
from watchdog.core.routing import Delivery
from watchdog.store.database import Database, Stamp

LEASE_SECONDS = 90.0
"""Longer than any one attempt may take, so that no row is ever in two hands."""
FIRST_BACKOFF_SECONDS = 1.0
LONGEST_BACKOFF_SECONDS = 300.0
GIVE_UP_SECONDS = 3 * 86400.0
KEEP_SECONDS = 30 * 86400.0
GROUPING_FACT = "notification_groups"


@lru_cache(maxsize=8)
def _codec(kind: type[Any]) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """One delivery to one integration. `error` is of the last attempt; `ended_at` is set once sent or dead."""

    id: int
    delivery: Delivery
    state: str
    attempts: int
    error: str
    created_at: float
    due_at: float
    ended_at: float | None


@dataclass(frozen=True, slots=True)
class OutboxStats:
    """What `status` and the metrics show. `oldest_at` is None when nothing is open."""

    pending: int
    dead: int
    oldest_at: float | None


class Outbox:
    """The repository. `on_put` is called after each `put`, so that a sender need not poll."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._grouping: _Grouped | None = None
        self.on_put: Callable[[], None] | None = None

    def put(self, delivery: Delivery) -> bool:
        """Stores it, in the caller's transaction if one is open; False if a row with its key exists already."""
        cursor = self._database.execute(
            "INSERT INTO outbox (key, address, topic, state, body, created_at, due_at)"
            " VALUES (?, ?, ?, 'pending', ?, ?, ?) ON CONFLICT (key) DO NOTHING",
            (
                delivery.key,
                delivery.address,
                delivery.group_key,
                _codec(Delivery).dump_json(delivery).decode(),
                delivery.created_at,
                self._clock.now(),
            ),
        )
        if cursor.rowcount and self.on_put is not None:
            self.on_put()
        return cursor.rowcount > 0

    def claim(self, now: float, limit: int = 32, busy: Collection[str] = ()) -> list[OutboxRow]:
        """Takes at most one due row of each address that is not `busy`, oldest first, for `LEASE_SECONDS`.

        Rows of one topic leave in order, so that nobody reads of the end of an incident before its page; a row that
        keeps failing holds back only its own topic.
        """
        taken: dict[str, OutboxRow] = {}
        for row in self._database.query(
            "SELECT o.* FROM outbox o WHERE o.ended_at IS NULL AND o.due_at <= ? AND NOT EXISTS ("
            " SELECT 1 FROM outbox e WHERE e.ended_at IS NULL AND e.address = o.address AND e.topic = o.topic"
            " AND e.id < o.id) ORDER BY o.id",
            (now,),
        ):
            if row["address"] in busy or row["address"] in taken or len(taken) >= limit:
                continue
            swapped = self._database.execute(
                "UPDATE outbox SET state = 'claimed', due_at = ?, attempts = attempts + 1"
                " WHERE id = ? AND state = ? AND due_at = ?",
                (now + LEASE_SECONDS, row["id"], row["state"], row["due_at"]),
            )
            if swapped.rowcount:
                taken[row["address"]] = _row(row)
        return list(taken.values())

    def next_due(self, busy: Collection[str] = ()) -> float | None:
        """When the next row of an address that is not `busy` may be claimed; None if there is none."""
        rows = self._database.query(
            "SELECT address, MIN(due_at) AS due_at FROM outbox o WHERE o.ended_at IS NULL"
            " AND NOT EXISTS (SELECT 1 FROM outbox e WHERE e.ended_at IS NULL AND e.address = o.address"
            " AND e.topic = o.topic AND e.id < o.id) GROUP BY address"
        )
        return min((row["due_at"] for row in rows if row["address"] not in busy), default=None)

    def sent(self, row_id: int) -> None:
        """The receiver accepted it."""
        self._database.execute(
            "UPDATE outbox SET state = 'sent', error = '', ended_at = ? WHERE id = ?", (self._clock.now(), row_id)
        )

    def failed(self, row_id: int, error: str, *, permanent: bool, now: float, retry_after: float = 0.0) -> bool:
        """Plans the next attempt, at least `retry_after` seconds away; True if the row is given up (dead) instead.

        It is given up at once if `permanent`, else when `GIVE_UP_SECONDS` have passed since it was made.
        """
        ((key, attempts, created_at),) = self._database.query(
            "SELECT key, attempts, created_at FROM outbox WHERE id = ?", (row_id,)
        )
        dead = permanent or now - created_at >= GIVE_UP_SECONDS
        if dead:
            self._database.execute(
                "UPDATE outbox SET state = 'dead', error = ?, ended_at = ? WHERE id = ?", (error, now, row_id)
            )
        else:
            due_at = now + max(backoff_seconds(key, attempts), retry_after)
            self._database.execute(
                "UPDATE outbox SET state = 'pending', error = ?, due_at = ? WHERE id = ?", (error, due_at, row_id)
            )
        return dead

    def pending(self) -> list[OutboxRow]:
        """Everything that is still to be told, oldest first."""
        return [_row(row) for row in self._database.query("SELECT * FROM outbox WHERE ended_at IS NULL ORDER BY id")]

    def dead(self) -> list[OutboxRow]:
        """Everything that was given up within `KEEP_SECONDS`, newest first; for `status`."""
        return [_row(row) for row in self._database.query("SELECT * FROM outbox WHERE state = 'dead' ORDER BY id DESC")]

    def stats(self) -> OutboxStats:
        """Counts without reading bodies."""
        ((pending, dead, oldest_at),) = self._database.query(
            "SELECT COUNT(*) FILTER (WHERE ended_at IS NULL), COUNT(*) FILTER (WHERE state = 'dead'),"
            " MIN(created_at) FILTER (WHERE ended_at IS NULL) FROM outbox"
        )
        return OutboxStats(pending, dead, oldest_at)

    def prune(self, now: float) -> int:
        """Forgets what was sent or given up more than `KEEP_SECONDS` ago; returns how many rows."""
        return self._database.execute("DELETE FROM outbox WHERE ended_at < ?", (now - KEEP_SECONDS,)).rowcount

    def save_grouping(self, state: GroupingState) -> None:
        """Keeps the grouping state; in one transaction with the `put` of what it decided nothing doubles or is lost.

        Members are rows of their own, and only those that changed are written: in a storm each of hundreds of notices
        would otherwise write all the others again.
        """
        stored = self._grouped().rows
        rows = {_member_name(group, member): member for group in state.groups for member in group.members}
        bare = tuple(replace(group, members=()) for group in state.groups)
        order = tuple(tuple(member.notice.incident_id for member in group.members) for group in state.groups)
        with self._database.transaction():
            for name, member in rows.items():
                if stored.get(name) is not member:
                    self._put_fact(name, _codec(Member).dump_json(member).decode())
            for name in stored.keys() - rows.keys():
                self._database.execute("DELETE FROM facts WHERE name = ?", (name,))
            header = _Header(GroupingState(bare, state.deliveries), order)
            self._put_fact(GROUPING_FACT, _codec(_Header).dump_json(header).decode())
            self._database.touch(GROUPING_FACT)
            self._grouping = _Grouped(self._database.stamp(GROUPING_FACT), state, rows)

    def load_grouping(self) -> GroupingState:
        """The state as last saved, or an empty one."""
        return self._grouped().state

    def _grouped(self) -> _Grouped:
        """Read again only when a transaction took something back."""
        stamp = self._database.stamp(GROUPING_FACT)
        if self._grouping is None or self._grouping.stamp != stamp:
            self._grouping = self._read_grouping(stamp)
        return self._grouping

    def _read_grouping(self, stamp: Stamp) -> _Grouped:
        body = self._fact(GROUPING_FACT)
        if body is None:
            return _Grouped(stamp, GroupingState(), {})
        if '"order"' not in body:
            # Before members had rows of their own they stood in this one.
            return _Grouped(stamp, _codec(GroupingState).validate_json(body), {})
        header: _Header = _codec(_Header).validate_json(body)
        groups, rows = [], dict[str, Member]()
        for group, incidents in zip(header.state.groups, header.order, strict=True):
            members = []
            for incident in incidents:
                name = f"{_member_prefix(group)}{incident}"
                rows[name] = _codec(Member).validate_json(self._fact(name) or "")
                members.append(rows[name])
            groups.append(replace(group, members=tuple(members)))
        return _Grouped(stamp, replace(header.state, groups=tuple(groups)), rows)

    def _fact(self, name: str) -> str | None:
        rows = self._database.query("SELECT body FROM facts WHERE name = ?", (name,))
        return rows[0]["body"] if rows else None

    def _put_fact(self, name: str, body: str) -> None:
        self._database.execute(
            "INSERT INTO facts (name, body) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET body = excluded.body",
            (name, body),
        )


@dataclass(frozen=True, slots=True)
class _Header:
    """Groups without their members, and each group's incidents in order."""

    state: GroupingState
    order: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class _Grouped:
    """The grouping state as it stands in the store, and the rows of its members by name."""

    stamp: Stamp
    state: GroupingState
    rows: dict[str, Member]


def _member_prefix(group: Group) -> str:
    return f"notification_member/{group.match.receiver}/{group.key}/"


def _member_name(group: Group, member: Member) -> str:
    return f"{_member_prefix(group)}{member.notice.incident_id}"


def backoff_seconds(key: str, attempts: int) -> float:
    """1 s doubled per attempt up to 5 min, plus or minus a fifth by the key's hash: spread, and the same each time."""
    longest = min(FIRST_BACKOFF_SECONDS * 2.0 ** min(attempts - 1, 30), LONGEST_BACKOFF_SECONDS)
    digest = hashlib.blake2b(f"{key}\x00{attempts}".encode(), digest_size=4).digest()
    return longest * (0.8 + 0.4 * int.from_bytes(digest) / 0xFFFFFFFF)


def _row(row: Any) -> OutboxRow:
    return OutboxRow(
        row["id"],
        _codec(Delivery).validate_json(row["body"]),
        row["state"],
        row["attempts"],
        row["error"],
        row["created_at"],
        row["due_at"],
        row["ended_at"],
    )
