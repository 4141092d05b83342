"""Load by wrk: chat completions from many connections as fast as they are answered."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from tests.bench.figures import BenchError
from tests.bench.machine import peer

_LUA = """
wrk.method = "POST"
wrk.path = "/v1/chat/completions"
wrk.headers["content-type"] = "application/json"
%(headers)s
local template = [[%(body)s]]
%(requests)s
function done(summary, latency, _)
  local errors = summary.errors
  print(string.format('\\nRESULT {"requests":%%d,"seconds":%%.6f,"p50":%%.3f,"p99":%%.3f,"errors":%%d}',
    summary.requests, summary.duration / 1e6, latency:percentile(50), latency:percentile(99),
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
"""
_SAME = "wrk.body = template"
_DIFFERENT = """
local count = 0
function request()
  count = count + 1
  return wrk.format(nil, nil, nil, (template:gsub("NUMBER", count .. "-" .. os.time())))
end
"""


Headers = tuple[tuple[str, str], ...]


class Kind(Enum):
    """What is asked: body, headers, and whether each request differs from the one before."""

    PROXIED = ("", 'wrk.headers["cache-control"] = "no-store"', _SAME)
    HIT = ("", "", _SAME)
    STORED = ("", "", _DIFFERENT)
    STREAM = (',"stream":true', 'wrk.headers["cache-control"] = "no-store"', _SAME)

    def script(self, headers: Headers = ()) -> str:
        """As wrk reads it."""
        more, own, requests = self.value
        lines = "\n".join([own, *(f'wrk.headers["{name}"] = "{value}"' for name, value in headers)])
        said = "Please tell me in a few words what the weather will be like in Trieste. " * 3
        body = f'{{"model":"demo-small","messages":[{{"role":"user","content":"{said}NUMBER"}}]{more}}}'
        return _LUA % {"headers": lines, "body": body, "requests": requests}


@dataclass(frozen=True, slots=True)
class Load:
    """What wrk saw; `p50` and `p99` in microseconds."""

    requests: int
    seconds: float
    p50: float
    p99: float
    errors: int

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds


def run(directory: Path, kind: Kind, port: int, connections: int, seconds: float, headers: Headers = ()) -> Load:
    """Puts full load on 127.0.0.1:`port`. BenchError if a request failed: the figures would be of something else."""
    load = _wrk(directory, kind, port, connections, seconds, kind.script(headers))
    if load.errors or not load.requests:
        raise BenchError(f"{load.errors} of {load.requests} requests failed ({kind.name.lower()}, port {port})")
    return load


def paced(
    directory: Path, kind: Kind, port: int, connections: int, seconds: float, rate: float, headers: Headers = ()
) -> Load:
    """About `rate` requests a second, a little less by the time that answers take; failed ones are in `errors`."""
    milliseconds = round(connections / rate * 1000)
    pace = f"function delay() return {milliseconds} end"
    return _wrk(directory, kind, port, connections, seconds, kind.script(headers) + pace)


def _wrk(directory: Path, kind: Kind, port: int, connections: int, seconds: float, script: str) -> Load:
    program = peer("wrk")
    if program is None:
        raise BenchError("wrk is not installed")
    file = directory / f"{kind.name.lower()}-{port}.lua"
    file.write_text(script)
    argv = [program, "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "10s", "-s", str(file)]
    said = subprocess.run([*argv, f"http://127.0.0.1:{port}"], capture_output=True, text=True, check=False)
    result = next((line for line in said.stdout.splitlines() if line.startswith("RESULT ")), None)
    if result is None:
        raise BenchError(f"wrk failed: {said.stdout[-300:]}{said.stderr[-300:]}")
    return Load(**json.loads(result.removeprefix("RESULT ")))
