"""The outbox over a real SQLite file."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from watchdog.clock import FakeClock
from watchdog.store.database import Database
from watchdog.store.outbox import GIVE_UP_SECONDS, KEEP_SECONDS, LEASE_SECONDS, Outbox, backoff_seconds

NOW = FakeClock().now()


def test_what_is_put_comes_back_whole(outbox: Outbox, make_delivery: Any) -> None:
    """A delivery survives the file unchanged, alerts, story and evidence included, and only once per key."""
    delivery = make_delivery()
    assert outbox.put(delivery)
    assert not outbox.put(delivery)
    (row,) = outbox.pending()
    assert row.delivery == delivery
    assert outbox.stats().pending == 1


def test_a_claim_is_exclusive_until_its_lease_ends(tmp_path: Path, make_delivery: Any) -> None:
    """Two holders of one file never have the same row; after the lease it is taken again."""
    databases = [Database(tmp_path / "state.db") for _ in range(2)]
    one, two = (Outbox(database, FakeClock()) for database in databases)
    one.put(make_delivery())
    assert len(one.claim(NOW)) == 1
    assert two.claim(NOW + LEASE_SECONDS - 1) == []
    assert two.next_due() == NOW + LEASE_SECONDS
    assert len(two.claim(NOW + LEASE_SECONDS)) == 1
    for database in databases:
        database.close()


def test_order_within_a_topic_and_one_row_per_address(outbox: Outbox, make_delivery: Any) -> None:
    """The end of a story waits for its beginning, other stories and other addresses do not."""
    outbox.put(make_delivery("1", group_key="a"))
    outbox.put(make_delivery("2", group_key="a"))
    outbox.put(make_delivery("3", group_key="b"))
    outbox.put(make_delivery("4", group_key="a", receiver="other"))
    first = outbox.claim(NOW)
    assert [row.delivery.key for row in first] == ["1", "4"]
    outbox.failed(first[0].id, "no", permanent=False, now=NOW)
    second = outbox.claim(NOW)
    assert [row.delivery.key for row in second] == ["3"]
    outbox.sent(first[0].id)
    assert [row.delivery.key for row in outbox.claim(NOW, busy={"other/email[0]"})] == ["2"]


def test_failures_back_off_and_end(outbox: Outbox, make_delivery: Any) -> None:
    """Waits grow to five minutes, the receiver's own wish counts if longer, after three days the row is dead."""
    outbox.put(make_delivery())
    now, waits = NOW, []
    for _ in range(12):
        (row,) = outbox.claim(now)
        assert not outbox.failed(row.id, "later", permanent=False, now=now)
        due = outbox.next_due()
        assert due is not None
        waits.append(due - now)
        now = due
    assert waits == pytest.approx([backoff_seconds("7:escalated:1:abc", n) for n in range(1, 13)], abs=1e-5)
    assert 0.8 <= waits[0] <= 1.2
    assert 240 <= waits[-1] <= 360
    assert all(later > earlier for earlier, later in pairwise(waits[:8]))
    (row,) = outbox.claim(now)
    outbox.failed(row.id, "busy", permanent=False, now=now, retry_after=3000.0)
    assert outbox.next_due() == now + 3000.0
    now = NOW + GIVE_UP_SECONDS
    (row,) = outbox.claim(now)
    assert outbox.failed(row.id, "too late", permanent=False, now=now)
    assert (outbox.pending(), outbox.next_due()) == ([], None)
    assert [(dead.error, dead.attempts) for dead in outbox.dead()] == [("too late", 14)]


def test_permanent_failures_die_at_once_and_are_forgotten_later(outbox: Outbox, make_delivery: Any) -> None:
    """A dead row is shown for thirty days; sent rows are forgotten after the same time, open ones never."""
    for key in ("dead", "sent", "open"):
        outbox.put(make_delivery(key, group_key=key))
    ids = {row.delivery.key: row.id for row in outbox.pending()}
    assert outbox.failed(ids["dead"], "no such user", permanent=True, now=NOW)
    outbox.sent(ids["sent"])
    assert (outbox.stats().pending, outbox.stats().dead) == (1, 1)
    assert outbox.prune(NOW + KEEP_SECONDS) == 0
    assert outbox.prune(NOW + KEEP_SECONDS + 1) == 2
    assert [row.delivery.key for row in outbox.pending()] == ["open"]


def test_a_rolled_back_put_never_was(tmp_path: Path, make_delivery: Any) -> None:
    """The row is part of the caller's transaction."""
    database = Database(tmp_path / "state.db")
    outbox = Outbox(database, FakeClock())

    def torn() -> None:
        with database.transaction():
            assert outbox.put(make_delivery())
            raise RuntimeError

    with pytest.raises(RuntimeError):
        torn()
    assert outbox.pending() == []
    database.close()
