"""The virtual environment of a release: built anew from a wheel, or copied from the programs that run.

A copy needs no package index: the distributions that the running programs require are copied file by file, as their
records list them, and so are the versions that were tried together.
"""

from __future__ import annotations

import re
import shutil
import stat
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from watchdog.errors import InstallationError
from watchdog.installation.layout import PROGRAMS, Environment
from watchdog.installation.release import PACKAGES, Release, own_project, package_directory, shipped
from watchdog.installation.steps import DONE, Finding, Undo, due
from watchdog.installation.world import World, remove_tree
from watchdog.release import __version__

DISTRIBUTION = "proxywatch"
_COMPLETE = ".complete"
_PIP_SECONDS = 900.0
_VENV_SECONDS = 120.0
_HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # noqa: S108 - the units see other directories there
_MODULES = {"llm-proxy": "proxy.__main__", "proxywatch": "watchdog.cli.main"}
_OPTIONAL = ("postgres",)


def out_of_reach(path: Path) -> str | None:
    """Why the services' users could not run programs below a directory; None if they could."""
    path = path.resolve()
    for hidden in _HIDDEN:
        if path.is_relative_to(hidden):
            return f"{path} is below {hidden}, which the units do not see"
    for part in (path, *path.parents):
        if not part.is_dir():
            return f"{part} is no directory"
        if not part.stat().st_mode & stat.S_IXOTH:
            return f"{part} may not be entered by the users {' and '.join(PROGRAMS)}"
    return None


def check_interpreter() -> None:
    """Refuses a Python that the services could not run. Raises InstallationError."""
    if why := out_of_reach(Path(sys.base_prefix)):
        raise InstallationError(
            f"this Python cannot serve: {why}", hint="install with the system's, such as /usr/bin/python3"
        )


def check_brought(directory: Path, *, reach: bool) -> None:
    """Refuses an environment that is not complete, or (`reach`) that the services could not use. Raises
    InstallationError."""
    for name in PROGRAMS:
        if not (directory / "bin" / name).is_file():
            raise InstallationError(f"{directory} has no bin/{name}", hint=f"{directory}/bin/pip install proxywatch")
    base = (directory / "bin/python").resolve().parents[1]
    if reach and (why := out_of_reach(directory) or out_of_reach(base)):
        raise InstallationError(f"--venv cannot be used: {why}", hint="make it below /opt, with the system's Python")


@dataclass(frozen=True, slots=True)
class BuildEnvironment:
    """The environment of a release, complete or not there. No way back removes it: programs may run from it."""

    environment: Environment
    release: Release

    @property
    def says(self) -> str:
        how = f"from {self.release.wheel.name}" if self.release.wheel else "from the running programs"
        return f"build {self.environment.directory} {how}"

    @property
    def touches(self) -> tuple[str, ...]:
        return (self.environment.directory,)

    def look(self, world: World) -> Finding:
        complete = world.at(self.environment.directory) / _COMPLETE
        return DONE if complete.is_file() else due()

    def do(self, world: World) -> Undo | None:
        place = world.at(self.environment.directory)
        remove_tree(place)
        world.make_way(str(Path(self.environment.directory).parent))
        world.record.trees = sorted({*world.record.trees, self.environment.directory})
        world.save()
        done = world.command((sys.executable, "-m", "venv", "--without-pip", str(place)), _VENV_SECONDS)
        if done.status != 0:
            raise InstallationError(f"{self.environment.directory} could not be made: {done.last_line}")
        packages = place / f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
        if self.release.wheel is not None:
            _fill_from_wheel(world, self.release.wheel, place)
        else:
            _fill_from_running(packages, place)
        for name, module in _MODULES.items():
            script = place / "bin" / name
            script.write_text(
                f"#!{self.environment.directory}/bin/python\nimport sys\nfrom {module} import main\nsys.exit(main())\n"
            )
            script.chmod(0o755)
        world.command((sys.executable, "-m", "compileall", "-q", str(packages)), _VENV_SECONDS)
        (place / _COMPLETE).touch()
        return None


def _fill_from_wheel(world: World, wheel: Path, place: Path) -> None:
    argv = (sys.executable, "-m", "pip", "--python", str(place / "bin/python"), "install", "--quiet")
    done = world.command((*argv, "--disable-pip-version-check", str(wheel)), _PIP_SECONDS)
    if done.status != 0:
        raise InstallationError(
            f"pip could not install {wheel.name}: {done.last_line}",
            hint="it needs a package index, or PIP_FIND_LINKS and PIP_NO_INDEX with wheels of all that is required",
        )


def _fill_from_running(packages: Path, place: Path) -> None:
    try:
        for distribution in required():
            for file in distribution.files or ():
                source = Path(str(distribution.locate_file(file)))
                # Bytecode stands in the record, and may be missing where it is not wanted.
                if ".." not in file.parts and (file.suffix != ".pyc" or source.is_file()):
                    _copy(source, packages / file)
        for name in PACKAGES:
            shutil.copytree(
                package_directory(name),
                packages / name,
                ignore=shutil.ignore_patterns("__pycache__"),
                dirs_exist_ok=True,
            )
        _write_metadata(packages)
        found = shipped()
        shutil.copytree(found.config, place / "share/proxywatch/config")
        shutil.copytree(found.systemd, place / "share/proxywatch/systemd")
        if found.documentation.is_dir():
            shutil.copytree(found.documentation, place / "share/doc/proxywatch")
    except (OSError, shutil.Error) as error:
        raise InstallationError(f"the running programs could not be copied: {error}") from error


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, target)


def _write_metadata(packages: Path) -> None:
    """What says which distribution this is and what it requires, so that it can be copied and judged in its turn."""
    target = packages / f"{DISTRIBUTION}-{__version__}.dist-info"
    target.mkdir()
    lines = ["Metadata-Version: 2.1", f"Name: {DISTRIBUTION}", f"Version: {__version__}"]
    (target / "METADATA").write_text("\n".join([*lines, *(f"Requires-Dist: {r}" for r in _own_requirements()), ""]))
    (target / "INSTALLER").write_text(f"{DISTRIBUTION}\n")
    paths = [path for name in (*PACKAGES, target.name) for path in sorted((packages / name).rglob("*"))]
    record = [str(path.relative_to(packages)) for path in paths if path.is_file()]
    (target / "RECORD").write_text("".join(f"{name},,\n" for name in [*record, f"{target.name}/RECORD"]))


def required() -> Iterator[metadata.Distribution]:
    """The distributions that the running programs require, each once, ours left out. One that only other systems or
    Pythons need need not be there. Raises InstallationError."""
    waiting, seen = [_own_requirements()], {DISTRIBUTION}
    while waiting:
        for requirement in waiting.pop():
            name = _name(re.split(r"[^\w.-]", requirement, maxsplit=1)[0])
            if name in seen or not _wanted(requirement, name):
                continue
            seen.add(name)
            try:
                distribution = metadata.distribution(name)
            except metadata.PackageNotFoundError as error:
                raise InstallationError(f"{name} is required and not installed") from error
            yield distribution
            waiting.append(distribution.requires or [])


def _own_requirements() -> list[str]:
    """Of a checkout what it says itself, for an editable installation may be older than it."""
    if (project := own_project()) is not None:
        named = tomllib.loads(project.read_text())["project"]
        extras = named["optional-dependencies"]
        return [*named["dependencies"], *(f'{r}; extra == "{extra}"' for extra in _OPTIONAL for r in extras[extra])]
    return metadata.requires(DISTRIBUTION) or []


def _wanted(requirement: str, name: str) -> bool:
    _, _, marker = requirement.partition(";")
    if not marker:
        return True
    extra = re.search(r"""extra\s*==\s*['"]([\w-]+)""", marker)
    if extra is not None and extra[1] not in _OPTIONAL:
        return False
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _name(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
