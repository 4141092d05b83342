"""The shipped rules at work: which alerts a situation raises, how fast, and what evaluating all of them costs."""

from __future__ import annotations

import math
import time
from pathlib import Path

import pytest

from watchdog.core.model import AlertChange, AlertState, Sample, labels_of
from watchdog.core.trend import Shape
from watchdog.metrics.engine import RuleEngine
from watchdog.metrics.rules import load_rules
from watchdog.metrics.series import SeriesStore

RULES = Path(__file__).parents[2] / "config" / "rules"
T0 = 1_700_000_000.0
SERVICE = {"service": "llm-proxy"}
MIB = 1024 * 1024


def sample(name: str, value: float, **labels: str) -> Sample:
    return Sample(name, value, labels_of(labels))


def worker(number: str, **state: float) -> list[Sample]:
    values = {"up": 1.0, "serving": 1.0, "responsive": 1.0, "response_seconds": 0.001, "consecutive_crashes": 0.0}
    return [sample(f"proxywatch_worker_{name}", value, worker=number) for name, value in {**values, **state}.items()]


def oom_killed(number: str, ago: float) -> list[Sample]:
    """The kernel killed a process of this worker so many seconds before the scene began."""
    where = {"worker": number, "unit": "llm-proxy.service"}
    return [
        sample("proxywatch_worker_oom_killed_process_id", 4711, **where),
        sample("proxywatch_worker_oom_killed_timestamp_seconds", T0 - ago, **where),
    ]


def leak(slope: float, shape: str, window: float, target: str = "worker:llm-proxy/0") -> list[Sample]:
    values = {"slope_bytes_per_hour": slope, "confidence": 0.8, "window_seconds": window}
    return [
        *(sample(f"proxywatch_leak_{name}", value, worker="0", target=target) for name, value in values.items()),
        *shapes("proxywatch_leak", shape, target=target),
    ]


def shapes(name: str, found: str, **labels: str) -> list[Sample]:
    return [sample(f"{name}_shape", float(shape == found), worker="0", shape=shape.value, **labels) for shape in Shape]


def leaking(resource: str, shape: str, slope: float) -> list[Sample]:
    labels = {"resource": resource, "target": "worker:llm-proxy/0"}
    return [
        sample("proxywatch_resource_leak_slope_per_hour", slope, worker="0", **labels),
        sample("proxywatch_resource_leak_confidence", 0.8, worker="0", **labels),
        *shapes("proxywatch_resource_leak", shape, **labels),
    ]


def memory(used: float) -> list[Sample]:
    total = 8192.0 * MIB
    return [
        sample("node_memory_MemTotal_bytes", total),
        sample("node_memory_MemAvailable_bytes", total * (1 - used)),
    ]


def disk(used: float, inodes_used: float) -> list[Sample]:
    values = {"size_bytes": 1e9, "avail_bytes": 1e9 * (1 - used), "files": 1e6, "files_free": 1e6 * (1 - inodes_used)}
    where = {"mountpoint": "/", "device": "/dev/sda1", "fstype": "ext4"}
    return [sample(f"node_filesystem_{name}", value, **where) for name, value in values.items()]


def place(path: str, used: float, inodes_used: float) -> list[Sample]:
    where = {"path": path, "mountpoint": "/srv"}
    return [sample("disk_used_ratio", used, **where), sample("disk_inodes_used_ratio", inodes_used, **where)]


def guesses(source: str, failures: float, quiet: float) -> list[Sample]:
    return [
        sample("auth_source_failures", failures, source=source),
        sample("auth_source_quiet_seconds", quiet, source=source),
    ]


def unit(name: str, state: str) -> Sample:
    return sample("systemd_unit_state", 1, unit=name, state=state)


def journalled(match: str, unit: str, after: float) -> Sample:
    """Systemd told so of a unit that many seconds after the scene began."""
    return sample("journal_match_timestamp_seconds", T0 + after, journal="j", match=match, unit=unit)


def stalled(resource: str, kind: str, window: str, ratio: float) -> Sample:
    return sample("pressure_stalled_ratio", ratio, resource=resource, kind=kind, window=window)


def traffic(i: int, failed: float, seconds: float) -> list[Sample]:
    """Ten requests a second after `i` steps of 15 s, with this share of failures and this mean latency."""
    done = 150.0 * i
    common = {"method": "POST", "route": "/v1/chat/completions"}
    bounds = ("0.1", "0.5", "1", "2.5", "5", "10", "+Inf")
    return [
        sample("http_requests_total", done * (1 - failed), status="200", **common),
        sample("http_requests_total", done * failed, status="502", **common),
        sample("http_requests_total", done * 50, status="503", method="GET", route="/health/ready"),
        sample("http_request_duration_seconds_sum", done * seconds, **common),
        sample("http_request_duration_seconds_count", done, **common),
        *(
            sample("http_request_duration_seconds_bucket", done * (float(bound) >= seconds), le=bound, **common)
            for bound in bounds
        ),
    ]


def lookups(i: int, hits: float, each: float = 10.0) -> list[Sample]:
    return [
        sample("cache_hits_total", each * i * hits),
        sample("cache_misses_total", each * i * (1 - hits)),
    ]


def raised(scene, seconds: float, step: float = 15.0) -> dict[str, tuple[str, str]]:
    """Severity and target by name of the alerts that fire after a scene has lasted; `scene` is samples by step."""
    store = SeriesStore()
    engine = RuleEngine([group for file in sorted(RULES.glob("*.yaml")) for group in load_rules(file)], store)
    for i in range(int(seconds / step) + 1):
        now = T0 + i * step
        samples = scene(i) if callable(scene) else scene
        store.ingest_scrape("probe", samples, now, labels_of(job="probe", **SERVICE))
        engine.evaluate_due(now)
    engine.evaluate_due(now + 1)
    assert [rule.last_error for rule in engine.rules() if rule.last_error] == []
    firing = [alert.label for alert in engine.alerts() if alert.state is AlertState.FIRING]
    return {labels["alertname"]: (labels["severity"], labels.get("target", "")) for labels in firing}


S, W, C, H, P = "service:llm-proxy", "worker:llm-proxy/1", "cache:llm-proxy", "host", "probe:probe"
X, F, SRV = "alert:file-/x", "filesystem:/", "filesystem:/srv"
B = "alert:backup-llm-proxy"
SCENES = {
    "all well": (
        lambda i: [
            *worker("0"), *worker("1"), *memory(0.5), *disk(0.5, 0.1), *traffic(i, 0.0, 0.2), *lookups(i, 0.9),
            sample("proxywatch_service_up", 1), sample("proxywatch_service_stopped", 0), sample("up", 1),
            sample("probe_success", 1, probe="web", kind="http"), sample("cache_usage_ratio", 0.5),
            sample("proxywatch_workers_serving", 2), sample("proxywatch_workers_expected", 2),
            sample("providers_usable", 2), sample("provider_fault", 0, provider="p", **{"class": "auth"}),
            sample("rate_limit_remaining", 5000, provider="p"), sample("auth_failures_total", 3),
            *leak(0, "plateau", 9000),
        ],
        1500, {},
    ),
    "service dead": (
        [sample("proxywatch_service_up", 0), sample("up", 0), sample("probe_success", 0, probe="web", kind="http"),
         *worker("1", up=0, responsive=0, serving=0)],
        600, {"ServiceDown": ("critical", S)},
    ),
    "service stopped on purpose": (
        [sample("proxywatch_service_up", 0), sample("proxywatch_service_stopped", 1), sample("up", 0),
         sample("probe_success", 0, probe="web", kind="http"), *worker("1", up=0, serving=0, responsive=0),
         sample("proxywatch_workers_serving", 0), sample("proxywatch_workers_expected", 2)],
        600, {},
    ),
    "service silent": (
        [sample("proxywatch_service_up", 1), sample("up", 0), sample("probe_success", 0, probe="web", kind="http")],
        150, {"ServiceUnreachable": ("critical", S), "ProbeFailing": ("warning", "probe:web")},
    ),
    "service silent for a minute": ([sample("proxywatch_service_up", 1), sample("up", 0)], 60, {}),
    "a scrape fails": ([sample("up", 0)], 150, {"ServiceUnreachable": ("critical", S)}),
    "not ready": ([sample("proxywatch_proxy_ready", 0)], 150, {"ServiceNotReady": ("warning", S)}),
    "another probe fails": (
        [sample("probe_success", 0, probe="dns", kind="dns")], 150, {"ProbeFailing": ("warning", "probe:dns")},
    ),
    "worker dead": ([*worker("0"), *worker("1", up=0, serving=0)], 0, {"WorkerDown": ("critical", W)}),
    "worker killed for want of memory": (
        [*worker("0"), *oom_killed("1", 2), *worker("1", up=0, serving=0)], 0,
        {"WorkerDown": ("critical", W), "WorkerOutOfMemory": ("warning", W)},
    ),
    "worker killed for want of memory a while ago": ([*worker("0"), *worker("1"), *oom_killed("1", 60)], 0, {}),
    "worker hung": ([*worker("0"), *worker("1", responsive=0)], 15, {"WorkerHung": ("critical", W)}),
    "worker starting": ([*worker("0"), *worker("1", responsive=0, serving=0)], 15, {}),
    "worker crash-looping": (
        [*worker("1", up=0, serving=0, consecutive_crashes=3)], 0,
        {"WorkerDown": ("critical", W), "WorkerCrashLooping": ("critical", W)},
    ),
    "worker slow": ([*worker("1", response_seconds=0.4)], 75, {"WorkerSlow": ("warning", W)}),
    "workers missing": (
        [sample("proxywatch_workers_serving", 1), sample("proxywatch_workers_expected", 2)], 45,
        {"WorkersMissing": ("warning", S)},
    ),
    "cache at 92 %": ([sample("cache_usage_ratio", 0.92)], 15, {"CacheUsageHigh": ("warning", C)}),
    "cache at 96 %": (
        [sample("cache_usage_ratio", 0.96)], 15,
        {"CacheUsageHigh": ("warning", C), "CacheUsageCritical": ("critical", C)},
    ),
    "hits at 60 %": (lambda i: lookups(i, 0.6), 1300, {"CacheHitRateLow": ("warning", C)}),
    "hits at 40 %": (
        lambda i: lookups(i, 0.4), 1300, {"CacheHitRateLow": ("warning", C), "CacheHitRateVeryLow": ("warning", C)},
    ),
    "answers that cannot be read": (
        lambda i: [sample("cache_damaged_total", i // 3, cache="response")], 60, {"CacheDamaged": ("warning", C)},
    ),
    "damage of an hour ago": (lambda i: [sample("cache_damaged_total", min(i, 2), cache="response")], 300, {}),
    "a cache full of what is over": (
        [sample("cache_longest_expired_seconds", 2 * 86400), sample("cache_usage_ratio", 0.6)], 330,
        {"CacheStale": ("warning", C)},
    ),
    "a quiet cache that keeps what is over": (
        [sample("cache_longest_expired_seconds", 2 * 86400), sample("cache_usage_ratio", 0.2)], 330, {},
    ),
    "a store that is damaged again and again": (
        lambda i: [sample("shared_store_damaged_total", min(i // 10, 2))], 600, {"SharedStoreDamaged": ("warning", "")},
    ),
    "a hot worker": (
        lambda i: [sample("proxywatch_worker_cpu_seconds_total", 14.9 * i, worker="1"),
                   sample("proxywatch_worker_cpu_seconds_total", 1.0 * i, worker="0")],
        200, {"WorkerCpuHot": ("warning", W)},
    ),
    "load is shed": (
        lambda i: [*traffic(i, 0.3, 0.2), sample("http_requests_shed_total", 45.0 * i),
                   sample("restrained_ratio", 0.3, what="load"), sample("restrained_ratio", 0.5, what="limits")],
        700, {"LoadIsShed": ("info", "")},
    ),
    "load is shed and more fails": (
        lambda i: [*traffic(i, 0.4, 0.2), sample("http_requests_shed_total", 45.0 * i)],
        700, {"HighErrorRate": ("critical", S)},
    ),
    "misses without traffic": (lambda i: lookups(i, 0.0, each=0.5), 1300, {}),
    "provider refuses the key": (
        [sample("provider_fault", 1, provider="p", **{"class": "auth"}), sample("providers_usable", 1)], 0,
        {"ProviderFailing": ("critical", "provider:p")},
    ),
    "no provider": ([sample("providers_usable", 0)], 15, {"NoProviderUsable": ("critical", "providers:llm-proxy")}),
    "a provider that is slow": (
        [sample("provider_latency_seconds_mean", 11, provider="p")], 330, {"ProviderSlow": ("warning", "provider:p")},
    ),
    "one in five requests to a provider fails": (
        [sample("provider_error_ratio", 0.2, provider="p")], 150, {"ProviderErrorsHigh": ("warning", "provider:p")},
    ),
    "rate limit nearly spent": (
        [sample("rate_limit_remaining", 99, provider="p")], 0, {"ProviderRateLimitLow": ("info", "provider:p")},
    ),
    "one request in ten fails": (lambda i: traffic(i, 0.1, 0.2), 700, {"HighErrorRate": ("critical", S)}),
    "slow": (
        lambda i: traffic(i, 0.0, 8.0), 700, {"HighLatencyP95": ("warning", S), "HighMeanLatency": ("info", S)},
    ),
    "guessing keys": (lambda i: [sample("auth_failures_total", i)], 180, {"AuthFailures": ("warning", S)}),
    "one address guesses and goes on": (
        [*guesses("192.0.2.1", 30, 5), *guesses("192.0.2.2", 29, 5), *guesses("192.0.2.3", 99, 90),
         *guesses("127.0.0.1", 99, 5), *guesses("::1", 99, 5)],
        0, {"AuthAttack": ("warning", "source:192.0.2.1")},
    ),
    "one address guessed and was stopped": (
        lambda i: [sample("auth_failures_total", min(40, 10 * i)), *guesses("192.0.2.1", min(40, 10 * i), i)],
        600, {"AuthAttack": ("warning", "source:192.0.2.1")},
    ),
    "a key is refused again and again": (
        [sample("auth_key_refusals", 20, key="joe"), sample("auth_key_quiet_seconds", 5, key="joe"),
         sample("auth_key_refusals", 20, key="ann"), sample("auth_key_quiet_seconds", 200, key="ann")],
        0, {"KeyAbuse": ("warning", "caller:llm-proxy/joe")},
    ),
    "memory at 90 %": (memory(0.9), 150, {"HostMemoryHigh": ("warning", H)}),
    "memory at 97 %": (
        memory(0.97), 150, {"HostMemoryHigh": ("warning", H), "HostMemoryCritical": ("critical", H)},
    ),
    "a leak": (leak(6 * MIB, "leak", 3600), 315, {"MemoryLeakSuspected": ("warning", "worker:llm-proxy/0")}),
    "a leak in a service that is no llm-proxy": (
        leak(1 * MIB, "leak", 21600, "service:shop"), 315, {"MemoryLeakSuspected": ("warning", "service:shop")},
    ),
    **{
        f"growth that is {shape}": (leak(20 * MIB, shape, 3600), 900, {})
        for shape in Shape if shape is not Shape.LEAK
    },
    "a leak that does not matter": (leak(0.1 * MIB, "leak", 3600), 900, {}),
    "books that fill": (leak(4 * MIB, "leak", 3600), 900, {}),
    "growth after a start": (leak(20 * MIB, "leak", 900), 600, {}),
    **{
        f"{resource} leak": (
            leaking(resource, "leak", 20), 615, {"ResourceLeakSuspected": ("warning", "worker:llm-proxy/0")},
        )
        for resource in ("descriptors", "sockets", "tasks", "threads")
    },
    "tasks that go with traffic": (leaking("tasks", "traffic", 20), 900, {}),
    "processors at 90 %": (
        lambda i: [sample("node_cpu_seconds_total", 13.5 * i, cpu=str(c), mode="user") for c in range(2)]
        + [sample("node_cpu_seconds_total", 1.5 * i, cpu=str(c), mode="idle") for c in range(2)],
        400, {"HostCpuHigh": ("warning", H)},
    ),
    "disk at 96 %": (
        disk(0.96, 0.1), 150, {"DiskSpaceLow": ("warning", F), "DiskSpaceCritical": ("critical", F)},
    ),
    "inodes": (disk(0.1, 0.95), 150, {"InodesLow": ("warning", F)}),
    "disk filling": (
        lambda i: disk(0.7 + i * 0.0005, 0.1), 1500, {"DiskWillFill": ("warning", F)},
    ),
    "two paths of a disk at 92 %": (
        [*place("/srv/a", 0.92, 0.2), *place("/srv/b", 0.92, 0.2)], 150, {"DiskSpaceLow": ("warning", SRV)},
    ),
    "a path at 96 %": (
        place("/srv/a", 0.96, 0.93), 150,
        {"DiskSpaceLow": ("warning", SRV), "DiskSpaceCritical": ("critical", SRV), "InodesLow": ("warning", SRV)},
    ),
    "a disk that cannot be written": (
        [sample("disk_read_only", 1, path="/srv"), sample("disk_read_only", 1, path="/cd", read_only="expected")], 30,
        {"DiskReadOnly": ("critical", H)},
    ),
    "a mount is missing": ([sample("disk_mounted", 0, path="/srv")], 30, {"MountMissing": ("critical", H)}),
    "a unit failed": (
        [unit("a.service", "failed"), sample("systemd_unit_job_pending", 0, unit="a.service")], 30,
        {"UnitFailed": ("critical", S)},
    ),
    "a failed unit that systemd is about to start": (
        [unit("a.service", "failed"), sample("systemd_unit_job_pending", 1, unit="a.service")], 30, {},
    ),
    "a unit that does not get ready": ([unit("a.service", "activating")], 1000, {"UnitStuck": ("warning", S)}),
    "no such unit": ([sample("systemd_unit_loaded", 0, unit="a.service")], 150, {"UnitUnknown": ("warning", S)}),
    "a unit that systemd starts again and again": (
        lambda i: [sample("systemd_unit_restarts_total", i // 4, unit="a.service")], 600,
        {"UnitRestartsOften": ("warning", "")},
    ),
    "a unit in which the kernel killed": (
        lambda i: [sample("systemd_unit_oom_kills_total", min(i, 1), unit="a.service")], 60,
        {"UnitOutOfMemory": ("warning", "")},
    ),
    "tasks wait for memory": (
        [stalled("memory", "some", "10s", 0.4), stalled("memory", "full", "10s", 0.1)], 60,
        {"MemoryPressureHigh": ("warning", H)},
    ),
    "thrashing": (
        [stalled("memory", "some", "10s", 0.6), stalled("memory", "full", "10s", 0.4)], 60,
        {"MemoryPressureHigh": ("warning", H), "MemoryPressureCritical": ("critical", H)},
    ),
    "short stalls": (
        lambda i: [sample("pressure_trigger_events_total", 3 * i, resource="memory")], 90,
        {"MemoryStalls": ("warning", "")},
    ),
    "tasks wait for a processor": (
        [stalled("cpu", "some", "60s", 0.95)], 700, {"CpuPressureHigh": ("warning", H)},
    ),
    "a plugin warns": ([sample("command_status", 1, command="raid")], 90, {"CommandWarning": ("warning", S)}),
    "a plugin says critical": ([sample("command_status", 2, command="raid")], 90, {"CommandCritical": ("critical", S)}),
    "a line that matters": (
        lambda i: [sample("log_matches_total", i // 8, log="app", pattern="oom", severity="critical"),
                   sample("log_matches_total", i // 8, log="app", pattern="slow", severity="warning"),
                   sample("log_matches_total", i // 8, log="web", pattern="request")],
        130, {"LogMatchCritical": ("critical", ""), "LogMatch": ("warning", "")},
    ),
    "the journal tells of failed units": (
        [journalled("unit_failed", "a.service", 60), journalled("coredump", "b.service", 60)],
        30, {"JournalUnitFailed": ("warning", ""), "JournalCoredump": ("warning", "")},
    ),
    "the journal told of them long ago": (
        [journalled("unit_failed", "a.service", -300), journalled("unit_watchdog", "b.service", -300)], 30, {},
    ),
    "a unit that failed is looked at": (
        [journalled("unit_failed", "a.service", 60), sample("systemd_unit_loaded", 1, unit="a.service")], 30, {},
    ),
    "a unit was ended for its silence": (
        [journalled("unit_failed", "a.service", 60), journalled("unit_watchdog", "a.service", 60)], 30,
        {"JournalUnitWatchdog": ("warning", "")},
    ),
    "a unit was ended for its memory": (
        [journalled("unit_failed", "a.service", 60), journalled("unit_out_of_memory", "a.service", 60)], 30,
        {"JournalUnitOutOfMemory": ("warning", "")},
    ),
    "a unit is started again and again": (
        lambda i: [sample("journal_unit_matches_total", i // 2, match="unit_restarting", unit="a.service")],
        200, {"JournalUnitRestartsOften": ("warning", "")},
    ),
    "the journal says what matters": (
        lambda i: [sample("journal_matches_total", i // 8, journal="j", match="raid", severity="critical")],
        130, {"JournalMatchCritical": ("critical", "")},
    ),
    "a job is overdue and failed": (
        [sample("heartbeat_due_timestamp_seconds", T0 - 1, heartbeat="b"),
         sample("heartbeat_last_exit_code", 3, heartbeat="b")], 15,
        {"HeartbeatOverdue": ("critical", "alert:heartbeat-b"), "HeartbeatFailed": ("warning", "alert:heartbeat-b")},
    ),
    "a job runs long": (
        [sample("heartbeat_due_timestamp_seconds", T0 + 900, heartbeat="b"),
         sample("heartbeat_running_seconds", 70, heartbeat="b"),
         sample("heartbeat_max_runtime_seconds", 60, heartbeat="b"),
         sample("heartbeat_last_exit_code", 0, heartbeat="b"), sample("heartbeat_running_seconds", 99, heartbeat="c")],
        15, {"HeartbeatRunsLong": ("warning", "alert:heartbeat-b")},
    ),
    "our own configuration is not in force": (
        [sample("proxywatch_config_last_reload_successful", 0)], 30,
        {"OwnConfigurationNotInForce": ("warning", "alert:own-configuration")},
    ),
    "configuration refused": (
        [sample("proxywatch_service_up", 1), sample("proxywatch_configuration_good", 0)], 660,
        {"ConfigurationRefused": ("warning", S)},
    ),
    "service down since a change": (
        lambda i: [sample("proxywatch_service_up", 0), sample("proxywatch_configuration_good", 1),
                   sample("proxywatch_configuration_changed_timestamp_seconds", T0 - 60)], 180,
        {"ServiceDown": ("critical", S), "ConfigurationSuspected": ("critical", S)},
    ),
    "service down long after a change": (
        [sample("proxywatch_service_up", 0), sample("proxywatch_configuration_good", 1),
         sample("proxywatch_configuration_changed_timestamp_seconds", T0 - 7200)], 180,
        {"ServiceDown": ("critical", S)},
    ),
    "minimal configuration": (
        [sample("proxywatch_service_up", 1), sample("proxywatch_configuration_minimal", 1)], 660,
        {"ConfigurationMinimal": ("warning", "alert:minimal-llm-proxy")},
    ),
    "archives are old and the last one bad": (
        [sample("proxywatch_backup_newest_timestamp_seconds", T0 - 30 * 3600), sample("proxywatch_backup_good", 0)],
        660, {"BackupStale": ("warning", B), "BackupBad": ("warning", B)},
    ),
    "a file is gone": (
        [sample("file_exists", 0, path="/x"), sample("file_wanted", 1, path="/x"), sample("file_exists", 0, path="/y"),
         sample("file_wanted", 0, path="/y"), sample("file_exists", 0, path="/z")], 90, {"FileMissing": ("warning", X)},
    ),
    "a file that should not be": (
        [sample("file_exists", 1, path="/x"), sample("file_wanted", 0, path="/x")], 90,
        {"FileUnwanted": ("warning", X)},
    ),
    "a file is old and large and another one": (
        [sample("file_age_seconds", 700, path="/x"), sample("file_max_age_seconds", 600, path="/x"),
         sample("file_size_bytes", 11, path="/x"), sample("file_max_size_bytes", 10, path="/x"),
         sample("file_checksum_matches", 0, path="/x")], 90,
        {"FileStale": ("warning", X), "FileTooLarge": ("warning", X), "FileChanged": ("critical", X)},
    ),
    "backups are few and old": (
        [sample("files_count", 1, pattern="/x"), sample("files_min_count", 2, pattern="/x"),
         sample("files_newest_age_seconds", 700, pattern="/x"), sample("file_max_age_seconds", 600, pattern="/x")], 90,
        {"FileMissing": ("warning", X), "FileStale": ("warning", X)},
    ),
    "files are as they should be": (
        [sample("file_exists", 1, path="/x"), sample("file_wanted", 1, path="/x"),
         sample("file_age_seconds", 500, path="/x"), sample("file_max_age_seconds", 600, path="/x"),
         sample("file_checksum_matches", 1, path="/x"), sample("files_count", 2, pattern="/y"),
         sample("files_min_count", 2, pattern="/y")], 90, {},
    ),
    "a port refuses": ([sample("probe_tcp_failure", 1, reason="refused")], 45, {"PortUnreachable": ("critical", S)}),
    "a port of a stopped service refuses": (
        [sample("probe_tcp_failure", 1, reason="refused"), sample("proxywatch_service_stopped", 1)], 45, {},
    ),
    "a name is not resolved": (
        [sample("probe_dns_query_succeeded", 0), sample("probe_dns_expected", 0)], 150,
        {"NameNotResolved": ("critical", P)},
    ),
    "a name has moved": (
        [sample("probe_dns_query_succeeded", 1), sample("probe_dns_expected", 0)], 150,
        {"NameAnsweredWrongly": ("warning", P)},
    ),
    "a silent name server": (
        [sample("probe_dns_query_succeeded", 1), sample("probe_dns_lookup_time_seconds", 5)], 330,
        {"NameResolutionSlow": ("warning", P)},
    ),
    "the clock is a second ahead": ([sample("node_ntp_offset_seconds", -1)], 330, {"ClockWrong": ("warning", H)}),
    "the clock is an hour behind": (
        [sample("node_ntp_offset_seconds", 3600)], 330,
        {"ClockWrong": ("warning", H), "ClockVeryWrong": ("critical", H)},
    ),
    "a certificate for ten days": (
        [sample("probe_ssl_earliest_cert_expiry", T0 + 10 * 86400)], 420, {"CertificateExpiresSoon": ("warning", P)},
    ),
    "a certificate of yesterday": (
        [sample("probe_ssl_earliest_cert_expiry", T0 - 86400), sample("probe_tls_problem", 1, reason="expired")], 420,
        {"CertificateExpiresSoon": ("warning", P), "CertificateExpires": ("critical", P)},
    ),
    "a server that was not told of its new certificate": (
        [sample("probe_ssl_last_chain_info", 1, certificate="web", fingerprint_sha256="a"),
         sample("probe_tls_file_info", 1, certificate="web", fingerprint_sha256="b"),
         sample("probe_ssl_last_chain_info", 1, certificate="mail", fingerprint_sha256="c"),
         sample("probe_tls_file_info", 1, certificate="mail", fingerprint_sha256="c"),
         sample("probe_ssl_last_chain_info", 1, fingerprint_sha256="d")], 930,
        {"CertificateNotLoaded": ("warning", P)},
    ),
    "a certificate for another name": (
        [sample("probe_tls_problem", 1, reason="hostname")], 240, {"CertificateNotTrusted": ("critical", P)},
    ),
    "network errors": (
        lambda i: [sample("node_network_receive_errs_total", i * 3, device="eth0"),
                   sample("node_network_transmit_errs_total", 0, device="eth0")],
        700, {"NetworkErrorsRising": ("warning", H)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SCENES)
def test_a_situation_raises_exactly_these_alerts(name: str) -> None:
    """The alerts that fire, with severity and target, and no other."""
    scene, seconds, expected = SCENES[name]
    assert raised(scene, seconds) == expected


@pytest.fixture
def host() -> tuple[SeriesStore, RuleEngine]:
    store = SeriesStore()
    return store, RuleEngine([group for file in sorted(RULES.glob("*.yaml")) for group in load_rules(file)], store)


def test_a_crash_that_the_master_repairs_is_one_alert_that_ends_by_itself(
    host: tuple[SeriesStore, RuleEngine],
) -> None:
    """Dead for 0.6 s: fires at the event, stays for five seconds after the replacement, resolves once."""
    store, engine = host
    target = labels_of(job="workers", **SERVICE)
    store.ingest_scrape("workers", [*worker("0"), *worker("1")], T0, target)
    engine.evaluate_due(T0)
    story = []
    for at, up in ((1.000, 0.0), (1.600, 1.0)):
        names = store.ingest([sample("proxywatch_worker_up", up, worker="1")], T0 + at, target, source="workers")
        story += engine.evaluate_touched(names, T0 + at)
    for step in range(4, 20):
        now = T0 + step / 2
        store.ingest_scrape("workers", [*worker("0"), *worker("1")], now, target)
        while (due := engine.next_due(T0)) <= now:
            story += engine.evaluate_due(due)
    assert [(event.alert.label["alertname"], event.change) for event in story] == [
        ("WorkerDown", AlertChange.FIRING),
        ("WorkerDown", AlertChange.RESOLVED),
    ]
    assert story[0].at == T0 + 1.0
    assert story[1].at - T0 == pytest.approx(6.6, abs=0.001)


def test_a_silent_worker_is_noticed_within_three_seconds(host: tuple[SeriesStore, RuleEngine]) -> None:
    """With a probe every 500 ms and its limit of 800 ms, the alert fires well before three seconds have passed."""
    store, engine = host
    target = labels_of(job="workers", **SERVICE)
    stopped_at, fired_at, now = T0 + 0.01, None, T0
    while fired_at is None:
        silent = now >= stopped_at + 0.8
        names = store.ingest_scrape("workers", worker("1", responsive=0.0 if silent else 1.0), now, target)
        events = engine.evaluate_touched(names, now)
        following = now + 0.5
        while (due := engine.next_due(now)) < following and not events:
            now = due
            events += engine.evaluate_due(due)
        fired_at = next((event.at for event in events if event.change is AlertChange.FIRING), None)
        now = following
    assert fired_at - stopped_at <= 2.0


def test_a_certificate_in_a_file_and_on_its_server_is_one_alert(host: tuple[SeriesStore, RuleEngine]) -> None:
    """The server's, where both probes have its name; a file that no server shows has its own."""
    store, engine = host
    ends = T0 + 10 * 86400
    probes = {
        "server": ("web", "probe_ssl_last_chain_info"),
        "file": ("web", "probe_tls_file_info"),
        "lone": ("mail", "probe_tls_file_info"),
    }
    for at in (T0, T0 + 60, T0 + 301):
        for job, (name, info) in probes.items():
            samples = [sample("probe_ssl_earliest_cert_expiry", ends), sample(info, 1, fingerprint_sha256="a")]
            store.ingest_scrape(job, samples, at, labels_of(job=job, certificate=name))
        engine.evaluate_due(at)
    firing = [alert.label["job"] for alert in engine.alerts() if alert.state is AlertState.FIRING]
    assert sorted(firing) == ["lone", "server"]


def test_evaluating_everything_is_cheap(
    host: tuple[SeriesStore, RuleEngine], capsys: pytest.CaptureFixture[str]
) -> None:
    """All shipped rules over some thousand series: milliseconds, so that events can afford to evaluate."""
    store, engine = host
    target = labels_of(job="probe", **SERVICE)
    routes = [f"/v1/route{i}" for i in range(40)]
    for i in range(120):
        buckets = [
            sample("http_request_duration_seconds_bucket", 10.0 * i, le=le, method="POST", route=route)
            for route in routes
            for le in ("0.1", "0.5", "1", "2.5", "5", "10", "+Inf")
        ]
        counts = [
            sample("http_requests_total", 10.0 * i, status=status, method="POST", route=route)
            for route in routes
            for status in ("200", "400", "429", "500", "502")
        ]
        cpus = [
            sample("node_cpu_seconds_total", 2.0 * i, cpu=str(cpu), mode=mode)
            for cpu in range(16)
            for mode in ("user", "system", "idle", "iowait", "irq", "nice", "softirq", "steal")
        ]
        padding = [sample(f"other_metric_{n}", math.sin(n + i), kind="x") for n in range(350)]
        small = [*memory(0.5), *disk(0.5, 0.2), *worker("0"), *worker("1"), *lookups(i, 0.9)]
        store.ingest_scrape("probe", [*buckets, *counts, *cpus, *padding, *small], T0 + 15 * i, target)
    costs = []
    for i in range(20):
        now = T0 + 15 * 120 + 15 * i
        before = time.thread_time()
        engine.evaluate_due(now)
        costs.append(time.thread_time() - before)
    before = time.thread_time()
    for i in range(100):
        engine.evaluate_touched({"proxywatch_worker_up", "proxywatch_worker_responsive"}, now + i / 1000)
    touched = (time.thread_time() - before) / 100
    with capsys.disabled():
        series, rules = store.stats().series, len(engine.rules())
        print(f"\n{rules} rules over {series} series: {sorted(costs)[10] * 1000:.2f} ms; event {touched * 1e6:.0f} µs")
    assert sorted(costs)[10] < 0.03
    assert touched < 0.002
