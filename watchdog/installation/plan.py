"""PURE. Which steps an installation, an upgrade and a removal have, from a release and the record of what is there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from watchdog.errors import InstallationError
from watchdog.installation import layout
from watchdog.installation.archive_step import Archive
from watchdog.installation.configuration import credentials_directory, host_configuration, host_unit
from watchdog.installation.environment import BuildEnvironment
from watchdog.installation.gate import Gate, Judge
from watchdog.installation.layout import Environment, place_of_configuration, place_of_system_file
from watchdog.installation.release import Release
from watchdog.installation.secrets_step import MoveSecrets
from watchdog.installation.steps import (
    Link,
    MakeSecret,
    PutFile,
    RemoveDirectory,
    RemoveFile,
    RemoveLink,
    RemoveTree,
    Step,
)
from watchdog.installation.systemd_steps import (
    Disable,
    Enable,
    MakeDirectories,
    MakeUsers,
    Reload,
    Start,
    Stop,
    UpdateCatalogue,
)
from watchdog.installation.world import Record


@dataclass(frozen=True, slots=True)
class Plan:
    """`changes` have ways back; `settling` makes what is there then take effect, also after those; `clearing` is for
    the case that all went well."""

    changes: tuple[Step, ...]
    settling: tuple[Step, ...] = ()
    clearing: tuple[Step, ...] = ()

    @property
    def steps(self) -> tuple[Step, ...]:
        """All of them, in order."""
        return self.changes + self.settling + self.clearing


def installation(
    release: Release, environment: Environment, admin_key: str, *, live: bool, record: Record | None = None
) -> Plan:
    """The plan of an installation; with the record of an earlier release, also of the way to another one. Raises
    InstallationError for a release that is not whole."""
    before = record if record is not None and record.release != release.identity else None
    system = dict(_system_files(release, environment))
    configuration = dict(_configuration(release, admin_key))
    key_file = key_place(release)
    changes: list[Step] = [Archive(release.identity)] if before is not None and live else []
    if environment.release:
        changes.append(BuildEnvironment(environment, release))
    changes += [PutFile(path, content) for path, content in system.items()]
    if live:
        changes += _users_and_directories(system)
    if before is not None:
        changes += [MoveSecrets(old, new) for old, new in layout.CREDENTIALS.items()]
    changes.append(MakeSecret(key_file, admin_key.encode() + b"\n"))
    # An image has no owners yet; the directory is closed to others when it has.
    mode = 0o640 if live else 0o644
    changes += [PutFile(path, content, mode) for path, content in configuration.items()]
    if before is not None:
        wanted = {*system, *configuration, key_file}
        kept = (
            ".new",
            f"/credentials/{layout.ADMIN_KEY}",
        )  # the former goes with its directory, when all has gone well
        gone = [path for path in before.files if path not in wanted and not path.endswith(kept)]
        changes += [RemoveFile(path) for path in sorted(gone)]
    changes.append(Judge(environment))
    # Last, for whatever is begun from here on runs the new release.
    changes += _links(environment)
    settling = _settling(system, environment) if live else (Enable(layout.UNITS),)
    clearing = () if before is None else tuple(map(RemoveTree, (*layout.CREDENTIALS, *_outdated(before, environment))))
    return Plan(tuple(changes), settling, clearing)


def removal(record: Record, *, purge: bool, live: bool) -> Plan:
    """The plan that takes away what the record names; with `purge` configuration and data too."""
    steps: list[Step] = [Stop(tuple(reversed(layout.UNITS)))] if live else []
    steps.append(Disable(layout.UNITS))
    files = [path for path in sorted(record.files) if not _of_configuration(path)]
    steps += [RemoveFile(path) for path in files]
    if live:
        steps += [UpdateCatalogue(path, removed=True) for path in files if path.endswith(".catalog")]
        steps.append(Reload(layout.UNITS))
    steps += [RemoveLink(path) for path in sorted(record.links)]
    if purge:
        steps += [RemoveTree(path) for path in (*layout.CONFIGURATION, *layout.DATA)]
    # The programs that do this may be among them, so that they go late.
    steps += [RemoveTree(path) for path in sorted(record.trees)]
    directories = {path for path in (*record.directories, record.home) if path and not _of_configuration(path)}
    steps += [RemoveDirectory(path) for path in sorted(directories, key=len, reverse=True)]
    return Plan(tuple(steps))


def key_place(release: Release) -> str:
    """Where the admin key is: in the directory that systemd hands to the agent, and nowhere else."""
    return f"{credentials_directory(_text(release, f'systemd/{layout.AGENT}'))}/{layout.ADMIN_KEY}"


def _system_files(release: Release, environment: Environment) -> Iterator[tuple[str, bytes]]:
    for name in sorted(release.files):
        place = place_of_system_file(name.removeprefix("systemd/")) if name.startswith("systemd/") else None
        if place is not None:
            yield place, host_unit(_text(release, name), environment.programs).encode()


def _configuration(release: Release, admin_key: str) -> Iterator[tuple[str, bytes]]:
    for name in sorted(release.files):
        if name.startswith("config/"):
            inner = name.removeprefix("config/")
            yield place_of_configuration(inner), host_configuration(inner, _text(release, name), admin_key).encode()


def _links(environment: Environment) -> Iterator[Step]:
    if environment.release:
        yield Link(f"{environment.home}/share", "current/share")
        yield Link(f"{environment.home}/bin", "current/bin")
        yield Link(f"{environment.home}/current", f"releases/{environment.release}")
    for name in layout.PROGRAMS:
        yield Link(f"/usr/local/bin/{name}", f"{environment.programs}/{name}")


def _users_and_directories(system: dict[str, bytes]) -> Iterator[Step]:
    for path, content in system.items():
        if path.startswith("/usr/local/lib/sysusers.d/"):
            yield MakeUsers(path)
        elif path.startswith("/usr/local/lib/tmpfiles.d/"):
            lines = [line.split() for line in content.decode().splitlines()]
            yield MakeDirectories(path, tuple(words[1] for words in lines if len(words) > 1 and words[0] == "d"))


def _settling(system: dict[str, bytes], environment: Environment) -> tuple[Step, ...]:
    if environment.release:
        programs: tuple[str, ...] = (f"{environment.home}/current",)
    else:
        programs = tuple(f"{environment.programs}/{name}" for name in layout.PROGRAMS)
    catalogues = [path for path in system if path.endswith(".catalog")]
    needed = {unit: (*programs, *(p for p in system if p.endswith(f"/{unit}"))) for unit in layout.UNITS}
    return (
        Reload(layout.UNITS),
        *(UpdateCatalogue(path) for path in catalogues),
        Enable(layout.UNITS),
        Start(layout.SOCKET),
        Start(layout.PROXY, needed[layout.PROXY], without=layout.AGENT),
        Start(layout.AGENT, needed[layout.AGENT]),
        Gate(environment),
    )


def _outdated(before: Record, environment: Environment) -> list[str]:
    """Environments of ours beside the new one and the one before it, to which one may want to go back."""
    return [tree for tree in before.trees if tree not in (environment.directory, before.environment)]


def _of_configuration(path: str) -> bool:
    return any(path == place or path.startswith(f"{place}/") for place in layout.CONFIGURATION)


def _text(release: Release, name: str) -> str:
    try:
        return release.files[name].decode()
    except KeyError:
        raise InstallationError(f"{name} is missing", hint="this release is damaged") from None
