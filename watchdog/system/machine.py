"""The machine's figures from /proc and /sys, as samples in node_exporter's names. Each function may raise OSError."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from watchdog.core.model import Labels, Sample, labels_of
from watchdog.system.kernel_files import read_small, read_whole

_TICKS = os.sysconf("SC_CLK_TCK")
_MODES = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
_MEMORY = ("MemTotal", "MemAvailable", "SwapTotal", "SwapFree")
_LOCAL_TYPES = frozenset(
    {"bcachefs", "btrfs", "exfat", "ext2", "ext3", "ext4", "f2fs", "fuseblk", "jfs", "ntfs3", "reiserfs", "vfat"}
    | {"xfs", "zfs"}
)
_MOST_FILESYSTEMS = 32
_MOST_DEVICES = 32
_MOST_SENSORS = 32
_VIRTUAL_DISKS = ("loop", "ram", "zram", "fd", "sr")


@lru_cache(maxsize=1024)
def _labels(*pairs: tuple[str, str]) -> Labels:
    """The same devices come again at every reading."""
    return labels_of(dict(pairs))


def read_cpu() -> Iterator[Sample]:
    """Seconds that each CPU has spent in each mode since boot."""
    for line in read_whole("/proc/stat").decode().splitlines():
        if not line.startswith("cpu"):
            return  # the CPUs stand first, and a long line of interrupts follows
        name, *ticks = line.split()
        if name != "cpu":
            for mode, value in zip(_MODES, ticks, strict=False):
                labels = _labels(("cpu", name[3:]), ("mode", mode))
                yield Sample("node_cpu_seconds_total", int(value) / _TICKS, labels)


def read_load() -> Iterator[Sample]:
    """Load averages."""
    for minutes, value in zip((1, 5, 15), read_small("/proc/loadavg").split(), strict=False):
        yield Sample(f"node_load{minutes}", float(value))


def read_memory() -> Iterator[Sample]:
    """Bytes of memory and swap, in all and free for use."""
    for line in read_small("/proc/meminfo").decode().splitlines():
        name, _, value = line.partition(":")
        if name in _MEMORY:
            yield Sample(f"node_memory_{name}_bytes", int(value.split()[0]) * 1024)


def read_filesystems(named: tuple[str, ...] = ()) -> Iterator[Sample]:
    """Bytes and inodes of local filesystems on disks, each once, and of the `named` mountpoints of whatever type."""
    seen: set[str] = set()
    for device, mountpoint, kind in _mounts():
        wanted = mountpoint in named or (kind in _LOCAL_TYPES and device not in seen)
        if not wanted or len(seen) >= _MOST_FILESYSTEMS:
            continue
        try:
            size = os.statvfs(mountpoint)
        except PermissionError:
            continue
        seen.add(device)
        labels = _labels(("device", device), ("mountpoint", mountpoint), ("fstype", kind))
        yield Sample("node_filesystem_size_bytes", size.f_blocks * size.f_frsize, labels)
        yield Sample("node_filesystem_avail_bytes", size.f_bavail * size.f_frsize, labels)
        yield Sample("node_filesystem_files", size.f_files, labels)
        yield Sample("node_filesystem_files_free", size.f_ffree, labels)


def _mounts() -> Iterator[tuple[str, str, str]]:
    for line in os.fsdecode(read_whole("/proc/self/mounts")).splitlines():
        device, mountpoint, kind = line.split(" ")[:3]
        # The kernel writes blanks in names as octal escapes.
        yield device, mountpoint.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\"), kind


def read_network() -> Iterator[Sample]:
    """Errors since boot by device, except the loopback."""
    for line in read_whole("/proc/net/dev").decode().splitlines()[2 : 2 + _MOST_DEVICES]:
        device, _, figures = line.partition(":")
        values = figures.split()
        if device.strip() != "lo":
            labels = _labels(("device", device.strip()))
            yield Sample("node_network_receive_errs_total", int(values[2]), labels)
            yield Sample("node_network_transmit_errs_total", int(values[10]), labels)


def read_disks() -> Iterator[Sample]:
    """Seconds that each whole disk has been busy since boot."""
    try:
        whole = frozenset(entry.name for entry in os.scandir("/sys/block"))
    except FileNotFoundError:
        whole = None
    count = 0
    for line in read_whole("/proc/diskstats").decode().splitlines():
        fields = line.split()
        device = fields[2]
        is_disk = not device.startswith(_VIRTUAL_DISKS) and (whole is None or device in whole)
        if is_disk and count < _MOST_DEVICES:
            count += 1
            yield Sample("node_disk_io_time_seconds_total", int(fields[12]) / 1000, _labels(("device", device)))


def read_pressure() -> Iterator[Sample]:
    """Seconds in which some task waited for CPU, disk or memory (PSI); nothing if the kernel does not count them."""
    for resource in ("cpu", "io", "memory"):
        try:
            text = read_small(f"/proc/pressure/{resource}").decode()
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError:
            continue  # PSI is compiled in and switched off
        for line in text.splitlines():
            kind, *figures = line.split()
            if kind == "some":
                total = next(figure.removeprefix("total=") for figure in figures if figure.startswith("total="))
                yield Sample(f"node_pressure_{resource}_waiting_seconds_total", int(total) / 1e6)


def read_descriptors() -> Iterator[Sample]:
    """Open files of the whole machine, and how many there may be."""
    allocated, _, maximum = read_small("/proc/sys/fs/file-nr").split()
    yield Sample("node_filefd_allocated", int(allocated))
    yield Sample("node_filefd_maximum", int(maximum))


def read_temperatures() -> Iterator[Sample]:
    """Degrees Celsius by chip and sensor; nothing on machines without sensors, as most virtual ones are."""
    inputs = sorted(Path("/sys/class/hwmon").glob("hwmon*/temp*_input"))
    for path in inputs[:_MOST_SENSORS]:
        try:
            chip = (path.parent / "name").read_text().strip()
            celsius = int(path.read_text()) / 1000
        except (OSError, ValueError):
            continue  # a sensor that is switched off answers with an error
        sensor = path.name.removesuffix("_input")
        yield Sample("node_hwmon_temp_celsius", celsius, labels_of(chip=f"{path.parent.name}_{chip}", sensor=sensor))
