"""What a route is, and what its handlers work with."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from proxy.errors import ApiError
from proxy.exchange import Handler
from proxy.gateway import Gateway
from proxy.health import Health
from proxy.limits.restraints import Restraints
from proxy.settings import Settings


@dataclass(frozen=True, slots=True)
class Route:
    """One method of one path. `path` names it in metrics and may have parts `*`, which become `argument`, together with
    what stands between them."""

    method: str
    path: str
    handler: Handler
    needs: Literal["user", "admin"] | None = None
    """The role that it takes; None: everybody."""
    bounded: bool = False
    """Whether it counts towards `max_in_flight` and the caller's rate limit."""
    piecewise: bool = False
    """Whether its handler takes the body by `Request.parts`, however large it is."""
    immediate: bool = False
    """Whether its handler never waits, or awaits `eager.in_task` before it does; then it is not given a task first."""


@dataclass(frozen=True, slots=True)
class Services:
    """What handlers may use."""

    settings: Settings
    gateway: Gateway
    health: Health
    metrics_dir: Path
    draining: Callable[[], bool]
    restraints: Restraints


class RouteTable:
    """Finds a route by path and method; a path may have parts `*`."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._exact: dict[str, dict[str, Route]] = {}
        self._starred: list[tuple[str, list[str], str, dict[str, Route]]] = []
        for route in routes:
            methods = self._exact.setdefault(route.path, {})
            methods[route.method] = route
            if route.method == "GET":
                methods["HEAD"] = route
        for path, methods in self._exact.items():
            if "*" in path:
                before, *between, after = path.split("*")
                self._starred.append((before, between, after, methods))

    def find(self, method: str, path: str) -> tuple[Route, str]:
        """The route and the text that stands for `*`. ApiError 404 or 405."""
        methods, argument = self._exact.get(path), ""
        if methods is None:
            for before, between, after, starred in self._starred:
                if path.startswith(before) and path.endswith(after) and len(path) > len(before) + len(after):
                    found = path[len(before) : len(path) - len(after)]
                    if all(part in found for part in between):
                        methods, argument = starred, found
        if methods is None:
            raise ApiError(404, f"Unknown request URL: {method} {path}.", code="unknown_url")
        route = methods.get(method)
        if route is None:
            allowed = ", ".join(sorted(methods))
            raise ApiError(
                405,
                f"{method} is not allowed here; expected {allowed}.",
                code="method_not_allowed",
                headers=((b"allow", allowed.encode()),),
            )
        return route, argument
