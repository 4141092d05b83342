"""The step that takes secrets from where an older release had them: a directory whose parent the agent may write in."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass

from watchdog.errors import InstallationError
from watchdog.installation.reach import open_directory
from watchdog.installation.steps import DONE, Finding, Undo, due
from watchdog.installation.world import World


@dataclass(frozen=True, slots=True)
class MoveSecrets:
    """Each file of the old directory is in the new one, which wins where both have it. A later step removes the old
    one, when all has gone well."""

    old: str
    new: str

    @property
    def says(self) -> str:
        return f"move the secrets of {self.old} to {self.new}"

    @property
    def touches(self) -> tuple[str, ...]:
        return (self.new,)

    def look(self, world: World) -> Finding:
        return due("where only root decides what systemd hands to a unit") if self._missing(world) else DONE

    def do(self, world: World) -> Undo | None:
        made = []
        for name in self._missing(world):
            content, path = world.read(f"{self.old}/{name}"), f"{self.new}/{name}"
            if content is None:
                continue
            ours = f"{self.old}/{name}" in world.record.files
            world.write(path, content, 0o600)
            if not ours:  # what a person put there is nothing that we remove
                del world.record.files[path]
            made.append(path)

        def undo() -> None:
            for path in made:
                world.remove(path)

        return undo

    def _missing(self, world: World) -> list[str]:
        return [name for name in self._names(world) if world.read(f"{self.new}/{name}") is None]

    def _names(self, world: World) -> list[str]:
        """Raises InstallationError for a directory, or a file in it, that somebody else could have put there."""
        try:
            directory = open_directory(world.root, self.old)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise InstallationError(f"{self.old} cannot be read: {error.strerror}") from error
        try:
            names = sorted(entry.name for entry in os.scandir(directory))
            places = {self.old: os.fstat(directory)}
            places |= {f"{self.old}/{n}": os.stat(n, dir_fd=directory, follow_symlinks=False) for n in names}
        except OSError as error:
            raise InstallationError(f"{self.old} cannot be read: {error.strerror}") from error
        finally:
            os.close(directory)
        for path, found in places.items():
            if found.st_uid not in (0, os.geteuid()) or stat.S_ISLNK(found.st_mode):
                raise InstallationError(
                    f"{path} was put there by user {found.st_uid}, and is no secret that root left",
                    hint=f"look at it; what is good belongs into {self.new}, then remove {self.old}",
                )
        return [name for name in names if stat.S_ISREG(places[f"{self.old}/{name}"].st_mode)]
