"""The configuration that was accepted last, kept word for word in the state directory, so that one that was broken
since does not keep the agent from starting: nobody else watches then."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from watchdog.directories import STATE_DIR, directory
from watchdog.errors import ConfigError
from watchdog.files import Files, read_files
from watchdog.locations import found_file
from watchdog.settings import copied

DIRECTORY = "accepted"
_NOTE = "last.json"


def keep(files: Files) -> None:
    """Keeps what these were read from, unless that is what is kept already. It has been judged again as it lies there
    before it takes the place of the one before. Raises OSError, and ConfigError if it has changed to something bad
    since it was read."""
    place = files.loaded.config.state_dir.absolute() / DIRECTORY
    contents = {path.absolute(): path.read_bytes() for path in files.paths}
    name, main = _digest(contents), str(files.loaded.file.absolute())
    if _note(place) == {"main": main, "copy": name}:
        return
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    copy = place / name
    shutil.rmtree(copy, ignore_errors=True)
    for path, content in contents.items():
        _write(copied(path, copy), content)
    try:
        read_files(files.loaded.file, copy)
    except ConfigError:
        shutil.rmtree(copy, ignore_errors=True)
        raise
    _write(place / f"{_NOTE}.new", json.dumps({"main": main, "copy": name}).encode())
    (place / f"{_NOTE}.new").replace(place / _NOTE)
    for other in place.iterdir():
        if other.is_dir() and other != copy:
            shutil.rmtree(other, ignore_errors=True)


def last_good(file: Path | None, refused: ConfigError) -> Files | None:
    """What was kept of this very configuration, with the reason why it stands in. None if nothing was kept of it, or
    if that cannot be used any more either; `refused` says so then."""
    file = file or found_file()
    if file is None:
        return None
    default = os.environ.get("STATE_DIRECTORY", STATE_DIR).partition(":")[0]
    try:
        place = Path(directory("state_dir", file, default)).absolute() / DIRECTORY
    except ConfigError:
        place = Path(default).absolute() / DIRECTORY  # the file itself has gone
    note = _note(place)
    if note.get("main") != str(file.absolute()):
        return None
    try:
        kept = read_files(file, place / note["copy"])
    except ConfigError as error:
        refused.hint = "; ".join(filter(None, (refused.hint, f"the last good one cannot be used either: {error}")))
        return None
    return Files(kept.loaded, kept.groups, kept.playbooks, kept.routes, kept.paths, refused=str(refused))


def _digest(contents: Mapping[Path, bytes]) -> str:
    whole = hashlib.blake2b(digest_size=8)
    for path, content in sorted(contents.items()):
        whole.update(b"%d:%b%d:%b" % (len(bytes(path)), bytes(path), len(content), content))
    return whole.hexdigest()


def _note(place: Path) -> dict[str, str]:
    """Empty if nothing is kept, or the note cannot be read, which is the same."""
    try:
        note = json.loads((place / _NOTE).read_text())
    except (OSError, ValueError):
        return {}
    known = isinstance(note, dict) and note.keys() == {"main", "copy"}
    return {key: str(value) for key, value in note.items()} if known else {}


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open(path, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
