"""What every registered action keeps: settings, a description, a survey, and a look at the world that never raises."""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

import watchdog.actions
from watchdog.actions import Action, ActionContext, ActionSettings, actions
from watchdog.backups.shelf import Shelf
from watchdog.backups.vault import Vault
from watchdog.clock import SystemClock
from watchdog.core.model import Outcome
from watchdog.core.targets import parse_target
from watchdog.errors import ActionError, ProxywatchError
from watchdog.holdings import holding_of
from watchdog.system.http import HttpClient
from watchdog.system.proxy_api import ProxyApi, ProxyEndpoint
from watchdog.system.services import ServiceController, ServiceError, ServiceStatus
from watchdog.system.services.recovery import Needs, Recovery

actions.discover(watchdog.actions)

SHORTEST: dict[str, dict[str, Any]] = {
    "block_source": {"address": "192.0.2.1", "nft": ["/no-such/nft"]},
    "command": {"argv": ["true"]},
    "evict_cache": {"expired": True},
    "invalidate_cache": {"model": "gpt-*"},
    "provider_key": {"key": "spare", "state": "retired"},
    "remove_files": {"directories": ["/no-such/place"], "patterns": ["*.tmp"], "min_age": "1d"},
    "rotate_logs": {"directories": ["/no-such/place"], "patterns": ["*.log.1"], "min_age": "1d"},
    "watch_service": {"looks": 2, "interval": "10ms", "in_a_row": 2},
    "vacuum_journal": {"keep_time": "7d", "journalctl": ["/no-such/journalctl"]},
}
"""The keys without which a kind cannot be; every other kind needs none."""

TARGETS = {
    "recycle_worker": "worker:web/0",
    "open_circuit": "provider:openai",
    "profile_worker": "worker:web/0",
    "provider_key": "provider:openai",
    "lower_rate": "provider:openai",
    "rotate_provider_key": "provider:openai",
    "suspend_key": "caller:web/shop",
}
SURVEYS: dict[str, dict[str, Any]] = {
    "recycle_worker": {"slot": 0, "pid": 4711},
    "recycle_workers": {"pids": [4711]},
    "restart_service": {"state": "running", "pid": 4711, "start": 5},
    "open_circuit": {"circuit": "closed", "forced": False},
    "evict_cache": {"entries": 1, "evictions": 0, "expired": 0, "flushes": 0},
    "flush_cache": {"entries": 1, "evictions": 0, "expired": 0, "flushes": 0},
    "block_source": {"address": "192.0.2.1", "blocked": False},
    "provider_key": {"state": "active", "others": 1},
    "remove_files": {"files": [["/no-such/place", "a.tmp", 7, 512, 0]], "troubles": []},
    "rotate_logs": {"files": [["/no-such/place", "a.log.1", 7, 512, 0]], "troubles": []},
    "vacuum_journal": {"bytes": 1024},
    **{kind: {"since": 0.0} for kind in ("lower_rate", "shed_load", "suspend_key", "tighten_limits")},
    "pause_warming": {"since": None},
    "shorten_recycle_age": {"since": 0.0},
    "clear_temporary": {"files": [], "troubles": ["/no-such/place: no such directory"]},
    "restore_archive": {"point": "/no-such/place/web-run-7-1.tar.gz", "planned": None},
    "restore_point": {"point": "/no-such/place/web-run-7-1.tar.gz"},
    "start_service": {"state": "failed"},
    "stop_service": {"state": "running"},
    "warm_cache": {"rounds": 1},
    "rotate_provider_key": {"key": "spare"},
}
"""What an intent of before the crash may hold; kinds that survey nothing need none."""

RECOVERY = Recovery(files=("/no-such/place/web.yaml",), needs=Needs(memory="1000000TB"))  # type: ignore[arg-type]
"""What is known of a service that has nothing, and needs what no machine has."""

KINDS = sorted(actions.kinds)
UNHINDERED = {"command": "exit 0", "restore_point": "nothing had been changed"}
"""Kinds to which nothing is in the way where nothing is, and what they say."""
OF_THE_HOST = {"block_source", "command", "remove_files", "rotate_logs", "vacuum_journal"}
"""Kinds that touch what their settings name, whichever service the target is."""


class Unreachable:
    """A controller whose service cannot even be asked."""

    name = "web"

    async def status(self) -> ServiceStatus:
        raise ServiceError("web cannot be asked")

    async def start(self) -> None:
        raise ServiceError("web cannot be started")

    async def stop(self) -> None:
        raise ServiceError("web cannot be stopped")

    async def halt(self) -> None:
        raise ServiceError("web cannot be stopped")

    async def restart(self) -> None:
        raise ServiceError("web cannot be restarted")

    async def wait_exit(self) -> None:
        raise ServiceError("web has no process")


@pytest.fixture
async def proxy(tmp_path: Path) -> AsyncIterator[ProxyApi]:
    """A proxy that nobody runs: no socket, and a port on which nothing listens."""
    (tmp_path / "admin.key").write_text("secret")
    http = HttpClient()
    yield ProxyApi(ProxyEndpoint("http://127.0.0.1:9", tmp_path / "master.sock", tmp_path / "admin.key"), http)
    await http.close()


def context(directory: Path, target: str, proxy: ProxyApi | None) -> ActionContext:
    service: ServiceController = Unreachable()
    return ActionContext(
        target=parse_target(target),
        labels={"service": "web"},
        services={"web": service},
        proxies={} if proxy is None else {"web": proxy},
        clock=SystemClock(),
        log_dir=directory,
        vault=Vault(Shelf(directory / "backups"), {"web": holding_of("web", RECOVERY)}),
        run="7-1",
    )


def settings(kind: str) -> ActionSettings:
    found = TypeAdapter(actions.kinds[kind]).validate_python({"kind": kind, **SHORTEST.get(kind, {})})
    assert isinstance(found, ActionSettings)
    return found


def build(kind: str, directory: Path, proxy: ProxyApi | None) -> Action:
    return actions.implementation(kind)(settings(kind), context(directory, TARGETS.get(kind, "service:web"), proxy))


@pytest.mark.parametrize("kind", KINDS)
def test_an_action_says_what_it_is(kind: str) -> None:
    """Its file, its settings and its class each have a docstring of their own."""
    model, implementation = actions.kinds[kind], actions.implementation(kind)
    assert inspect.isclass(implementation)
    for thing in (importlib.import_module(model.__module__), model, implementation):
        assert thing.__doc__
        assert thing.__doc__.strip() != (ActionSettings.__doc__ or "").strip()


@pytest.mark.parametrize("kind", KINDS)
def test_its_settings_are_frozen_and_strict(kind: str) -> None:
    """The settings carry `kind`, timeout and on_failure, cannot be changed, and refuse an unknown key."""
    model = actions.kinds[kind]
    found = settings(kind)
    assert issubclass(model, ActionSettings)
    assert found.model_dump()["kind"] == kind
    assert found.timeout > 0
    with pytest.raises(ValidationError, match="frozen"):
        found.timeout = 1.0  # type: ignore[misc]
    with pytest.raises(ValidationError, match="extra_forbidden"):
        model.model_validate({"kind": kind, **SHORTEST.get(kind, {}), "surprise": 1})
    with pytest.raises(ValidationError):
        model.model_validate({**SHORTEST.get(kind, {}), "kind": "another"})


@pytest.mark.parametrize("kind", KINDS)
def test_its_settings_survive_the_record(tmp_path: Path, kind: str) -> None:
    """What an intent records of the settings builds an action after a crash that describes the same effect."""
    found = settings(kind)
    recorded = json.loads(json.dumps(found.model_dump(mode="json")))
    again = type(found).model_construct(**recorded)
    where = context(tmp_path, TARGETS.get(kind, "service:web"), None)
    implementation = actions.implementation(kind)
    assert implementation(again, where).describe() == implementation(found, where).describe()
    assert (again.timeout, again.on_failure) == (found.timeout, found.on_failure)


@pytest.mark.parametrize("kind", KINDS)
async def test_describing_changes_nothing(tmp_path: Path, kind: str, proxy: ProxyApi) -> None:
    """The description is one line, needs no proxy to answer, is the same twice, and writes nothing."""
    action = build(kind, tmp_path, proxy)
    before = sorted(tmp_path.iterdir())
    said = action.describe()
    assert said.strip() == said
    assert said
    assert "\n" not in said
    assert action.describe() == said
    assert sorted(tmp_path.iterdir()) == before
    assert isinstance(action.disruptive, bool)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_survey_can_be_recorded_or_is_refused(tmp_path: Path, kind: str, proxy: ProxyApi) -> None:
    """With nothing there to survey it either needs nothing, or raises our own error; what it gives is JSON."""
    try:
        survey = await build(kind, tmp_path, proxy).survey()
    except ProxywatchError as error:
        assert kind in SURVEYS, f"{kind} must say in SURVEYS what it surveys"
        assert "\n" not in str(error)  # noqa: PT017 - both ends are allowed
        return
    assert json.loads(json.dumps(survey)) == survey


@pytest.mark.parametrize("kind", KINDS)
async def test_performing_on_nothing_is_an_action_error(tmp_path: Path, kind: str, proxy: ProxyApi) -> None:
    """With nothing there an effect fails with our own error, never with another exception; a command needs nobody."""
    action = build(kind, tmp_path, proxy)
    if kind in UNHINDERED:
        assert await action.perform({}) == UNHINDERED[kind]
        return
    with pytest.raises(ProxywatchError) as caught:
        await action.perform(SURVEYS.get(kind, {}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
async def test_looking_at_nothing_never_claims_an_effect(tmp_path: Path, kind: str, proxy: ProxyApi) -> None:
    """An unreachable proxy or service gives a sighting, never an exception, and never «done»."""
    sighting = await build(kind, tmp_path, proxy).observe(SURVEYS.get(kind, {}))
    assert sighting.outcome in {Outcome.UNKNOWN, Outcome.NOT_DONE}
    assert sighting.note
    assert "\n" not in sighting.note


@pytest.mark.parametrize("kind", sorted(set(KINDS) - OF_THE_HOST))
async def test_an_unknown_service_is_never_guessed(tmp_path: Path, kind: str) -> None:
    """A target of a service that is not configured is refused before anything is touched, with what is missing."""
    target = TARGETS.get(kind, "service:web")
    bare = ActionContext(parse_target(target), {}, {}, {}, SystemClock(), tmp_path)
    action = actions.implementation(kind)(settings(kind), bare)
    with pytest.raises(
        ActionError, match=r"which this action needs|not in the configuration|no `proxy` section|archived"
    ):
        await action.perform(SURVEYS.get(kind, {}))


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        ("evict_cache", {}),
        ("evict_cache", {"expired": True, "fraction": 0.5}),
        ("evict_cache", {"fraction": 0}),
        ("evict_cache", {"fraction": 1}),
        ("open_circuit", {"duration": "31s"}),
        ("open_circuit", {"duration": "0s"}),
        ("command", {}),
        ("command", {"argv": []}),
        ("command", {"argv": "rm -rf /"}),
        ("recycle_worker", {"mode": "gently"}),
        ("profile_worker", {"duration": "1m"}),
        ("profile_worker", {"frequency": 0}),
        ("provider_key", {"state": "retired"}),
        ("provider_key", {"key": "a", "state": "dead"}),
        ("provider_key", {"key": "a", "state": "active", "grace": "1m"}),
        ("remove_files", {"directories": [], "patterns": ["*.tmp"], "min_age": "1d"}),
        ("remove_files", {"directories": ["/var/tmp"], "patterns": [], "min_age": "1d"}),
        ("remove_files", {"directories": ["/var/tmp"], "patterns": ["*.tmp"]}),
        ("remove_files", {"directories": ["/var/tmp"], "patterns": ["*.tmp"], "min_age": "0s"}),
        ("remove_files", {"directories": ["/"], "patterns": ["*.tmp"], "min_age": "1d"}),
        ("remove_files", {"directories": ["/var"], "patterns": ["*.tmp"], "min_age": "1d"}),
        ("remove_files", {"directories": ["var"], "patterns": ["*.tmp"], "min_age": "1d"}),
        ("remove_files", {"directories": ["var/../etc"], "patterns": ["*.tmp"], "min_age": "1d"}),
        ("remove_files", {"directories": [""], "patterns": ["*.tmp"], "min_age": "1d"}),
        ("remove_files", {"directories": ["/var/tmp/../lib"], "patterns": ["*.tmp"], "min_age": "1d"}),
        ("remove_files", {"directories": ["/etc/ssl"], "patterns": ["*.pem"], "min_age": "1d"}),
        ("remove_files", {"directories": ["//etc/ssl"], "patterns": ["*.pem"], "min_age": "1d"}),
        ("remove_files", {"directories": ["/var/tmp"], "patterns": ["*"], "min_age": "1d"}),
        ("remove_files", {"directories": ["/var/tmp"], "patterns": ["../*.tmp"], "min_age": "1d"}),
        ("invalidate_cache", {}),
        ("invalidate_cache", {"model": ""}),
        ("invalidate_cache", {"older_than": "long"}),
        ("pause_warming", {"duration": "2d"}),
        ("shed_load", {"share": 0}),
        ("shed_load", {"share": 1}),
        ("shed_load", {"duration": "1h"}),
        ("lower_rate", {"share": 1}),
        ("tighten_limits", {"share": 0}),
        ("suspend_key", {"duration": "2d"}),
        ("suspend_key", {"key": ""}),
        ("shorten_recycle_age", {"age": "1m"}),
        ("shorten_recycle_age", {"duration": "15d"}),
        ("vacuum_journal", {}),
        ("vacuum_journal", {"keep_size": "1KiB"}),
        ("vacuum_journal", {"keep_time": "1s"}),
        ("block_source", {"address": "example.org"}),
        ("block_source", {"address": "192.0.2.0/24"}),
        ("block_source", {"address": "192.0.2.1", "duration": "0s"}),
        ("block_source", {"address": "192.0.2.1", "allow": ["192.0.2.1/24"]}),
        ("restart_service", {"timeout": 5}),
        ("restart_service", {"on_failure": "pray"}),
    ],
)
def test_a_step_that_cannot_be_meant_is_refused_at_load(kind: str, keys: dict[str, Any]) -> None:
    """Keys that would do nothing, too much, or something else than they say never reach a run."""
    with pytest.raises(ValidationError):
        actions.kinds[kind].model_validate({"kind": kind, **keys})


async def test_a_command_knows_its_target(tmp_path: Path) -> None:
    """Labels of the target and of the incident are filled in, each as one argument, the target's first."""
    printing = {"kind": "command", "argv": ["printf", "%s,", "{service}", "{worker}", "{class}", "{{unknown}}"]}
    known = {"service": "other", "class": "a b; rm *"}
    where = ActionContext(parse_target("worker:web/0"), known, {}, {}, SystemClock(), tmp_path)
    model = actions.kinds["command"].model_validate(printing)
    assert await actions.implementation("command")(model, where).perform({}) == "web,0,a b; rm *,{unknown},"


@pytest.mark.parametrize(
    ("check", "outcome"),
    [
        (["true"], Outcome.DONE),
        (["false"], Outcome.NOT_DONE),
        (["/no/such/program"], Outcome.UNKNOWN),
        ([], Outcome.UNKNOWN),
    ],
)
async def test_a_command_is_recognised_by_its_check(tmp_path: Path, check: list[str], outcome: Outcome) -> None:
    """Exit 0 says it happened, another exit that it did not; a check that cannot run, or none, says nothing."""
    model = actions.kinds["command"].model_validate({"kind": "command", "argv": ["true"], "check": check})
    action = actions.implementation("command")(model, context(tmp_path, "service:web", None))
    assert (await action.observe({})).outcome is outcome


async def test_a_worker_that_is_no_slot_is_refused(tmp_path: Path, proxy: ProxyApi) -> None:
    """A worker's name that is no number is an error of ours, not a traceback."""
    action = actions.implementation("recycle_worker")(
        settings("recycle_worker"), context(tmp_path, "worker:web/first", proxy)
    )
    with pytest.raises(ActionError, match="no slot number"):
        await action.survey()
    assert (await action.observe({"slot": 0, "pid": 1})).outcome is Outcome.UNKNOWN
