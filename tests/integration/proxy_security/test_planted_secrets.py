"""Secrets are planted everywhere in a real service, and every byte that comes out of it is searched for them."""

from __future__ import annotations

import hashlib
import json
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import plain_http
import pytest
import yaml
from echoing_upstream import echoing_upstream
from proxy_service import Service, free_port, make_service

from proxy.__main__ import main
from proxy.control import request

WAYS = ("ok", "junk", "redirect", "cut", "frame", "400", "401", "403", "404", "429", "500", "503")
OPEN = ("/health", "/health/live", "/health/ready", "/health/quick", "/health/detailed", "/health/providers")
OPEN += ("/health/cache", "/metrics", "/metrics/json", "/metrics/cache", "/metrics/cache/warming", "/openapi.json")
KEYED = ("/v1/models", "/api/models")
ADMIN = ("/metrics/security", "/debug/cache/keys", "/debug/cache/config", "/debug/cache/stats")


@dataclass
class Planted:
    """Secrets by what they are, and what came out by where."""

    secrets: dict[str, str] = field(default_factory=dict)
    out: dict[str, bytes] = field(default_factory=dict)

    def secret(self, name: str) -> str:
        return self.secrets.setdefault(name, f"s3cr3t-{name}-{secrets.token_hex(12)}")

    def came(self, where: str, data: bytes | str) -> None:
        data = data.encode() if isinstance(data, str) else data
        self.out[where] = self.out.get(where, b"") + data

    def found(self) -> list[str]:
        return [
            f"{name} in {where}"
            for name, secret in self.secrets.items()
            for where, data in self.out.items()
            if secret.encode() in data
        ]


def settings_of(planted: Planted, place: Path, upstream: str) -> dict[str, Any]:
    """What replaces a plain service's settings: each way to give a secret is used once at least."""

    def file(name: str) -> str:
        path = place / f"{name}.key"
        path.touch(mode=0o600)
        path.write_text(planted.secret(name) + "\n")
        return str(path)

    def provider(way: str, **more: Any) -> dict[str, Any]:
        base = {"name": f"p{way}", "kind": "openai", "base_url": f"{upstream}/v1", "models": [f"{way}-m"]}
        return base | (more or {"api_key": planted.secret(f"provider-{way}")})

    hashed = hashlib.sha256(planted.secret("user").encode()).hexdigest()
    several = [
        {"id": "one", "key": planted.secret("provider-first")},
        {"id": "two", "key_file": file("provider-second")},
    ]
    return {
        "auth": {
            "keys": [
                {"id": "admin", "role": "admin", "key_file": file("admin")},
                {"id": "user", "sha256": hashed},
                {"id": "filed", "key_file": file("filed-user"), "limit": {"requests": 2, "window": "1h"}},
            ]
        },
        "providers": [
            *(provider(way) for way in WAYS if way not in ("401", "429", "503")),
            provider("401", keys=several),
            provider("429", api_key_file=file("provider-filed")),
            provider(
                "503", api_key=planted.secret("provider-503"), headers={"x-gateway-token": planted.secret("token")}
            ),
            {
                "name": "claude",
                "kind": "anthropic",
                "base_url": f"{upstream}/v1",
                "models": ["500-claude"],
                "api_key": planted.secret("provider-claude"),
            },
        ],
        "retry": {"rounds": 0},
        "log": {"level": "debug", "file": str(place / "logs" / "llm_proxy.log")},
        "ledger": {
            "kind": "postgres",
            "dsn": f"postgresql://joe:{planted.secret('dsn')}@127.0.0.1:{free_port()}/none",
            "flush_interval": "100ms",
        },
    }


@contextmanager
def planted_service() -> Iterator[tuple[Planted, Service]]:
    """Driven through everything that it can answer, then stopped, and all that it wrote collected."""
    planted = Planted()
    with tempfile.TemporaryDirectory(prefix="lp-") as name, echoing_upstream() as upstream:
        service = make_service(Path(name))
        service.settings |= settings_of(planted, service.place, upstream)
        try:
            service.start()
            yield planted, service
            planted.came("status", json.dumps(service.ask("GET", "/status")[1]))
            planted.came("stacks by signal", json.dumps(service.ask("POST", "/workers/0/stacks")[1]))
            for worker in service.workers():
                pid = worker["pid"]
                planted.came("command lines", Path(f"/proc/{pid}/cmdline").read_bytes())
                for what in ("health", "memory", "stacks"):
                    said = request(Path(worker["socket"]), "GET", f"/{what}")
                    planted.came(f"worker's {what}", json.dumps(said[1]))
            planted.came("command lines", Path(f"/proc/{service.masters[-1].pid}/cmdline").read_bytes())
            assert service.stop() == 0
            rest = service.masters[-1].stderr
            assert rest is not None
            planted.came("standard error", "\n".join(service.said).encode() + rest.read())
            for path in service.place.rglob("*"):
                own = path == service.config or path.suffix == ".key" or "shared" in path.parts
                if path.is_file() and not own:
                    planted.came(str(path.relative_to(service.place)), path.read_bytes())
        finally:
            service.end()


def drive(planted: Planted, service: Service) -> None:
    """Every kind of request, every class of failure, every page that tells of them."""
    root = service.url("")
    user = {"authorization": f"Bearer {planted.secret('user')}"}
    filed, admin = {"x-api-key": planted.secret("filed-user")}, {"x-api-key": planted.secret("admin")}
    wrong = {"authorization": f"Bearer {planted.secret('wrong')}"}
    odd = {"authorization": f"Basic {planted.secret('basic')}"}
    with plain_http.Client(base_url=root, timeout=30) as client:

        def ask(method: str, path: str, headers: dict[str, str], **more: Any) -> int:
            answer = client.request(method, path, headers=headers, **more)
            told = f"{answer.status_code} {answer.headers.multi_items()!r} ".encode()
            planted.came(
                f"{method} {path.partition('?')[0]} {more.get('json', {}).get('model', '')}", told + answer.content
            )
            return answer.status_code

        for way in (*WAYS, "500-claude"):
            for stream in (False, True):
                body = {"model": way if "-" in way else f"{way}-m", "stream": stream}
                body["messages"] = [{"role": "user", "content": planted.secret("prompt") + secrets.token_hex(4)}]
                ask("POST", "/v1/chat/completions", user, json=body)
                ask("POST", "/v1/messages", user, json=body | {"max_tokens": 5})
        for headers in (wrong, odd, {}):
            assert ask("POST", "/v1/chat/completions", headers, json={"model": "ok-m", "messages": []}) == 401
        assert ask("GET", f"/v1/models?api_key={planted.secret('query')}", wrong) == 401
        assert ask("DELETE", "/api/cache", user) == 403
        statuses = [ask("POST", "/v1/embeddings", filed, content=planted.secret("body")) for _ in range(3)]
        assert statuses[-1] == 429
        ask("POST", "/v1/chat/completions", user, content=b'{"model": "' + planted.secret("torn").encode())
        ask("GET", "/nowhere", user | {"cookie": planted.secret("cookie")})
        for path in OPEN:
            ask("GET", path, {})
            ask("GET", path, {"accept": "text/plain"})
        for path in (*KEYED, *ADMIN):
            ask("GET", path, admin)
        fault = {"what": planted.secret("fault")}
        ask("POST", "/debug/fault", admin, json=fault)
        ask("DELETE", "/api/cache", admin)


def test_no_secret_comes_out_anywhere() -> None:
    """Not in an answer, a header, a log at debug, a metric, a spool, a stack dump, standard error or a command line."""
    with planted_service() as (planted, service):
        drive(planted, service)
    assert len(planted.out) > 60
    logs = [data for where, data in planted.out.items() if where.startswith("logs/")]
    assert len(logs) == 2
    assert b"failed_auth" in logs[0]
    assert b"failed_auth" in logs[1]
    assert any(where.endswith("ledger.spool") or "spool" in where for where in planted.out)
    assert planted.found() == []


def test_the_search_finds_a_secret_that_is_put_into_a_log() -> None:
    """Paths are logged: who writes a secret into one finds it in the log, and so does the search."""
    with planted_service() as (planted, service):
        plain_http.get(service.url(f"/{planted.secret('path')}"))
    assert "path in logs/llm_proxy.log" in planted.found()


def broken(document: dict[str, Any], *place: str | int, value: Any) -> dict[str, Any]:
    """A copy with one value replaced."""
    copy = json.loads(json.dumps(document))
    at = copy
    for step in place[:-1]:
        at = at[step]
    at[place[-1]] = value
    return dict(copy)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("providers", 0, "api_key"), ["SECRET"]),
        (("providers", 0, "api_key"), {"a": "SECRET"}),
        (("providers", 0, "keys"), [{"id": "x", "key": ["SECRET"]}]),
        (("providers", 0, "keys"), "SECRET"),
        (("providers", 0, "headers"), {"x": ["SECRET"]}),
        (("providers", 0, "headers"), "SECRET"),
        (("providers", 0, "base_url"), "ftp://joe:SECRET@host/"),
        (("providers", 0, "base_url"), ["http://joe:SECRET@host/"]),
        (("providers", 0, "api_kee"), "SECRET"),
        (("auth", "keys", 1, "sha256"), "SECRET"),
        (("auth", "keys", 1, "key"), "SECRET"),
        (("auth", "keys", 1, "key_file"), ["SECRET"]),
        (("auth", "keys"), "SECRET"),
        (("ledger", "dsn"), ["SECRET"]),
        (("ledger", "file"), ["SECRET"]),
        (("ledger", "kind"), "sqlite"),
        (("ledger",), "postgresql://joe:SECRET@host/x"),
    ],
    ids=str,
)
def test_an_error_of_configuration_shows_no_value_that_may_be_secret(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], place: tuple[str | int, ...], value: Any
) -> None:
    """Whatever is wrong with a secret, or stands where one belongs, the error names the key and not the value."""
    planted = Planted()
    document = settings_of(planted, tmp_path, "http://127.0.0.1:9") | {"run_dir": str(tmp_path)}
    given = json.loads(json.dumps(value).replace("SECRET", planted.secret("given")))
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump(broken(document, *place, value=given)))
    status = main(["config", "check", str(file)])
    said = capsys.readouterr()
    planted.came("the error", said.out + said.err)
    assert status == 2
    assert str(place[0]) in said.err
    assert planted.found() == []


@pytest.mark.parametrize("value", ["*SECRET", "!SECRET x", "&SECRET", "[SECRET", "'SECRET"], ids=str)
def test_an_error_of_yaml_shows_no_value_either(tmp_path: Path, capsys: pytest.CaptureFixture[str], value: str) -> None:
    """A key that begins as YAML's own marks do is not repeated when it is misread."""
    planted = Planted()
    file = tmp_path / "c.yaml"
    file.write_text(f"port: 0\nproviders:\n  - api_key: {value.replace('SECRET', planted.secret('given'))}\n")
    assert main(["config", "check", str(file)]) == 2
    said = capsys.readouterr()
    planted.came("the error", said.out + said.err)
    assert planted.found() == []
