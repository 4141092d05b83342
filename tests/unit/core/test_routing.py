"""Matchers, the route tree and inhibition."""

from __future__ import annotations

import pytest

from watchdog.core.model import labels_of
from watchdog.core.routing import (
    Delivery,
    InhibitRule,
    Matcher,
    Notice,
    NoticeKind,
    Route,
    inhibited,
    matcher,
    notice_key,
    parse_matchers,
    receivers_for,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('severity="critical"', ['severity="critical"']),
        ("severity=critical", ['severity="critical"']),
        ("  a =  b c  ", ['a="b c"']),
        ('{a="b",c!~"d|e"}', ['a="b"', 'c!~"d|e"']),
        ('a="x,y", b=~".*"', ['a="x,y"', 'b=~".*"']),
        ('a!="q\\"uote\\\\"', ['a!="q\\"uote\\\\"']),
        ('a="line\\nend"', ['a="line\\nend"']),
        ('a="\\d"', ['a="\\\\d"']),
        ("a=", ['a=""']),
        ('a=""', ['a=""']),
        ("", []),
    ],
)
def test_matchers_are_read_and_shown(text: str, expected: list[str]) -> None:
    """Quoted and bare values, escapes, several in one string; shown in one canonical form."""
    assert [str(m) for m in parse_matchers(text)] == expected


@pytest.mark.parametrize("text", ["a", "1a=b", 'a="b', 'a=b"c', 'a="b"c', 'a=~"("', "=b", 'a="b" c="d"'])
def test_bad_matchers_are_refused(text: str) -> None:
    """What is no matcher raises ValueError with the text in it."""
    with pytest.raises(ValueError, match=r"."):
        parse_matchers(text)


@pytest.mark.parametrize(
    ("operator", "value", "actual", "expected"),
    [
        ("=", "x", "x", True),
        ("=", "x", "xy", False),
        ("=", "", None, True),
        ("!=", "x", None, True),
        ("!=", "x", "x", False),
        ("=~", "x|y", "y", True),
        ("=~", "x", "xx", False),
        ("=~", ".*", None, True),
        ("=~", ".+", None, False),
        ("!~", "x.*", "xx", False),
        ("!~", "x.*", "y", True),
    ],
)
def test_a_matcher_matches(operator: str, value: str, actual: str | None, expected: bool) -> None:
    """Expressions are anchored at both ends, and an absent label is empty."""
    assert matcher("a", operator, value).matches({} if actual is None else {"a": actual}) is expected


CRITICAL = (Matcher("severity", "=", "critical"),)
TREE = Route(
    "default",
    group_by=("alertname",),
    routes=(
        Route("audit", continue_=True),
        Route(
            "web",
            matchers=(Matcher("service", "=", "web"),),
            routes=(Route("web-page", matchers=CRITICAL), Route("never", matchers=CRITICAL)),
        ),
        Route("all", matchers=CRITICAL, group_by=("...",)),
    ),
)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"service": "web", "severity": "critical"}, ["audit", "web-page"]),
        ({"service": "web"}, ["audit", "web"]),
        ({"severity": "critical"}, ["audit", "all"]),
        ({}, ["audit"]),
    ],
)
def test_the_first_match_takes_it_unless_it_continues(labels: dict[str, str], expected: list[str]) -> None:
    """Depth first, the first child that matches, and those after one that continues."""
    assert [match.receiver for match in receivers_for(TREE, labels_of(labels))] == expected


def test_a_route_takes_what_no_child_takes() -> None:
    """Without a matching child the parent is the answer; a root with matchers that fail is none."""
    assert [m.receiver for m in receivers_for(Route("r", routes=(Route("c", CRITICAL),)), ())] == ["r"]
    assert receivers_for(Route("r", CRITICAL), ()) == ()


def test_group_keys_name_route_and_labels() -> None:
    """A group's key is stable and tells routes and label sets apart; `...` groups by everything."""
    labels = labels_of(alertname="Down", severity="critical")
    _, everything = receivers_for(TREE, labels)
    (root,) = receivers_for(Route("r", group_by=("alertname",)), labels)
    assert root.group_key(labels) == '{}:{alertname="Down"}'
    assert everything.group_key(labels) == '{}/{severity="critical"}:{alertname="Down", severity="critical"}'


RULE = InhibitRule(CRITICAL, (Matcher("severity", "=", "warning"),), ("service",))
TWO_SIDED = InhibitRule((Matcher("a", "=", "1"),), (Matcher("b", "=", "1"),))


@pytest.mark.parametrize(
    ("labels", "firing", "rule", "expected"),
    [
        ({"severity": "warning", "service": "x"}, [{"severity": "critical", "service": "x"}], RULE, True),
        ({"severity": "warning", "service": "x"}, [{"severity": "critical", "service": "y"}], RULE, False),
        ({"severity": "warning"}, [{"severity": "critical"}], RULE, True),
        ({"severity": "warning"}, [], RULE, False),
        ({"severity": "info"}, [{"severity": "critical"}], RULE, False),
        ({"severity": "warning"}, [{"severity": "warning"}], RULE, False),
        ({"a": "1", "b": "1"}, [{"a": "1", "b": "1"}], TWO_SIDED, False),
        ({"a": "1", "b": "1"}, [{"a": "1"}], TWO_SIDED, True),
        ({"b": "1"}, [{"a": "1", "b": "1"}], TWO_SIDED, True),
    ],
)
def test_inhibition(labels: dict[str, str], firing: list[dict[str, str]], rule: InhibitRule, expected: bool) -> None:
    """A source silences targets that agree on `equal`; nothing that matches both sides silences itself."""
    found = inhibited(labels_of(labels), map(labels_of, firing), [rule])
    assert found is (rule if expected else None)


def test_a_later_rule_may_inhibit_too() -> None:
    """The rules are asked in order, each over everything that fires, and the first that silences is named."""
    deaf = InhibitRule((Matcher("severity", "=", "emergency"),), RULE.target)
    firing = iter([labels_of(severity="critical")])
    assert inhibited(labels_of(severity="warning"), firing, [deaf, RULE]) is RULE


def test_what_a_notice_and_a_delivery_say_of_themselves() -> None:
    """Status follows the kind; a delivery fires while any notice does; an address is receiver/integration."""
    labels = labels_of(severity="critical")
    opened = Notice(7, NoticeKind.OPENED, notice_key(7, NoticeKind.OPENED, 1), labels, labels_of(summary="s"), 0.0)
    healed = Notice(8, NoticeKind.HEALED, "8:healed:1", labels, (), 0.0)
    assert (opened.key, opened.status, healed.status) == ("7:opened:1", "firing", "resolved")
    assert (opened.label, opened.annotation) == ({"severity": "critical"}, {"summary": "s"})
    both = Delivery("k", "ops", "g", (), (healed, opened), 2, 0.0, integration="email[0]")
    assert (both.status, both.address) == ("firing", "ops/email[0]")
    assert Delivery("k", "ops", "g", (), (healed,), 1, 0.0).status == "resolved"
