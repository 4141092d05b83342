"""Whom an incident is told to: notices, the route tree and inhibition, with Alertmanager's semantics."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from watchdog.core.model import Alert, Labels, TimelineEntry

GROUP_WAIT_SECONDS = 30.0
GROUP_INTERVAL_SECONDS = 300.0
REPEAT_INTERVAL_SECONDS = 4 * 3600.0
GROUP_BY_ALL = "..."
"""As the only name in `group_by`: every label set is a group of its own."""


class NoticeKind(StrEnum):
    """What is told about an incident. Policy: fix first, page later; nothing is told while a playbook heals."""

    OPENED = "opened"
    """Nothing heals it (no playbook, or none that may act)."""
    ESCALATED = "escalated"
    """A page: healing is over or forbidden, a person is needed."""
    APPROVAL = "approval"
    """A repair waits for a person's word."""
    RESOLVED = "resolved"
    """It is over; told only to those who were told of it."""
    HEALED = "healed"
    """Repaired without a person; told only to those who ask for it, unless they were told of it before."""


@dataclass(frozen=True, slots=True)
class Notice:
    """One thing to say about one incident.

    `key` is `{incident}:{kind}:{nth}` and stays the same however often it is made again. `labels` carry `alertname`,
    `severity`, `target`, `service` where known: routes match on them. `story` is short: what a person reads at night.
    `incident_id` is 0 for what was told without an incident.
    `reason` is one sentence (why it escalated, how it ended); `advice` is what to do by hand, one step an entry.
    """

    incident_id: int
    kind: NoticeKind
    key: str
    labels: Labels
    annotations: Labels
    started_at: float
    ended_at: float | None = None
    alerts: tuple[Alert, ...] = ()
    story: tuple[TimelineEntry, ...] = ()
    reason: str = ""
    advice: tuple[str, ...] = ()

    @property
    def status(self) -> str:
        """`firing` or `resolved`, as Alertmanager's payload has it."""
        return "resolved" if self.kind in (NoticeKind.RESOLVED, NoticeKind.HEALED) else "firing"

    @property
    def label(self) -> dict[str, str]:
        """The labels as a dict."""
        return dict(self.labels)

    @property
    def annotation(self) -> dict[str, str]:
        """The annotations as a dict."""
        return dict(self.annotations)


def notice_key(incident_id: int, kind: NoticeKind, nth: int) -> str:
    """The stable idempotency key of the `nth` (from 1) notice of its kind about an incident."""
    return f"{incident_id}:{kind}:{nth}"


@dataclass(frozen=True, slots=True)
class Delivery:
    """Notices that leave together to one receiver, and after `addressed` to one `integration` of it (`email[0]`).

    The first `fresh` of `notices` are news; the rest are unresolved ones of the same group that were told before.
    `key` is the idempotency key: the same over retries, restarts and receivers' own deduplication.
    """

    key: str
    receiver: str
    group_key: str
    group_labels: Labels
    notices: tuple[Notice, ...]
    fresh: int
    created_at: float
    integration: str = ""
    repeat: bool = False

    @property
    def address(self) -> str:
        """`receiver/integration`, by which a sender finds the notifier."""
        return f"{self.receiver}/{self.integration}"

    @property
    def status(self) -> str:
        """`firing` while any notice is."""
        return "firing" if any(notice.status == "firing" for notice in self.notices) else "resolved"


_MATCHER = re.compile(
    r"\s*(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)\s*(?P<operator>=~|!=|!~|=)\s*"
    r'(?P<value>"(?:[^"\\]|\\.)*"|(?:\\[^,]|[^",\\])*?)\s*(?:,|$)',
    re.DOTALL,
)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPED = {"n": "\n", '"': '"', "\\": "\\"}


@lru_cache(maxsize=1024)
def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(f"(?:{text})")


@dataclass(frozen=True, slots=True)
class Matcher:
    """One condition on a label; a label that is absent is empty, and regular expressions match the whole value."""

    name: str
    operator: str
    value: str

    def matches(self, labels: dict[str, str]) -> bool:
        """Whether `labels` meet the condition."""
        actual = labels.get(self.name, "")
        match self.operator:
            case "=":
                return actual == self.value
            case "!=":
                return actual != self.value
            case "=~":
                return _pattern(self.value).fullmatch(actual) is not None
            case _:
                return _pattern(self.value).fullmatch(actual) is None

    def __str__(self) -> str:
        escaped = self.value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        return f'{self.name}{self.operator}"{escaped}"'


def matcher(name: str, operator: str, value: str) -> Matcher:
    """A checked matcher. Raises ValueError for a regular expression that does not compile."""
    if operator in ("=~", "!~"):
        try:
            _pattern(value)
        except re.error as error:
            raise ValueError(f"{value!r} is not a regular expression: {error}") from None
    return Matcher(name, operator, value)


def parse_matchers(text: str) -> tuple[Matcher, ...]:
    """Matchers from `severity="critical"` or `{a=b, c!~"d|e"}`: Alertmanager's classic syntax. Raises ValueError."""
    return tuple(_parsed(text))


def _parsed(text: str) -> Iterator[Matcher]:
    inner = text.strip().removeprefix("{").removesuffix("}")
    position = 0
    while inner[position:].strip():
        found = _MATCHER.match(inner, position)
        if found is None:
            raise ValueError(f'bad matcher {text!r}; expected such as severity="critical" or name=~"a|b"')
        value = found["value"]
        if value.startswith('"'):
            value = value[1:-1]
        value = _ESCAPE.sub(lambda escape: _ESCAPED.get(escape[1], escape[0]), value)
        yield matcher(found["name"], found["operator"], value)
        position = found.end()


def _all_match(matchers: Iterable[Matcher], labels: dict[str, str]) -> bool:
    return all(condition.matches(labels) for condition in matchers)


@dataclass(frozen=True, slots=True)
class Route:
    """A node of the tree, complete: what a file leaves out has been inherited when the route was made.

    `escalation_wait` takes the place of `group_wait` for critical escalations (see `core.grouping`). Seconds.
    """

    receiver: str
    matchers: tuple[Matcher, ...] = ()
    continue_: bool = False
    group_by: tuple[str, ...] = ()
    group_wait: float = GROUP_WAIT_SECONDS
    group_interval: float = GROUP_INTERVAL_SECONDS
    repeat_interval: float = REPEAT_INTERVAL_SECONDS
    escalation_wait: float = 0.0
    routes: tuple[Route, ...] = ()


@dataclass(frozen=True, slots=True)
class RouteMatch:
    """Where a label set goes and how it is grouped there. `key` names the route by the matchers on its path."""

    key: str
    receiver: str
    group_by: tuple[str, ...]
    group_wait: float
    group_interval: float
    repeat_interval: float
    escalation_wait: float

    def group_labels(self, labels: Labels) -> Labels:
        """The labels that tell this route's groups apart."""
        if self.group_by == (GROUP_BY_ALL,):
            return labels
        return tuple((name, value) for name, value in labels if name in self.group_by)

    def group_key(self, labels: Labels) -> str:
        """The group's name in Alertmanager's form: `{}/{severity="critical"}:{alertname="X"}`."""
        inner = ", ".join(str(Matcher(name, "=", value)) for name, value in self.group_labels(labels))
        return f"{self.key}:{{{inner}}}"


def receivers_for(route: Route, labels: Labels) -> tuple[RouteMatch, ...]:
    """Every place in the tree that takes `labels`, as Alertmanager decides.

    Depth first; of the children that match, the first takes it, and those after it too while each says `continue`; a
    route takes it itself when no child does. A child without matchers matches everything.
    """
    return _descend(route, dict(labels), "")


def _descend(route: Route, labels: dict[str, str], parent: str) -> tuple[RouteMatch, ...]:
    if not _all_match(route.matchers, labels):
        return ()
    own = "{" + ",".join(sorted(map(str, route.matchers))) + "}"
    key = f"{parent}/{own}" if parent else own
    taken: list[RouteMatch] = []
    for child in route.routes:
        below = _descend(child, labels, key)
        taken.extend(below)
        if below and not child.continue_:
            break
    if taken:
        return tuple(taken)
    waits = (route.group_wait, route.group_interval, route.repeat_interval, route.escalation_wait)
    return (RouteMatch(key, route.receiver, route.group_by, *waits),)


@dataclass(frozen=True, slots=True)
class InhibitRule:
    """While an alert that meets `source` fires, those that meet `target` and agree on `equal` are not told."""

    source: tuple[Matcher, ...]
    target: tuple[Matcher, ...]
    equal: tuple[str, ...] = ()


def inhibited(labels: Labels, firing: Iterable[Labels], rules: Iterable[InhibitRule]) -> InhibitRule | None:
    """The first rule by which something in `firing` silences `labels`, or None.

    A label that both sides lack counts as equal. What matches both sides of a rule is never silenced by something
    that also matches both: so nothing inhibits itself, and two such alerts do not silence each other.
    """
    target = dict(labels)
    sources: list[dict[str, str]] | None = None
    for rule in rules:
        if not _all_match(rule.target, target):
            continue
        if sources is None:
            sources = [dict(source) for source in firing]
        two_sided = _all_match(rule.source, target)
        for source in sources:
            if not _all_match(rule.source, source) or (two_sided and _all_match(rule.target, source)):
                continue
            if all(source.get(name, "") == target.get(name, "") for name in rule.equal):
                return rule
    return None
