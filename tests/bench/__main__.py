"""The command line: `python -m tests.bench [PART …]` measures and writes `bench/`; `python -m tests.bench soak`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.bench import (
    checking,
    first_action,
    footprint,
    guard_cost,
    leak_cost,
    leak_under_load,
    probes_cost,
    recovery,
    request_cost,
    storm,
)
from tests.bench.figures import BenchError, Figure, page, table, write
from tests.bench.machine import PEERS, describe, peer
from tests.bench.peers import GATEWAYS
from tests.bench.soak import soak

_PARTS: dict[str, Callable[[bool, Path | None], Iterator[Figure]]] = {
    "requests": request_cost.measure,
    "recovery": lambda quick, _: recovery.measure(quick),
    "checking": lambda quick, _: checking.measure(quick),
    "footprint": lambda quick, _: footprint.measure(quick),
    "guards": lambda quick, _: guard_cost.measure(quick),
    "action": lambda quick, _: first_action.measure(quick),
    "probes": lambda quick, _: probes_cost.measure(quick),
    "storm": lambda quick, _: storm.measure(quick),
    "leak-cost": lambda quick, _: leak_cost.measure(quick),
    "leak-load": lambda quick, _: leak_under_load.measure(quick),
}
_AGENT = ("guards", "action", "probes", "storm")
"""What `agent` stands for: what only proxywatch does, written to a page of its own."""


def main() -> int:
    """0 when everything could be measured (or the soak found nothing), 1 otherwise, 2 for wrong use."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(_PARTS)}, agent, soak; all but soak")
    parser.add_argument("--quick", action="store_true", help="short measurements; only `agent` is written")
    parser.add_argument("--minutes", type=float, default=30.0, help="of soak")
    parser.add_argument("--peers", type=_directory, metavar="DIR", help="where install_peers.sh has put other gateways")
    parser.add_argument("--output", type=Path, default=Path("bench"), help="where results are written")
    arguments = parser.parse_args()
    asked = arguments.parts or list(_PARTS)
    if unknown := sorted(set(asked) - {*_PARTS, "agent", "soak"}):
        parser.error(f"no part is called {unknown[0]!r}; expected {', '.join(_PARTS)}, agent or soak")
    parts = [part for each in asked for part in (_AGENT if each == "agent" else (each,))]
    if "soak" in parts:
        return _soak(arguments.minutes)
    missing = [f"{name} (Debian package {package})" for name, (_, package) in PEERS.items() if peer(name) is None]
    missing += [f"{one.name} (--peers DIR)" for one in GATEWAYS if not one.installed(arguments.peers)]
    for each in missing:
        print(f"not installed, not measured: {each}")
    machine = describe()
    figures: list[Figure] = []
    failed = []
    for part in parts:
        try:
            for figure in _PARTS[part](arguments.quick, arguments.peers):
                figures.append(figure)
                print(table([figure]), flush=True)
        except BenchError as error:
            failed.append(f"{part}: {error}")
            print(f"FAILED {failed[-1]}", file=sys.stderr)
    print(table(figures))
    if not arguments.quick and set(parts) >= set(_PARTS):
        write(arguments.output, machine, figures, [*missing, *failed])
        print(f"written to {arguments.output}/results.json and {arguments.output}/README.md")
    if asked == ["agent"]:
        how = "python -m tests.bench agent" + " --quick" * arguments.quick
        page(arguments.output / "agent.md", f"The agent by itself, `{how}`", machine, figures, failed)
        print(f"written to {arguments.output}/agent.md")
    return 1 if failed else 0


def _directory(text: str) -> Path:
    return Path(text).resolve()


def _soak(minutes: float) -> int:
    code = 1
    try:
        code = soak(minutes)
    except* BenchError as errors:
        print(f"FAILED soak: {'; '.join(map(str, errors.exceptions))}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
