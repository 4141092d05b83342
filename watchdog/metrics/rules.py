"""Prometheus rule files: reads them with the verdict of `promtool check rules` (2.42), for one file at a time.

Every scalar is read as the text that stands in the file, as Prometheus does, so that `severity: 1` is the label "1".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from watchdog import yamlfile
from watchdog.core.model import Labels
from watchdog.errors import ConfigError, QueryError, TemplateError
from watchdog.metrics.promql import Query, parse
from watchdog.metrics.templates import Template, parse_template
from watchdog.yamlfile import Document, Location

DEFAULT_INTERVAL_SECONDS = 15.0

_DURATION = re.compile(r"(?:(\d+)y)?(?:(\d+)w)?(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?(?:(\d+)ms)?")
_SECONDS = (31_536_000.0, 604_800.0, 86_400.0, 3_600.0, 60.0, 1.0, 0.001)
_METRIC = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_GROUP_KEYS = frozenset({"name", "interval", "limit", "rules"})
_RULE_KEYS = frozenset({"record", "alert", "expr", "for", "keep_firing_for", "labels", "annotations"})

Templates = tuple[tuple[str, Template], ...]


@dataclass(frozen=True, slots=True)
class AlertingRule:
    """One `alert`. Durations in seconds; `labels` and `annotations` as they stand in the file, and as templates."""

    alert: str
    expr: str
    query: Query
    for_: float
    keep_firing_for: float
    labels: Labels
    annotations: Labels
    file: str
    line: int
    label_templates: Templates = field(default=(), compare=False, repr=False)
    annotation_templates: Templates = field(default=(), compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class RecordingRule:
    """One `record`: the result of `expr` becomes series of this name with these labels."""

    record: str
    expr: str
    query: Query
    labels: Labels
    file: str
    line: int


@dataclass(frozen=True, slots=True)
class RuleGroup:
    """Rules that are evaluated together, in order, every `interval` seconds. A `limit` of 0 is none."""

    name: str
    interval: float
    rules: tuple[AlertingRule | RecordingRule, ...]
    file: str
    limit: int = 0


def load_rules(path: Path) -> tuple[RuleGroup, ...]:
    """The groups of one file. Raises ConfigError (`file:line: group/rule: reason`) for the first problem."""
    document = yamlfile.load(path)
    return _groups(document, path.read_text(encoding="utf-8"))


def parse_rules(text: str, file: str) -> tuple[RuleGroup, ...]:
    """As `load_rules`, from text; `file` is only used in messages."""
    return _groups(yamlfile.parse(text, file), text)


class _RawLoader(yaml.SafeLoader):
    """Safe YAML in which scalars stay texts; only null and merge keys keep their meaning."""


_RawLoader.yaml_implicit_resolvers = {
    first: [pair for pair in pairs if pair[0] in {"tag:yaml.org,2002:null", "tag:yaml.org,2002:merge"}]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class _Reader:
    """One file while it is read: where it is, for messages."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self.file = document.file

    def line(self, at: Location) -> int:
        return self._document.line(at) or 1

    def error(self, at: Location, where: str, reason: str) -> ConfigError:
        return ConfigError(reason, file=self.file, line=self.line(at), key=where)

    def mapping(self, data: Any, at: Location, where: str, allowed: frozenset[str]) -> dict[str, Any]:
        if data is None:
            return {}
        if not isinstance(data, Mapping):
            raise self.error(at, where, "expected a mapping")
        for key in data:
            if key not in allowed:
                names = ", ".join(sorted(allowed))
                raise self.error((*at, str(key)), where, f"unknown field {key!r}; there are {names}")
        return dict(data)

    def sequence(self, data: Any, at: Location, where: str) -> list[Any]:
        if data is None:
            return []
        if not isinstance(data, list):
            raise self.error(at, where, "expected a list")
        return data

    def text(self, data: Any, at: Location, where: str) -> str:
        if data is None:
            return ""
        if not isinstance(data, str):
            raise self.error(at, where, f"{at[-1]}: expected a text")
        return data

    def duration(self, data: Any, at: Location, where: str) -> float:
        if data is None:
            return 0.0
        text = self.text(data, at, where)
        match = _DURATION.fullmatch(text)
        if text == "0":
            return 0.0
        if not text or match is None:
            raise self.error(at, where, f"{at[-1]}: expected a duration such as 30s, 5m or 1h30m, not {text!r}")
        return sum(int(amount or 0) * seconds for amount, seconds in zip(match.groups(), _SECONDS, strict=True))

    def pairs(self, data: Any, at: Location, where: str) -> Labels:
        """Labels or annotations in the order of their names; bad names are errors."""
        if data is None:
            return ()
        if not isinstance(data, Mapping):
            raise self.error(at, where, f"{at[-1]}: expected a mapping")
        pairs = []
        for name, value in data.items():
            place = (*at, str(name))
            if not _LABEL.fullmatch(str(name)) or name == "__name__":
                raise self.error(place, where, f"{at[-1]}: invalid name {name!r}")
            pairs.append((str(name), self.text(value, place, where)))
        return tuple(sorted(pairs))


def _groups(document: Document, text: str) -> tuple[RuleGroup, ...]:
    reader = _Reader(document)
    root = reader.mapping(
        yamlfile.construct(yamlfile.compose(text, _RawLoader), _RawLoader), (), "", frozenset({"groups"})
    )
    groups: dict[str, RuleGroup] = {}
    for index, data in enumerate(reader.sequence(root.get("groups"), ("groups",), "groups")):
        at = ("groups", index)
        group = _group(reader, data, at)
        if group.name in groups:
            raise reader.error((*at, "name"), group.name, "a group of this name stands in the file already")
        groups[group.name] = group
    return tuple(groups.values())


def _group(reader: _Reader, data: Any, at: Location) -> RuleGroup:
    where = f"group {int(at[-1]) + 1}"
    fields = reader.mapping(data, at, where, _GROUP_KEYS)
    name = reader.text(fields.get("name"), (*at, "name"), where)
    if not name:
        raise reader.error(at, where, "a group needs a name")
    limit = fields.get("limit") or "0"
    if not isinstance(limit, str) or not re.fullmatch(r"[+-]?\d+", limit):
        raise reader.error((*at, "limit"), name, f"limit: expected a whole number, not {limit!r}")
    rules = [
        _rule(reader, name, rule, (*at, "rules", index))
        for index, rule in enumerate(reader.sequence(fields.get("rules"), (*at, "rules"), name))
    ]
    interval = reader.duration(fields.get("interval"), (*at, "interval"), name)
    return RuleGroup(name, interval or DEFAULT_INTERVAL_SECONDS, tuple(rules), reader.file, max(0, int(limit)))


def _rule(reader: _Reader, group: str, data: Any, at: Location) -> AlertingRule | RecordingRule:
    where = f"{group}/rule {int(at[-1]) + 1}"
    fields = reader.mapping(data, at, where, _RULE_KEYS)
    record = reader.text(fields.get("record"), (*at, "record"), where)
    alert = reader.text(fields.get("alert"), (*at, "alert"), where)
    if bool(record) == bool(alert):
        raise reader.error(at, where, "a rule has either `alert` or `record`")
    where = f"{group}/{alert or record}"
    expr = reader.text(fields.get("expr"), (*at, "expr"), where)
    if not expr:
        raise reader.error(at, where, "`expr` is required and missing")
    try:
        query = parse(expr)
    except QueryError as error:
        raise reader.error((*at, "expr"), where, f"expr: {error}") from error
    hold = reader.duration(fields.get("for"), (*at, "for"), where)
    keep = reader.duration(fields.get("keep_firing_for"), (*at, "keep_firing_for"), where)
    labels = reader.pairs(fields.get("labels"), (*at, "labels"), where)
    annotations = reader.pairs(fields.get("annotations"), (*at, "annotations"), where)
    line = reader.line(at)
    if alert:
        label_templates = _templates(reader, labels, (*at, "labels"), where)
        annotation_templates = _templates(reader, annotations, (*at, "annotations"), where)
        return AlertingRule(
            alert,
            expr,
            query,
            hold,
            keep,
            labels,
            annotations,
            reader.file,
            line,
            label_templates,
            annotation_templates,
        )
    for name, present in (("annotations", annotations), ("for", hold), ("keep_firing_for", keep)):
        if present:
            raise reader.error((*at, name), where, f"a recording rule has no `{name}`")
    if not _METRIC.fullmatch(record):
        raise reader.error((*at, "record"), where, f"{record!r} is not a metric name")
    return RecordingRule(record, expr, query, labels, reader.file, line)


def _templates(reader: _Reader, pairs: Labels, at: Location, where: str) -> Templates:
    templates = []
    for name, text in pairs:
        try:
            templates.append((name, parse_template(text)))
        except TemplateError as error:
            raise reader.error((*at, name), where, f"{at[-1]}.{name}: {error}") from error
    return tuple(templates)
