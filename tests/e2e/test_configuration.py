"""What an operator gets wrong, and what a running daemon does about it."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from world import World, eventually

Edit = Callable[[Path], None]


def replace(name: str, old: str, new: str) -> Edit:
    """Edits one file of the configuration."""

    def edit(config: Path) -> None:
        text = (config / name).read_text()
        assert old in text, f"{old!r} is not in {name}"
        (config / name).write_text(text.replace(old, new, 1))

    return edit


def unreadable(config: Path) -> None:
    """A secret that others can read."""
    secret = config / "hook-secret"
    secret.write_text("s3cret\n")
    secret.chmod(0o644)
    routes = "{url: 'http://127.0.0.1:9/', x_hmac_secret_file: hook-secret}"
    text = f"route: {{receiver: a}}\nreceivers:\n  - name: a\n    webhook_configs:\n      - {routes}\n"
    (config / "routes.yaml").write_text(text)


BROKEN = {
    "wrong key": (
        replace("proxywatch.yaml", "boot_grace", "boot_grase"),
        ["proxywatch.yaml:", "guards.boot_grase", "boot_grace"],
    ),
    "wrong type": (
        replace("proxywatch.yaml", "level: info", "level: [1]"),
        ["proxywatch.yaml:", "log.level", "expected"],
    ),
    "wrong unit": (
        replace("proxywatch.yaml", "interval: 2s", "interval: 2"),
        ["proxywatch.yaml:", "probes.providers.interval", "30s"],
    ),
    "wrong kind": (replace("proxywatch.yaml", "kind: cache", "kind: cash"), ["proxywatch.yaml:", "cash", "cache"]),
    "missing file": (
        replace("proxywatch.yaml", "routes: routes.yaml", "routes: rutes.yaml"),
        ["proxywatch.yaml", "routes", "rutes.yaml"],
    ),
    "readable secret": (unreadable, ["routes.yaml:5", "x_hmac_secret_file", "chmod"]),
    "bad PromQL": (
        replace("rules/cache.yaml", "max by (service)", "max by service)"),
        ["rules/cache.yaml:", "parenthesis"],
    ),
    "bad playbook": (
        replace("playbooks/restore-worker.yaml", "kind: restart_service", "kind: reboot"),
        ["restore-worker.yaml:", "reboot", "restart_service"],
    ),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_broken_configuration_is_one_line_that_helps(world: World, name: str) -> None:
    """One line that says file, line, key and what was expected; exit 2, from `config check`."""
    edit, expected = BROKEN[name]
    world.configure()
    edit(world.root / "config")
    code, output = await world.command("config", "check")
    print(f"\n{output.strip()}")
    assert code == 2, output
    lines = output.strip().splitlines()
    assert len(lines) == 1, output
    for part in expected:
        assert part in lines[0]


@pytest.mark.parametrize("name", ["wrong unit", "bad playbook"])
async def test_nothing_is_started_with_a_broken_configuration(world: World, name: str) -> None:
    """`run` judges by the same reader, says the same and ends with 2."""
    edit, expected = BROKEN[name]
    world.configure()
    edit(world.root / "config")
    code, output = await world.command("run", "--plain")
    assert code == 2
    assert all(part in output for part in expected)


async def test_running_daemon_keeps_its_last_good_configuration(world: World) -> None:
    """SIGHUP with a broken file changes nothing and says so; with a good one it takes over."""
    world.configure()
    await world.start()
    file = world.config_file
    good = file.read_text()
    file.write_text(good.replace("interval: 2s", "interval: 2", 1))
    assert world.watchdog is not None
    world.watchdog.send_signal(signal.SIGHUP)

    async def refused() -> str:
        return str((await world.ask("/v1/status"))["config"]["reload_error"])

    error = await eventually("the reload is refused", refused, 10)
    assert "probes.providers.interval" in error
    assert (await world.ask("/v1/status"))["verdict"]["state"] in {"ok", "warning"}
    file.write_text(good.replace("interval: 2s", "interval: 3s", 1))
    world.watchdog.send_signal(signal.SIGHUP)

    async def taken_over() -> bool:
        probes = (await world.ask("/v1/probes"))["probes"]
        return any(p["name"] == "providers" and p["interval_seconds"] == 3.0 for p in probes)

    await eventually("the new interval is in force", taken_over, 10)
    assert (await refused()) == ""
