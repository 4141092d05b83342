"""What the master needs of a configuration. It is judged by the zygote, so that the master stays small."""

from __future__ import annotations

import contextlib
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from proxy.forking import Document, Zygote
from proxy.supervision import Pace


@dataclass(frozen=True, slots=True)
class Plan:
    """What the master itself needs of a configuration that was judged good, and the document for the workers."""

    document: Document
    file: str
    host: str
    port: int
    workers: int
    run_dir: Path
    state_dir: Path
    pace: Pace
    admin_key_files: tuple[Path, ...]
    demos: tuple[tuple[str, int], ...]
    """(name, port) of each provider of kind `local`."""


def load_plan(zygote: Zygote, file: str | None, overrides: Document) -> Plan:
    """Has the zygote judge the configuration. ConfigError if it is not good, ZygoteFailed."""
    plan = zygote.judge(file, overrides)
    return Plan(
        document=plan["document"],
        file=plan["file"],
        host=plan["host"],
        port=plan["port"],
        workers=plan["workers"],
        run_dir=Path(plan["run_dir"]),
        state_dir=Path(plan["state_dir"]),
        pace=Pace(**plan["recycle"]),
        admin_key_files=tuple(map(Path, plan["admin_key_files"])),
        demos=tuple((name, port) for name, port in plan["demos"]),
    )


def make_admin_keys(files: tuple[Path, ...]) -> list[Path]:
    """Makes each admin key that does not exist yet (mode 0600) and returns those that were made."""
    made = []
    for file in files:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "w") as out:
                out.write(secrets.token_urlsafe(32) + "\n")
            made.append(file)
    return made
