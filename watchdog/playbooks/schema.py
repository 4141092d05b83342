"""A playbook file: which alerts it answers, how far it may go, and its ladder of rungs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, create_model, model_validator

import watchdog.actions
from watchdog.actions import ActionSettings, actions
from watchdog.core.permission import Window
from watchdog.core.routing import Matcher, parse_matchers
from watchdog.core.targets import KINDS, parse_target
from watchdog.errors import ConfigError, QueryError, TemplateError
from watchdog.metrics.promql import parse
from watchdog.metrics.templates import Template, parse_template
from watchdog.playbooks.evidence import COLLECTORS
from watchdog.playbooks.triggers import Trigger, WebhookTrigger
from watchdog.registry import Duration, DurationText, Settings
from watchdog.units import parse_duration
from watchdog.yamlfile import load, validate_as


def _matchers(value: object) -> object:
    """`alertname=~"A|B", severity="critical"` → matchers. None at all would mean «every alert» and is refused."""
    found = parse_matchers(value) if isinstance(value, str) else ()
    if not found:
        raise ValueError(f'expected matchers such as alertname="WorkerDown", not {value!r}')
    return found


Matchers = Annotated[tuple[Matcher, ...], BeforeValidator(_matchers, json_schema_input_type=str)]


def _windows(value: object) -> object:
    """`{1h: 3, 24h: 6}` → windows, shortest first."""
    if not isinstance(value, dict):
        raise ValueError(f"expected a mapping such as {{1h: 3, 24h: 6}}, not {value!r}")
    for count in value.values():
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise ValueError(f"expected a whole number of effects, not {count!r}")
    return tuple(sorted((Window(parse_duration(key), count) for key, count in value.items()), key=lambda w: w.seconds))


Budget = Annotated[
    tuple[Window, ...],
    BeforeValidator(_windows, json_schema_input_type=dict[DurationText, Annotated[int, Field(ge=0)]]),
]


class Verification(Settings):
    """What must hold after a rung: `expr` gives at least one series, and none of the incident's alerts fires
    (unless the playbook only mitigates), for `hold`, reached before `within`, looked at only after `settle`."""

    expr: str = ""
    settle: Duration = 0.0
    hold: Duration = 2.0
    within: Duration = 30.0

    @model_validator(mode="after")
    def _reachable(self) -> Verification:
        if self.within < self.settle + self.hold:
            raise ValueError("`within` is shorter than `settle` and `hold` together, so it could never verify")
        return self


class Rung(Settings):
    """One step up the ladder. Without `steps` it only waits: somebody else (a supervisor) may repair by itself."""

    rung: str = Field(pattern=r"^[a-z][a-z0-9-]*$")
    description: str = ""
    when: str = ""
    """PromQL; the rung is skipped when it gives no series. Empty: always."""
    attempts: int = Field(1, ge=1, le=10)
    autonomy: Literal["approve"] | None = None
    """A rung that destroys something can ask a person although the playbook acts by itself."""
    steps: tuple[ActionSettings, ...] = ()
    verify: Verification = Verification()
    roll_back: tuple[ActionSettings, ...] = ()
    """The way back, where a step failed or what must hold afterwards did not; all of it is tried."""

    @model_validator(mode="after")
    def _back_from_somewhere(self) -> Rung:
        if self.roll_back and not self.steps:
            raise ValueError("`roll_back` without `steps`: there is nothing to come back from")
        return self

    @property
    def all_steps(self) -> tuple[ActionSettings, ...]:
        """There and back; an effect is recorded by its place here."""
        return (*self.steps, *self.roll_back)


class PersonNeeded(Settings):
    """What only a person can do: told once although the playbook verified, if `when` gives a series then."""

    when: str
    text: str


class Playbook(Settings):
    """The whole file."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    name: str = Field(pattern=r"^[a-z][a-z0-9-]*$")
    description: str = ""
    answers: tuple[Matchers, ...] = ()
    """Any of these, each in Alertmanager's matcher syntax; within one all its matchers must match."""
    triggers: tuple[Trigger, ...] = ()
    """What else begins it; guards hold for it as for an alert."""
    targets: tuple[str, ...] = Field(min_length=1)
    """Kinds of target that it knows how to repair."""
    autonomy: Literal["observe", "dry_run", "approve", "auto"] = "auto"
    """`observe` only tells; `dry_run` tells what it would do; `approve` asks a person before it acts; `auto` acts."""
    approval_expires: Duration = 3600.0
    """How long a person may take to answer; without an answer nothing is done and the incident is escalated."""
    last_resort: bool = False
    """It begins only for a critical incident whose ladder was exhausted by another playbook, and once."""
    mitigates: bool = False
    """Its success is that users are served although the alert goes on, as with a provider's outage."""
    at_bay: str = ""
    """PromQL, for a playbook that mitigates: while it gives a series, what was reached still holds."""
    budget: Budget | None = None
    wait_at_most: Duration = 900.0
    """How long a run may wait for guards before a person is told."""
    evidence: tuple[str, ...] = ()
    ladder: tuple[Rung, ...] = Field(min_length=1)
    needs_person: tuple[PersonNeeded, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Playbook:
        if not self.answers and not self.triggers:
            raise ValueError("it needs `answers` or `triggers`, or nothing would ever begin it")
        for trigger in self.triggers:
            if any(parse_target(target).kind not in self.targets for target in trigger.targets):
                raise ValueError(f"a trigger names {', '.join(trigger.targets)}; it repairs: {', '.join(self.targets)}")
        if self.last_resort and not self.answers:
            raise ValueError("`last_resort` needs `answers`: the alerts of which it is the last resort")
        names = [rung.rung for rung in self.ladder]
        if len(set(names)) != len(names):
            raise ValueError(f"two rungs have the same name: {', '.join(names)}")
        for rung in self.ladder:
            if self.mitigates and not rung.verify.expr:
                # The alert may go on, so nothing else would be looked at: it would «verify» without having acted.
                raise ValueError(f"rung {rung.rung!r} needs a `verify.expr`, because the playbook only mitigates")
        for kind in self.targets:
            if kind not in KINDS:
                raise ValueError(f"unknown kind of target {kind!r}; expected some of {', '.join(KINDS)}")
        for collector in self.evidence:
            if collector not in COLLECTORS:
                raise ValueError(f"unknown evidence {collector!r}; expected some of {', '.join(sorted(COLLECTORS))}")
        return self

    def is_for(self, labels: Mapping[str, str], target_kind: str) -> bool:
        """Whether it is meant for an alert with these labels and this kind of target."""
        known = dict(labels)
        return target_kind in self.targets and any(all(m.matches(known) for m in matchers) for matchers in self.answers)


@cache
def playbook_model() -> type[Playbook]:
    """The model with the union of all registered actions as its steps."""
    actions.discover(watchdog.actions)
    step: Any = actions.union()
    steps: Any = tuple[step, ...]
    rung: Any = create_model("Rung", __base__=Rung, steps=(steps, ()), roll_back=(steps, ()))
    ladder: Any = tuple[rung, ...]
    return create_model("Playbook", __base__=Playbook, ladder=(ladder, Field(min_length=1)))


def load_playbooks(files: Iterable[Path]) -> dict[str, Playbook]:
    """All playbooks by name. Raises ConfigError: file, line, key, what was expected."""
    adapter = TypeAdapter(playbook_model())
    found: dict[str, Playbook] = {}
    for file in files:
        document = load(file)
        playbook = validate_as(adapter, document, document.data)
        if playbook.name in found:
            line = document.line(("name",))
            raise ConfigError(f"playbook {playbook.name!r} is defined twice", file=str(file), line=line, key="name")
        for index, name in _webhooks(playbook):
            if any(name == other for known in found.values() for _, other in _webhooks(known)):
                line = document.line(("triggers", index, "name"))
                raise ConfigError(
                    f"another playbook has a webhook {name!r}", file=str(file), line=line, key=f"triggers.{index}.name"
                )
        for path, expression in _expressions(playbook):
            try:
                check_expression(expression)
            except (QueryError, TemplateError) as error:
                where = ".".join(map(str, path))
                raise ConfigError(str(error), file=str(file), line=document.line(path), key=where) from None
        found[playbook.name] = playbook
    return found


def _webhooks(playbook: Playbook) -> list[tuple[int, str]]:
    return [(i, trigger.name) for i, trigger in enumerate(playbook.triggers) if isinstance(trigger, WebhookTrigger)]


def _expressions(playbook: Playbook) -> Iterable[tuple[tuple[str | int, ...], str]]:
    for index, rung in enumerate(playbook.ladder):
        yield ("ladder", index, "when"), rung.when
        yield ("ladder", index, "verify", "expr"), rung.verify.expr
    yield ("at_bay",), playbook.at_bay
    for index, need in enumerate(playbook.needs_person):
        yield ("needs_person", index, "when"), need.when


def check_expression(expression: str) -> None:
    """Raises QueryError or TemplateError unless the expression, with its labels filled in, is PromQL that we have."""
    if expression:
        parse(fill(expression, {}))


def fill(expression: str, labels: Mapping[str, str]) -> str:
    """The expression with `{{ $labels.x }}` replaced; values are escaped for a PromQL string."""
    escaped = {name: value.replace("\\", "\\\\").replace('"', '\\"') for name, value in labels.items()}
    return _template(expression).render(escaped, 0.0)


@cache
def _template(expression: str) -> Template:
    return parse_template(expression)
