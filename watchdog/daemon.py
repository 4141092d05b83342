"""The composition root: builds everything once, runs it, reloads it, stops it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from watchdog.api.app import create_app
from watchdog.api.headline import headline
from watchdog.api.parts import Parts
from watchdog.api.server import ControlServer
from watchdog.clock import Clock, SystemClock
from watchdog.core.model import AlertChange, AlertEvent, AlertState, Sample
from watchdog.core.routing import Notice
from watchdog.errors import ConfigError, ProxywatchError, StoreError
from watchdog.files import Files, read_files
from watchdog.healing import World, build_healing
from watchdog.intake import Intake
from watchdog.keeping import Keeping
from watchdog.metrics.engine import RuleEngine
from watchdog.metrics.series import SeriesStore
from watchdog.notifiers import NotifierContext
from watchdog.notifiers.direct import tell
from watchdog.notifiers.dispatch import Dispatcher
from watchdog.notifiers.sender import Sender, build_notifiers
from watchdog.pipeline import Pipeline
from watchdog.playbooks.bell import Bell
from watchdog.playbooks.desk import Desk
from watchdog.remembering import Remembering
from watchdog.rounds import Rounds
from watchdog.schedule import Pace, Schedule
from watchdog.settings import Config
from watchdog.store.alerts import Alerts
from watchdog.store.database import Database
from watchdog.store.facts import Facts
from watchdog.store.future import bring_back, dated_by
from watchdog.store.outbox import Outbox
from watchdog.store.reserve import Reserve
from watchdog.store.runs import Runs
from watchdog.supervisors import Supervisors
from watchdog.system.http import HttpClient
from watchdog.system.proxy_api import ProxyApi
from watchdog.system.service_manager import ServiceManager
from watchdog.system.services import ServiceContext, ServiceController, ServiceSettings, services
from watchdog.system.systemd.bus import SystemBus
from watchdog.triggers import Triggers

log = logging.getLogger("proxywatch")

View = Callable[[Parts, asyncio.Event], Coroutine[Any, Any, None]]
"""Something to look at while the daemon runs; ends when the event is set."""

SYNC_SECONDS = 2.0
"""How often incidents are made to agree with alerts and waiting ones are considered again."""
HOUSEKEEPING_SECONDS = 3600.0
STORE_RETRY_SECONDS = 5.0
SELF = "proxywatch"
SELF_SECONDS = 10.0


class Daemon:
    """One running agent. `database` is a seam: tests open one that dies at a chosen write."""

    def __init__(
        self, files: Files, *, database: Callable[[Path], Database] = Database, clock: Clock | None = None
    ) -> None:
        config = files.loaded.config
        self.clock = clock or SystemClock()
        self._file = files.loaded.file
        self._routes = files.routes
        self.bell = Bell()
        self.database = database(config.state_dir / "proxywatch.db")
        self.http = HttpClient()
        self._bus = SystemBus()
        self.services: dict[str, ServiceController] = {}
        self.proxies: dict[str, ProxyApi] = {}
        self._build_services(config)
        self.series = SeriesStore(config.memory.retention, config.memory.max_series, config.memory.max_samples)
        self.engine = RuleEngine(files.groups, self.series)
        self.outbox = Outbox(self.database, self.clock)
        with self._store_trouble():
            if bring_back(self.database, self.outbox, self.clock.now()):
                log.warning("the clock stands before what was written last; what is dated later counts as of now")
        self.dispatcher = Dispatcher(
            files.routes,
            self.database,
            self.outbox,
            self.clock,
            lambda: [a.labels for a in self.engine.alerts() if a.state is AlertState.FIRING],
        )
        self.sender = Sender(self.outbox, build_notifiers(files.routes, self._notifier_context(config)), self.clock)
        self.desk = Desk(self.database, self.clock, self.engine.alert, self._announce, self.dispatcher.acknowledge)
        self.runs = Runs(self.database)
        self.facts = Facts(self.database)
        reserve = Reserve(self.database.path.parent)
        self.remembering = Remembering(self.facts, reserve, self.clock, config.run_dir, self._tell_directly)
        self.schedule = Schedule(self.clock)
        self.keeping = Keeping(files.loaded, self.clock, self.schedule)
        vault = self.keeping.vault
        self.world = World(config, self.services, self.proxies, self.series, self.clock, vault)
        self.healing = build_healing(
            world=self.world, desk=self.desk, runs=self.runs, facts=self.facts, bell=self.bell, holds=self._holds
        )
        self.runner, self.guards = self.healing.runner, self.healing.guards
        self.runner.playbooks = files.playbooks
        self.intake = Intake(
            self.desk,
            self.healing.triage,
            self.bell.turns,
            trouble=self._store_trouble,
            ready=lambda: self.parts.ready,
        )
        self.pipeline = Pipeline(self.series, self.engine, self.clock, self.bell, self._take)
        self.triggers = Triggers(schedule=self.schedule, runner=self.runner, desk=self.desk, runs=self.runs)
        self.triggers.replace(files.playbooks)
        self.rounds = Rounds(self.pipeline, self.schedule, self.clock, self.http, self.services, self.facts, self._bus)
        self.supervisors = Supervisors(self.bell.ring)
        self.parts = Parts(
            loaded=files.loaded,
            clock=self.clock,
            started_at=self.clock.now(),
            series=self.series,
            pipeline=self.pipeline,
            desk=self.desk,
            runs=self.runs,
            runner=self.runner,
            triage=self.healing.triage,
            verifier=self.healing.verifier,
            facts=self.facts,
            surroundings=self.healing.surroundings,
            outbox=self.outbox,
            schedule=self.schedule,
            bell=self.bell,
            triggers=self.triggers,
            services=self.services,
            proxies=self.proxies,
            reload=self.reload,
            probe_now=self.rounds.run_now,
        )
        self._control = ControlServer(create_app(self.parts), files.loaded.control_socket)
        self._systemd = ServiceManager(os.environ)
        self._stop = asyncio.Event()
        self._reloading = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self, *, with_services: bool = False, view: View | None = None) -> None:
        """Runs until SIGTERM, SIGINT or `stop`. `with_services`: services that we start as children end with us."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        if sys.stderr.isatty():
            # In the foreground SIGHUP says that the terminal has gone, not that the configuration has changed.
            loop.add_signal_handler(signal.SIGHUP, self.stop)
        else:
            loop.add_signal_handler(signal.SIGHUP, lambda: self._spawn(self._reload_and_say(), "reload"))
        try:
            await self._control.start()
            self._restore_alerts()
            await self._start_services(self.parts.loaded.config.services, with_services)
            await self.rounds.begin(self.parts.loaded.config)
            await self.supervisors.replace(self.services)
            await self.keeping.begin(self.parts.loaded.config.backups, self.pipeline)
            self.schedule.start()
            for work in (self._evaluate, self.intake.run, self._keep_in_step, self._keep_house, self._feed_watchdog):
                self._spawn(work(), work.__name__)
            self._spawn(self._persistently(self.dispatcher.run), "dispatcher")
            self._spawn(self._persistently(self.sender.run), "sender")
            self.schedule.every(SELF, Pace(SELF_SECONDS), self._measure_self)
            if await self.rounds.first_round():
                self.engine.measured()
                self.pipeline.tick()
            await self.runner.resume()
            self.parts.ready = True
            self.bell.ring()
            self._systemd.tell("READY=1", self._headline())
            log.info("ready: %s", self._headline())
            if view is not None:
                self._spawn(view(self.parts, self._stop), "view")
            await self._stop.wait()
        finally:
            await self._shut_down(with_services)

    def stop(self) -> None:
        """Asks the daemon to end in good order."""
        self._stop.set()

    async def reload(self) -> str:
        """Reads everything again and takes it over; on any error nothing changes and ConfigError says why.

        One after another: two at once would take over halves of two configurations.
        """
        async with self._reloading:
            return await self._reload()

    async def _reload(self) -> str:
        self._systemd.tell("RELOADING=1")
        try:
            files = await asyncio.to_thread(read_files, self._file)
            config = files.loaded.config
            notifiers = build_notifiers(files.routes, self._notifier_context(config))
        except (ProxywatchError, OSError, ValueError) as error:
            self.parts.reload_error = str(error)
            raise error if isinstance(error, ConfigError) else ConfigError(str(error), file=str(self._file)) from error
        finally:
            self._systemd.tell("READY=1")
        await self.keeping.before_change()
        added = {name: settings for name, settings in config.services.items() if name not in self.services}
        self._build_services(config)
        await self._start_services(added, with_services=False)
        self.guards.limits = config.guards.limits()
        self.runner.playbooks = files.playbooks
        self.triggers.replace(files.playbooks)
        self.dispatcher.config = files.routes
        self.sender.receivers = notifiers
        self.dispatcher.wake()
        self.sender.wake()
        self._take(self.engine.replace(files.groups, self.clock.now()))
        await self.rounds.replace(config)
        await self.supervisors.replace(self.services)
        self.keeping.replace(files.loaded)
        self.parts.loaded = files.loaded
        self.world.config = config
        self.parts.reload_error = ""
        return self._headline()

    async def _reload_and_say(self) -> None:
        try:
            log.info("reloaded: %s", await self.reload())
        except ConfigError as error:
            log.error("configuration refused, the last good one stays in force: %s", error)  # noqa: TRY400

    # --- what goes round ------------------------------------------------------------------------------------------

    async def _evaluate(self) -> None:
        """Evaluates rules when they are due by time."""
        while True:
            due = self.engine.next_due(self.clock.now())
            await asyncio.sleep(min(1.0, max(0.01, due - self.clock.now())))
            self.pipeline.tick()

    async def _keep_in_step(self) -> None:
        """Makes incidents agree with alerts, and considers again those that nothing is done about."""
        while True:
            await asyncio.sleep(SYNC_SECONDS)
            self.schedule.follow_clock()
            self.remembering.keep_room()
            with self._store_trouble():
                await self.healing.surroundings.watch(self.guards.limits.storm)
                self.desk.sync(self.engine.alerts())
                self.intake.consider(self.desk.unresolved)

    async def _keep_house(self) -> None:
        while True:
            with self._store_trouble():
                keep = max(self.parts.loaded.config.history, self.guards.reach(self.runner.playbooks.values()))
                self.desk.incidents.prune(self.clock.now() - keep)
            await asyncio.sleep(HOUSEKEEPING_SECONDS)

    async def _feed_watchdog(self) -> None:
        """WATCHDOG=1 only while the scheduler itself advances and the store can be written: a loop that merely turns
        proves nothing."""
        limit = self._systemd.watchdog_seconds
        while True:
            await asyncio.sleep(min(5.0, limit / 3) if limit else 5.0)
            now = self.clock.now()
            if now - self.schedule.advanced_at < 3 * SELF_SECONDS and self.remembering.fit(now):
                self._systemd.tell("WATCHDOG=1", self._headline())

    async def _persistently(self, work: Callable[[asyncio.Event], Coroutine[Any, Any, None]]) -> None:
        """Telling people goes on as soon as the store can be written again."""
        while not self._stop.is_set():
            with self._store_trouble():
                await work(self._stop)
            if not self._stop.is_set():
                await asyncio.sleep(STORE_RETRY_SECONDS)

    async def _measure_self(self) -> None:
        """The agent's own figures are series like any other, so that rules can watch the watcher."""
        await self.remembering.try_it()
        with self._store_trouble():
            samples = [*self.schedule.samples(), *self.sender.samples()]
            samples.append(Sample("proxywatch_incidents_unresolved", float(len(self.desk.unresolved))))
            samples += self.triggers.samples(self.clock.now())
            self.pipeline.ingest_own(SELF, samples)

    def _take(self, events: Iterable[AlertEvent]) -> None:
        with self._store_trouble():
            self.intake.take(events)

    @contextlib.contextmanager
    def _store_trouble(self) -> Iterator[None]:
        """Without a memory nothing is done, but measuring goes on and it is said."""
        try:
            yield
        except StoreError as error:
            log.critical("%s (%s); no repair is attempted until it can be written again", error, error.hint)

    # --- building --------------------------------------------------------------------------------------------------

    def _build_services(self, config: Config) -> None:
        for name, settings in config.services.items():
            context = ServiceContext(name, config.run_dir, config.log_dir, self.clock, self.http, self._bus)
            self.services[name] = services.implementation(settings.kind)(settings, context)
            if settings.proxy is not None:
                self.proxies[name] = ProxyApi(settings.proxy, self.http)
        for name in [name for name in self.services if name not in config.services]:
            self.services.pop(name)
            self.proxies.pop(name, None)

    def _notifier_context(self, config: Config) -> NotifierContext:
        return NotifierContext(self.clock, self.http, config.host or socket.gethostname())

    def _announce(self, notice: Notice) -> None:
        self.dispatcher.notify(notice)

    async def _tell_directly(self, notice: Notice) -> None:
        await tell(self.dispatcher.config, self.sender.receivers, notice, self.clock.now())

    def _holds(self, expression: str) -> bool:
        return bool(self.engine.query(expression, self.clock.now()))

    def _restore_alerts(self) -> None:
        now = self.clock.now()
        known = [dated_by(alert, now) for alert in Alerts(self.database).all()]
        orphans = self.engine.restore(known)
        self._take([AlertEvent(AlertChange.RESOLVED, alert, now) for alert in orphans])

    async def _start_services(self, chosen: Mapping[str, ServiceSettings], with_services: bool) -> None:
        """Children of ours that do not run are started; those that an earlier life of ours started are adopted."""
        halted: frozenset[str] = frozenset()
        with self._store_trouble():
            halted = self.runs.halted()
        for name, settings in chosen.items():
            if settings.kind != "child" or f"service:{name}" in halted:
                continue
            status = await self.services[name].status()
            if status.state == "running" and status.identity is not None:
                log.info("service %s runs already (pid %d)", name, status.identity.pid)
            elif with_services or not status.on_purpose:
                log.info("starting service %s", name)
                try:
                    await self.services[name].start()
                except ProxywatchError as error:
                    log.error("service %s: %s", name, error)  # noqa: TRY400
                    self.parts.unstarted[name] = str(error)
                else:
                    self.parts.unstarted.pop(name, None)

    async def _shut_down(self, with_services: bool) -> None:
        self._systemd.tell("STOPPING=1")
        self._stop.set()
        await self.rounds.end()
        await self.supervisors.end()
        self.schedule.stop()
        await self.runner.stop()
        for task in self._tasks:
            if task.get_name() not in {"sender", "dispatcher", "view"}:
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._control.stop()
        if with_services:
            for name, settings in self.parts.loaded.config.services.items():
                if settings.kind == "child":
                    log.info("stopping service %s", name)
                    with contextlib.suppress(ProxywatchError):
                        await self.services[name].stop()
        await self.http.close()
        self._bus.close()
        self.database.close()
        self._systemd.close()
        log.info("stopped")

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task: asyncio.Task[None] = asyncio.create_task(work, name=name)
        self._tasks.append(task)
        task.add_done_callback(self._task_ended)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.remove(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.critical(
                "%s ended by a bug of ours; stopping so that systemd starts us anew", task.get_name(), exc_info=error
            )
            self.failed = True
            self.stop()

    failed = False
    """Whether a part of the daemon ended by a bug; the exit code is 1 then."""

    def _headline(self) -> str:
        return headline(self.parts)
