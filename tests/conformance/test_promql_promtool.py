"""Our evaluator against Prometheus' own: every expression's value, at several times, as Debian's promtool judges it.

Numbers must be equal to the last bit; only where two mathematical libraries differ in it is the result rounded.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from watchdog.core.model import Sample, labels_of
from watchdog.errors import QueryError
from watchdog.metrics.promql import evaluate, parse
from watchdog.metrics.promql.evaluator import Result
from watchdog.metrics.series import SeriesStore

STEP = 10
LENGTH = 91
TIMES = (0, 125, 400, 600, 905, 1000, 1190)

GAP, STALE = None, "stale"
Values = list[float | str | None]


def _cycle(*values: float | str | None) -> Values:
    return [values[i % len(values)] for i in range(LENGTH)]


def _bucket(count: float) -> Values:
    return [i * count for i in range(LENGTH)]


SERIES: dict[str, Values] = {
    'gauge{host="a",zone="x"}': _cycle(1, 5, 2.5, -3, 8),
    'gauge{host="b",zone="x"}': _cycle(4, 4, 4, 0.25),
    'gauge{host="c",zone="y"}': _cycle(-1, 0, 1),
    'limit{host="a"}': _cycle(2),
    'limit{host="b"}': _cycle(4),
    'limit{host="d"}': _cycle(7),
    'zone_weight{zone="x",owner="ann"}': _cycle(2),
    'zone_weight{zone="y",owner="bob"}': _cycle(8),
    'requests_total{host="a",code="200"}': [i * 5 for i in range(LENGTH)],
    'requests_total{host="a",code="500"}': [i // 4 for i in range(LENGTH)],
    'requests_total{host="b",code="200"}': [(i % 17) * 8 for i in range(LENGTH)],
    'requests_total{host="b",code="500"}': _cycle(7),
    'young_total{host="a"}': [GAP] * 40 + [i * 2.0 for i in range(LENGTH - 40)],
    'holes{host="a"}': _cycle(1, GAP, GAP, 4, GAP, 6),
    'ended{host="a"}': [float(i) for i in range(30)] + [STALE] + [GAP] * (LENGTH - 31),
    'returned{host="a"}': [float(i) for i in range(30)] + [STALE] + [GAP] * 20 + [3.0] * 40,
    'lost{host="a"}': [float(i) for i in range(35)] + [GAP] * (LENGTH - 35),
    'trend{disk="sda"}': [1000 - 8.0 * i for i in range(LENGTH)],
    'flat{disk="sda"}': _cycle(3),
    'special{kind="nan"}': _cycle("NaN"),
    'special{kind="inf"}': _cycle("Inf"),
    'special{kind="neg"}': _cycle("-Inf"),
    'special{kind="one"}': _cycle(1),
    'latency_bucket{job="p",le="0.1"}': _bucket(4),
    'latency_bucket{job="p",le="0.5"}': _bucket(8),
    'latency_bucket{job="p",le="1"}': _bucket(12),
    'latency_bucket{job="p",le="+Inf"}': _bucket(16),
    'latency_bucket{job="q",le="-1"}': _bucket(2),
    'latency_bucket{job="q",le="2"}': _bucket(1),
    'latency_bucket{job="q",le="+Inf"}': _bucket(8),
    'latency_bucket{job="r",le="1"}': _bucket(8),
    'latency_bucket{job="s",le="bad"}': _bucket(8),
    'up{job="web",instance="one:80"}': _cycle(1),
    'up{job="web",instance="two:80"}': _cycle(0),
    'up{job="db",instance="one:5432"}': _cycle(1),
    'moment{which="day"}': _cycle(1_700_000_000),
    'moment{which="leap"}': _cycle(1_709_210_096),
}

EXPRESSIONS = """
gauge
gauge{host="a"}
gauge{host!="a"}
gauge{host=~"a|b"}
gauge{host=~"a.*|c"}
gauge{host!~"a|b"}
gauge{host=~"[ab]"}
gauge{host=~""}
gauge{missing=""}
gauge{missing!=""}
gauge{host=~".+",zone="x"}
gauge{host="a",host!="b"}
{__name__="gauge"}
{__name__=~"gaug.|limit"}
{__name__=~"limit",host="a"}
{job="web"}
{__name__!="gauge",host="c"}
nothing
nothing == 1
gauge offset 20s
gauge offset -20s
gauge @ 100
gauge @ 100.5
gauge @ start()
gauge @ end()
gauge @ 300 offset 15s
gauge offset 15s @ 300
ended
returned
lost
holes
young_total
1
1.5e3
-2.5
0x10
"""
EXPRESSIONS += """
1 + 2 * 3
2 ^ 3 ^ 2
-2 ^ 2
(1 + 2) * 3
7 % 4
-7 % 4
7.5 % -2
1 / 0
-1 / 0
0 / 0
1 % 0
1 > bool 2
2 >= bool 2
3 == bool 3
3 != bool 3
1 <= bool 0
1 < bool 3
0 ^ -1
-8 ^ 0.5
1 atan2 2
time()
time() - 5
pi()
vector(3)
vector(time())
scalar(limit{host="a"})
scalar(limit)
scalar(nothing)
scalar(up{job="db"}) + 1
-gauge
+gauge
gauge + 1
1 - gauge
gauge * 2
gauge / 0
gauge % 3
gauge ^ 2
round(2 ^ gauge, 1e-9)
gauge atan2 gauge
gauge ^ 0.5
gauge atan2 2
gauge > 1
gauge >= 1
gauge < 1
gauge <= 1
gauge == 4
gauge != 4
1 < gauge
4 == gauge
gauge > bool 1
1 > bool gauge
special + 1
special == 1
special != 1
special > 0
special > bool 0
-special
"""
EXPRESSIONS += """
gauge - on(host) limit
gauge - ignoring(zone) limit
gauge > on(host) limit
gauge > bool on(host) limit
gauge == ignoring(zone) limit
gauge + gauge
gauge > gauge offset 10s
limit + limit
limit == limit
gauge * on(zone) group_left zone_weight
gauge * on(zone) group_left(owner) zone_weight
gauge * on(zone) group_left(missing) zone_weight
gauge > on(zone) group_left(owner) zone_weight
zone_weight / on(zone) group_right gauge
zone_weight / on(zone) group_right(owner) gauge
zone_weight > bool on(zone) group_right(owner) gauge
zone_weight < on(zone) group_right(owner) gauge
zone_weight - on(zone) group_right() gauge
gauge and limit
gauge and on(host) limit
gauge and ignoring(zone) limit
gauge or limit
gauge or on(host) limit
limit or on(host) gauge
gauge unless limit
gauge unless on(host) limit
gauge unless on() nothing
gauge unless on() limit
gauge or vector(1)
nothing or vector(0)
gauge and on() vector(1)
gauge and on() (vector(1) == 2)
nothing + gauge
requests_total{code="500"} / ignoring(code) requests_total{code="200"}
requests_total / ignoring(code) group_left sum without(code) (requests_total)
sum(requests_total) by (host) / on(host) group_left limit
up == 0 unless on(job) up{instance="one:80"} == 1
up{job="web"} == 0 or up{job="db"} == 1
gauge > 0 and gauge < 5
gauge{host="a"} + on() gauge{host="b"}
gauge{host="a"} > on() gauge{host="b"}
gauge + on(__name__, host) gauge
"""
EXPRESSIONS += """
sum(gauge)
sum(gauge) by (zone)
sum by (zone) (gauge)
sum without (host) (gauge)
sum by () (gauge)
sum without () (gauge)
sum by (zone, missing) (gauge)
sum by (__name__) ({__name__=~"gauge|limit"})
round(avg(gauge), 1e-9)
avg by (zone) (gauge)
min(gauge)
max(gauge)
min by (zone) (gauge)
max without (host) (gauge)
count(gauge)
count by (job) (up)
count(nothing)
sum(nothing)
group(gauge)
group by (zone) (gauge)
stddev(up)
stdvar(up)
stddev by (zone) (gauge)
stdvar(limit)
quantile(0.5, gauge)
quantile(0.9, limit)
quantile(0, gauge)
quantile(1, gauge)
quantile(-1, gauge)
quantile(2, gauge)
quantile by (zone) (0.25, gauge)
topk(1, gauge)
topk(2, gauge)
topk(1, limit)
topk by (zone) (1, gauge)
bottomk(1, gauge)
bottomk(2, limit)
bottomk without (host) (1, gauge)
topk(0, gauge)
topk(-1, gauge)
topk(2, special)
bottomk(2, special)
count_values("value", up)
count_values by (job) ("value", up)
count_values without (instance) ("value", up)
count_values("host", limit)
count_values("v", gauge / 8)
sum(special)
avg(special)
max(special)
min(special)
avg(special{kind=~"inf|one"})
sum by (job) (up) == 0
sum(up) by (job) > 1
"""
EXPRESSIONS += """
rate(requests_total[1m])
rate(requests_total[30s])
rate(requests_total[5m])
rate(requests_total[15s])
rate(requests_total[10s])
rate(requests_total[5s])
rate(requests_total[1m] offset 30s)
rate(requests_total[1m] @ 300)
rate(requests_total[1m] @ 300 offset 10s)
rate(young_total[2m])
rate(young_total[20m])
increase(young_total[10m])
increase(requests_total[1m])
increase(requests_total[2m35s])
increase(ended[5m])
rate(ended[10m])
rate(returned[15m])
rate(holes[1m])
irate(requests_total[1m])
irate(requests_total{host="b"}[3m])
irate(holes[2m])
delta(gauge[1m])
delta(trend[1m])
delta(holes[1m])
delta(holes[52s])
idelta(gauge[1m])
idelta(holes[2m])
deriv(trend[2m])
deriv(flat[2m])
deriv(gauge[1m])
deriv(special[1m])
deriv(trend[10s])
predict_linear(trend[5m], 3600)
predict_linear(flat[5m], 60)
predict_linear(trend[5m], 100) < 0
predict_linear(trend[5m] offset 1m, 100)
changes(gauge[2m])
changes(flat[2m])
changes(special[2m])
changes(holes[5m])
resets(requests_total[10m])
resets(gauge[2m])
avg_over_time(gauge[1m])
avg_over_time(gauge[40s] offset 10s)
avg_over_time(special[1m])
min_over_time(gauge[1m])
max_over_time(gauge[1m])
sum_over_time(gauge[1m])
sum_over_time(special[1m])
count_over_time(gauge[1m])
count_over_time(holes[1m])
count_over_time(ended[10m])
count_over_time(returned[15m])
last_over_time(gauge[1m])
last_over_time(ended[10m])
last_over_time(returned[15m])
present_over_time(gauge[1m])
present_over_time(ended[5m])
stddev_over_time(flat[1m])
stdvar_over_time(trend[40s])
stddev_over_time(gauge[1m])
stdvar_over_time(gauge[1m])
quantile_over_time(0.5, gauge[1m])
quantile_over_time(0.95, gauge[5m])
quantile_over_time(2, gauge[1m])
min_over_time(special[1m])
max_over_time(special[1m])
max_over_time(rate(requests_total[1m])[5m:30s])
avg_over_time(gauge[5m:1m])
sum_over_time(gauge[1m:7s])
count_over_time(gauge[5m:])
count_over_time(gauge[1m:10s] offset 5s)
count_over_time((gauge > 1)[5m:10s])
min_over_time(sum(gauge)[2m:20s])
max_over_time(vector(time())[1m:10s])
sum_over_time(gauge[1m:10s] @ 300)
max_over_time((gauge @ start())[1m:10s])
last_over_time(gauge[1m:10s])
rate(requests_total[5m:30s])
deriv(sum(trend)[5m:30s])
round(sum(rate(requests_total{code="500"}[5m])) / sum(rate(requests_total[5m])), 1e-9)
sum by (host) (rate(requests_total[5m])) > 0.5
"""
EXPRESSIONS += """
abs(gauge)
ceil(gauge)
floor(gauge)
round(gauge)
round(gauge, 0.5)
round(gauge, 10)
round(gauge / 3, 0.01)
clamp(gauge, 0, 2)
clamp(gauge, 2, 0)
clamp_min(gauge, 1)
clamp_max(gauge, 1)
clamp_min(special, 1)
clamp_max(special, 0)
exp(up)
exp(limit * 1000)
ln(limit)
ln(gauge)
ln(up)
log2(limit)
log2(up)
round(log10(requests_total), 1e-9)
log10(up * 100)
sqrt(limit)
sqrt(gauge)
sgn(gauge)
sgn(special)
abs(special)
floor(special)
round(special)
deg(limit)
rad(limit)
sin(up)
cos(up)
round(tan(up), 1e-9)
asin(up)
acos(up)
atan(up)
sinh(up)
cosh(up)
tanh(up)
asinh(up)
acosh(up)
atanh(up)
absent(nothing)
absent(nothing{a="1",b=~"x",c!="y"})
absent(nothing{a="1",a="2"})
absent(gauge)
absent(gauge{host="z"})
absent(sum(nothing))
absent(nothing{a="1"} > 1)
absent(ended)
absent(lost)
absent_over_time(nothing{a="1"}[5m])
absent_over_time(gauge[5m])
absent_over_time(ended[1m])
absent_over_time(ended[10m])
absent_over_time(sum(nothing)[5m:1m])
timestamp(gauge)
timestamp(holes)
timestamp(gauge offset 20s)
timestamp(gauge + 1)
timestamp((gauge))
timestamp(vector(1))
time() - timestamp(holes)
minute()
hour()
day_of_week()
day_of_month()
day_of_year()
days_in_month()
month()
year()
minute(moment)
hour(moment)
day_of_week(moment)
day_of_month(moment)
day_of_year(moment)
days_in_month(moment)
month(moment)
year(moment)
hour(vector(86399))
sort(gauge)
sort_desc(gauge)
label_replace(up, "host", "$1", "instance", "(.*):.*")
label_replace(up, "host", "${1}-x", "instance", "(.*):80")
label_replace(up, "port", "$port", "instance", ".*:(?P<port>[0-9]+)")
label_replace(up, "host", "", "instance", "one.*")
label_replace(up, "instance", "", "instance", "nomatch")
label_replace(up, "job", "fixed", "missing", "")
label_replace(up, "copy", "$1$2$$", "job", "(w)?.*")
label_replace(gauge, "__name__", "other", "host", "a")
label_replace(gauge, "name", "$1", "__name__", "(.*)")
label_join(up, "all", "-", "job", "instance")
label_join(up, "all", "", "job", "missing")
label_join(up, "job", ",", "missing")
histogram_quantile(0.5, latency_bucket)
histogram_quantile(0.9, rate(latency_bucket[5m]))
histogram_quantile(0.95, sum by (le, job) (rate(latency_bucket[5m])))
histogram_quantile(0, latency_bucket)
histogram_quantile(1, latency_bucket)
histogram_quantile(0.1, latency_bucket)
histogram_quantile(-0.1, latency_bucket)
histogram_quantile(1.1, latency_bucket)
histogram_quantile(0.7, latency_bucket{job="p"})
histogram_quantile(0.5, latency_bucket{job="q"})
histogram_quantile(0.5, gauge)
histogram_quantile(0.5, sum by (le) (latency_bucket))
"""

ERRORS = """
gauge * on(zone) zone_weight
gauge * on(zone) group_right zone_weight
gauge + on() limit
limit + on() gauge
label_replace(up, "instance", "x", "instance", ".*")
label_replace(up, "bad-name", "x", "instance", ".*")
label_join(up, "bad-name", "x", "instance")
label_replace(up, "x", "x", "instance", "(")
count_values("bad-name", up)
-{__name__=~"young_total|holes|lost"}
rate({__name__=~"young_total|holes|lost"}[1m])
abs({__name__=~"young_total|holes|lost"} > -100)
sum by (zone) (gauge) * on() group_left zone_weight
{__name__=~"holes|lost"} != ignoring(zone) gauge{host="a"}
"""

REFUSED = """
sum(
gauge +
gauge{
gauge{host=}
gauge{host=~"("}
{}
{host=~".*"}
{host=""}
unknown_function(gauge)
rate(gauge)
sum(gauge[5m])
gauge[0s]
-gauge[5m]
1 > 2
1 and 2
"a" + 1
gauge and 1
clamp(gauge, 1)
abs()
time()[5m:1m]
gauge or on(host) group_left limit
gauge{__name__="other"}
gauge offset
gauge @ x
topk(gauge)
quantile("a", gauge)
sum by (host) by (zone) (gauge)
gauge == bool
gauge + bool 1
gauge by (host)
rate(gauge[5m:1m:1s])
"""


def lines(block: str) -> list[str]:
    return [line for line in block.splitlines() if line]


@pytest.fixture(scope="session")
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail("promtool is missing; install Debian's prometheus")
        pytest.skip("promtool is not installed")
    return found


@pytest.fixture(scope="module")
def store() -> SeriesStore:
    """The same samples that promtool loads, scraped every ten seconds from the epoch on."""
    filled = SeriesStore(retention=1e6)
    parsed = {text: next(iter(_selector(text))) for text in SERIES}
    for i in range(LENGTH):
        for text, (name, labels) in parsed.items():
            value = SERIES[text][i]
            if value == STALE:
                filled.mark_stale([one for one in filled.select(name) if one.labels == labels], i * STEP)
            elif value is not None:
                filled.ingest([Sample(name, float(value), labels)], i * STEP)
    return filled


def _selector(text: str):
    selector = parse(text).root
    yield selector.name, labels_of({one.label: one.value for one in selector.matchers})


def _notation(values: Values) -> str:
    return " ".join("_" if value is None else str(value) for value in values)


def _shown(labels: tuple[tuple[str, str], ...]) -> str:
    pairs = ",".join(f"{name}={json.dumps(value)}" for name, value in labels)
    return "{" + pairs + "}"


def _expected(result: Result) -> list[dict[str, object]]:
    elements = [((), result)] if isinstance(result, float) else result
    return [{"labels": _shown(labels), "value": _yaml_float(value)} for labels, value in elements]


def _yaml_float(value: float) -> float | str:
    return value if math.isfinite(value) else f"{'+' if value > 0 else '-'}.inf"


def _has_nan(result: Result) -> bool:
    numbers = [result] if isinstance(result, float) else [value for _, value in result]
    return any(value != value for value in numbers)


def _checkable(expr: str, store: SeriesStore, at: float) -> list[tuple[str, Result]]:
    """The expression with our value. NaN equals nothing, so there it is asked which elements are NaN, and the rest."""
    result = evaluate(parse(expr), store, at)
    if not _has_nan(result):
        return [(expr, result)]
    if isinstance(result, float):
        wrapped = [f"({expr}) != bool ({expr})"]
    else:
        wrapped = [f"({expr}) != bool ({expr})", f"({expr}) == ({expr})"]
    return [(text, evaluate(parse(text), store, at)) for text in wrapped]


def _suite(cases: list[tuple[str, float, list[dict[str, object]]]]) -> str:
    """A promtool test file. JSON is YAML, except for infinities."""
    series = [{"series": text, "values": _notation(values)} for text, values in SERIES.items()]
    checks = [{"expr": expr, "eval_time": f"{at}s", "exp_samples": samples} for expr, at, samples in cases]
    tests = [{"interval": f"{STEP}s", "input_series": series, "promql_expr_test": checks}]
    text = json.dumps({"evaluation_interval": "15s", "tests": tests})
    return text.replace('"+.inf"', "+.inf").replace('"-.inf"', "-.inf")


def _judge(promtool: str, tmp_path: Path, text: str) -> subprocess.CompletedProcess[str]:
    file = tmp_path / "suite.yaml"
    file.write_text(text)
    return subprocess.run(
        [promtool, "test", "rules", str(file)], check=False, capture_output=True, text=True, timeout=100
    )


def test_promtool_gets_the_value_that_we_get_for_every_expression(
    promtool: str, store: SeriesStore, tmp_path: Path
) -> None:
    """For every expression and time of the table, Prometheus computes exactly our labels and our numbers."""
    cases = [
        (text, at, _expected(result))
        for expr in lines(EXPRESSIONS)
        for at in TIMES
        for text, result in _checkable(expr, store, at)
    ]
    verdict = _judge(promtool, tmp_path, _suite(cases))
    assert verdict.returncode == 0, verdict.stdout + verdict.stderr
    assert len(lines(EXPRESSIONS)) >= 300
    assert sum(bool(samples) for *_, samples in cases) > len(cases) / 2


def test_promtool_rejects_a_suite_with_one_wrong_number(promtool: str, store: SeriesStore, tmp_path: Path) -> None:
    """The judge is awake: one value that is off by the smallest amount fails the suite."""
    value = evaluate(parse("sum(limit)"), store, 125)[0][1]
    wrong = [{"labels": "{}", "value": math.nextafter(value, math.inf)}]
    verdict = _judge(promtool, tmp_path, _suite([("sum(limit)", 125, wrong)]))
    assert verdict.returncode != 0


@pytest.mark.parametrize("expr", lines(ERRORS))
def test_what_we_cannot_evaluate_prometheus_cannot_either(
    expr: str, promtool: str, store: SeriesStore, tmp_path: Path
) -> None:
    """An expression that fails over these series fails in Prometheus too, and not by giving another value."""
    with pytest.raises(QueryError):
        evaluate(parse(expr), store, 125)
    verdict = _judge(promtool, tmp_path, _suite([(expr, 125, [])]))
    assert verdict.returncode != 0
    assert "err:" in verdict.stdout + verdict.stderr


@pytest.mark.parametrize("expr", lines(REFUSED))
def test_what_we_refuse_to_load_prometheus_refuses_too(expr: str, promtool: str, tmp_path: Path) -> None:
    """An expression that is no PromQL is refused by both."""
    with pytest.raises(QueryError):
        parse(expr)
    file = tmp_path / "rules.yaml"
    file.write_text(json.dumps({"groups": [{"name": "g", "rules": [{"record": "r", "expr": expr}]}]}))
    verdict = subprocess.run(
        [promtool, "check", "rules", str(file)], check=False, capture_output=True, text=True, timeout=60
    )
    assert verdict.returncode != 0
