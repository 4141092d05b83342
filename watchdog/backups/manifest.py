"""What an archive says of itself. Read as suspiciously as anything that comes from a disk."""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from watchdog.errors import BackupError
from watchdog.registry import Settings

FORMAT = 1
MOST_MEMBERS = 2000
MOST_FILE_BYTES = 16 * 1024 * 1024
"""Of one configuration file: far above what people write."""
MOST_BYTES = 64 * 1024**3
"""Of all that an archive holds, unpacked."""


class Member(Settings):
    """One file as it was found; `path` is absolute."""

    path: str
    kind: Literal["file", "database"]
    size: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    mode: int = Field(ge=0, le=0o777)
    uid: int = Field(ge=0)
    gid: int = Field(ge=0)
    modified_ns: int

    @field_validator("path")
    @classmethod
    def _plain(cls, path: str) -> str:
        return plain_path(path)

    @property
    def name(self) -> str:
        """Its name in the archive: `tar -xzf` by hand gives the tree back below `files`."""
        return f"files{self.path}"


class Manifest(Settings):
    """The first member of every archive, `manifest.json`."""

    format: int
    holding: str
    """What it is of: the name of a service, or `proxywatch`."""
    made_at: float
    """Epoch seconds by the machine's clock."""
    reason: str
    versions: dict[str, str]
    point: bool = False
    """A restore point: every byte as found, good or bad, and never chosen for a restore by itself."""
    undone: str = ""
    """The restore point whose undo kept this before it took it back; empty: not of that kind."""
    changed: tuple[str, ...] = ()
    """What had been changed by somebody else then."""
    minimal: bool = False
    """Made while a minimal configuration was in place, which is no configuration to come back to."""
    main: str
    """The path of the main configuration file."""
    patterns: tuple[str, ...]
    databases: tuple[str, ...] = ()
    """What it covers: whatever matches and is no member was not there."""
    members: tuple[Member, ...] = Field(max_length=MOST_MEMBERS)
    left_out: dict[str, str] = {}
    """Databases that could not be copied, and why."""

    @model_validator(mode="after")
    def _bounded(self) -> Manifest:
        paths = [member.path for member in self.members]
        if len(set(paths)) != len(paths):
            raise ValueError("it names a path twice")
        for member in self.members:
            if member.kind == "file" and not self.point and member.size > MOST_FILE_BYTES:
                raise ValueError(f"{member.path} is larger than a configuration file may be")
        if sum(member.size for member in self.members) > MOST_BYTES:
            raise ValueError("it holds more than an archive may hold")
        return self

    @property
    def files(self) -> dict[str, Member]:
        """Configuration files by path."""
        return {m.path: m for m in self.members if m.kind == "file"}

    def same_files(self, other: Manifest) -> bool:
        """Whether both hold the same configuration, word for word."""
        return {p: m.sha256 for p, m in self.files.items()} == {p: m.sha256 for p, m in other.files.items()}


def plain_path(path: str) -> str:
    """An absolute path that says where it leads. Raises ValueError."""
    pure = PurePosixPath(path)
    if not path.startswith("/") or path.startswith("//") or str(pure) != path or ".." in pure.parts or path == "/":
        raise ValueError(f"{path!r} is no plain absolute path")
    if any(ord(c) < 32 for c in path):
        raise ValueError(f"{path!r} holds control characters")
    return path


def parse_manifest(text: bytes) -> Manifest:
    """Raises BackupError: no JSON, another format, or something in it that cannot be."""
    try:
        body = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BackupError(f"its manifest is not JSON: {error}", permanent=True) from None
    version = body.get("format") if isinstance(body, dict) else None
    if isinstance(version, int) and version > FORMAT:
        raise BackupError(f"made by a newer proxywatch (format {version}, this one knows {FORMAT})", permanent=True)
    try:
        return Manifest.model_validate(body)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(map(str, problem["loc"]))
        raise BackupError(f"its manifest: {where + ': ' if where else ''}{problem['msg']}", permanent=True) from None
