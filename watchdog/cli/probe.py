"""`proxywatch probe list|run`: what is measured, and one measurement now as a Nagios plugin gives it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from watchdog.cli import nagios, text
from watchdog.cli.control import RefusedRequest, Unreachable, control_of, part
from watchdog.cli.nagios import Verdict
from watchdog.cli.query import series_text, value_text
from watchdog.errors import ConfigError

Shape = dict[str, Any]


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Adds `probe list` and `probe run`."""
    probe = commands.add_parser("probe", aliases=["probes"], parents=[common], help="list probes, or run one now")
    actions = probe.add_subparsers(metavar="ACTION", required=True)
    listing = actions.add_parser("list", parents=[common], help="every probe and its last result")
    listing.set_defaults(do=_list)
    run = actions.add_parser("run", parents=[common], help="measure once: one line and exit 0/2/3")
    run.add_argument("name", metavar="NAME")
    run.add_argument("--samples", action="store_true", help="print every sample below the line")
    run.set_defaults(do=_run)


def _list(options: argparse.Namespace) -> int:
    shape = control_of(options).get("/v1/probes")
    if options.json:
        text.say_json(shape)
        return 0
    rows = []
    for probe in shape["probes"]:
        last = probe["last"]
        when = f"{text.ago(last['at'], shape['now'])} ago" if last else "not yet"
        took = f"took {text.span(last['duration_seconds'])}" if last else ""
        note = (last["error"] or last["note"] or text.count(last["series"], "sample")) if last else ""
        every = f"every {text.span(probe['interval_seconds'])}"
        rows.append([probe["name"], probe["kind"], probe["state"], every, when, took, note])
    text.say(text.columns(rows))
    return 0


def _run(options: argparse.Namespace) -> int:
    """Through the daemon if there is one, so that rules see the result; else by itself, from the configuration.

    A probe that gets no answer in time is CRITICAL; UNKNOWN is for what could not be tried at all.
    """
    try:
        try:
            shape = control_of(options).post(f"/v1/probes/{part(options.name)}/run")
        except Unreachable:
            shape = _alone(options.config, options.name)
    except (RefusedRequest, ConfigError) as error:
        hint = f"; {error.hint}" if error.hint else ""
        return _finish(options, Verdict.UNKNOWN, f"{error}{hint}", None)
    last = shape["last"]
    verdict = Verdict.OK if last["error"] is None else Verdict.CRITICAL
    took = f"{text.count(last['series'], 'sample')} in {text.span(last['duration_seconds'])}"
    return _finish(options, verdict, last["error"] or last["note"] or took, shape)


def _finish(options: argparse.Namespace, verdict: Verdict, words: str, shape: Shape | None) -> int:
    samples = shape["last"]["samples"] if shape else []
    if options.json:
        text.say_json({"verdict": verdict.name, "exit": int(verdict), "text": words, "probe": shape})
        return int(verdict)
    figures = [nagios.sample_figure(s["name"], s["labels"], s["value"]) for s in samples]
    text.say(nagios.line(f"PROBE {options.name}", verdict, words, figures))
    if options.samples:
        text.say(f"{series_text({**s['labels'], '__name__': s['name']})} {value_text(s['value'])}" for s in samples)
    return int(verdict)


def _alone(config: str | None, name: str) -> Shape:
    """Builds the probe and runs it once. Raises ConfigError."""
    import asyncio
    import difflib

    from watchdog.settings import load_config

    loaded = load_config(Path(config) if config else None)
    if name not in loaded.config.probes:
        close = difflib.get_close_matches(name, list(loaded.config.probes), n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"probes: {', '.join(loaded.config.probes) or 'none'}"
        raise ConfigError(f"there is no probe {name!r}", file=str(loaded.file), key="probes", hint=hint)
    return asyncio.run(_measure(loaded.config, name))


async def _measure(config: Any, name: str) -> Shape:
    from watchdog.api.views import probe_result
    from watchdog.clock import SystemClock
    from watchdog.probes import Closer, ProbeContext, probes, run_once
    from watchdog.system.http import HttpClient
    from watchdog.system.services import ServiceContext, services

    clock, http = SystemClock(), HttpClient()
    settings = config.probes[name]
    controllers = {
        service: services.implementation(one.kind)(
            one, ServiceContext(service, config.run_dir, config.log_dir, clock, http)
        )
        for service, one in config.services.items()
    }
    proxies = {service: one.proxy for service, one in config.services.items() if one.proxy is not None}
    probe = probes.implementation(settings.kind)(settings, ProbeContext(name, clock, http, controllers, proxies))
    try:
        result = await run_once(probe, settings, name, clock)
    finally:
        if isinstance(probe, Closer):
            await probe.close()
        await http.close()
    return {
        "name": name,
        "kind": settings.kind,
        "service": settings.service,
        "state": "failed" if result.error is not None else "ok",
        "last": probe_result(result, samples=True),
    }
