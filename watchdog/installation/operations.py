"""Install, upgrade, uninstall: what must hold before, the plan, its execution, and what is left."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from watchdog.errors import InstallationError
from watchdog.installation import layout
from watchdog.installation.environment import check_brought, check_interpreter
from watchdog.installation.executor import Tell, perform, rehearse
from watchdog.installation.layout import Environment, brought_environment, own_environment
from watchdog.installation.plan import installation, key_place, removal
from watchdog.installation.release import Release
from watchdog.installation.world import World
from watchdog.release import __version__

_KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the caller asked for. `venv`: an environment to use as it is, instead of one that is built below `home`."""

    venv: Path | None = None
    home: str = layout.HOME
    rehearsal: bool = False


def install(world: World, release: Release, wanted: Wanted, tell: Tell) -> bool:
    """Puts a release onto the host. True if there was something to do. Raises InstallationError."""
    there = world.record.release
    if there and there != release.identity:
        raise InstallationError(f"{there} is installed, and this is {release.identity}", hint="proxywatch upgrade")
    _refuse_overridden(world)
    environment = _environment(world, release, wanted)
    plan = installation(release, environment, _admin_key(world, release), live=world.live)
    if wanted.rehearsal:
        return rehearse(plan, world, tell)
    did = perform(plan, world, tell)
    _remember(world, release, environment)
    return did


def upgrade(world: World, release: Release, tell: Tell, *, rehearsal: bool = False) -> bool:
    """Brings what is installed to another release, and back if that is not well. As `install`."""
    record = world.record
    if not record.release:
        raise InstallationError("nothing is installed, or not to its end", hint="proxywatch install")
    if not record.home and release.wheel is not None:
        raise InstallationError(
            f"the programs in {record.environment} were not installed by us",
            hint=f"install {release.wheel.name} there, then upgrade without --from",
        )
    wanted = Wanted(home=record.home) if record.home else Wanted(venv=Path(record.environment))
    environment = _environment(world, release, wanted)
    plan = installation(release, environment, _admin_key(world, release), live=world.live, record=record)
    if rehearsal:
        return rehearse(plan, world, tell)
    did = perform(plan, world, tell, back=True)
    _remember(world, release, environment)
    return did


def uninstall(world: World, tell: Tell, *, purge: bool = False, rehearsal: bool = False) -> bool:
    """Takes away what was installed; with `purge` configuration and data too. As `install`."""
    plan = removal(world.record, purge=purge, live=world.live)
    if rehearsal:
        return rehearse(plan, world, tell)
    did = perform(plan, world, tell)
    world.forget()
    return did


def left(world: World) -> list[str]:
    """What of ours is on the host although nothing is installed, each with what removes it."""
    found = [
        f"{path}: kept; `proxywatch uninstall --purge`, or remove it" for path in _places() if world.at(path).exists()
    ]
    known = (world.read("/etc/passwd") or b"").decode(errors="replace").splitlines()
    users = [line.partition(":")[0] for line in known if line.partition(":")[0] in layout.USERS]
    return found + [f"the user {user}: userdel {user}" for user in users]


def _places() -> Iterator[str]:
    yield from layout.CONFIGURATION
    yield from layout.DATA


def require_rights(world: World, *, rehearsal: bool) -> None:
    """Refuses a live host to anybody but root, and one that systemd does not run. Raises InstallationError."""
    if not world.live:
        return
    if os.geteuid() != 0 and not rehearsal:
        raise InstallationError("this needs root", hint="sudo, or --root DIRECTORY for an image, or --dry-run to see")
    if not world.at("/run/systemd/system").is_dir():
        raise InstallationError("this host was not booted by systemd", hint="`proxywatch run` needs no installation")


def _environment(world: World, release: Release, wanted: Wanted) -> Environment:
    """Where the programs will be; refuses what the services could not use."""
    if wanted.venv is None:
        if world.live:
            check_interpreter()
        return own_environment(release.identity, wanted.home)
    if release.wheel is not None:
        raise InstallationError("--from builds an environment, --venv brings one; expected one of the two")
    if not wanted.venv.is_absolute():
        raise InstallationError(f"--venv {wanted.venv} is not absolute")
    check_brought(world.at(str(wanted.venv)), reach=world.live)
    program = str(world.at(f"{wanted.venv}/bin/proxywatch"))
    told = world.command((program, "version", "--json"), 60.0)
    try:
        version = json.loads(told.output)["version"]
    except (ValueError, KeyError, TypeError):
        raise InstallationError(f"{program} does not run: {told.last_line}") from None
    if version != __version__:
        raise InstallationError(
            f"{wanted.venv} has version {version}, and this is {__version__}", hint=f"do this with {program}"
        )
    return brought_environment(str(wanted.venv))


def _refuse_overridden(world: World) -> None:
    """A unit of the same name in /etc would be used instead of what is installed, and nobody would see why."""
    for unit in layout.UNITS:
        path = f"/etc/systemd/system/{unit}"
        place = world.at(path)
        if place.is_symlink() and str(place.readlink()) == "/dev/null":
            raise InstallationError(f"{unit} is masked", hint=f"systemctl unmask {unit}")
        if place.is_symlink() or place.exists():
            raise InstallationError(
                f"{path} would be used instead of ours", hint="move it away; changes belong in a drop-in"
            )


def _admin_key(world: World, release: Release) -> str:
    """The one that is there, where it is now or where an older release had it; else a new one."""
    place = key_place(release)
    former = [f"{old}/{layout.ADMIN_KEY}" for old in layout.CREDENTIALS]
    found = next((key for path in (place, *former) if (key := world.read(path)) is not None), None)
    return found.decode().strip() if found else secrets.token_urlsafe(_KEY_BYTES)


def _remember(world: World, release: Release, environment: Environment) -> None:
    record = world.record
    record.version, record.release = release.version, release.identity
    record.environment = environment.directory
    record.home = environment.home if environment.release else ""
    world.save()
