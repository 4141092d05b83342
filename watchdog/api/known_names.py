"""Whether there is what people name: a word that fits nothing would leave them sure of a quiet that never comes."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

from watchdog.api.commands import RefusedError
from watchdog.api.parts import Parts
from watchdog.core.routing import Matcher
from watchdog.core.targets import parse_target


def refuse_unknown_targets(parts: Parts, targets: Iterable[str]) -> None:
    """Raises RefusedError, with the nearest name, for a target of a service or probe that is not there. Kinds whose
    members come and go are taken as they are, and so is a pattern where its `*` stands."""
    for target in targets:
        try:
            named = parse_target(target).labels
        except ValueError:
            continue
        _refuse(parts, named, target)


def refuse_unknown_matchers(parts: Parts, matchers: Iterable[Matcher]) -> None:
    """The same for what a silence wants to be equal: the labels `target`, `service` and `probe`."""
    exact = {matcher.name: matcher.value for matcher in matchers if matcher.operator == "=" and matcher.value}
    refuse_unknown_targets(parts, [exact["target"]] if "target" in exact else [])
    _refuse(parts, exact, "")


def _refuse(parts: Parts, named: Mapping[str, str], target: str) -> None:
    for kind, known in (("service", _services(parts)), ("probe", set(parts.loaded.config.probes))):
        name = named.get(kind, "")
        if name and "*" not in name and name not in known:
            (nearest,) = difflib.get_close_matches(name, sorted(known), n=1) or [""]
            better = target.replace(name, nearest, 1) if target else f"{kind}={nearest}"
            there = f"did you mean {better}?" if nearest else f"there are {', '.join(sorted(known)) or 'none'}"
            raise RefusedError(404, f"there is no {kind} {name!r}", f"{there} (`--force` takes it as it is)")


def _services(parts: Parts) -> set[str]:
    """The configured ones, those that were measured, and those of which something is wrong."""
    measured = {dict(labels).get("service", "") for labels, _, _ in parts.series.latest("proxywatch_service_up")}
    ailing = {parse_target(incident.key).labels.get("service", "") for incident in parts.desk.unresolved}
    return {*parts.loaded.config.services, *measured, *ailing} - {""}
