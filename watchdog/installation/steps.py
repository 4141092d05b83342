"""The step: what it says, whether it is done already, how it is done and undone; and the steps that concern files."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, Protocol

from watchdog.errors import InstallationError
from watchdog.installation.world import World, digest, remove_tree

State = Literal["done", "due", "kept"]
"""`kept`: it is otherwise than a new installation would have it, because somebody wants it so."""

Undo = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Finding:
    """How a step found the host."""

    state: State
    note: str = ""


DONE = Finding("done")


def due(note: str = "") -> Finding:
    """There is something to do."""
    return Finding("due", note)


class Step(Protocol):
    """A step changes nothing until `do`, which is called only after `look` found it due."""

    @property
    def says(self) -> str:
        """What it is about, as an order."""
        ...

    @property
    def touches(self) -> tuple[str, ...]:
        """The paths that it would change, for steps whose need comes from that."""
        ...

    def look(self, world: World) -> Finding:
        """Whether it is done. Raises InstallationError if that cannot be found out."""
        ...

    def do(self, world: World) -> Undo | None:
        """Does it, and returns the way back if there is one. Raises InstallationError."""
        ...


@dataclass(frozen=True, slots=True)
class PutFile:
    """A file with this content. One that somebody has changed stays as it is: the new one is put beside it."""

    path: str
    content: bytes
    mode: int = 0o644

    @property
    def says(self) -> str:
        return f"write {self.path}"

    @property
    def touches(self) -> tuple[str, ...]:
        return (self.path,)

    @property
    def _beside(self) -> str:
        return f"{self.path}.new"

    def look(self, world: World) -> Finding:
        now = world.read(self.path)
        if now == self.content:
            return DONE
        if now is None:
            return due()
        written = world.record.files.get(self.path)
        if written == digest(now):
            return due("replaces what came with the version before")
        if written == digest(self.content):
            return Finding("kept", "changed here since it was installed")
        if world.read(self._beside) == self.content:
            return Finding("kept", f"changed here; the new one is beside it: {self._beside}")
        return due(f"it was changed here and stays; the new one is put beside it: {self._beside}")

    def do(self, world: World) -> Undo | None:
        now = world.read(self.path)
        ours = now is None or world.record.files.get(self.path) == digest(now)
        path = self.path if ours else self._beside
        before, written = world.read(path), world.record.files.get(path)
        times = None if before is None else world.at(path).lstat()
        world.write(path, self.content, self.mode)

        def undo() -> None:
            if before is None or times is None:
                world.remove(path)
                return
            world.write(path, before, self.mode)
            # A process that was started with it has no reason to be started again.
            os.utime(world.at(path), ns=(times.st_atime_ns, times.st_mtime_ns), follow_symlinks=False)
            if written is None:
                del world.record.files[path]

        return undo


@dataclass(frozen=True, slots=True)
class MakeSecret:
    """A file with a secret that nobody but root reads; one that is there stays. It is never part of any message."""

    path: str
    content: bytes

    @property
    def says(self) -> str:
        return f"make the admin key in {self.path}"

    @property
    def touches(self) -> tuple[str, ...]:
        return (self.path,)

    def look(self, world: World) -> Finding:
        return DONE if world.read(self.path) is not None else due()

    def do(self, world: World) -> Undo | None:
        world.write(self.path, self.content, 0o600)
        return lambda: world.remove(self.path)


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link."""

    path: str
    target: str

    @property
    def says(self) -> str:
        return f"link {self.path} to {self.target}"

    @property
    def touches(self) -> tuple[str, ...]:
        return (self.path,)

    def look(self, world: World) -> Finding:
        return DONE if self._now(world) == self.target else due()

    def do(self, world: World) -> Undo | None:
        before = self._now(world)
        if os.path.lexists(world.at(self.path)) and self.path not in world.record.links:
            raise InstallationError(
                f"{self.path} is there and no link of ours", hint="move it away, or name another place"
            )
        world.link(self.path, self.target)
        return (lambda: world.remove(self.path)) if before is None else (lambda: world.link(self.path, before))

    def _now(self, world: World) -> str | None:
        with suppress(OSError):
            return str(world.at(self.path).readlink())
        return None


@dataclass(frozen=True, slots=True)
class RemoveFile:
    """A file that was installed. One that was changed since is left."""

    path: str

    @property
    def says(self) -> str:
        return f"remove {self.path}"

    @property
    def touches(self) -> tuple[str, ...]:
        return (self.path,)

    def look(self, world: World) -> Finding:
        now = world.read(self.path)
        if now is None:
            return DONE
        if world.record.files.get(self.path) != digest(now):
            return Finding("kept", "changed here since it was installed")
        return due()

    def do(self, world: World) -> Undo | None:
        before = world.read(self.path)
        mode = stat.S_IMODE(world.at(self.path).lstat().st_mode)
        world.remove(self.path)
        return None if before is None else lambda: world.write(self.path, before, mode)


@dataclass(frozen=True, slots=True)
class RemoveLink:
    """A link that was made."""

    path: str

    @property
    def says(self) -> str:
        return f"remove the link {self.path}"

    @property
    def touches(self) -> tuple[str, ...]:
        return (self.path,)

    def look(self, world: World) -> Finding:
        place = world.at(self.path)
        if not os.path.lexists(place):
            return DONE
        wanted = world.record.links.get(self.path)
        return (
            due() if place.is_symlink() and str(place.readlink()) == wanted else Finding("kept", "it leads elsewhere")
        )

    def do(self, world: World) -> Undo | None:
        world.remove(self.path)
        return None


@dataclass(frozen=True, slots=True)
class RemoveDirectory:
    """A directory that was made, if nothing is left in it."""

    path: str

    @property
    def says(self) -> str:
        return f"remove the directory {self.path}"

    @property
    def touches(self) -> tuple[str, ...]:
        return (self.path,)

    def look(self, world: World) -> Finding:
        place = world.at(self.path)
        if not place.is_dir():
            return DONE
        strange = sorted(entry.name for entry in place.iterdir() if f"{self.path}/{entry.name}" not in world.pending)
        return Finding("kept", f"there is more in it: {', '.join(strange)}") if strange else due()

    def do(self, world: World) -> Undo | None:
        try:
            world.at(self.path).rmdir()
        except OSError as error:
            raise InstallationError(f"{self.path} cannot be removed: {error.strerror}") from error
        return None


@dataclass(frozen=True, slots=True)
class RemoveTree:
    """A directory with all that is in it."""

    path: str

    @property
    def says(self) -> str:
        return f"remove {self.path} with all that is in it"

    @property
    def touches(self) -> tuple[str, ...]:
        return (self.path,)

    def look(self, world: World) -> Finding:
        return due() if world.at(self.path).is_dir() else DONE

    def do(self, world: World) -> Undo | None:
        remove_tree(world.at(self.path))
        if self.path in world.record.trees:
            world.record.trees.remove(self.path)
        for path in [path for path in world.record.files if path.startswith(f"{self.path}/")]:
            del world.record.files[path]
        return None
