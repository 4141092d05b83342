"""A real systemd in a container: this machine's files below, a layer of its own above, no network but its loopback.

Everything that it consists of lives in namespaces that end with the process that asked for it, however that one ends:
processes in a pid namespace whose first process the kernel kills with its parent, mounts in a mount namespace. What can
be left behind is an empty tree of control groups, which the next one removes.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import json
import os
import select
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

PROGRAMS = ("systemd-nspawn", "unshare", "nsenter", "setpriv", "mount", "dbus-daemon", "busctl", "pkcheck")
REPOSITORY = Path(__file__).resolve().parents[2]
HOME = Path("/opt/proxywatch")
PYTHON = Path("/opt/python")
DEPENDENCIES = Path("/opt/dependencies")
BOOT_SECONDS = 120.0
COMMAND_SECONDS = 60.0
GROUP_PREFIX = "proxywatch-lab-"
_NUMBERS = itertools.count()

_LAUNCH = """
set -eu
mount -t tmpfs -o mode=0755 lab "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" lab "$1/root"
cd "$1/root"
rm -rf etc/systemd/system/*.wants etc/rc?.d var/log/journal opt/proxywatch opt/python etc/proxywatch etc/llm-proxy \
  var/lib/proxywatch var/lib/llm-proxy
echo "$2" > etc/machine-id
mkdir -p opt/proxywatch opt/python opt/dependencies etc/systemd/system.conf.d
printf '[Manager]\nDefaultEnvironment=LD_LIBRARY_PATH=/opt/python/lib\n' > etc/systemd/system.conf.d/lab.conf
for group in $(echo "$3" | tr : ' '); do echo 0 > "$group/cgroup.procs"; done
shift 3
status=133  # how it says that the system wants to be booted again
while [ "$status" = 133 ]; do
  status=0
  systemd-nspawn "$@" || status=$?
done
exit "$status"
"""
"""What this machine has enabled or installed of ours is not the lab's; only what Debian starts by itself is. The
interpreter may have been built for another place than the one it is bound to, and then seeks its library there."""


def unfit() -> str | None:
    """Why no container can be booted here; None if one can be tried."""
    if os.geteuid() != 0:
        return "booting a container needs root"
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        return f"{', '.join(missing)} missing (Debian: systemd-container, dbus, polkitd)"
    if "overlay" not in Path("/proc/filesystems").read_text():
        return "this kernel has no overlay filesystem"
    return None


class BootError(Exception):
    """The container did not come up; with the end of its console."""


class CommandError(AssertionError):
    """A command in the container failed; with all that it said."""


class BootedSystem:
    """One container. `run` runs commands in it as root; `root` is its file system as seen from here."""

    def __init__(self, place: Path, *, bare: bool = False) -> None:
        """Boots it; `place` is an empty directory of its own; `bare`: without our programs. BootError."""
        place.mkdir(parents=True, exist_ok=True)
        self._console = place / "console"
        (place / "layers").mkdir()
        self._number = next(_NUMBERS)
        self._groups = [_group(hierarchy, self._number) for hierarchy in _hierarchies()]
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify, self._console.open("wb") as console:
            # An abstract address: the path of a temporary directory may be too long for a socket.
            address = f"\0proxywatch-lab-{uuid.uuid4().hex}"
            notify.bind(address)
            notify.settimeout(1)
            environment = {**os.environ, "NOTIFY_SOCKET": "@" + address[1:], "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"}
            self._process = subprocess.Popen(
                [
                    *("setpriv", "--pdeathsig", "KILL"),
                    *("unshare", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"),
                    *(
                        "sh",
                        "-c",
                        _LAUNCH,
                        "sh",
                        str(place / "layers"),
                        uuid.uuid4().hex,
                        ":".join(map(str, self._groups)),
                    ),
                    *(
                        "--quiet",
                        "--directory=.",
                        f"--machine=lab-{os.getpid()}-{self._number}",
                        "--register=no",
                        "--keep-unit",
                    ),
                    *("--private-network", "--notify-ready=yes", "--link-journal=no", "--resolv-conf=off"),
                    f"--bind-ro={Path(sys.base_prefix).resolve()}:{PYTHON}",
                    f"--bind-ro={_packages()}:{DEPENDENCIES}",
                    *("--boot", "systemd.unit=multi-user.target"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                env=environment,
            )
            try:
                self._await_boot(notify)
                self.leader = self._find_leader()
            except BaseException:
                self.close()
                raise
        self.root = Path(f"/proc/{self.leader}/root")
        if not bare:
            self._install_programs()

    def close(self) -> None:
        """Ends everything in it at once."""
        self._process.kill()
        self._process.wait()
        for group in self._groups:
            _remove(group, patience_seconds=5.0)

    def run(
        self,
        *command: str,
        user: str | None = None,
        check: bool = True,
        seconds: float = COMMAND_SECONDS,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end. CommandError if it fails and `check` asks for that to be seen."""
        done = subprocess.run(
            self.command(*command, user=user, environment=environment),
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
        )
        if check and done.returncode != 0:
            raise CommandError(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def command(
        self, *command: str, user: str | None = None, environment: Mapping[str, str] | None = None
    ) -> Sequence[str]:
        """The argv that runs `command` in it, for callers that want to talk to it meanwhile."""
        known = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
        known["LD_LIBRARY_PATH"] = f"{PYTHON}/lib"
        settings = [f"{name}={value}" for name, value in {**known, **(environment or {})}.items()]
        whose = ["runuser", "-u", user, "--"] if user else []
        return ["nsenter", "--target", str(self.leader), "--all", "--wdns=/", "env", "-i", *settings, *whose, *command]

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """A file in it, with its directories."""
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)

    def properties(self, unit: str, *names: str) -> dict[str, str]:
        """What systemd says of a unit."""
        shown = self.run("systemctl", "show", unit, *(f"--property={name}" for name in names)).stdout
        return dict(line.partition("=")[::2] for line in shown.splitlines())

    def journal(self, *match: str, boot: bool = True, since: str | None = None) -> list[dict[str, Any]]:
        """Entries that match, oldest first. What was written before the call is in it; `since`: only what follows."""
        self.run("journalctl", "--sync")
        # journalctl 252 loses the first entry that matches after a cursor, so there it is asked for all.
        chosen = (*(["--boot"] if boot else []), *match) if since is None else (f"--after-cursor={since}",)
        told = self.run("journalctl", "--output=json", "--all", *chosen).stdout
        entries = [json.loads(line) for line in told.splitlines()]
        if since is None:
            return entries
        return [entry for entry in entries if _holds(entry, match)]

    def await_journal(self, *match: str, seconds: float, since: str | None = None) -> dict[str, Any]:
        """The first entry that matches, of those there are and those that come. AssertionError after `seconds`."""
        # As above: after a cursor the first match would be lost.
        chosen = match if since is None else (f"--after-cursor={since}",)
        argv = self.command("journalctl", "--follow", "--lines=all", "--output=json", "--all", *chosen)
        seen: collections.deque[str] = collections.deque(maxlen=60)
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as following:
            assert following.stdout is not None
            try:
                for line in lines_within(following.stdout.fileno(), seconds):
                    entry: dict[str, Any] = json.loads(line)
                    if since is None or _holds(entry, match):
                        return entry
                    seen.append(str(entry.get("MESSAGE"))[:300])
            finally:
                following.kill()
        last = "\n".join(seen)
        raise AssertionError(f"nothing in the journal within {seconds} s that matches {' '.join(match)}; last:\n{last}")

    def cursor(self) -> str:
        """Where the journal ends now."""
        self.run("journalctl", "--sync")
        told = self.run("journalctl", "--lines=0", "--show-cursor", "--quiet").stdout
        return told.partition("-- cursor: ")[2].strip()

    def _await_boot(self, notify: socket.socket) -> None:
        deadline = time.monotonic() + BOOT_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise BootError(f"systemd-nspawn ended with {self._process.returncode}:\n{self._tail()}")
            with contextlib.suppress(TimeoutError):
                if b"READY=1" in notify.recv(4096).split(b"\n"):
                    return
        raise BootError(f"not booted within {BOOT_SECONDS:g} s:\n{self._tail()}")

    def _tail(self) -> str:
        return self._console.read_text(errors="replace")[-3000:]

    def _find_leader(self) -> int:
        """unshare's child is the shell, the shell's is nspawn, and nspawn's the container's first process."""
        pid = self._process.pid
        for _ in range(3):
            (pid,) = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        return pid

    def reboot(self) -> None:
        """Boots it again at once, as after a cut of the power; what is on its disk stays. BootError."""
        before = self.leader
        # It ends whoever asked, too.
        self.run("systemctl", "reboot", "--force", "--force", check=False)
        deadline = time.monotonic() + BOOT_SECONDS
        while time.monotonic() < deadline:
            # Who asks a system that is just coming up may wait for its answer for ever.
            with contextlib.suppress(OSError, ValueError, subprocess.TimeoutExpired):
                self.leader = self._find_leader()
                self.root = Path(f"/proc/{self.leader}/root")
                if self.leader != before:
                    told = self.run("systemctl", "is-system-running", check=False, seconds=5).stdout.strip()
                    if told in {"running", "degraded"}:
                        return
            time.sleep(0.05)
        raise BootError(f"not booted again within {BOOT_SECONDS:g} s:\n{self._tail()}")

    def _install_programs(self) -> None:
        """A virtual environment with a copy of the checkout in it, as an installation makes one."""
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        self.run(f"{PYTHON}/bin/{version}", "-m", "venv", "--without-pip", str(HOME))
        home = self.root / HOME.relative_to("/")
        site = home / "lib" / version / "site-packages"
        for package in ("proxy", "watchdog"):
            shutil.copytree(REPOSITORY / package, site / package)
        (site / "dependencies.pth").write_text(f"{DEPENDENCIES}\n")
        shutil.copytree(REPOSITORY / "config", home / "share/proxywatch/config")
        for name, module in (("llm-proxy", "proxy.__main__"), ("proxywatch", "watchdog.cli.main")):
            script = home / "bin" / name
            script.write_text(f"#!{HOME}/bin/python\nimport sys\nfrom {module} import main\nsys.exit(main())\n")
            script.chmod(0o755)
        self.run(f"{HOME}/bin/python", "-m", "compileall", "-q", f"{HOME}/lib/{version}/site-packages")


def _packages() -> Path:
    """Where this interpreter's installed packages are."""
    import pydantic

    return Path(pydantic.__file__).resolve().parents[1]


def _hierarchies() -> Iterator[Path]:
    """The trees of control groups that systemd keeps services apart by, and the one that accounts for memory where that
    is one of its own, each at our own place in it."""
    mounts = {}
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, options, *_ = line.split()
        if kind == "cgroup2":
            mounts[""] = Path(where)
        for controllers in {"name=systemd", "memory"} & set(options.split(",") if kind == "cgroup" else ()):
            mounts[controllers] = Path(where)
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, ours = line.split(":", 2)
        if controllers in mounts:
            yield mounts[controllers] / ours.lstrip("/")


def _group(parent: Path, number: int) -> Path:
    """A control group of our own: no two containers must share one. Removes those of dead test processes."""
    for left in parent.glob(f"{GROUP_PREFIX}*"):
        if not Path(f"/proc/{left.name.removeprefix(GROUP_PREFIX).partition('-')[0]}").exists():
            _remove(left)
    group = parent / f"{GROUP_PREFIX}{os.getpid()}-{number}"
    group.mkdir(exist_ok=True)
    return group


def _remove(group: Path, *, patience_seconds: float = 0.0) -> None:
    """Removes a tree of groups once its processes have gone; what is still in use stays for the next one to remove."""
    deadline = time.monotonic() + patience_seconds
    while group.exists():
        for directory, _, _ in os.walk(group, topdown=False):
            with contextlib.suppress(OSError):
                Path(directory).rmdir()
        if time.monotonic() >= deadline:
            return
        time.sleep(0.02)


def _holds(entry: Mapping[str, Any], match: Sequence[str]) -> bool:
    """Whether an entry has each of these fields, written as journalctl takes them."""
    return all(entry.get(name) == value for name, value in (one.partition("=")[::2] for one in match))


def lines_within(descriptor: int, seconds: float) -> Iterator[bytes]:
    """Lines as they come, until the end of what is read or of the time."""
    deadline, told = time.monotonic() + seconds, b""
    while (left := deadline - time.monotonic()) > 0:
        if select.select([descriptor], [], [], left)[0]:
            part = os.read(descriptor, 65536)
            if not part:
                return
            *whole, told = (told + part).split(b"\n")
            yield from whole
