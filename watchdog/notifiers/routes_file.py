"""Reads a routes file in Alertmanager's format: `global`, `route`, `receivers`, `inhibit_rules`.

Our extensions begin with `x_`: `x_escalation_wait` on a route, `x_send_healed` on an integration and
`x_hmac_secret_file` on a webhook. What Alertmanager knows and we do not do yet is refused by name. Relative paths
stand beside the file. Each problem is one ConfigError: file, line, key, what is wrong.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, Field

import watchdog.notifiers
from watchdog.core.routing import GROUP_BY_ALL, InhibitRule, Matcher, Route, matcher, parse_matchers
from watchdog.errors import ConfigError
from watchdog.notifiers import Defaults, NotifierSettings, notifiers
from watchdog.registry import Settings
from watchdog.units import parse_duration
from watchdog.yamlfile import Document, Location, load, validate

_CREDENTIALS = Path("/run/credentials")
_LABEL_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_GO_DURATION = re.compile(r"(?=\d)(?:\d+w)?(?:\d+d)?(?:\d+h)?(?:\d+m)?(?:\d+s)?(?:\d+ms)?")
_KINDS_NOT_YET = frozenset(
    {"discord_configs", "incidentio_configs", "jira_configs", "mattermost_configs", "msteams_configs"}
    | {"msteamsv2_configs", "opsgenie_configs", "pagerduty_configs", "pushover_configs", "rocketchat_configs"}
    | {"slack_configs", "sns_configs", "telegram_configs", "victorops_configs", "webex_configs", "wechat_configs"}
)
_SECTIONS = frozenset({"global", "route", "receivers", "inhibit_rules"})
_SECTIONS_NOT_YET = frozenset({"templates", "time_intervals", "mute_time_intervals"})
_ROUTE_NOT_YET = frozenset({"mute_time_intervals", "active_time_intervals"})


def _seconds(value: object) -> float:
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if text == "0":
        return 0.0
    if not isinstance(text, str) or not _GO_DURATION.fullmatch(text):
        raise ValueError(f"expected a duration such as 30s, 5m or 1h30m, not {value!r}")
    return parse_duration(text)


def _positive(value: object) -> float:
    seconds = _seconds(value)
    if seconds <= 0:
        raise ValueError("must be longer than 0s")
    return seconds


def _label_name(value: object) -> object:
    if isinstance(value, str) and not _LABEL_NAME.fullmatch(value):
        raise ValueError(f"{value!r} is not a label name")
    return value


def _text(value: object) -> object:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


Wait = Annotated[float, BeforeValidator(_seconds)]
Interval = Annotated[float, BeforeValidator(_positive)]
LabelName = Annotated[str, BeforeValidator(_label_name)]
LabelValues = dict[LabelName, Annotated[str, BeforeValidator(_text)]]


class RouteSettings(Settings):
    """One node as the file has it; None is inherited from the parent."""

    receiver: str | None = None
    matchers: list[str] = []
    match: LabelValues = {}
    match_re: LabelValues = {}
    continue_: bool = Field(default=False, alias="continue")
    group_by: list[str] | None = None
    group_wait: Wait | None = None
    group_interval: Interval | None = None
    repeat_interval: Interval | None = None
    x_escalation_wait: Wait | None = None
    routes: list[RouteSettings] = []


class InhibitSettings(Settings):
    """One inhibition rule as the file has it."""

    source_matchers: list[str] = []
    source_match: LabelValues = {}
    source_match_re: LabelValues = {}
    target_matchers: list[str] = []
    target_match: LabelValues = {}
    target_match_re: LabelValues = {}
    equal: list[LabelName] = []


@dataclass(frozen=True, slots=True)
class Integration:
    """One way to reach a receiver. `name` is `email[0]`, by kind and place, and stays the same over a reload."""

    name: str
    settings: NotifierSettings


@dataclass(frozen=True, slots=True)
class RoutesConfig:
    """Whom to tell what and how. A receiver without integrations is legal: its notices end in the journal."""

    file: str
    route: Route
    receivers: Mapping[str, tuple[Integration, ...]]
    inhibit_rules: tuple[InhibitRule, ...]


def load_routes(path: Path, base: Path | None = None) -> RoutesConfig:
    """Reads and checks the whole file. Raises ConfigError for the first problem. `base`: where files that it names
    stand, if not beside it."""
    notifiers.discover(watchdog.notifiers)
    document = load(path)
    data = _mapping(document, document.data, ())
    _refuse(document, (), data, _SECTIONS_NOT_YET)
    for name in data:
        if name not in _SECTIONS | _SECTIONS_NOT_YET:
            raise _problem(document, (name,), f"unknown key; expected one of {', '.join(sorted(_SECTIONS))}")
    base = base or path.parent
    defaults = _validated(Defaults, document, data.get("global") or {}, ("global",), Defaults.not_yet, base)
    receivers = dict(_receivers(document, data.get("receivers") or [], defaults, base))
    return RoutesConfig(
        file=document.file,
        route=_root(document, data, receivers),
        receivers=receivers,
        inhibit_rules=tuple(_inhibit_rules(document, data.get("inhibit_rules") or [])),
    )


def _root(document: Document, data: Mapping[str, Any], receivers: Mapping[str, object]) -> Route:
    if not data.get("route"):
        raise _problem(document, (), "`route` is required and missing")
    raw = _mapping(document, data["route"], ("route",))
    _refuse_in_routes(document, ("route",), raw)
    settings = validate(RouteSettings, document, raw, ("route",))
    if not settings.receiver:
        raise _problem(document, ("route",), "the root route needs a `receiver`, which gets what no other route takes")
    for key, value in (("matchers", settings.matchers), ("match", settings.match), ("match_re", settings.match_re)):
        if value:
            raise _problem(document, ("route", key), "the root route takes everything and cannot have matchers")
    if settings.continue_:
        raise _problem(document, ("route", "continue"), "the root route has no next one to continue with")
    return _route(document, settings, ("route",), Route(receiver=settings.receiver), receivers)


def _route(
    document: Document, settings: RouteSettings, at: Location, parent: Route, receivers: Mapping[str, object]
) -> Route:
    receiver = settings.receiver or parent.receiver
    if receiver not in receivers:
        known = ", ".join(sorted(receivers)) or "none"
        raise _problem(document, (*at, "receiver"), f"there is no receiver {receiver!r}; known: {known}")
    group_by = parent.group_by if settings.group_by is None else tuple(settings.group_by)
    for index, name in enumerate(group_by if settings.group_by else ()):
        if name == GROUP_BY_ALL and len(group_by) > 1:
            raise _problem(document, (*at, "group_by", index), f"{GROUP_BY_ALL!r} stands alone or not at all")
        if name != GROUP_BY_ALL and not _LABEL_NAME.fullmatch(name):
            raise _problem(document, (*at, "group_by", index), f"{name!r} is not a label name")
        if name in group_by[:index]:
            raise _problem(document, (*at, "group_by", index), f"{name!r} stands twice")
    node = Route(
        receiver=receiver,
        matchers=_matchers(document, at, settings.matchers, settings.match, settings.match_re, ""),
        continue_=settings.continue_,
        group_by=group_by,
        group_wait=_or(settings.group_wait, parent.group_wait),
        group_interval=_or(settings.group_interval, parent.group_interval),
        repeat_interval=_or(settings.repeat_interval, parent.repeat_interval),
        escalation_wait=_or(settings.x_escalation_wait, parent.escalation_wait),
    )
    children = (
        _route(document, child, (*at, "routes", index), node, receivers) for index, child in enumerate(settings.routes)
    )
    return replace(node, routes=tuple(children))


def _or(value: float | None, inherited: float) -> float:
    return inherited if value is None else value


def _matchers(
    document: Document,
    at: Location,
    texts: list[str],
    equal: Mapping[str, str],
    regex: Mapping[str, str],
    side: str,
) -> tuple[Matcher, ...]:
    """All three ways of writing them; `side` is `source_` or `target_` in an inhibition rule."""
    found = [Matcher(name, "=", value) for name, value in equal.items()]
    for name, value in regex.items():
        found.append(_checked(document, (*at, f"{side}match_re", name), lambda n=name, v=value: matcher(n, "=~", v)))  # type: ignore[misc]
    for index, text in enumerate(texts):
        found.extend(_checked(document, (*at, f"{side}matchers", index), lambda t=text: parse_matchers(t)))  # type: ignore[misc]
    return tuple(found)


def _inhibit_rules(document: Document, entries: object) -> Iterator[InhibitRule]:
    for index, entry in enumerate(_list(document, entries, ("inhibit_rules",))):
        at: Location = ("inhibit_rules", index)
        rule = validate(InhibitSettings, document, _mapping(document, entry, at), at)
        yield InhibitRule(
            _matchers(document, at, rule.source_matchers, rule.source_match, rule.source_match_re, "source_"),
            _matchers(document, at, rule.target_matchers, rule.target_match, rule.target_match_re, "target_"),
            tuple(rule.equal),
        )


def _receivers(
    document: Document, entries: object, defaults: Defaults, base: Path
) -> Iterator[tuple[str, tuple[Integration, ...]]]:
    seen: set[str] = set()
    for index, entry in enumerate(_list(document, entries, ("receivers",))):
        at: Location = ("receivers", index)
        data = _mapping(document, entry, at)
        name = data.get("name")
        if not isinstance(name, str) or not name:
            raise _problem(document, (*at, "name"), "a receiver needs a name")
        if name in seen:
            raise _problem(document, (*at, "name"), f"there are two receivers named {name!r}")
        seen.add(name)
        yield name, tuple(_integrations(document, data, at, defaults, base))


def _integrations(
    document: Document, data: Mapping[str, Any], at: Location, defaults: Defaults, base: Path
) -> Iterator[Integration]:
    _refuse(document, at, data, _KINDS_NOT_YET)
    allowed = {f"{kind}_configs": model for kind, model in notifiers.kinds.items()}
    for key, entries in data.items():
        if key == "name" or key in _KINDS_NOT_YET:
            continue
        if key not in allowed:
            raise _problem(document, (*at, key), f"unknown key; expected one of name, {', '.join(allowed)}")
        model = allowed[key]
        if not issubclass(model, NotifierSettings):
            raise TypeError(f"{model.__name__} is registered as a notifier but is no NotifierSettings")
        for index, entry in enumerate(_list(document, entries, (*at, key))):
            place = (*at, key, index)
            settings = _validated(model, document, _mapping(document, entry, place), place, model.not_yet, base)
            complete = _checked(document, place, lambda s=settings: s.completed(defaults))  # type: ignore[misc]
            yield Integration(f"{key.removesuffix('_configs')}[{index}]", complete)


M = TypeVar("M", bound=Settings)


def _validated(model: type[M], document: Document, raw: object, at: Location, not_yet: frozenset[str], base: Path) -> M:
    data = _mapping(document, raw, at)
    _refuse(document, at, data, not_yet)
    supported = {name: value for name, value in data.items() if name not in not_yet}
    return _anchored(document, validate(model, document, supported, at), at, base)


def _anchored(document: Document, model: M, at: Location, base: Path) -> M:
    """With its paths made absolute, and each secret file looked at."""
    changed: dict[str, object] = {}
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, Path):
            changed[name] = path = _handed(base / value.expanduser())
            public: frozenset[str] = getattr(model, "public_files", NotifierSettings.public_files)
            _check_file(document, (*at, name), path, secret=name not in public)
        elif isinstance(value, Settings):
            changed[name] = _anchored(document, value, (*at, name), base)
    return model.model_copy(update=changed) if changed else model


def _handed(path: Path) -> Path:
    """A credential that systemd hands to another unit means the one of that name that it hands to this process: the
    agent and `proxywatch-failure@` are given the same, and use the same routes."""
    own = os.environ.get("CREDENTIALS_DIRECTORY")
    return Path(own) / path.name if own and path.parent.parent == _CREDENTIALS else path


def _check_file(document: Document, at: Location, path: Path, *, secret: bool) -> None:
    try:
        mode = path.stat().st_mode
        with path.open("rb") as file:
            content = file.read(1)
    except OSError as error:
        raise _problem(document, at, f"{path} cannot be read: {error.strerror}") from error
    if not content:
        raise _problem(document, at, f"{path} is empty")
    if secret and mode & 0o007:
        raise _problem(document, at, f"{path} can be read by others", hint=f"chmod o= {path}")


def _refuse_in_routes(document: Document, at: Location, data: Mapping[str, Any]) -> None:
    _refuse(document, at, data, _ROUTE_NOT_YET)
    children = data.get("routes")
    for index, child in enumerate(children if isinstance(children, list) else ()):
        if isinstance(child, Mapping):
            _refuse_in_routes(document, (*at, "routes", index), child)


def _refuse(document: Document, at: Location, data: Mapping[str, Any], names: frozenset[str]) -> None:
    for name in data:
        if name in names and data[name]:
            raise _problem(document, (*at, name), "not supported yet")


R = TypeVar("R")


def _checked(document: Document, at: Location, make: Callable[[], R]) -> R:
    try:
        return make()
    except ValueError as error:
        raise _problem(document, at, str(error)) from error


def _mapping(document: Document, value: object, at: Location) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _problem(document, at, f"expected a mapping, not {type(value).__name__}")
    return value


def _list(document: Document, value: object, at: Location) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise _problem(document, at, f"expected a list, not {type(value).__name__}")
    return value


def _problem(document: Document, at: Location, message: str, hint: str = "") -> ConfigError:
    key = ".".join(map(str, at))
    return ConfigError(message, file=document.file, line=document.line(at), key=key, hint=hint)
