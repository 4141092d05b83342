"""A real llm-proxy before the demo upstream, which is reached twice: as OpenAI's API and as Anthropic's."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import plain_http
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "proxy_shell"))

from proxy_service import Service, make_service

USER_KEY = "sk-user-of-the-clients"
SLOW_KEY = "sk-user-with-a-limit"
TOOLS_TOWN = {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]}


@dataclass(frozen=True)
class Served:
    """Where the proxy and its upstream are."""

    service: Service
    root: str
    demo: str
    key: str = USER_KEY
    slow_key: str = SLOW_KEY

    @property
    def base(self) -> str:
        """What OpenAI's clients call the base URL."""
        return f"{self.root}/v1"

    def behave(self, **behaviour: Any) -> None:
        """Tells the upstream how to answer from now on."""
        plain_http.post(f"{self.demo}/_demo/behaviour", json={"mode": "ok", **behaviour}).raise_for_status()

    def forgive(self) -> None:
        """Takes the proxy's key into use again, though it was told to wait."""
        path = "/api/providers/claude/keys/one"
        plain_http.post(self.root + path, json={"state": "active"}, headers=self.service.admin).raise_for_status()

    def counted(self) -> dict[str, Any]:
        """What reached the upstream so far."""
        counters: dict[str, Any] = plain_http.get(f"{self.demo}/_demo/behaviour").json()
        return counters


@pytest.fixture(scope="session")
def proxy_process() -> Iterator[Served]:
    """One proxy for all tests of this directory."""
    with tempfile.TemporaryDirectory(prefix="lp-") as name:
        service = make_service(Path(name))
        port = service.settings["providers"][0]["port"]
        demo = f"http://127.0.0.1:{port}"
        for stem, key in (("user", USER_KEY), ("slow", SLOW_KEY)):
            file = service.place / f"{stem}.key"
            file.write_text(key)
            file.chmod(0o600)
        service.settings |= {
            "workers": 1,
            "auth": {
                "keys": [
                    *service.settings["auth"]["keys"],
                    {"id": "user", "key_file": str(service.place / "user.key")},
                    {
                        "id": "slow",
                        "key_file": str(service.place / "slow.key"),
                        "limit": {"requests": 1, "window": "1s"},
                    },
                ]
            },
            "providers": [
                {"name": "demo", "kind": "local", "port": port, "models": ["demo-small", "demo-large"]},
                {
                    "name": "claude",
                    "kind": "anthropic",
                    "base_url": f"{demo}/v1",
                    "keys": [{"id": "one", "key": "sk-of-the-proxy"}],
                    "models": ["demo-claude"],
                },
            ],
            "cache": {"enabled": False},
            "retry": {"rounds": 0},
            "breaker": {"consecutive_failures": 1000, "error_ratio": 1.0, "min_requests": 100000},
        }
        try:
            service.start()
            yield Served(service, service.url(""), demo)
        finally:
            service.end()


@pytest.fixture
def served(proxy_process: Served) -> Iterator[Served]:
    """The proxy, whose upstream behaves well before and after the test, and whose key for it does not wait."""
    proxy_process.behave()
    yield proxy_process
    proxy_process.behave()
    proxy_process.forgive()
