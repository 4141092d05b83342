"""The proxies that are measured beside ours: nginx, and gateways that `install_peers.sh` has put into a directory."""

from __future__ import annotations

import getpass
import http.client
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

from tests.bench.figures import BenchError
from tests.bench.lab import Lab, free_port
from tests.bench.load import Headers
from tests.bench.machine import family, peer

_START_SECONDS = 120.0
"""LiteLLM's proxy takes a quarter of a minute on an idle machine."""
_QUESTION = b'{"model":"demo-small","messages":[{"role":"user","content":"Are you there?"}]}'
_NGINX = """
%(user)s
daemon off;
worker_processes 1;
pid nginx.pid;
error_log nginx-error.log;
events { worker_connections 1024; }
http {
  access_log nginx-access.log;
  client_body_temp_path body;
  proxy_temp_path temporary;
  fastcgi_temp_path temporary;
  uwsgi_temp_path temporary;
  scgi_temp_path temporary;
  keepalive_requests 1000000000;
  upstream provider { server 127.0.0.1:%(upstream)d; keepalive 256; keepalive_requests 1000000000; }
  proxy_http_version 1.1;
  proxy_set_header Connection "";
  server { listen 127.0.0.1:%(port)d; location / { proxy_pass http://provider; } }
  server { listen 127.0.0.1:%(streaming)d; location / { proxy_pass http://provider; proxy_buffering off; } }
}
"""


@dataclass(frozen=True, slots=True)
class Target:
    """A running proxy. `streaming` is the port for streams, `headers` what a caller has to send."""

    name: str
    port: int
    streaming: int
    pids: list[int]
    headers: Headers = ()
    start_seconds: float | None = None
    """From exec to the first answer that says it is ready."""


def nginx(place: Lab, upstream: int) -> Target | None:
    """None if it is not installed."""
    program = peer("nginx")
    if program is None:
        return None
    port, streaming = free_port(), free_port()
    user = f"user {getpass.getuser()};" if os.geteuid() == 0 else ""
    file = place.root / "nginx.conf"
    file.write_text(_NGINX % {"user": user, "upstream": upstream, "port": port, "streaming": streaming})
    argv = [program, "-p", str(place.root), "-c", str(file), "-e", str(place.root / "nginx-error.log")]
    process = place.start("nginx", argv, port=port)
    return Target("nginx", port, streaming, family(process.pid))


@dataclass(frozen=True, slots=True)
class Gateway:
    """How one is started. `program` is relative to the directory of `install_peers.sh`, and so are `argv`'s words that
    begin with `./`; `%(port)d` and `%(upstream)d` are filled in, in the files' text too."""

    name: str
    program: str
    argv: tuple[str, ...]
    ready: str
    headers: Headers = ()
    files: tuple[tuple[str, str], ...] = ()
    environment: tuple[tuple[str, str], ...] = ()

    def installed(self, directory: Path | None) -> bool:
        """Whether `install_peers.sh` has been there."""
        return directory is not None and (directory / self.program).exists()

    def start(self, place: Lab, directory: Path, upstream: int) -> Target:
        """Starts one process of it before the upstream; returns when it is ready."""
        values = {"port": free_port(), "upstream": upstream}
        for name, text in self.files:
            (place.root / name).write_text(text % values)
        words = [str(directory / word[2:]) if word.startswith("./") else word % values for word in self.argv]
        headers = tuple((name, value % values) for name, value in self.headers)
        began = time.perf_counter()
        process = place.start(
            self.name.lower(),
            words,
            port=values["port"],
            path=self.ready,
            environment=dict(self.environment),
            seconds=_START_SECONDS,
        )
        took = time.perf_counter() - began
        _expect_an_answer(values["port"], headers)
        return Target(self.name, values["port"], values["port"], family(process.pid), headers, took)


def _expect_an_answer(port: int, headers: Headers) -> None:
    """The first request may take long; BenchError if it is not answered well."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_START_SECONDS)
    try:
        sent = {"content-type": "application/json", **dict(headers)}
        connection.request("POST", "/v1/chat/completions", _QUESTION, sent)
        response = connection.getresponse()
        said = response.read()
    finally:
        connection.close()
    if response.status != http.client.OK:
        raise BenchError(f"a gateway answers {response.status}: {said[:300]!r}")


PORTKEY = Gateway(
    name="Portkey",
    program="portkey/node_modules/@portkey-ai/gateway/build/start-server.js",
    argv=("node", "./portkey/node_modules/@portkey-ai/gateway/build/start-server.js", "--port=%(port)d", "--headless"),
    ready="/",
    headers=(
        ("authorization", "Bearer sk-bench"),
        ("x-portkey-provider", "openai"),
        ("x-portkey-custom-host", "http://127.0.0.1:%(upstream)d/v1"),
    ),
    environment=(("NODE_ENV", "production"), ("TRUSTED_CUSTOM_HOSTS", "127.0.0.1,localhost")),
)
LITELLM = Gateway(
    name="LiteLLM",
    program="litellm/bin/litellm",
    argv=(
        *("./litellm/bin/litellm", "--config", "litellm.yaml", "--host", "127.0.0.1", "--port", "%(port)d"),
        *("--num_workers", "1", "--telemetry", "False"),
    ),
    ready="/health/readiness",
    headers=(("authorization", "Bearer sk-bench"),),
    files=(
        (
            "litellm.yaml",
            json.dumps(
                {
                    "model_list": [
                        {
                            "model_name": "demo-small",
                            "litellm_params": {
                                "model": "openai/demo-small",
                                "api_base": "http://127.0.0.1:%(upstream)d/v1",
                                "api_key": "sk-bench",
                            },
                        }
                    ],
                    "general_settings": {"master_key": "sk-bench"},
                }
            ),
        ),
    ),
    environment=(("LITELLM_LOCAL_MODEL_COST_MAP", "True"),),
)
GATEWAYS = (PORTKEY, LITELLM)


def gateways(place: Lab, directory: Path | None, upstream: int) -> dict[str, Target | None]:
    """Those that are installed, running; None for the others."""
    started: dict[str, Target | None] = {}
    for gateway in GATEWAYS:
        if directory is not None and gateway.installed(directory):
            started[gateway.name] = gateway.start(place, directory, upstream)
        else:
            started[gateway.name] = None
    return started
