"""What is installed: a release, read from the programs that run or from a wheel, and how an environment gets it.

A source distribution or a checkout is made into a wheel first. A release is known by its version and its content, so
that the same one is the same, however it came.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from watchdog.errors import InstallationError
from watchdog.installation.world import Command
from watchdog.release import __version__

PACKAGES = ("watchdog", "proxy")
DATA = ("config", "systemd")
_CHECKOUT = ("pyproject.toml", "README.md", "LICENSE", "watchdog", "proxy", "config", "systemd", "docs")
_BUILD_SECONDS = 300.0
_NOT_OURS = ("__pycache__",)


@dataclass(frozen=True, slots=True)
class Release:
    """`files` are those of `config/` and `systemd/` by their path there, beginning with either; `wheel` is None for
    the programs that run."""

    version: str
    identity: str
    files: Mapping[str, bytes]
    wheel: Path | None = None


@dataclass(frozen=True, slots=True)
class Shipped:
    """Where the running programs keep what is not code."""

    config: Path
    systemd: Path
    documentation: Path


def own_project() -> Path | None:
    """pyproject.toml of the checkout that the programs run from; None if they are installed."""
    file = Path(__file__).resolve().parents[2] / "pyproject.toml"
    return file if file.is_file() else None


def shipped() -> Shipped:
    """Of a checkout if they run from one, else of their environment. Raises InstallationError."""
    if (project := own_project()) is not None:
        checkout = project.parent
        found = Shipped(checkout / "config", checkout / "systemd", checkout / "docs")
    else:
        share = Path(sys.prefix) / "share"
        found = Shipped(share / "proxywatch/config", share / "proxywatch/systemd", share / "doc/proxywatch")
    for directory in (found.config, found.systemd):
        if not directory.is_dir():
            raise InstallationError(f"{directory} is missing", hint="name what to install: --from WHEEL or CHECKOUT")
    return found


def package_directory(name: str) -> Path:
    """Where one of our packages is, without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise InstallationError(f"the package {name} is not there", hint="name what to install: --from WHEEL")
    return Path(next(iter(spec.submodule_search_locations)))


def running() -> Release:
    """The programs that run now. Raises InstallationError."""
    content: dict[str, bytes] = {}
    for package in PACKAGES:
        content |= _under(package_directory(package), package)
    found = shipped()
    data = _under(found.config, "config") | _under(found.systemd, "systemd")
    return Release(__version__, _identity(__version__, content | data), data)


@contextmanager
def release_of(source: Path | None, command: Command) -> Iterator[Release]:
    """A wheel, a source distribution or a checkout, or else the programs that run; what is made of it lasts as long as
    the context. Raises InstallationError."""
    if source is None:
        yield running()
        return
    with tempfile.TemporaryDirectory(prefix="proxywatch-") as scratch:
        yield _of_wheel(source if source.suffix == ".whl" else _wheel_of(source, Path(scratch), command))


def _wheel_of(source: Path, scratch: Path, command: Command) -> Path:
    if source.is_dir():
        if not (source / "pyproject.toml").is_file():
            raise InstallationError(f"{source} is no checkout: it has no pyproject.toml")
        source = _copied(source, scratch / "checkout")
    elif not source.is_file():
        raise InstallationError(f"{source} does not exist; expected a wheel, a source distribution or a checkout")
    argv = (sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps")
    done = command((*argv, "--wheel-dir", str(scratch / "wheel"), str(source)), _BUILD_SECONDS)
    made = sorted((scratch / "wheel").glob("proxywatch-*.whl"))
    if done.status != 0 or not made:
        raise InstallationError(
            f"no wheel could be built from {source}: {done.last_line}",
            hint="building needs pip and setuptools 77; build it elsewhere with `pip wheel --no-deps .`",
        )
    return made[0]


def _copied(checkout: Path, target: Path) -> Path:
    """Building writes beside what it builds."""
    import shutil

    target.mkdir()
    for name in _CHECKOUT:
        if (checkout / name).is_dir():
            shutil.copytree(checkout / name, target / name, ignore=shutil.ignore_patterns(*_NOT_OURS))
        elif (checkout / name).is_file():
            shutil.copyfile(checkout / name, target / name)
    return target


def _of_wheel(wheel: Path) -> Release:
    named = re.fullmatch(r"proxywatch-([^-]+)-py3-none-any\.whl", wheel.name)
    if named is None:
        raise InstallationError(f"{wheel.name} is no wheel of proxywatch")
    version = named[1]
    shared = f"proxywatch-{version}.data/data/share/proxywatch/"
    content, data = {}, {}
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if name.startswith(shared):
                    data[name.removeprefix(shared)] = archive.read(name)
                elif name.partition("/")[0] in PACKAGES:
                    content[name] = archive.read(name)
    except (OSError, zipfile.BadZipFile) as error:
        raise InstallationError(f"{wheel} cannot be read: {error}") from error
    for folder in DATA:
        if not any(name.startswith(f"{folder}/") for name in data):
            raise InstallationError(f"{wheel.name} has no {folder}/", hint="it cannot be installed under systemd")
    return Release(version, _identity(version, content | data), data, wheel)


def _under(directory: Path, name: str) -> dict[str, bytes]:
    return {
        f"{name}/{path.relative_to(directory)}": path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and not set(_NOT_OURS).intersection(path.parts)
    }


def _identity(version: str, content: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name in sorted(content):
        digest.update(f"{name}\0{len(content[name])}\0".encode() + content[name])
    return f"{version}-{digest.hexdigest()[:12]}"
