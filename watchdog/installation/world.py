"""The host as an installation sees and changes it: files below a root, commands, a record of what was put there."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from watchdog.clock import Clock, SystemClock
from watchdog.errors import InstallationError
from watchdog.installation.layout import RECORD
from watchdog.installation.reach import open_directory, parent_of, read_file

COMMAND_SECONDS = 60.0
_STANDARD = frozenset(
    {
        "/",
        "/etc",
        "/etc/credstore",
        "/opt",
        "/usr",
        "/usr/local",
        "/usr/local/bin",
        "/usr/local/lib",
        "/usr/local/lib/systemd",
        str(Path(RECORD).parent),
    }
)
"""Directories that are nobody's: one that an image lacks is made, and stays. The record's own goes with the record."""


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended. `output` holds what it said on both channels."""

    status: int
    output: str

    @property
    def last_line(self) -> str:
        """What it said last, which is where programs put the reason."""
        lines = [line.strip() for line in self.output.splitlines() if line.strip()]
        return lines[-1] if lines else f"exit {self.status}"


Command = Callable[[Sequence[str], float], Done]
"""Runs argv for at most so many seconds. A program that is not there is exit 127, one that takes too long 124."""


def run_command(argv: Sequence[str], seconds: float = COMMAND_SECONDS) -> Done:
    """The `Command` of a real host."""
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    try:
        done = subprocess.run(
            argv,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=seconds,
            env=environment,
        )
    except OSError as error:
        return Done(127, f"{argv[0]}: {error.strerror}")
    except subprocess.TimeoutExpired:
        return Done(124, f"{argv[0]}: took longer than {seconds:g} s")
    return Done(done.returncode, done.stdout)


@dataclass(slots=True)
class Record:
    """What was put on the host. Paths are the host's own; a file has the SHA-256 that was written."""

    format: int = 1
    version: str = ""
    release: str = ""
    home: str = ""
    environment: str = ""
    files: dict[str, str] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    directories: list[str] = field(default_factory=list)
    trees: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.files or self.links or self.trees or self.directories)


@dataclass(slots=True)
class World:
    """One host. Every change is in `record`, and `save` writes that down."""

    root: Path
    command: Command = run_command
    record: Record = field(default_factory=Record)
    pending: set[str] = field(default_factory=set)
    """In a rehearsal, the paths that the steps before would have changed."""
    clock: Clock = field(default_factory=SystemClock)

    @property
    def live(self) -> bool:
        """Whether this is the host that runs, with its systemd, and not an image of one."""
        return self.root == Path("/")

    def at(self, path: str) -> Path:
        """Where a path of the host is seen."""
        return self.root / path.lstrip("/")

    def read(self, path: str) -> bytes | None:
        """A file's content; None if there is none. Raises InstallationError for what is no readable file."""
        try:
            return read_file(self.root, path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise InstallationError(f"{path} cannot be read: {error.strerror}") from error

    def write(self, path: str, content: bytes, mode: int) -> None:
        """Puts a file there in one piece. Its directories are made; InstallationError also for a way that leads through
        a symbolic link which is not root's."""

        def make(draft: str, directory: int) -> None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(draft, flags, 0o600, dir_fd=directory)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                os.fchmod(file.fileno(), mode)
                file.flush()
                os.fsync(file.fileno())

        self._put(path, make, "written")
        self.record.files[path] = digest(content)

    def link(self, path: str, target: str) -> None:
        """Makes or turns a symbolic link in one piece."""
        self._put(path, lambda draft, directory: os.symlink(target, draft, dir_fd=directory), "linked")
        self.record.links[path] = target

    def remove(self, path: str) -> None:
        """Removes a file or a link, there or not, and forgets it."""
        try:
            with parent_of(self.root, path) as (directory, name):
                os.unlink(name, dir_fd=directory)
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:
            raise InstallationError(f"{path} cannot be removed: {error.strerror}") from error
        self.record.files.pop(path, None)
        self.record.links.pop(path, None)

    def save(self) -> None:
        """Writes the record down, or removes it when nothing is left."""
        if not self.record:
            self.remove(RECORD)
            with suppress(OSError):
                self.at(RECORD).parent.rmdir()
            return
        # The record lists itself nowhere: it goes when everything has gone.
        self.write(RECORD, (json.dumps(asdict(self.record), indent=1, sort_keys=True) + "\n").encode(), 0o644)
        del self.record.files[RECORD]

    def forget(self) -> None:
        """Nothing is installed any more."""
        self.record = Record()
        self.save()

    def make_way(self, directory: str) -> None:
        """Makes a directory and those above it that are missing. Raises InstallationError."""
        os.close(self._opened(directory))

    def _opened(self, directory: str) -> int:
        """A descriptor of a directory, which is made if it has to be."""

        def note(made: str) -> None:
            if made not in _STANDARD and made not in self.record.directories:
                self.record.directories.append(made)

        try:
            return open_directory(self.root, directory, made=note)
        except OSError as error:
            raise InstallationError(f"{directory} cannot be made: {error.strerror}") from error

    def _put(self, path: str, make: Callable[[str, int], None], done: str) -> None:
        """Makes something beside a path, and gives it the path's name."""
        name = Path(path).name
        draft = f".{name}.{secrets.token_hex(4)}"
        directory = self._opened(str(Path(path).parent))
        try:
            make(draft, directory)
            os.replace(draft, name, src_dir_fd=directory, dst_dir_fd=directory)
        except OSError as error:
            with suppress(OSError):
                os.unlink(draft, dir_fd=directory)
            raise InstallationError(f"{path} cannot be {done}: {error.strerror}") from error
        finally:
            os.close(directory)


def remove_tree(place: Path) -> None:
    """All of a directory that is ours alone. Raises InstallationError."""
    try:
        shutil.rmtree(place)
    except FileNotFoundError:
        return
    except OSError as error:
        raise InstallationError(f"{place} cannot be removed: {error.strerror}") from error


def digest(content: bytes) -> str:
    """As the record has it."""
    return hashlib.sha256(content).hexdigest()


def open_world(root: Path, command: Command = run_command) -> World:
    """A host with the record that is there. Raises InstallationError for a root that is not there, and for a record
    that cannot be understood."""
    if not root.is_dir():
        raise InstallationError(f"{root}: there is no such directory", hint="make or mount the image first")
    world = World(root, command)
    text = world.read(RECORD)
    if text is not None:
        try:
            world.record = Record(**json.loads(text))
        except (ValueError, TypeError) as error:
            raise InstallationError(f"{RECORD} is damaged: {error}", hint="move it away and install again") from error
        if world.record.format != 1:
            raise InstallationError(f"{RECORD} was written by a later version", hint="use that version's proxywatch")
    return world
