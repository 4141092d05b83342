"""One archive: a gzipped tar whose first member is the manifest. Written whole or not at all; read to its last byte.

Nothing in it is trusted: members must be regular files, named and sized as the manifest says and in its order; no more
is unpacked than was announced.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import itertools
import os
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, cast

from watchdog.backups.manifest import Manifest, Member, parse_manifest
from watchdog.errors import BackupError

MANIFEST = "manifest.json"
MOST_MANIFEST_BYTES = 4 * 1024 * 1024
_CHUNK = 1024 * 1024
_PER_MEMBER = 16 * 1024
"""What tar's own headers and padding may take, generously."""


def write(target: Path, manifest: Manifest, contents: Iterable[bytes | Path]) -> None:
    """Makes `target` (mode 0600, of the directory's owner) of the manifest and its members' contents, in order.
    Durable when it returns. Raises BackupError, also where a content is no longer what the manifest says."""
    draft = target.with_name(f".{target.name}.new")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as raw:
                _give_to_owner(raw.fileno(), target.parent)
                with (
                    gzip.GzipFile("", "wb", 6, raw, 0) as packed,
                    tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as tar,
                ):
                    _add(tar, MANIFEST, manifest.model_dump_json(indent=1).encode(), None, manifest.made_at)
                    for member, content in zip(manifest.members, contents, strict=True):
                        _add(tar, member.name, content, member, member.modified_ns / 1e9)
                raw.flush()
                os.fsync(raw.fileno())
            draft.replace(target)
        finally:
            with suppress(FileNotFoundError):
                draft.unlink()
        sync_directory(target.parent)
    except OSError as error:
        raise BackupError(f"{target}: cannot be written: {error.strerror or error}") from error


def _add(tar: tarfile.TarFile, name: str, content: bytes | Path, member: Member | None, at: float) -> None:
    info = tarfile.TarInfo(name)
    info.mtime = int(at)
    info.mode = 0o600 if member is None else member.mode
    if member is not None:
        info.uid, info.gid = member.uid, member.gid
    with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as source:
        info.size = source.seek(0, os.SEEK_END)
        source.seek(0)
        if member is not None and info.size != member.size:
            raise BackupError(f"{member.path} changed while it was archived")
        tar.addfile(info, source)


def _give_to_owner(descriptor: int, directory: Path) -> None:
    """What root makes by hand must be readable for the agent's user."""
    if os.geteuid() == 0:
        owner = directory.stat()
        os.fchown(descriptor, owner.st_uid, owner.st_gid)


def read_manifest(path: Path) -> Manifest:
    """Only what the archive says of itself. Raises BackupError."""
    return _read(path, None, whole=False)


def unpack(path: Path, into: Path | None = None) -> Manifest:
    """Reads all of it and compares it with its manifest; each member becomes the file `into/NUMBER`. Raises BackupError
    with a reason: truncated, damaged, not what it says, or larger than it says."""
    return _read(path, into, whole=True)


def read_files(path: Path) -> dict[str, bytes]:
    """The configuration files in it by path, compared with their checksums; nothing of what comes after them, which
    are databases. Raises BackupError."""
    with _opened(path) as (tar, source):
        members = _first(tar).members
        files = [*itertools.takewhile(lambda member: member.kind == "file", members)]
        source.allow(sum(member.size for member in files) + (len(files) + 1) * _PER_MEMBER)
        found = {}
        for member in files:
            content = io.BytesIO()
            _take(tar, member, content)
            found[member.path] = content.getvalue()
        return found


def _read(path: Path, into: Path | None, *, whole: bool) -> Manifest:
    with _opened(path) as (tar, source):
        manifest = _first(tar)
        if not whole:
            return manifest
        source.allow(sum(m.size for m in manifest.members) + (len(manifest.members) + 2) * _PER_MEMBER)
        for number, member in enumerate(manifest.members):
            with Path(os.devnull if into is None else into / str(number)).open("wb") as out:
                _take(tar, member, out)
        _nothing_more(tar)
        source.drain()
        return manifest


@contextmanager
def _opened(path: Path) -> Iterator[tuple[tarfile.TarFile, _Bounded]]:
    """An archive to be read from its first byte on; whatever goes wrong meanwhile is a BackupError with its name."""
    try:
        with path.open("rb") as raw, gzip.GzipFile(fileobj=raw) as packed:
            source = _Bounded(packed, MOST_MANIFEST_BYTES + _PER_MEMBER)
            with tarfile.open("", "r|", cast("IO[bytes]", source), bufsize=tarfile.BLOCKSIZE) as tar:
                yield tar, source
    except BackupError as error:
        raise BackupError(f"{path.name}: {error}", permanent=True) from None
    except (EOFError, tarfile.ReadError, zlib.error, gzip.BadGzipFile) as error:
        why = "truncated" if isinstance(error, EOFError) or "end of" in str(error) else f"damaged: {error}"
        raise BackupError(f"{path.name}: {why}", permanent=True) from None
    except (tarfile.TarError, ValueError, OverflowError, UnicodeError) as error:
        raise BackupError(f"{path.name}: damaged: {error}", permanent=True) from None
    except OSError as error:
        raise BackupError(f"{path.name}: cannot be read: {error.strerror or error}") from error


def _nothing_more(tar: tarfile.TarFile) -> None:
    if tar.next() is not None:
        raise BackupError("it holds more members than its manifest names", permanent=True)


def _first(tar: tarfile.TarFile) -> Manifest:
    info = tar.next()
    if info is None or info.name != MANIFEST or not info.isreg():
        raise BackupError("its first member is no manifest", permanent=True)
    if info.size > MOST_MANIFEST_BYTES:
        raise BackupError("its manifest is too large", permanent=True)
    found = tar.extractfile(info)
    assert found is not None
    return parse_manifest(found.read())


def _take(tar: tarfile.TarFile, member: Member, out: IO[bytes]) -> None:
    info = tar.next()
    if info is None:
        raise BackupError(f"{member.path} is missing in it", permanent=True)
    if not info.isreg() or info.sparse is not None:
        raise BackupError(f"{info.name!r} in it is no plain file", permanent=True)
    if info.name != member.name:
        raise BackupError(f"it holds {info.name!r} where its manifest says {member.name!r}", permanent=True)
    if info.size != member.size:
        raise BackupError(f"{member.path} has {info.size} bytes, not {member.size}", permanent=True)
    content = tar.extractfile(info)
    assert content is not None
    digest = hashlib.sha256()
    while chunk := content.read(_CHUNK):
        digest.update(chunk)
        out.write(chunk)
    if digest.hexdigest() != member.sha256:
        raise BackupError(f"{member.path} is not what was archived: its checksum differs", permanent=True)


class _Bounded:
    """Reads no further than was allowed, whatever a header claims."""

    def __init__(self, source: gzip.GzipFile, allowed: int) -> None:
        self._source = source
        self._left = allowed

    def allow(self, more: int) -> None:
        self._left += more

    def read(self, size: int, /) -> bytes:
        chunk = self._source.read(size)
        self._left -= len(chunk)
        if self._left < 0:
            raise BackupError("it unpacks to more than it announces", permanent=True)
        return chunk

    def drain(self) -> None:
        """To the end, where gzip keeps the checksum of all of it."""
        while self.read(_CHUNK):
            pass


def digest_of(source: IO[bytes]) -> str:
    """SHA-256 of an open file, from where it stands."""
    digest = hashlib.sha256()
    while chunk := source.read(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


def sync_directory(directory: Path) -> None:
    """Makes renames in it durable. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
