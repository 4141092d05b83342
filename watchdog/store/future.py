"""Times of an earlier life that lie in the future, because the machine's clock was set back in between.

They would hold back what waits for them: budgets that stay spent, mail that is not yet due, repairs not tried again.
"""

from __future__ import annotations

from dataclasses import replace

from watchdog.core.grouping import GroupingState
from watchdog.core.model import Alert
from watchdog.store.database import Database
from watchdog.store.outbox import LONGEST_BACKOFF_SECONDS, Outbox

_PAST = (
    ("effects", "intended_at"),
    ("effects", "ended_at"),
    ("runs", "started_at"),
    ("runs", "ended_at"),
    ("incidents", "opened_at"),
    ("incidents", "resolved_at"),
    ("happenings", "at"),
    ("outbox", "created_at"),
    ("outbox", "ended_at"),
)
_MOMENTS = ("started_at", "opened_at", "acted_at", "escalated_at", "resolved_at", "acknowledged_at")
"""Of an incident's body, from which its row is written again at its next change."""
_QUESTIONS = """
UPDATE runs SET position = json_set(position, '$.approval.asked_at', ?, '$.approval.until',
    ? + json_extract(position, '$.approval.until') - json_extract(position, '$.approval.asked_at'))
WHERE ended_at IS NULL AND json_extract(position, '$.approval.asked_at') > ?
"""
"""What a person was asked in the future expires as long after now as it would have after that."""


def bring_back(database: Database, outbox: Outbox, now: float) -> int:
    """To be called once at a start: what is dated after `now` counts as of now, and what is to leave later leaves no
    later than its own pauses allow. Returns how many times were changed. Raises StoreError."""
    changed = 0
    with database.transaction():
        for table, column in _PAST:
            statement = f"UPDATE {table} SET {column} = ? WHERE {column} > ?"  # noqa: S608 - names from the table above
            changed += database.execute(statement, (now, now)).rowcount
        for moment in _MOMENTS:
            path = f"$.{moment}"
            statement = "UPDATE incidents SET body = json_set(body, ?, ?) WHERE json_extract(body, ?) > ?"
            changed += database.execute(statement, (path, now, path, now)).rowcount
        changed += database.execute(_QUESTIONS, (now, now, now)).rowcount
        latest = now + LONGEST_BACKOFF_SECONDS
        changed += database.execute(
            "UPDATE outbox SET due_at = ? WHERE ended_at IS NULL AND due_at > ?", (latest, latest)
        ).rowcount
        known = outbox.load_grouping()
        state = _groups_brought_back(known, now)
        if state != known:
            changed += 1
            outbox.save_grouping(state)
    return changed


def dated_by(alert: Alert, now: float) -> Alert:
    """The alert with no time after `now`, so that its `for` and `keep_firing_for` end."""
    return replace(
        alert,
        active_at=min(alert.active_at, now),
        fired_at=None if alert.fired_at is None else min(alert.fired_at, now),
        false_since=None if alert.false_since is None else min(alert.false_since, now),
    )


def _groups_brought_back(state: GroupingState, now: float) -> GroupingState:
    groups = []
    for group in state.groups:
        longest = max(group.match.group_wait, group.match.group_interval, group.match.escalation_wait)
        groups.append(
            replace(
                group,
                due_at=None if group.due_at is None else min(group.due_at, now + longest),
                sent_at=None if group.sent_at is None else min(group.sent_at, now),
                paged_at=None if group.paged_at is None else min(group.paged_at, now),
            )
        )
    return replace(state, groups=tuple(groups))
