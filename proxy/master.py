"""The master: holds the listening socket and keeps workers (and demo upstreams) alive. It judges nobody's health.

It stays small: configuration is judged by the zygote, and neither pydantic nor a web server is imported here.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from proxy import __version__, metrics, run_directory
from proxy.ageing import Ageing
from proxy.bulletin import Bulletin
from proxy.children import Child, dump_stacks, process_state
from proxy.clock import Clock, SystemClock
from proxy.control import Answer, Call, ControlServer, Document, not_found
from proxy.errors import ConfigError
from proxy.forking import Zygote, ZygoteFailed, adopt_orphans, bury_orphans
from proxy.launching import Nest, launch_demo, launch_worker
from proxy.plan import Plan, load_plan, make_admin_keys
from proxy.rolling import Rolling
from proxy.service_manager import ServiceManager, passed_socket
from proxy.slots import State
from proxy.supervision import Pace, Slot
from proxy.supply import Supply, judged, warmed

_DEMO_DRAIN_SECONDS = 3.0


def say(line: str) -> None:
    """One line for the operator, on standard error."""
    sys.stderr.write(f"llm-proxy: {line}\n")
    sys.stderr.flush()


def run(zygote: Zygote, file: str | None, overrides: Document) -> int:
    """Serves until SIGTERM; returns the exit status. ConfigError and CannotServe are for the caller to print."""
    plan = load_plan(zygote, file, overrides)
    lock = run_directory.lock(plan.run_dir)
    run_directory.sweep(plan.run_dir)
    listener = passed_socket()
    if listener is None:
        listener = run_directory.bind(plan.host, plan.port, plan.run_dir, say)
    else:
        run_directory.end(run_directory.stale_children(plan.run_dir), signal.SIGTERM)
    for made in make_admin_keys(plan.admin_key_files):
        say(f"made an admin key in {made}")
    try:
        adopt_orphans()
        return asyncio.run(Master(plan, zygote, listener, file, overrides, SystemClock()).serve())
    finally:
        listener.close()
        os.close(lock)


class Master:
    """Slots, signals and the control socket of one running service."""

    def __init__(
        self,
        plan: Plan,
        zygote: Zygote,
        listener: socket.socket,
        file: str | None,
        overrides: Document,
        clock: Clock,
    ) -> None:
        self._plan = plan
        self._supply = Supply(zygote, say)
        self._listener = listener
        self._host, self._port = listener.getsockname()[:2]
        self._file = file
        self._overrides = overrides
        self._clock = clock
        self._state = "starting"
        self._started_at = clock.wall()
        self._reloaded = True
        self._ready = False
        self._slots: dict[int, Slot] = {}
        self._demos: dict[tuple[str, int], Slot] = {}
        self._retired: list[Slot] = []
        self._bulletin = Bulletin()
        self._life = os.pipe()
        self._nest = Nest(listener.fileno(), self._life[0])
        self._stop = asyncio.Event()
        self._reloading = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._manager = ServiceManager(clock, os.environ)
        metrics.fold_all(plan.run_dir / "metrics")
        self._metrics = metrics.Metrics(plan.run_dir / "metrics", f"master-{secrets.token_hex(4)}")
        self._starts = self._metrics.counter("llm_proxy_worker_starts_total", "Workers started.")
        self._exits = self._metrics.counter("llm_proxy_worker_exits_total", "Workers that ended.", ("how",))
        self._serving = self._metrics.gauge("llm_proxy_workers_serving", "Workers that serve.")
        self._wanted = self._metrics.gauge("llm_proxy_workers_wanted", "Workers that should serve.")
        self._good = self._metrics.gauge("config_last_reload_successful", "1 if the last reload was accepted.")
        recycles = self._metrics.counter(
            "llm_proxy_worker_recycles_total", "Workers replaced that could have gone on.", ("reason",)
        )
        self._rolling = Rolling(self._slots, lambda: self._plan.pace.start_timeout, recycles.inc)
        self._ageing = Ageing(
            self._slots,
            self._rolling,
            lambda: self._plan.pace.max_age,
            plan.state_dir / "recycle_age.json",
            clock,
            say,
        )

    async def serve(self) -> int:
        """Starts everything, waits for the order to stop, lets all drain. Returns the exit status."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._order_stop)
        loop.add_signal_handler(signal.SIGHUP, lambda: self._task(self._reload()))
        loop.add_signal_handler(signal.SIGUSR1, self._reopen_logs)
        loop.add_signal_handler(signal.SIGCHLD, self._bury_orphans)
        self._task(self._manager.live())
        self._supply.start()
        control = ControlServer(self._plan.run_dir / "master.sock", self._route)
        await control.start()
        self._good.set(1)
        try:
            await self._begin()
            self._task(self._ageing.live())
            await self._stop.wait()
            await self._drain()
        finally:
            await self._supply.close()
            await control.close()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            for descriptor in self._life:
                os.close(descriptor)
            self._metrics.close()
            self._manager.close()
        return 0

    async def _begin(self) -> None:
        """Demo upstreams first, which start while the zygote warms."""
        self._fill_demos()
        if (zygote := self._supply.zygote) is not None:
            try:
                await asyncio.to_thread(zygote.warm)
            except ZygoteFailed as error:
                say(str(error))
                self._supply.lose(zygote)
        if not self._stop.is_set():
            self._fill()

    # Slots

    def _fill(self) -> None:
        """Makes slots as many as the plan wants."""
        plan = self._plan
        self._wanted.set(plan.workers)
        for number in range(plan.workers):
            if number not in self._slots:
                self._slots[number] = Slot(
                    number, self._launch_worker, plan.pace, self._clock, self._announce, self._worker_ended
                )
                self._slots[number].start()
        for number in [number for number in self._slots if number >= plan.workers]:
            self._retire(self._slots.pop(number))

    def _fill_demos(self) -> None:
        plan = self._plan
        for demo in plan.demos:
            if demo not in self._demos:
                self._demos[demo] = self._demo_slot(*demo)
                self._demos[demo].start()
        for demo in [demo for demo in self._demos if demo not in plan.demos]:
            self._retire(self._demos.pop(demo))

    def _retire(self, slot: Slot) -> None:
        slot.stop()
        self._retired = [*(old for old in self._retired if old.processes), slot]

    def _launch_worker(self, number: int, ready: Callable[[], None]) -> Child:
        self._starts.inc()
        zygote = self._supply.zygote
        if zygote is not None:
            try:
                return launch_worker(number, self._plan, zygote, self._nest, self._clock, ready)
            except ZygoteFailed as error:
                say(str(error))
                self._supply.lose(zygote)
        return launch_worker(number, self._plan, None, self._nest, self._clock, ready)

    def _worker_ended(self, child: Child) -> None:
        how = "excused" if child.excused or child.process.returncode == 0 else "crash"
        self._exits.inc(how)
        if how == "crash":
            say(f"{child.name} (pid {child.pid}) ended: {child.exit_text()}")
            if words := child.last_words():
                sys.stderr.write(words + "\n")
        metrics.fold(self._plan.run_dir / "metrics", child.incarnation)
        child.stderr.unlink(missing_ok=True)
        self._stacks_file(child).unlink(missing_ok=True)

    def _demo_slot(self, name: str, port: int) -> Slot:
        plan = self._plan

        def launch(_number: int, ready: Callable[[], None]) -> Child:
            return launch_demo(name, port, plan.run_dir, self._clock, ready)

        def ended(child: Child) -> None:
            if not child.excused:
                say(f"demo upstream {name} (pid {child.pid}) ended: {child.exit_text()}")

        pace = Pace(
            drain_timeout=_DEMO_DRAIN_SECONDS,
            start_timeout=plan.pace.start_timeout,
            backoff_initial=plan.pace.backoff_initial,
            backoff_max=plan.pace.backoff_max,
            backoff_reset=plan.pace.backoff_reset,
        )
        return Slot(-1, launch, pace, self._clock, self._record_demo, ended)

    def _record_demo(self, _event: str, _slot: int, _pid: int | None) -> None:
        self._record()

    def _record(self) -> None:
        living = [child for slot in self._everything() for child in slot.processes]
        run_directory.record_children(self._plan.run_dir, [(child.pid, child.name) for child in living])

    def _everything(self) -> list[Slot]:
        return [*self._slots.values(), *self._demos.values(), *self._retired]

    # What it tells

    def _announce(self, event: str, slot: int, pid: int | None) -> None:
        """Tells every listener, systemd and the record of children about one change of a slot."""
        if event in ("starting", "exited"):
            self._record()
        serving = sum(s.state in (State.SERVING, State.REPLACING) for s in self._slots.values())
        self._serving.set(serving)
        if self._state == "starting" and serving == self._plan.workers:
            self._state = "serving"
            say(f"serving on http://{self._host}:{self._port} with {serving} worker{'s' * (serving != 1)}")
        if serving and not self._ready:
            self._ready = True
            self._manager.ready()
        workers = "1 worker" if self._plan.workers == 1 else f"{self._plan.workers} workers"
        verb = "serves" if serving == 1 else "serve"
        self._manager.status(f"{serving} of {workers} {verb} {self._host}:{self._port}")
        line: Document = {"event": event, "slot": slot, "pid": pid, "at": self._clock.wall()}
        known = self._slots.get(slot)
        if known is not None:
            line["last_exit"] = known.last_exit
            line["next_start_at"] = known.next_start_at
        self._bulletin.tell(line)

    def _status(self) -> Document:
        run_dir = self._plan.run_dir
        workers = [
            {**slot.view(), "socket": str(run_dir / f"worker-{slot.number}.sock")} for slot in self._slots.values()
        ]
        return {
            "pid": os.getpid(),
            "zygote_pid": zygote.pid if (zygote := self._supply.zygote) else None,
            "version": __version__,
            "started_at": self._started_at,
            "host": self._host,
            "port": self._port,
            "config_file": self._plan.file,
            "state": self._state,
            "workers": workers,
            "recycle_age": self._ageing.told(),
            "config_last_reload_successful": self._reloaded,
        }

    # What it is asked

    async def _route(self, call: Call) -> Answer:
        match call.method, *call.path:
            case "GET", "status":
                return Answer(200, self._status())
            case "GET", "events":
                return Answer(200, self._bulletin.lines(self._status))
            case "POST", "recycle":
                return await self._renew()
            case "POST", "recycle-age":
                return self._ageing.ask(call.body)
            case "POST", "reload":
                return await self._reload()
            case "POST", "workers", number, ("recycle" | "stacks") as what if number.isdigit():
                slot = self._slots.get(int(number))
                if slot is None:
                    return Answer(404, {"error": f"there is no slot {number}"})
                return await (self._rolling.one(slot, call.body) if what == "recycle" else self._stacks(slot))
            case _:
                return not_found(call)

    async def _renew(self) -> Answer:
        """Recycles all workers with the code that is on the disk by now; if that cannot start, none."""
        try:
            self._supply.adopt(await asyncio.to_thread(warmed))
        except ZygoteFailed as error:
            return Answer(502, {"error": str(error), "recycled": []})
        return await self._rolling.all("command")

    def _stacks_file(self, child: Child) -> Path:
        return self._plan.run_dir / f"{child.name}-{child.pid}.stacks"

    async def _stacks(self, slot: Slot) -> Answer:
        """SIGQUIT makes the worker's faulthandler write, whatever its event loop does; not if it is stopped."""
        child = slot.child
        file = self._stacks_file(child) if child else None
        if child is None or file is None or not file.exists():
            return Answer(409, {"error": f"slot {slot.number} has no worker that could be asked yet"})
        written = await dump_stacks(child, file, self._clock)
        if written is None:
            return Answer(
                504, {"error": f"pid {child.pid} wrote no stacks within 1 s; it is {process_state(child.pid)}"}
            )
        return Answer(200, {"text": written})

    # Reload and stop

    async def _reload(self) -> Answer:
        """A good file is rolled out slot by slot; a bad one is named on one line, and the last good one stays."""
        longest = len(self._slots) * (self._plan.pace.start_timeout + self._plan.pace.drain_timeout)
        async with self._reloading, self._manager.reload(longest):
            try:
                zygote, plan = await asyncio.to_thread(judged, self._file, self._overrides)
            except (ConfigError, ZygoteFailed) as error:
                return self._refuse(str(error))
            fixed = (self._plan.host, self._plan.port, self._plan.run_dir)
            if (plan.host, plan.port, plan.run_dir) != fixed:
                zygote.close()
                return self._refuse("host, port and run_dir change only by a restart")
            make_admin_keys(plan.admin_key_files)
            self._supply.adopt(zygote)
            self._plan = plan
            self._reloaded = True
            self._good.set(1)
            for slot in self._slots.values():
                slot.pace = plan.pace
            self._fill_demos()
            self._fill()
            answer = await self._rolling.all("reload")
            say("reloaded" if answer.status == 200 else f"reloaded, but not everywhere: {answer.document}")
            return answer

    def _refuse(self, why: str) -> Answer:
        self._reloaded = False
        self._good.set(0)
        refusal = f"reload refused, the last good configuration stays: {why}"
        say(refusal)
        return Answer(409, {"error": refusal})

    def _bury_orphans(self) -> None:
        known = {child.pid for slot in self._everything() for child in slot.processes}
        bury_orphans(known | {zygote.pid for zygote in (self._supply.zygote,) if zygote is not None})

    def _reopen_logs(self) -> None:
        """Tells the workers that their logs were moved away; one that only starts opens the new ones anyway."""
        for child in [child for slot in (*self._slots.values(), *self._retired) for child in slot.processes]:
            if child.serving is not None:
                child.send(signal.SIGUSR1)

    def _order_stop(self) -> None:
        """The first order drains; a second one ends what still drains."""
        if self._stop.is_set():
            for slot in self._everything():
                slot.kill_all()
        self._stop.set()

    async def _drain(self) -> None:
        self._state = "stopping"
        self._manager.stopping(self._plan.pace.drain_timeout)
        self._listener.close()
        for slot in self._slots.values():
            slot.stop()
        for slot in [*self._slots.values(), *self._retired]:
            await slot.gone()
        for slot in self._demos.values():
            slot.stop()
        for slot in self._everything():
            await slot.gone()

    def _task(self, coroutine: Any) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
