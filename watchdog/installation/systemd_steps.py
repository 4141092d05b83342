"""The steps that systemd does for us: users, directories, catalogue, units. On a live host only."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass

from watchdog.errors import InstallationError
from watchdog.installation.layout import USERS
from watchdog.installation.steps import DONE, Finding, Undo, due
from watchdog.installation.world import COMMAND_SECONDS, World

CATALOGUE = "/var/lib/systemd/catalog/database"
_START_SECONDS = 120.0
_JOURNAL_LINES = 80
_TELLING_LINES = 6
_CHATTER = re.compile(
    r": (?:Unknown key|Consumed|Scheduled restart job|Deactivated|Triggering OnFailure|Failed with result)"
    r"|^(?:Start|Stopp)(?:ed|ing) |Failed to start |Start request repeated|^\s+File \"|^\s+[\^~]+\s*$"
)
"""What systemd says of any failure, and where in a program it came by; neither is the reason."""


def properties(world: World, unit: str, *names: str) -> dict[str, str]:
    """What systemd says of a unit. Raises InstallationError."""
    done = ask(world, "systemctl", "show", unit, f"--property={','.join(names)}")
    return dict(line.partition("=")[::2] for line in done.splitlines() if "=" in line)


def ask(world: World, *argv: str, seconds: float = COMMAND_SECONDS, hint: str = "") -> str:
    """What a command says. Raises InstallationError if it fails."""
    done = world.command(argv, seconds)
    if done.status != 0:
        raise InstallationError(f"{' '.join(argv)}: {done.last_line}", hint=hint)
    return done.output


def last_words(world: World, unit: str) -> str:
    """The telling lines at the end of a unit's journal, for whoever has to find out why it failed."""
    argv = ("journalctl", "--quiet", "--no-pager", "--output=cat", f"--lines={_JOURNAL_LINES}", f"--unit={unit}")
    told = telling(world.command(argv, COMMAND_SECONDS).output.splitlines())
    return "\n".join((f"{unit} said last (all of it: journalctl -u {unit}):", *(told or ["(nothing)"])))


def telling(lines: Sequence[str]) -> list[str]:
    """The last few lines that are no chatter, each once, however often a unit that is started again and again says it;
    all of the last few if there is nothing else."""
    said = [line for line in lines if line.strip()]
    own = [line for line in said if not _CHATTER.search(line)] or said
    once = list(dict.fromkeys(reversed(own)))
    return once[:_TELLING_LINES][::-1]


@dataclass(frozen=True, slots=True)
class MakeUsers:
    """Users and groups by systemd-sysusers."""

    path: str

    @property
    def says(self) -> str:
        return f"make the users {' and '.join(USERS)}"

    @property
    def touches(self) -> tuple[str, ...]:
        return ()

    def look(self, world: World) -> Finding:
        known = (world.read("/etc/passwd") or b"").decode(errors="replace").splitlines()
        names = {line.partition(":")[0] for line in known}
        return DONE if names.issuperset(USERS) else due()

    def do(self, world: World) -> Undo | None:
        ask(world, "systemd-sysusers", self.path)
        return None


@dataclass(frozen=True, slots=True)
class MakeDirectories:
    """Directories with their owners by systemd-tmpfiles, which does so again at each boot."""

    path: str
    directories: tuple[str, ...]

    @property
    def says(self) -> str:
        return f"make {', '.join(self.directories)} with their owners"

    @property
    def touches(self) -> tuple[str, ...]:
        return ()

    def look(self, world: World) -> Finding:
        missing = [directory for directory in self.directories if not world.at(directory).is_dir()]
        return due() if missing else DONE

    def do(self, world: World) -> Undo | None:
        ask(world, "systemd-tmpfiles", "--create", self.path)
        return None


@dataclass(frozen=True, slots=True)
class UpdateCatalogue:
    """The explanations that `journalctl -x` shows."""

    path: str
    """A catalogue file; without it there, what was said of it is to be forgotten."""
    removed: bool = False

    @property
    def says(self) -> str:
        return "take the message catalogue out of the journal's" if self.removed else "add the journal's catalogue"

    @property
    def touches(self) -> tuple[str, ...]:
        return ()

    def look(self, world: World) -> Finding:
        if self.path in world.pending:
            return due()
        file, database = world.at(self.path), world.at(CATALOGUE)
        if self.removed:
            known = b"proxywatch" in (world.read(CATALOGUE) or b"")
            return due() if known and not file.exists() else DONE
        fresh = database.exists() and file.exists() and database.stat().st_mtime >= file.stat().st_mtime
        return DONE if fresh else due()

    def do(self, world: World) -> Undo | None:
        ask(world, "journalctl", "--update-catalog")
        return None


@dataclass(frozen=True, slots=True)
class Reload:
    """systemd reads its units anew."""

    units: tuple[str, ...]

    @property
    def says(self) -> str:
        return "have systemd read its units"

    @property
    def touches(self) -> tuple[str, ...]:
        return ()

    def look(self, world: World) -> Finding:
        for unit in self.units:
            if any(path.endswith(f"/{unit}") for path in world.pending):
                return due()
            known = properties(world, unit, "LoadState", "NeedDaemonReload", "FragmentPath")
            gone = known.get("FragmentPath") and not world.at(known["FragmentPath"]).exists()
            there = any(world.at(path).exists() for path in world.record.files if path.endswith(f"/{unit}"))
            if known.get("NeedDaemonReload") == "yes" or gone or (there and known.get("LoadState") == "not-found"):
                return due()
        return DONE

    def do(self, world: World) -> Undo | None:
        ask(world, "systemctl", "daemon-reload")
        return None


@dataclass(frozen=True, slots=True)
class Enable:
    """The units are started at each boot."""

    units: tuple[str, ...]

    @property
    def says(self) -> str:
        return f"enable {', '.join(self.units)}"

    @property
    def touches(self) -> tuple[str, ...]:
        return ()

    def look(self, world: World) -> Finding:
        if not world.live:
            wanted = world.at("/etc/systemd/system/multi-user.target.wants")
            names = [unit for unit in self.units if unit.endswith(".service")]
            return DONE if all((wanted / name).is_symlink() for name in names) else due()
        states = [world.command(("systemctl", "is-enabled", unit), COMMAND_SECONDS) for unit in self.units]
        return DONE if all(state.last_line == "enabled" for state in states) else due()

    def do(self, world: World) -> Undo | None:
        where = () if world.live else (f"--root={world.root}",)
        ask(world, "systemctl", *where, "enable", "--quiet", *self.units)
        return None


@dataclass(frozen=True, slots=True)
class Disable:
    """They are not, any more."""

    units: tuple[str, ...]

    @property
    def says(self) -> str:
        return f"disable {', '.join(self.units)}"

    @property
    def touches(self) -> tuple[str, ...]:
        return ()

    def look(self, world: World) -> Finding:
        wants = world.at("/etc/systemd/system").glob("*.wants/*")
        return due() if any(link.name in self.units for link in wants) else DONE

    def do(self, world: World) -> Undo | None:
        where = () if world.live else (f"--root={world.root}",)
        ask(world, "systemctl", *where, "disable", "--quiet", *self.units)
        return None


@dataclass(frozen=True, slots=True)
class Start:
    """The unit runs, and with the files of now. A restart of a service whose socket systemd holds loses no caller."""

    unit: str
    files: tuple[str, ...] = ()
    """Files and links that a process reads at its start."""
    without: str | None = None
    """A unit that is stopped before a restart, so that it does not take that for a fault; a later step starts it."""

    @property
    def says(self) -> str:
        return f"start {self.unit}"

    @property
    def touches(self) -> tuple[str, ...]:
        return ()

    def look(self, world: World) -> Finding:
        known = properties(world, self.unit, "ActiveState", "ExecMainStartTimestampMonotonic")
        if known.get("ActiveState") not in ("active", "reloading"):
            return due()
        if pending := world.pending.intersection(self.files):
            return due(f"it is restarted, for {min(pending)} is changed")
        newer = self._newer(world, int(known.get("ExecMainStartTimestampMonotonic") or 0) / 1e6)
        return due(f"it runs since before {newer} was changed, and is restarted") if newer else DONE

    def do(self, world: World) -> Undo | None:
        active = properties(world, self.unit, "ActiveState").get("ActiveState") in ("active", "reloading")
        if active and self.without:
            ask(world, "systemctl", "stop", self.without, seconds=_START_SECONDS)
        verb = "restart" if active else "start"
        if world.command(("systemctl", verb, self.unit), _START_SECONDS).status != 0:
            raise InstallationError(f"{self.unit} did not start\n{last_words(world, self.unit)}")
        return None

    def _newer(self, world: World, began: float) -> str | None:
        """The first of `files` that was changed after a moment of CLOCK_MONOTONIC; a socket has no such moment."""
        if not began:
            return None
        running = time.monotonic() - began
        # How long ago a file was changed, by the clock that stamped it.
        now = world.clock.wall()
        for path in self.files:
            place = world.at(path)
            if (place.is_symlink() or place.exists()) and now - place.lstat().st_mtime < running:
                return path
        return None


@dataclass(frozen=True, slots=True)
class Stop:
    """None of the units runs."""

    units: tuple[str, ...]

    @property
    def says(self) -> str:
        return f"stop {', '.join(self.units)}"

    @property
    def touches(self) -> tuple[str, ...]:
        return ()

    def look(self, world: World) -> Finding:
        return due() if _not_inactive(world, self.units) else DONE

    def do(self, world: World) -> Undo | None:
        units = _not_inactive(world, self.units)
        ask(world, "systemctl", "stop", *units, seconds=_START_SECONDS * 2)
        # One that had failed would be remembered by systemd for ever; one that had not is no unit that it knows by now.
        world.command(("systemctl", "reset-failed", *units), COMMAND_SECONDS)
        return None


def _not_inactive(world: World, units: Sequence[str]) -> list[str]:
    states = {unit: properties(world, unit, "ActiveState").get("ActiveState") for unit in units}
    return [unit for unit, state in states.items() if state not in ("inactive", None)]
