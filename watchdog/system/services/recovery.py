"""What it takes to put a service back: its files and databases, who judges them, what may be cleared, what it needs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, field_validator, model_validator

from watchdog.registry import Settings, Size
from watchdog.system.listed_files import Pattern, checked_directory

_GLOB = "*?["


def _plain(text: str) -> str:
    """A relative path is meant from the working directory, which decides only later whether it may be cleared."""
    if text.startswith("/"):
        return checked_directory(text)
    if ".." in Path(text).parts or not Path(text).name:
        raise ValueError(f"expected a directory without `..`, not {text!r}")
    return text


class Clearing(Settings):
    """Files that nobody misses: by pattern, directly in one directory."""

    directory: Annotated[str, AfterValidator(_plain)]
    patterns: tuple[Pattern, ...] = Field(min_length=1)

    def place(self) -> str:
        """The absolute directory. Raises ValueError for one that nothing may be removed from."""
        return checked_directory(str(Path(self.directory).absolute()))


class Minimal(Settings):
    """How the smallest configuration is made that still serves: `overlay` over the YAML file `file`. Mappings are
    merged key by key, null takes a key away, everything else is replaced."""

    file: Path
    overlay: dict[str, Any] = Field(min_length=1)


class Needs(Settings):
    """What must be there before the service is started again."""

    disk: Size = 64 * 1024 * 1024
    """Free on each filesystem that holds its files, its databases or our archives, beyond what is put back."""
    inodes: int = Field(1000, ge=0)
    memory: Size = 64 * 1024 * 1024
    """Available, as /proc/meminfo has it."""
    ports: tuple[int, ...] = ()
    """TCP ports that nobody may hold while the service is stopped; leave out one that systemd holds for it."""

    @field_validator("ports")
    @classmethod
    def _are_ports(cls, ports: tuple[int, ...]) -> tuple[int, ...]:
        for port in ports:
            if not 0 < port < 65536:
                raise ValueError(f"{port} is no TCP port")
        return ports


class Recovery(Settings):
    """Paths are relative to the working directory. Files of secrets do not belong here: archives would hold them."""

    files: tuple[str, ...] = Field(min_length=1)
    """Configuration, as paths and patterns (`*` in the last part only); the first is the main file."""
    databases: tuple[Path, ...] = ()
    """SQLite."""
    check: tuple[str, ...] = ()
    """The program that judges a configuration: exit 0 means good. `{file}` is the main file, which is never the one in
    use but a copy beside copies of the others. Without it YAML files are only parsed."""
    minimal: Minimal | None = None
    temporary: tuple[Clearing, ...] = ()
    cache: tuple[Clearing, ...] = ()
    """What the service makes anew by itself when it is missing."""
    needs: Needs = Needs()

    @field_validator("files")
    @classmethod
    def _patterns(cls, files: tuple[str, ...]) -> tuple[str, ...]:
        for text in files:
            path = Path(text)
            if not path.name or ".." in path.parts or any(c in str(path.parent) for c in _GLOB):
                raise ValueError(f"expected a file, or a pattern of files in one directory, not {text!r}")
        if any(c in files[0] for c in _GLOB):
            raise ValueError(f"the first of `files` is the main one and no pattern, unlike {files[0]!r}")
        return files

    @model_validator(mode="after")
    def _minimal_of_its_own(self) -> Recovery:
        if self.minimal is not None and str(self.minimal.file) not in self.files:
            raise ValueError(f"`minimal.file` is none of `files`: {self.minimal.file}")
        return self
