"""The order in which several processes run the tests: long files first and shared out evenly, quick ones as filling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TypeVar

Test = TypeVar("Test")

LONG: Mapping[str, float] = {
    "systemd/test_install.py": 120,
    "systemd/test_faults_installed.py": 70,
    "e2e/test_workers.py": 55,
    "e2e/test_emergency.py": 70,
    "conformance/test_openapi_contract.py": 60,
    "e2e/test_killed_watchdog.py": 50,
    "integration/cli/test_cli_offline.py": 50,
    "integration/proxy_shell/test_proxy_master.py": 45,
    "e2e/test_whole_services.py": 45,
    "integration/backups/test_emergency_killed.py": 38,
    "integration/proxy_books/test_books_service.py": 30,
    "e2e/test_auth_attack.py": 30,
    "unit/core/test_policy_histories.py": 27,
    "e2e/test_free_disk.py": 26,
    "e2e/test_recycle_streams.py": 26,
    "e2e/test_certificate.py": 25,
    "conformance/test_playbooks_shipped.py": 25,
    "conformance/test_rules_shipped.py": 25,
    "integration/installation/test_built_wheel.py": 25,
    "integration/daemon/test_storm.py": 25,
    "e2e/test_cache.py": 20,
    "e2e/test_proxy_playbooks.py": 45,
    "e2e/test_leaking_service.py": 35,
    "e2e/test_planted_leaks.py": 30,
    "e2e/test_leaking_worker.py": 25,
    "integration/cli/test_cli_last_good.py": 30,
    "integration/healing/test_healing_after_kill.py": 20,
    "e2e/test_configuration.py": 20,
}
"""Seconds of the files that take long, about; the rest is quick."""
ONE_CONTAINER: Mapping[str, float] = {
    "systemd/test_agent_recovers.py": 60,
    "systemd/test_agent_rights.py": 35,
    "systemd/test_agent_unit.py": 30,
    "systemd/test_healed_unit.py": 40,
    "systemd/test_out_of_memory.py": 20,
    "systemd/test_proxy_unit.py": 40,
    "systemd/test_reboot.py": 10,
    "systemd/test_units_judged.py": 5,
}
"""Also seconds; they share what takes long to be set up, and so a process."""


def shared_out(tests: Sequence[tuple[str, Test]], processes: int) -> list[Test]:
    """The tests, given with their file's path below `tests/`, in as many equal stretches as there are processes.

    xdist gives each process one stretch, and who is done takes from the end of another's. So each stretch begins with
    its share of the long files, and ends with quick ones; the tests of a file stay together and in their order.
    """
    files = {file: [test for _, test in group] for file, group in groupby(tests, key=lambda pair: pair[0])}
    shares: list[list[Test]] = [[] for _ in range(processes)]
    seconds = [0.0] * processes
    long = [(ONE_CONTAINER, sum(ONE_CONTAINER.values())), *(([file], lasting) for file, lasting in LONG.items())]
    for together, lasting in sorted(long, key=lambda pair: -pair[1]):
        least = seconds.index(min(seconds))
        seconds[least] += lasting
        for file in sorted(files.keys() & set(together)):
            shares[least] += files.pop(file)
    quick = [test for left in files.values() for test in left]
    for number, share in enumerate(shares):
        # What xdist gives a process: an equal part of what is left.
        part = (len(tests) - sum(map(len, shares[:number]))) // (processes - number)
        filling = max(0, part - len(share))
        share += quick[:filling]
        del quick[:filling]
    return [test for share in shares for test in share] + quick
