"""Judges an archive by really using it: unpacked, checksums compared, the configuration given to the program that it
belongs to, the databases opened and read through."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from watchdog.backups.archive import unpack
from watchdog.backups.databases import trouble
from watchdog.backups.holding import Holding, Piece
from watchdog.backups.manifest import Manifest, Member
from watchdog.errors import ActionError, BackupError
from watchdog.system.command import run_command

CHECK_SECONDS = 30.0
_MOST_NEIGHBOURS = 2000
_MOST_CHARACTERS = 300
_YAML = frozenset({".yaml", ".yml"})


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found of one archive. Empty texts mean good."""

    name: str
    manifest: Manifest | None = None
    problem: str = ""
    """Why nothing of it can be used."""
    configuration: str = ""
    """Why its configuration would be refused."""
    databases: Mapping[str, str] = field(default_factory=dict)
    """By path of each database that it holds: why it is not sound."""

    @property
    def bad(self) -> str:
        """The first thing that is wrong with it; empty if it is good altogether."""
        wrong = [f"{path}: {why}" for path, why in self.databases.items() if why]
        return self.problem or self.configuration or (wrong[0] if wrong else "")


async def examine(archive: Path, check: Iterable[str], scratch: Path) -> Verdict:
    """Unpacks into `scratch` (member N becomes `members/N`) and judges everything. Never raises for a bad archive."""
    members = scratch / "members"
    members.mkdir()
    try:
        manifest = await asyncio.to_thread(unpack, archive, members)
    except BackupError as error:
        return Verdict(archive.name, problem=str(error).removeprefix(f"{archive.name}: "))
    contents = {m.path: members / str(n) for n, m in enumerate(manifest.members)}
    configuration = await judge(
        {path: contents[path] for path in manifest.files}, manifest.main, manifest.patterns, check, scratch / "judged"
    )
    databases = {
        m.path: await asyncio.to_thread(trouble, contents[m.path]) for m in manifest.members if m.kind == "database"
    }
    return Verdict(archive.name, manifest, "", configuration, databases)


def content_of(scratch: Path, manifest: Manifest, member: Member) -> Path:
    """Where `examine` put a member."""
    return scratch / "members" / str(manifest.members.index(member))


async def judge_pieces(holding: Holding, pieces: Iterable[Piece], scratch: Path) -> str:
    """Why this configuration would be refused; empty: it is good."""
    return await judge(
        {piece.member.path: piece.content for piece in pieces},
        str(holding.main),
        holding.patterns,
        holding.check,
        scratch / "judged",
    )


async def judge(
    files: Mapping[str, bytes | Path], main: str, patterns: Iterable[str], check: Iterable[str], root: Path
) -> str:
    """Lets `check` judge copies of the files below `root`, as if they had been put back: what stands beside them today
    and belongs to no pattern (secrets, say) is seen there too. Why they are refused; empty: they are good."""
    if main not in files:
        return f"{main} is missing"
    argv = [argument.replace("{file}", f"{root}{main}") for argument in check]
    if not argv:
        return await asyncio.to_thread(_parsed, files)
    try:
        await asyncio.to_thread(_mirror, files, tuple(patterns), root)
        result = await run_command(argv, timeout=CHECK_SECONDS)
    except (ActionError, OSError) as error:
        return f"it could not be judged: {error}"
    if result.status == 0:
        return ""
    lines = [line.strip() for line in result.output.splitlines() if line.strip()]
    said = lines[-1].replace(str(root), "") if lines else f"{argv[0]} ended with {result.status}"
    return said[:_MOST_CHARACTERS]


def _mirror(files: Mapping[str, bytes | Path], patterns: tuple[str, ...], root: Path) -> None:
    parents = {os.path.dirname(path) for path in (*files, *patterns)}  # noqa: PTH120 - these are texts
    for directory in parents:
        Path(f"{root}{directory}").mkdir(parents=True, exist_ok=True)
    for path, content in files.items():
        target = Path(f"{root}{path}")
        if isinstance(content, bytes):
            target.write_bytes(content)
        else:
            shutil.copyfile(content, target)
    names = Holding("", patterns).names
    for directory in parents | {os.path.dirname(parent) for parent in parents}:  # noqa: PTH120
        with suppress(FileNotFoundError, PermissionError), os.scandir(directory) as entries:
            for _, entry in zip(range(_MOST_NEIGHBOURS), entries, strict=False):
                beside = Path(f"{root}{entry.path}")
                if not names(entry.path) and not os.path.lexists(beside):
                    beside.symlink_to(entry.path)


def _parsed(files: Mapping[str, bytes | Path]) -> str:
    import yaml

    for path, content in files.items():
        if Path(path).suffix in _YAML:
            try:
                text = content if isinstance(content, bytes) else content.read_bytes()
                for _ in yaml.compose_all(text, Loader=yaml.SafeLoader):
                    pass
            except (yaml.YAMLError, RecursionError, ValueError) as error:
                return f"{path}: not valid YAML: {' '.join(str(error).split())}"
    return ""
