"""The wheel and the source distribution: both have everything that an installation needs, and the wheel works."""

from __future__ import annotations

import shutil
import sys
import sysconfig
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from watchdog.errors import InstallationError
from watchdog.installation.environment import BuildEnvironment
from watchdog.installation.layout import own_environment
from watchdog.installation.release import Release, release_of
from watchdog.installation.world import Command, Done, World, run_command
from watchdog.release import __version__

REPOSITORY = Path(__file__).resolve().parents[3]
PARTS = ("watchdog", "proxy", "config", "systemd", "docs")
CHECK = ("config", "check")
FILES = ("pyproject.toml", "README.md", "LICENSE")


def _checkout(target: Path) -> Path:
    """A copy, for neighbours' changes must not come between the building of two things that are compared."""
    target.mkdir()
    for name in PARTS:
        shutil.copytree(REPOSITORY / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copyfile(REPOSITORY / name, target / name)
    return target


def _builder(place: Path) -> Path:
    """A Python with the setuptools that pyproject.toml asks for, from the package index that pip is configured for."""
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target", str(place))
    done = run_command((*pip, "--only-binary", ":all:", "setuptools>=77"), 90)
    if done.status != 0:
        pytest.skip(f"building needs setuptools 77, and no package index gave it: {done.last_line}")
    return place


def told(**environment: str) -> Command:
    """Commands with something more in their environment."""

    def command(argv: Sequence[str], seconds: float) -> Done:
        return run_command(("env", *(f"{name}={value}" for name, value in environment.items()), *argv), seconds)

    return command


@pytest.mark.timeout(300)
def test_what_is_built_is_whole_and_works(tmp_path: Path) -> None:
    """Wheel and source distribution have everything that an installation needs; an environment made of the wheel runs.
    (One test, for what all three are built with comes from a package index.)"""
    checkout, builder = _checkout(tmp_path / "checkout"), _builder(tmp_path / "builder")
    with release_of(checkout, told(PYTHONPATH=str(builder), PIP_NO_BUILD_ISOLATION="false")) as release:
        _has_every_file(checkout, release)
        _works(release, tmp_path / "host")
    _can_build_the_same(checkout, builder, tmp_path / "dist")


def _has_every_file(checkout: Path, wheel: Release) -> None:
    """Byte for byte what the checkout has in config/ and systemd/, and it is known by version and content."""
    expected = {
        f"{folder}/{path.relative_to(checkout / folder)}": path.read_bytes()
        for folder in ("config", "systemd")
        for path in (checkout / folder).rglob("*")
        if path.is_file()
    }
    missing = sorted(set(expected) - set(wheel.files))
    assert not missing, f"[tool.setuptools.data-files] of pyproject.toml lacks {missing}"
    assert wheel.files == expected
    assert wheel.version == __version__
    assert wheel.identity.startswith(f"{__version__}-")


def _can_build_the_same(checkout: Path, builder: Path, target: Path) -> None:
    """Code, migrations, defaults, units and documentation are in it."""
    build = "import setuptools.build_meta as backend, sys; backend.build_sdist(sys.argv[1])"
    target.mkdir()
    done = told(PYTHONPATH=str(builder))(("env", "-C", str(checkout), sys.executable, "-c", build, str(target)), 60)
    assert done.status == 0, done.output
    with tarfile.open(next(target.glob("*.tar.gz"))) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    needed = {
        str(path.relative_to(checkout))
        for part in PARTS
        for path in (checkout / part).rglob("*")
        if path.is_file() and path.suffix in {".py", ".sql", ".yaml", ".md", ".service", ".socket", ".conf", ".rules"}
    }
    assert needed | set(FILES) <= packed


def _works(wheel: Release, root: Path) -> None:
    """Both programs judge the defaults that came with them, found by themselves, to be good."""
    here = own_environment(wheel.identity)
    root.mkdir()
    world = World(root, told(PIP_NO_DEPS="1", PIP_NO_INDEX="1"))
    BuildEnvironment(here, wheel).do(world)
    place = world.at(here.directory)
    elsewhere = told(PYTHONPATH=sysconfig.get_path("purelib"))
    for name in ("proxywatch", "llm-proxy"):
        done = elsewhere(("env", "-C", str(root), str(place / "bin/python"), str(place / "bin" / name), *CHECK), 60)
        assert done.status == 0, done.output
        assert str(place / "share/proxywatch/config") in done.output
    assert (place / "share/doc/proxywatch/systemd.md").is_file()
    assert world.record.trees == [here.directory]


def test_what_is_no_release_is_refused(tmp_path: Path) -> None:
    """A folder without a project, a file that is not there and another's wheel are errors that say what is expected."""
    (tmp_path / "other-1.0-py3-none-any.whl").touch()
    for source, message in (
        (tmp_path, "no checkout"),
        (tmp_path / "missing.tar.gz", "does not exist"),
        (tmp_path / "other-1.0-py3-none-any.whl", "no wheel of proxywatch"),
    ):
        with pytest.raises(InstallationError, match=message), release_of(source, run_command):
            pytest.fail("it was taken for a release")
