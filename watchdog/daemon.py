"""The composition root: builds everything once, runs it, reloads it, stops it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from typing import Any

from watchdog import accepted
from watchdog.api.app import create_app
from watchdog.api.headline import headline
from watchdog.api.parts import Parts
from watchdog.api.server import ControlServer
from watchdog.children import start_children, stop_children
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
from watchdog.signs import Signs
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
FINISH_SECONDS = 30.0
"""How long a step that is being done when the agent is stopped may take to its end, before it is cut off."""
SELF = "proxywatch"
SELF_SECONDS = 10.0


class Daemon:
    """One running agent. `database` is a seam: tests open one that dies at a chosen write."""

    def __init__(
        self, files: Files, *, database: Callable[..., Database] = Database, clock: Clock | None = None
    ) -> None:
        config = files.loaded.config
        self.clock = clock or SystemClock()
        self._signs = Signs(os.environ, lambda: headline(self.parts))
        self._files = files
        self._routes = files.routes
        self.bell = Bell()
        advanced = functools.partial(self._signs.advanced, "the database of an earlier release is brought up to date")
        self.database = database(config.state_dir / "proxywatch.db", advanced)
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
        self.world = World(config, self.services, self.proxies, self.series, self.clock, vault, self.http)
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
            refused=files.refused,
        )
        self._control = ControlServer(create_app(self.parts), files.loaded.control_socket)
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
            await self.keeping.begin(self.parts.loaded.config.backups, self.pipeline, accepted=not self.parts.refused)
            self.schedule.start()
            for work in (self._evaluate, self.intake.run, self._keep_in_step, self._keep_house):
                self._spawn(work(), work.__name__)
            self._spawn(self._signs.feed(self._fit), "signs-of-life")
            self._spawn(self._persistently(self.dispatcher.run), "dispatcher")
            self._spawn(self._persistently(self.sender.run), "sender")
            self.schedule.every(SELF, Pace(SELF_SECONDS), self._measure_self)
            if await self.rounds.first_round():
                self.engine.measured()
                self.pipeline.tick()
            await self.runner.resume(lambda: self._signs.advanced("looking what became of the repairs of before"))
            self.parts.ready = True
            self.bell.ring()
            self._signs.ready()
            log.info("ready: %s", self._headline())
            self._spawn(self._keep_configuration(), "keep-configuration")
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
        file = self.parts.loaded.file
        with self._signs.reloading():
            try:
                files = await asyncio.to_thread(read_files, file)
                config = files.loaded.config
                notifiers = build_notifiers(files.routes, self._notifier_context(config))
            except (ProxywatchError, OSError, ValueError) as error:
                self.parts.refused = str(error)
                raise error if isinstance(error, ConfigError) else ConfigError(str(error), file=str(file)) from error
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
        self.parts.refused = ""
        self._files = files
        await self._keep_configuration()
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

    def _fit(self) -> bool:
        """The scheduler itself advances and the store can be written: a loop that merely turns proves nothing."""
        now = self.clock.now()
        return now - self.schedule.advanced_at < 3 * SELF_SECONDS and self.remembering.fit(now)

    async def _keep_configuration(self) -> None:
        """What is in force, for a start with a broken one."""
        if not self._files.refused:
            try:
                await asyncio.to_thread(accepted.keep, self._files)
            except (OSError, ConfigError) as error:
                log.warning("the configuration in force could not be kept for a start with a broken one: %s", error)

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
            samples.append(Sample("proxywatch_config_last_reload_successful", float(not self.parts.refused)))
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
        halted: frozenset[str] = frozenset()
        with self._store_trouble():
            halted = self.runs.halted()
        await start_children(
            chosen, self.services, halted=halted, wanted_all=with_services, unstarted=self.parts.unstarted
        )

    async def _shut_down(self, with_services: bool) -> None:
        self._signs.stopping()
        self._stop.set()
        await self.rounds.end()
        await self.supervisors.end()
        self.schedule.stop()
        await self.runner.stop(FINISH_SECONDS, lambda: self._signs.advanced("a step of a repair is being finished"))
        for task in self._tasks:
            if task.get_name() not in {"sender", "dispatcher", "view"}:
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._control.stop()
        if with_services:
            await stop_children(self.parts.loaded.config.services, self.services)
        await self.http.close()
        self._bus.close()
        self.database.close()
        self._signs.close()
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
