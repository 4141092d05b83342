"""What an action is built with: its settings as a playbook writes them, and a clock."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import watchdog.actions
from watchdog.actions import Action, ActionContext, actions
from watchdog.clock import Clock, SystemClock
from watchdog.core.targets import parse_target
from watchdog.system.proxy_api import ProxyApi

actions.discover(watchdog.actions)


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Action]:
    def built(
        kind: str,
        target: str = "host",
        proxy: ProxyApi | None = None,
        clock: Clock | None = None,
        labels: dict[str, str] | None = None,
        **written: Any,
    ) -> Action:
        settings = actions.kinds[kind].model_validate({"kind": kind, **written})
        proxies = {} if proxy is None else {"llm-proxy": proxy}
        context = ActionContext(
            target=parse_target(target),
            labels={"service": "llm-proxy", **(labels or {})},
            services={},
            proxies=proxies,
            clock=clock or SystemClock(),
            log_dir=tmp_path,
        )
        return actions.implementation(kind)(settings, context)

    return built
