"""Evaluates rules over the series: every group on its interval, and a rule at once when something it reads changes.

The engine holds the alerts' state between evaluations. It asks no clock: every method is told the time, in seconds
since the epoch, and the sender of samples tells it which names changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from watchdog.core.alerts import Holding, advance, deadline
from watchdog.core.model import Alert, AlertEvent, AlertState, Labels, Sample, fingerprint, labels_of
from watchdog.errors import QueryError, TemplateError
from watchdog.metrics.promql import Result, evaluate, parse
from watchdog.metrics.rules import AlertingRule, RecordingRule, RuleGroup, Templates
from watchdog.metrics.series import SeriesStore

RESTORE_GRACE_SECONDS = 60.0
"""How long alerts restored after a restart are held while the series that their rule reads are not there yet."""


@dataclass(frozen=True, slots=True)
class RuleStatus:
    """One rule for people: `state` is the worst of its alerts, or empty; `last_error` is empty when it works."""

    group: str
    name: str
    kind: str
    expr: str
    file: str
    line: int
    state: str
    alerts: int
    last_at: float | None
    last_error: str


@dataclass(slots=True, eq=False)
class _Rule:
    group: RuleGroup
    rule: AlertingRule | RecordingRule
    source: str
    active: dict[str, Alert] = field(default_factory=dict)
    rendered: dict[Labels, Holding] = field(default_factory=dict)
    """What each element of the last result was, so that one that stays as it was costs nothing."""
    last_at: float | None = None
    last_error: str = ""
    restored: bool = False
    held_until: float | None = None
    inherited: frozenset[str] = frozenset()
    """Firing alerts of an earlier life: they may not end before what the rule looks back on is measured anew."""
    covered_at: float | None = None

    @property
    def identity(self) -> tuple[object, ...]:
        """What must be the same for a rule to keep its state over a reload."""
        return self.group.file, self.group.name, _name(self.rule), self.rule.expr, self.rule.labels

    def due(self) -> float:
        """When the end of a `for` or `keep_firing_for` makes the rule due; never twice for the same moment."""
        if not isinstance(self.rule, AlertingRule) or not self.active:
            return float("inf")
        ends = (deadline(alert, self.rule.for_, self.rule.keep_firing_for) for alert in self.active.values())
        last = self.last_at if self.last_at is not None else float("-inf")
        return min((end for end in ends if end is not None and end > last), default=float("inf"))


@dataclass(slots=True, eq=False)
class _Group:
    group: RuleGroup
    rules: list[_Rule]
    next_at: float = float("-inf")


class RuleEngine:
    """The rules of `groups` over `store`."""

    def __init__(self, groups: Sequence[RuleGroup], store: SeriesStore) -> None:
        self._store = store
        self._groups: list[_Group] = []
        self._readers: dict[str, list[int]] = {}
        self._rules: list[_Rule] = []
        self._latest = 0.0
        self._build(groups)

    def _build(self, groups: Sequence[RuleGroup]) -> None:
        self._groups = []
        for group in groups:
            rules = [_Rule(group, rule, f"rule {group.file} {group.name} {i}") for i, rule in enumerate(group.rules)]
            self._groups.append(_Group(group, rules))
        self._rules = [rule for group in self._groups for rule in group.rules]
        self._readers = {}
        for index, one in enumerate(self._rules):
            # The empty name stands for selectors without one, which any sample may concern.
            for name in {*one.rule.query.names, *([""] if one.rule.query.reads_any else [])}:
                self._readers.setdefault(name, []).append(index)

    def evaluate_due(self, now: float) -> list[AlertEvent]:
        """Evaluates every group whose interval has passed and every rule with a deadline that has."""
        events: list[AlertEvent] = []
        for group in self._groups:
            whole = now >= group.next_at
            if whole:
                behind = group.next_at + group.group.interval
                group.next_at = behind if behind > now else now + group.group.interval
            for rule in group.rules:
                if whole or rule.due() <= now:
                    events += self._evaluate(rule, now)
        return events

    def evaluate_touched(self, names: Iterable[str], now: float) -> list[AlertEvent]:
        """Evaluates the rules that read one of these metric names, directly or through recording rules.

        Recording rules come first, whatever their files, so that the alerts see what they record.
        """
        todo = {index for name in {"", *names} for index in self._readers.get(name, ())}
        done: set[int] = set()
        events: list[AlertEvent] = []
        while todo:
            index = min(todo, key=self._order)
            todo.discard(index)
            done.add(index)
            one = self._rules[index]
            events += self._evaluate(one, now)
            if isinstance(one.rule, RecordingRule):
                todo.update(reader for reader in self._readers.get(one.rule.record, ()) if reader not in done)
        return events

    def _order(self, index: int) -> tuple[bool, int]:
        return isinstance(self._rules[index].rule, AlertingRule), index

    def next_due(self, now: float) -> float:
        """When `evaluate_due` next has something to do: `now` at the earliest, infinity without rules."""
        earliest = min((group.next_at for group in self._groups), default=float("inf"))
        return max(now, min(earliest, min((rule.due() for rule in self._rules), default=float("inf"))))

    def alerts(self) -> list[Alert]:
        """The pending and firing alerts, in the order of their rules."""
        return [alert for rule in self._rules for alert in rule.active.values()]

    def alert(self, fingerprint: str) -> Alert | None:
        """The pending or firing alert with this fingerprint."""
        return next((rule.active[fingerprint] for rule in self._rules if fingerprint in rule.active), None)

    def rules(self) -> list[RuleStatus]:
        """Every rule with its last evaluation and its last error, in order."""
        return [_status(rule) for rule in self._rules]

    def query(self, text: str, now: float) -> Result:
        """The value of an expression at `now`. Raises QueryError."""
        return evaluate(parse(text), self._store, now)

    def restore(self, alerts: Iterable[Alert]) -> list[Alert]:
        """Takes back the alerts of an earlier life; returns those that no rule of today could have raised.

        Until the series that a rule reads are there again (at most a minute), its alerts stay as they were: a start
        without measurements yet resolves nothing. A firing one of a rule that looks back stays until the time that it
        looks back on has been measured again: an empty window proves nothing.
        """
        strangers = []
        for alert in alerts:
            home = next((rule for rule in self._rules if _could_raise(rule.rule, alert)), None)
            if home is None:
                strangers.append(alert)
            else:
                home.active[alert.fingerprint] = alert
                home.restored = True
                if alert.state is AlertState.FIRING:
                    home.inherited |= {alert.fingerprint}
        return strangers

    def measured(self) -> None:
        """Every probe has measured: restored alerts are judged from now on, whatever is missing is truly absent."""
        for rule in self._rules:
            rule.restored = False

    def replace(self, groups: Sequence[RuleGroup], now: float | None = None) -> list[AlertEvent]:
        """Takes over new rules. Unchanged rules keep their alerts; those of rules that are gone end now.

        Without `now` it is the time of the latest evaluation.
        """
        now = self._latest if now is None else now
        old = {rule.identity: rule for rule in self._rules}
        times = {(group.group.file, group.group.name, group.group.interval): group.next_at for group in self._groups}
        sources = {rule.source for rule in self._rules if isinstance(rule.rule, RecordingRule)}
        self._build(groups)
        for group in self._groups:
            group.next_at = times.get((group.group.file, group.group.name, group.group.interval), group.next_at)
        for rule in self._rules:
            known = old.pop(rule.identity, None)
            if known is not None:
                rule.active, rule.restored, rule.held_until = known.active, known.restored, known.held_until
                rule.inherited, rule.covered_at = known.inherited, known.covered_at
                rule.last_at, rule.last_error = known.last_at, known.last_error
        for source in sources - {rule.source for rule in self._rules if isinstance(rule.rule, RecordingRule)}:
            self._store.forget_source(source, now)
        events: list[AlertEvent] = []
        for gone in old.values():
            events += advance(_name(gone.rule), 0.0, 0.0, gone.active, (), now)[1]
        return events

    def _evaluate(self, one: _Rule, now: float) -> list[AlertEvent]:
        self._latest = now
        if self._is_held(one, now):
            return []
        one.last_at = now
        one.last_error = ""
        try:
            vector = _as_vector(evaluate(one.rule.query, self._store, now))
            if isinstance(one.rule, RecordingRule):
                self._record(one, one.rule, vector, now)
                return []
            return self._alert(one, one.rule, vector, now)
        except QueryError as error:
            one.last_error = str(error)
            return []

    def _is_held(self, one: _Rule, now: float) -> bool:
        if not one.restored:
            return False
        if one.held_until is None:
            one.held_until = now + RESTORE_GRACE_SECONDS
        one.restored = now < one.held_until and any(name not in self._store for name in self._inputs(one))
        return one.restored

    def _uncovered(self, one: _Rule, now: float) -> frozenset[str]:
        """The alerts that may not end yet. The time is counted from the first evaluation with measurements."""
        if one.inherited:
            if one.covered_at is None:
                one.covered_at = now + min(self._reach(one.rule, frozenset()), self._store.retention)
            if now >= one.covered_at:
                one.inherited = frozenset()
        return one.inherited

    def _reach(self, rule: AlertingRule | RecordingRule, above: frozenset[str]) -> float:
        """How far back the measurements behind a rule lie, through recording rules that look back themselves."""
        behind = (
            self._reach(other.rule, above | {other.rule.record})
            for other in self._rules
            if isinstance(other.rule, RecordingRule) and other.rule.record in rule.query.names - above
        )
        return rule.query.reach + max(behind, default=0.0)

    def _inputs(self, one: _Rule) -> set[str]:
        """The measured names behind a rule. What recording rules give may rightly be empty: their inputs count."""
        recorded = {
            rule.rule.record: rule.rule.query.names for rule in self._rules if isinstance(rule.rule, RecordingRule)
        }
        names, todo = set[str](), set(one.rule.query.names)
        while todo:
            name = todo.pop()
            names.add(name)
            todo |= recorded.get(name, frozenset()) - names
        return names - recorded.keys()

    def _record(self, one: _Rule, rule: RecordingRule, vector: _Vector, now: float) -> None:
        samples = [
            Sample(rule.record, value, labels_of({**_nameless(labels), **dict(rule.labels)}))
            for labels, value in vector
        ]
        if len({sample.labels for sample in samples}) != len(samples):
            raise QueryError("two results have the same labels after the rule's own were set")
        if one.group.limit and len(samples) > one.group.limit:
            samples = []
            one.last_error = f"more results than the group's limit of {one.group.limit}"
        self._store.ingest_scrape(one.source, samples, now)

    def _alert(self, one: _Rule, rule: AlertingRule, vector: _Vector, now: float) -> list[AlertEvent]:
        holding: dict[object, Holding] = {}
        rendered: dict[Labels, Holding] = {}
        for labels, value in vector:
            known_as = one.rendered.get(labels)
            if known_as is None or known_as[2] != value:
                known_as = _holding(one, rule, labels, value)
            if known_as[0] in holding:
                raise QueryError("two alerts have the same labels after the rule's own were set")
            rendered[labels] = holding[known_as[0]] = known_as
        # An error in a template is said at each evaluation, so what holds one is rendered anew.
        one.rendered = {} if one.last_error else rendered
        uncovered = self._uncovered(one, now)
        if one.group.limit and len(holding) > one.group.limit:
            holding = {}
            one.last_error = f"more alerts than the group's limit of {one.group.limit}"
        raised = list(holding.values())
        true = {fingerprint(labels) for labels, _, _ in raised} if uncovered else set()
        kept = {key: one.active[key] for key in uncovered - true if key in one.active}
        known = {key: alert for key, alert in one.active.items() if key not in kept} if kept else one.active
        active, events = advance(rule.alert, rule.for_, rule.keep_firing_for, known, raised, now)
        one.active = kept | active
        return events


_Vector = list[tuple[Labels, float]]


def _as_vector(result: Result) -> _Vector:
    """The elements with their labels; a scalar is one element without labels."""
    if isinstance(result, float):
        return [((), result)]
    if isinstance(result, str):
        raise QueryError("a string is no result of a rule")
    return result


def _nameless(labels: Labels) -> dict[str, str]:
    return {name: text for name, text in labels if name != "__name__"}


def _holding(one: _Rule, rule: AlertingRule, element: Labels, value: float) -> Holding:
    """The alert that this element is: its labels, annotations and value."""
    labels = _nameless(element)
    texts = dict(_rendered(one, rule.label_templates, labels, value))
    full = labels_of({**labels, **texts}, alertname=rule.alert)
    return full, tuple(_rendered(one, rule.annotation_templates, labels, value)), value


def _rendered(one: _Rule, templates: Templates, labels: dict[str, str], value: float) -> Iterator[tuple[str, str]]:
    """The texts by name. A template that fails says so in its own text: it must not silence the alert."""
    for name, template in templates:
        try:
            yield name, template.render(labels, value)
        except TemplateError as error:
            one.last_error = f"{name}: {error}"
            yield name, f"<error expanding template: {error}>"


def _name(rule: AlertingRule | RecordingRule) -> str:
    return rule.alert if isinstance(rule, AlertingRule) else rule.record


def _could_raise(rule: AlertingRule | RecordingRule, alert: Alert) -> bool:
    """Whether the alert's name is the rule's and the labels that the rule fixes are the alert's."""
    if not isinstance(rule, AlertingRule) or rule.alert != alert.rule:
        return False
    own = alert.label
    return all(own.get(name, "") == text for name, text in rule.labels if "{{" not in text)


def _status(one: _Rule) -> RuleStatus:
    states = {alert.state for alert in one.active.values()}
    state = next((state.value for state in (AlertState.FIRING, AlertState.PENDING) if state in states), "")
    return RuleStatus(
        group=one.group.name,
        name=_name(one.rule),
        kind="alert" if isinstance(one.rule, AlertingRule) else "record",
        expr=one.rule.expr,
        file=one.rule.file,
        line=one.rule.line,
        state=state,
        alerts=len(one.active),
        last_at=one.last_at,
        last_error=one.last_error,
    )
