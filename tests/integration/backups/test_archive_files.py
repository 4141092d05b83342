"""Archives as files: what is written is what is read, and whatever else is told apart with a reason."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Program

from watchdog.backups.archive import MANIFEST, read_manifest, unpack
from watchdog.backups.making import create
from watchdog.backups.shelf import Shelf
from watchdog.errors import BackupError

NOW = 1_795_000_000.0


async def made(shelf: Shelf, program: Program) -> Path:
    verdict = await create(shelf, program.holding, now=NOW, reason="a test")
    assert verdict.bad == ""
    return shelf.directory / verdict.name


async def test_what_is_in_an_archive_comes_out_again(shelf: Shelf, program: Program, tmp_path: Path) -> None:
    """Content, rights and times of every file, with a manifest that is first; nobody but the owner can read it."""
    path = await made(shelf, program)
    out = tmp_path / "out"
    out.mkdir()
    manifest = unpack(path, out)
    assert [m.path for m in manifest.members] == [str(program.main), str(program.fragment), str(program.database)]
    assert (out / "0").read_bytes() == program.main.read_bytes()
    assert manifest.members[0].mode == 0o640
    assert manifest.members[0].modified_ns == program.main.stat().st_mtime_ns
    assert path.stat().st_mode & 0o777 == 0o600
    assert shelf.directory.stat().st_mode & 0o777 == 0o700
    with tarfile.open(path) as tar:
        assert tar.getnames()[0] == MANIFEST
        assert tar.getnames()[1] == f"files{program.main}"
    assert str(program.key) not in [m.path for m in manifest.members]
    assert read_manifest(path) == manifest
    assert sorted(p.name for p in shelf.directory.iterdir()) == [".lock", "points", path.name]


Rewrite = Callable[[dict[str, Any], list[tuple[tarfile.TarInfo, bytes]]], None]


def rewritten(path: Path, change: Rewrite) -> None:
    """The same archive with another manifest or other members, packed anew."""
    with tarfile.open(path) as tar:
        found = [(info, tar.extractfile(info).read()) for info in tar]  # type: ignore[union-attr]
    manifest = json.loads(found[0][1])
    members = found[1:]
    change(manifest, members)
    with tarfile.open(path, "w:gz", format=tarfile.GNU_FORMAT) as tar:
        text = json.dumps(manifest).encode()
        info = tarfile.TarInfo(MANIFEST)
        info.size = len(text)
        tar.addfile(info, io.BytesIO(text))
        for info, content in members:
            if info.isreg():
                info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def other_path(path: str) -> Rewrite:
    def change(manifest: dict[str, Any], members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        manifest["members"][0]["path"] = path
        members[0][0].name = f"files{path}"

    return change


def as_kind(kind: bytes, link: str = "/etc/passwd") -> Rewrite:
    def change(_manifest: dict[str, Any], members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        members[0][0].type, members[0][0].linkname = kind, link

    return change


def longer_than_announced(manifest: dict[str, Any], members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    members[0] = (members[0][0], b"\0" * 50_000_000)


def bomb(manifest: dict[str, Any], members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    """A header of tar's own that is twenty megabytes long and packs to nothing."""
    members[0][0].name = "files/" + "a" * 20_000_000


def other_content(manifest: dict[str, Any], members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    info, content = members[0]
    members[0] = (info, content.replace(b"8000", b"9000"))


def flipped(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 0x10
    path.write_bytes(whole)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def without_manifest(path: Path) -> None:
    with tarfile.open(path, "w:gz") as tar:
        info = tarfile.TarInfo("files/etc/web.yaml")
        tar.addfile(info, io.BytesIO(b""))


def padded(path: Path) -> None:
    whole = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(whole + b"\0" * 20_000_000, 1))


def of(change: Rewrite) -> Callable[[Path], None]:
    return lambda path: rewritten(path, change)


BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated": (cut, "truncated"),
    "a flipped bit": (flipped, "damaged|checksum"),
    "no archive at all": (lambda path: path.write_bytes(b"hello\n" * 99), "damaged: Not a gzipped file"),
    "empty": (lambda path: path.write_bytes(b""), "truncated|damaged"),
    "no manifest": (without_manifest, "its first member is no manifest"),
    "manifest is no JSON": (of(lambda m, _: m.clear()), "its manifest: "),
    "newer format": (of(lambda m, _: m.update(format=2)), r"made by a newer proxywatch \(format 2"),
    "unknown key": (of(lambda m, _: m.update(surprise=1)), "surprise: Extra inputs"),
    "relative path": (of(other_path("etc/web.yaml")), "no plain absolute path"),
    "path upwards": (of(other_path("/etc/../srv/x")), "no plain absolute path"),
    "path with a line end": (of(other_path("/etc/a\nb")), "control characters"),
    "symbolic link": (of(as_kind(tarfile.SYMTYPE)), "is no plain file"),
    "hard link": (of(as_kind(tarfile.LNKTYPE)), "is no plain file"),
    "device": (of(as_kind(tarfile.CHRTYPE)), "is no plain file"),
    "directory": (of(as_kind(tarfile.DIRTYPE)), "is no plain file"),
    "other content": (of(other_content), "its checksum differs"),
    "member missing": (of(lambda _, members: members.pop()), "is missing in it"),
    "member too many": (of(lambda _, members: members.append(members[0])), "more members than its manifest"),
    "members swapped": (of(lambda _, members: members.reverse()), "where its manifest says"),
    "twice the same path": (of(lambda m, _: m["members"].append(m["members"][0])), "names a path twice"),
    "longer than announced": (of(longer_than_announced), "has 50000000 bytes, not 11"),
    "a bomb in a header": (of(bomb), "unpacks to more than it announces"),
    "a bomb behind the end": (padded, "unpacks to more than it announces"),
    "file too large": (of(lambda m, _: m["members"][0].update(size=1 << 30)), "larger than a configuration file"),
    "setuid": (of(lambda m, _: m["members"][0].update(mode=0o4755)), "less than or equal to 511"),
}


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_archive_is_told_with_its_reason(shelf: Shelf, program: Program, tmp_path: Path, name: str) -> None:
    """Nothing but whole and plain archives is unpacked; the reason names the archive and is one line."""
    path = await made(shelf, program)
    spoil, reason = BAD[name]
    spoil(path)
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(BackupError, match=reason) as caught:
        unpack(path, out)
    assert str(caught.value).startswith(f"{path.name}: ")
    assert "\n" not in str(caught.value)
    assert sum(p.stat().st_size for p in out.iterdir()) < 1_000_000
