"""What counts as health at the end: the last look before a person is called, and what is no proof."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from healing_world import QUICK, World, alert, playbook, rung

from watchdog.core.model import Sample, labels_of
from watchdog.metrics.engine import RuleEngine
from watchdog.metrics.series import SeriesStore
from watchdog.playbooks.schema import Playbook, fill, load_playbooks

MakeWorld = Callable[..., World]
SHIPPED = Path(__file__).resolve().parents[3] / "config/playbooks"
LABELS = {
    "proxywatch_service_up": {"service": "web", "job": "process"},
    "probe_success": {"service": "web", "job": "front", "kind": "http", "probe": "front"},
}


def late(directory: Path, *, stop: bool = False, expr: str = "well", **more: Any) -> Playbook:
    """Its only step says that it failed, and yet what it did helps."""
    argv = ["sh", "-c", f"touch {directory}/truths/well; exit 1"]
    step = {"kind": "command", "argv": argv, "timeout": "5s", "on_failure": "stop" if stop else "next_rung"}
    return playbook(rung("one", step, verify={"expr": expr, **QUICK}), **more)


async def test_health_that_comes_late_ends_the_run_verified(tmp_path: Path, make_world: MakeWorld) -> None:
    """After the last rung there is one more look, and nobody is called for what is well and stays so."""
    world = make_world(late(tmp_path, mitigates=True))
    incident = world.fire(alert())
    run = await world.ended(world.begin(incident))
    assert run.state == "mitigated"
    assert world.told("escalated") == []
    (seen,) = world.story(incident, "last_look")
    assert seen.startswith("after the last rung: well for ")


async def test_without_an_incident_the_expression_tells(tmp_path: Path, make_world: MakeWorld) -> None:
    """A person's run is verified by what holds; where nothing could tell, a failed step stays a failure."""
    world = make_world(late(tmp_path))
    assert (await world.ended(world.begin(None, target="service:web", trigger="person"))).state == "verified"
    blind = late(tmp_path, expr="")
    world.runner.playbooks = {blind.name: blind}
    assert (await world.ended(world.begin(None, target="service:web", trigger="person"))).state == "exhausted"


async def test_what_stopped_calls_a_person_all_the_same(tmp_path: Path, make_world: MakeWorld) -> None:
    """`on_failure: stop` means that somebody has to look, whatever the probes say by then."""
    world = make_world(late(tmp_path, stop=True, mitigates=True))
    incident = world.fire(alert())
    assert (await world.ended(world.begin(incident))).state == "exhausted"
    assert len(world.told("escalated")) == 1


@pytest.mark.parametrize(
    ("measured", "well"),
    [
        ({"proxywatch_service_up": 1.0, "probe_success": 1.0}, True),
        ({"proxywatch_service_up": 1.0}, True),
        ({"probe_success": 1.0}, True),
        ({"proxywatch_service_up": 1.0, "probe_success": 0.0}, False),
        ({"proxywatch_service_up": 0.0, "probe_success": 1.0}, False),
        ({}, False),
    ],
    ids=["both", "process", "http", "no-answer", "no-process", "nothing"],
)
def test_a_service_that_nobody_measures_is_not_well(measured: dict[str, float], well: bool) -> None:
    """restore-service verifies only by what is measured and good; when the probe has gone, the alert's end is no
    health."""
    series = SeriesStore(3600.0, 1000, 1000)
    engine = RuleEngine((), series)
    (rung, *_rest) = load_playbooks([SHIPPED / "restore-service.yaml"])["restore-service"].ladder
    for name, labels in LABELS.items():
        series.ingest_scrape(labels["job"], [Sample(name, 0.0, labels_of(labels))], 1000.0)
        value = measured.get(name)
        samples = [] if value is None else [Sample(name, value, labels_of(labels))]
        series.ingest_scrape(labels["job"], samples, 1010.0)
    assert bool(engine.query(fill(rung.verify.expr, {"service": "web"}), 1011.0)) is well
