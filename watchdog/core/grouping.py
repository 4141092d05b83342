"""When an incident is told: the state machine that gathers notices into deliveries. Pure and plain data.

A group is a route and the labels that it groups by, as in Alertmanager. Its first news waits `group_wait`; later news
leaves `group_interval` after the last delivery at the earliest; what was told and is not over is told again after
`repeat_interval` unless somebody has acknowledged it. What ends before it was told is not told at all.

A critical escalation is different: `group_wait` is there to gather the alerts that break out together, and by the time
an incident escalates its alerts have long been gathered and the whole ladder has been the wait. So it waits
`escalation_wait`, which is 0 unless the route sets `x_escalation_wait`, and only an earlier page (never other news) of
its group holds it back for `group_interval`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from watchdog.core.model import Labels
from watchdog.core.routing import Delivery, Notice, NoticeKind, RouteMatch


@dataclass(frozen=True, slots=True)
class Member:
    """One incident in a group. `untold` says that `notice` is news; `told` that somebody has heard of the incident."""

    notice: Notice
    untold: bool = True
    told: bool = False
    acknowledged: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    """`due_at` is when news leaves (None: there is none); `sent_at` and `paged_at` when something last left."""

    match: RouteMatch
    key: str
    labels: Labels
    members: tuple[Member, ...] = ()
    due_at: float | None = None
    sent_at: float | None = None
    paged_at: float | None = None


@dataclass(frozen=True, slots=True)
class GroupingState:
    """All groups, and how many deliveries there have been, so that each gets a key of its own."""

    groups: tuple[Group, ...] = ()
    deliveries: int = 0


def never_muted(notice: Notice) -> bool:
    """The `muted` of those who have no inhibition."""
    del notice
    return False


def receive(
    state: GroupingState,
    notice: Notice,
    matches: Iterable[RouteMatch],
    now: float,
    muted: Callable[[Notice], bool] = never_muted,
) -> tuple[GroupingState, tuple[Delivery, ...]]:
    """Takes in a notice that goes to `matches`, then `tick`s.

    Whoever heard of an incident hears of its end, though its labels or the routes have changed since; a group that it
    has left for another repeats it no more. `matches` of a HEALED notice are only those that want such; for those who
    were told of the incident it is RESOLVED. A notice that a group already has (by key) changes nothing there.
    """
    matches = tuple(matches)
    groups = {(group.match.receiver, group.key): group for group in state.groups}
    moving = state.groups if notice.status == "firing" else ()
    told = {group.match.receiver for group in moving for member in _of(group, notice) if member.told}
    wanted = {(match.receiver, match.group_key(notice.labels)): match for match in matches}
    for identity, match in wanted.items():
        known = groups.get(identity) or Group(match, identity[1], match.group_labels(notice.labels))
        groups[identity] = _take(replace(known, match=match), notice, now, told=match.receiver in told, wanted=True)
    for identity, group in groups.items():
        if identity in wanted or not _of(group, notice):
            continue
        if notice.status == "resolved":
            groups[identity] = _take(group, notice, now, told=False, wanted=False)
        else:
            moved = any(match.receiver == group.match.receiver for match in matches)
            groups[identity] = _leave(group, notice) if moved else _silence(group, notice.incident_id)
    return tick(replace(state, groups=tuple(groups.values())), now, muted)


def tick(
    state: GroupingState, now: float, muted: Callable[[Notice], bool] = never_muted
) -> tuple[GroupingState, tuple[Delivery, ...]]:
    """Lets everything leave that is due at `now`.

    `muted` says which firing notices are held back now (inhibition, silences); they stay news and are looked at again
    after `group_interval`. The end of an incident that was told is never held back.
    """
    groups: list[Group] = []
    deliveries: list[Delivery] = []
    for group in state.groups:
        due_at = _due_at(group)
        if due_at is not None and due_at <= now:
            number = state.deliveries + len(deliveries) + 1
            group, delivery = _flush(group, number, now, muted)
            if delivery is not None:
                deliveries.append(delivery)
        if group.members or (group.sent_at is not None and now < group.sent_at + group.match.group_interval):
            groups.append(group)
    return GroupingState(tuple(groups), state.deliveries + len(deliveries)), tuple(deliveries)


def acknowledge(state: GroupingState, incident_id: int) -> GroupingState:
    """A person has it: the incident is not repeated until there is news about it."""
    return replace(state, groups=tuple(_silence(group, incident_id) for group in state.groups))


def next_due(state: GroupingState) -> float | None:
    """When `tick` has something to do; None if only a new notice can give it that."""
    return min((due for due in map(_due_at, state.groups) if due is not None), default=None)


def is_page(notice: Notice) -> bool:
    """Whether it wakes somebody at once: an escalation of severity critical."""
    return notice.kind in (NoticeKind.ESCALATED, NoticeKind.APPROVAL) and notice.label.get("severity") == "critical"


def _of(group: Group, notice: Notice) -> tuple[Member, ...]:
    return tuple(member for member in group.members if member.notice.incident_id == notice.incident_id)


def _silence(group: Group, incident_id: int) -> Group:
    members = (replace(m, acknowledged=True) if m.notice.incident_id == incident_id else m for m in group.members)
    return replace(group, members=tuple(members))


def _leave(group: Group, notice: Notice) -> Group:
    members = tuple(member for member in group.members if member.notice.incident_id != notice.incident_id)
    return replace(group, members=members, due_at=group.due_at if any(member.untold for member in members) else None)


def _take(group: Group, notice: Notice, now: float, *, told: bool, wanted: bool) -> Group:
    known = _of(group, notice)
    if any(member.notice.key == notice.key for member in known):
        return group
    told = told or any(member.told for member in known)
    if notice.status == "resolved" and not told and not (wanted and notice.kind is NoticeKind.HEALED):
        return _leave(group, notice)
    if notice.kind is NoticeKind.HEALED and told:
        notice = replace(notice, kind=NoticeKind.RESOLVED)
    if not notice.alerts:
        # An end must name the alerts that it ends, or a receiver cannot match it with their beginning.
        notice = replace(notice, alerts=tuple(alert for member in known for alert in member.notice.alerts))
    members = (*_leave(group, notice).members, Member(notice, told=told))
    due_at = _news_due_at(group, notice, now)
    return replace(group, members=members, due_at=due_at if group.due_at is None else min(due_at, group.due_at))


def _news_due_at(group: Group, notice: Notice, now: float) -> float:
    match = group.match
    if is_page(notice):
        earliest = now + match.escalation_wait
        return earliest if group.paged_at is None else max(earliest, group.paged_at + match.group_interval)
    if group.sent_at is None:
        return now + match.group_wait
    return max(now, group.sent_at + match.group_interval)


def _due_at(group: Group) -> float | None:
    return min((due for due in (group.due_at, _repeat_at(group)) if due is not None), default=None)


def _repeat_at(group: Group) -> float | None:
    if group.sent_at is None or not any(_unfinished(member) and not member.acknowledged for member in group.members):
        return None
    return group.sent_at + max(group.match.repeat_interval, group.match.group_interval)


def _unfinished(member: Member) -> bool:
    return member.told and not member.untold and member.notice.status == "firing"


def _flush(group: Group, number: int, now: float, muted: Callable[[Notice], bool]) -> tuple[Group, Delivery | None]:
    held: list[Member] = []
    speaking: list[Member] = []
    for member in group.members:
        silent = member.notice.status == "firing" and muted(member.notice)
        (held if silent else speaking).append(member)
    fresh = [member.notice for member in speaking if member.untold]
    standing = [member.notice for member in speaking if _unfinished(member) and (fresh or not member.acknowledged)]
    repeat_at = _repeat_at(group)
    group = replace(group, due_at=now + group.match.group_interval if held else None)
    if not fresh and not (standing and repeat_at is not None and repeat_at <= now):
        # What is held back would otherwise be due at once again, for ever.
        return replace(group, sent_at=now if repeat_at is not None and repeat_at <= now else group.sent_at), None
    told = (replace(member, untold=False, told=True) for member in speaking if member.notice.status == "firing")
    paged_at = now if any(map(is_page, fresh)) else group.paged_at
    delivery = _delivery(group, fresh, standing, number, now)
    return replace(group, members=(*held, *told), sent_at=now, paged_at=paged_at), delivery


def _delivery(group: Group, fresh: list[Notice], standing: list[Notice], number: int, now: float) -> Delivery:
    news = sorted(fresh, key=lambda notice: (not is_page(notice), notice.status, notice.started_at))
    notices = (*news, *standing)
    identity = f"{group.match.receiver}\x00{group.key}\x00{number}\x00{now!r}"
    digest = hashlib.blake2b(identity.encode(), digest_size=8).hexdigest()
    return Delivery(
        key=f"{notices[0].key}:{digest}",
        receiver=group.match.receiver,
        group_key=group.key,
        group_labels=group.labels,
        notices=notices,
        fresh=len(fresh),
        created_at=now,
        repeat=not fresh,
    )
