"""`check_resources`: whether the target's service would find what it needs: disk, inodes, memory, its ports.

Changes nothing, so that after a crash it is simply asked again.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import psutil

from watchdog.actions import ActionContext, ActionSettings, Sighting, Survey, actions
from watchdog.backups.holding import Holding
from watchdog.core.model import Outcome
from watchdog.errors import ActionError
from watchdog.system.services.recovery import Needs
from watchdog.units import format_bytes


class CheckResourcesSettings(ActionSettings):
    """No keys of its own: what is needed stands in the service's `recovery.needs`."""

    kind: Literal["check_resources"]


@actions.register(CheckResourcesSettings)
class CheckResources:
    """Fails if anything is missing, and names all of it."""

    disruptive = False

    def __init__(self, settings: CheckResourcesSettings, context: ActionContext) -> None:
        self._context = context

    def describe(self) -> str:
        needs = _needs(self._context.holding)
        ports = f", free ports {', '.join(map(str, needs.ports))}" if needs.ports else ""
        return (
            f"check that {self._context.label('service')} has {format_bytes(needs.disk)} of disk, {needs.inodes} inodes"
            f" and {format_bytes(needs.memory)} of memory{ports}"
        )

    async def survey(self) -> Survey:
        return {}

    async def perform(self, survey: Survey) -> str:
        holding = self._context.holding
        directory = self._context.shelf.directory
        missing = await asyncio.to_thread(lambda: [*_missing(_needs(holding), holding, directory)])
        if missing:
            raise ActionError("; ".join(missing))
        return "disk, inodes, memory and ports are there"

    async def observe(self, survey: Survey) -> Sighting:
        return Sighting(Outcome.NOT_DONE, "it only looks, and looks again")


def _needs(holding: Holding) -> Needs:
    return Needs() if holding.recovery is None else holding.recovery.needs


def _missing(needs: Needs, holding: Holding, shelf: Path) -> Iterator[str]:
    # As much again as is there is written twice at the most: into the restore point and beside its target.
    parts = [path for path in (*holding.files(), *holding.databases) if path.is_file()]
    wanted = needs.disk + 2 * sum(path.stat().st_size for path in parts)
    seen: set[int] = set()
    for place in map(_existing, (holding.main.parent, *(d.parent for d in holding.databases), shelf)):
        if (device := place.stat().st_dev) in seen:
            continue
        seen.add(device)
        free = os.statvfs(place)
        if free.f_bavail * free.f_frsize < wanted:
            has = format_bytes(free.f_bavail * free.f_frsize)
            yield f"{place}: {has} of disk are free, {format_bytes(wanted)} are needed"
        if free.f_files and free.f_favail < needs.inodes:
            yield f"{place}: {free.f_favail} inodes are free, {needs.inodes} are needed"
    available = psutil.virtual_memory().available
    if available < needs.memory:
        yield f"{format_bytes(available)} of memory are available, {format_bytes(needs.memory)} are needed"
    for port in needs.ports:
        if _taken(port):
            yield f"port {port} is held by somebody else"


def _existing(place: Path) -> Path:
    while not place.exists():
        place = place.parent
    return place


def _taken(port: int) -> bool:
    """Whether somebody listens there; a connection that is only dying does not count."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return True
    return False
