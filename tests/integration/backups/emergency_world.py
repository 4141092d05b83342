"""The last resort over a real service, real archives and a real store, small enough to be killed at every commit."""

from __future__ import annotations

import asyncio
import socket
import sqlite3
import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "healing"))

from healing_world import World, alert, playbook

from watchdog.actions import ActionContext
from watchdog.backups.making import create
from watchdog.backups.shelf import Shelf
from watchdog.backups.vault import Vault
from watchdog.clock import SystemClock
from watchdog.core.targets import parse_target
from watchdog.holdings import holding_of
from watchdog.playbooks.schema import Playbook
from watchdog.store.database import Database
from watchdog.system.http import HttpClient
from watchdog.system.services import ServiceContext
from watchdog.system.services.child import ChildService, ChildSettings
from watchdog.system.services.recovery import Clearing, Minimal, Needs, Recovery

TARGET = "service:web"
SERVER = """
import socket, sys
text = open(sys.argv[1]).read()
if "port:" not in text or "\\ufffd" in text:
    sys.exit("port: is missing")
with open(sys.argv[2], "a") as starts:
    starts.write("minimal\\n" if "extras" not in text else "whole\\n")
server = socket.socket()
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.bind(("127.0.0.1", int(text.split("port:")[1].split()[0])))
server.listen(9)
while True:
    caller, _ = server.accept()
    caller.recv(4096)
    caller.sendall(b"HTTP/1.1 200 OK\\r\\ncontent-length: 0\\r\\nconnection: close\\r\\n\\r\\n")
    caller.close()
"""
JUDGE = """
import sys
sys.exit(0 if "port:" in open(sys.argv[1]).read() else "port: is missing")
"""
RECOVER: dict[str, Any] = {
    "rung": "recover",
    "steps": [
        {"kind": "stop_service", "timeout": "20s", "on_failure": "stop"},
        {"kind": "check_resources", "timeout": "20s", "on_failure": "stop"},
        {"kind": "clear_temporary", "timeout": "20s", "on_failure": "stop"},
        {"kind": "restore_archive", "databases": True, "timeout": "30s", "on_failure": "stop"},
        {"kind": "reset_cache", "timeout": "20s", "on_failure": "stop"},
        {"kind": "start_service", "minimal": True, "timeout": "20s", "on_failure": "stop"},
        {"kind": "watch_service", "looks": 30, "interval": "20ms", "in_a_row": 2, "timeout": "20s"},
    ],
    "verify": {"hold": "20ms", "within": "5s"},
    "roll_back": [{"kind": "stop_service", "timeout": "20s"}, {"kind": "restore_point", "timeout": "20s"}],
}


def last_resort() -> Playbook:
    """The shipped one's steps, quick."""
    return playbook(RECOVER, name="emergency-recovery")


class Site:
    """`web`: configuration, database, temporary file, cache, archives; all below one directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config = root / "etc" / "web.yaml"
        self.database = root / "data" / "rows.sqlite"
        self.starts = root / "starts"
        self.temporary = root / "temporary" / "half.tmp"
        self.cached = root / "cached" / "page.cache"
        self.shelf = Shelf(root / "backups")
        self.needs = Needs.model_validate({"disk": "1B", "inodes": 1, "memory": "1B"})

    def make(self) -> None:
        """As it was when all was well."""
        for path in (self.config, self.database, self.temporary, self.cached):
            path.parent.mkdir(parents=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.config.write_text(f"port: {port}\nextras: [many]\n")
        (self.root / "port").write_text(str(port))
        with closing(sqlite3.connect(self.database)) as opened:
            opened.execute("CREATE TABLE rows (text TEXT)")
            opened.executemany("INSERT INTO rows VALUES (?)", [("x" * 100,)] * 200)
            opened.commit()
        (self.root / "server.py").write_text(SERVER)
        (self.root / "judge.py").write_text(JUDGE)

    async def archive(self) -> Path:
        """One more archive."""
        verdict = await create(self.shelf, self.holding, now=SystemClock().wall(), reason="a test")
        assert verdict.bad == ""
        return self.shelf.directory / verdict.name

    def ruin(self, *, database: bool = True) -> None:
        """Configuration broken, database overwritten in its middle, something half-written left behind."""
        self.config.write_text("prot: 1\n")
        if database:
            with self.database.open("r+b") as file:
                file.seek(4096)
                file.write(b"\xa5" * 4096)
        self.temporary.write_text("half")
        self.cached.write_text("stale")

    @property
    def recovery(self) -> Recovery:
        return Recovery(
            files=(str(self.config),),
            databases=(self.database,),
            check=(sys.executable, "-I", "-S", str(self.root / "judge.py"), "{file}"),
            minimal=Minimal(file=self.config, overlay={"extras": None}),
            temporary=(Clearing(directory=str(self.temporary.parent), patterns=("*.tmp",)),),
            cache=(Clearing(directory=str(self.cached.parent), patterns=("*.cache",)),),
            needs=self.needs,
        )

    @property
    def holding(self) -> Any:
        return holding_of("web", self.recovery)

    @property
    def port(self) -> int:
        return int((self.root / "port").read_text())

    def started(self) -> list[str]:
        """With what it was started, each time."""
        return self.starts.read_text().split() if self.starts.exists() else []

    def add_row(self) -> None:
        """One row that no archive has."""
        with closing(sqlite3.connect(self.database)) as opened:
            opened.execute("INSERT INTO rows VALUES ('young')")
            opened.commit()

    def rows(self) -> int:
        with closing(sqlite3.connect(self.database)) as opened:
            assert opened.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
            return int(opened.execute("SELECT count(*) FROM rows").fetchone()[0])

    def every_byte(self) -> dict[str, tuple[bytes, int, int]]:
        """Of configuration and database, and of whatever stands beside them."""
        files = [*self.config.parent.iterdir(), *self.database.parent.iterdir()]
        return {str(p): (p.read_bytes(), p.stat().st_mode, p.stat().st_mtime_ns) for p in sorted(files)}


class EmergencyWorld(World):
    """As the daemon puts it together, with one service."""

    def __init__(self, site: Site, ladder: Playbook, database: Callable[[Path], Database] = Database) -> None:
        self.site = site
        super().__init__(site.root, ladder, database=database)
        self.http = HttpClient()
        argv = (sys.executable, "-I", "-S", str(site.root / "server.py"), str(site.config), str(site.starts))
        settings = ChildSettings(kind="child", argv=argv, ready_url=f"http://127.0.0.1:{site.port}/")
        context = ServiceContext("web", site.root / "run", site.root / "log", self.clock, self.http)
        self.service = ChildService(settings, context)

    def _context(self, target: str, labels: Mapping[str, str]) -> ActionContext:
        vault = Vault(self.site.shelf, {"web": self.site.holding})
        bare = ActionContext(parse_target(target), labels, {"web": self.service}, {}, self.clock, self.directory)
        return replace(bare, vault=vault)

    async def look(self) -> None:
        """Stands for probe and rule: down or not."""
        down = alert(TARGET)
        running = (await self.service.status()).state == "running"
        firing = {} if running else {down.fingerprint: down}
        if firing.keys() != self.firing.keys():
            self.firing = firing
            self.desk.sync(self.firing.values())
        self.bell.ring()

    async def live(self, seconds: float = 30.0) -> None:
        """Until nothing is left to do."""
        async with asyncio.timeout(seconds):
            await self.look()
            self.desk.sync(self.firing.values())
            await self.runner.resume()
            while True:
                await self.look()
                known = self.desk.incidents.latest()
                if known and all(i.state in {"resolved", "escalated"} and not self.runner.busy(i.id) for i in known):
                    return
                for incident in self.desk.unresolved:
                    self.triage.consider(incident)
                await asyncio.sleep(0.01)

    async def close(self) -> None:
        await super().close()
        await self.http.close()
