"""How short of memory a machine is, read from files as the kernel writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.cache.upkeep.pressure import memory_percent

MEMINFO = "MemTotal:       1000 kB\nMemFree:         100 kB\nMemAvailable:    400 kB\n"


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 60.0),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n"}, 60.0),
        (
            {
                "proc/self/cgroup": "0::/llm.slice/a\n",
                "sys/fs/cgroup/llm.slice/a/memory.max": "1000\n",
                "sys/fs/cgroup/llm.slice/a/memory.current": "950\n",
                "sys/fs/cgroup/llm.slice/a/memory.stat": "anon 700\ninactive_file 100\n",
            },
            85.0,
        ),
        (
            {
                "proc/self/cgroup": "5:cpu,memory:/box\n1:name=systemd:/box\n",
                "sys/fs/cgroup/memory/box/memory.limit_in_bytes": "1000\n",
                "sys/fs/cgroup/memory/box/memory.usage_in_bytes": "900\n",
                "sys/fs/cgroup/memory/box/memory.stat": "total_inactive_file 200\n",
            },
            70.0,
        ),
        (
            {
                "proc/self/cgroup": "5:memory:/\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "900\n",
            },
            60.0,
        ),
    ],
    ids=["no_cgroup", "v2_without_limit", "v2", "v1", "v1_without_limit"],
)
def test_the_worse_of_machine_and_cgroup_counts(tmp_path: Path, files: dict[str, str], expected: float) -> None:
    """What is not available on the machine, or what the cgroup cannot give back, in per cent of the limit."""
    assert memory_percent(write(tmp_path, {"proc/meminfo": MEMINFO} | files)) == pytest.approx(expected)


def test_this_machine_can_be_asked() -> None:
    """The real files are understood."""
    assert 0.0 < memory_percent() < 100.0


def test_unreadable_files_are_no_pressure(tmp_path: Path) -> None:
    """A machine that tells nothing has its caches left alone."""
    assert memory_percent(tmp_path) == 0.0
