"""Durations and sizes, both ways."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchdog.units import format_bytes, format_duration, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("30s", 30.0),
        ("1.5s", 1.5),
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("1h30m15s250ms", 5415.25),
        ("2d", 172800.0),
        ("1w", 604800.0),
        ("0s", 0.0),
        (0, 0.0),
        (0.0, 0.0),
    ],
)
def test_durations_as_people_write_them(text: object, seconds: float) -> None:
    """Each unit and sums of them are read; a bare zero needs no unit."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "bad",
    ["", "30", "s", "-5s", "5 s", " 5s", "5s ", "5x", "1h30", "1e3s", "5M", "inf", 30, 1.5, True, False, None, []],
)
def test_what_is_no_duration_is_refused(bad: object) -> None:
    """A missing or wrong unit, a sign, a blank or another type is an error that shows what was given."""
    with pytest.raises(ValueError, match="expected a duration such as 30s, 5m or 1h30m, not") as caught:
        parse_duration(bad)
    assert str(caught.value).endswith(repr(bad))


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0B", 0),
        (0, 0),
        ("512B", 512),
        ("512KiB", 524288),
        ("1.5 MiB", 1572864),
        ("64MiB", 67108864),
        ("2GB", 2_000_000_000),
        ("1KB", 1000),
        (" 3TiB ", 3 * 1024**4),
        ("9007199254740993B", 9007199254740993),
        ("0.9B", 0),
    ],
)
def test_sizes_as_people_write_them(text: object, size: int) -> None:
    """Powers of 1000 and of 1024 are told apart, and every byte counts, however many there are."""
    assert parse_size(text) == size


@pytest.mark.parametrize("bad", ["", "64", "MiB", "-1MiB", "64mib", "64M", "1e3B", 64, 1.5, True, False, None])
def test_what_is_no_size_is_refused(bad: object) -> None:
    """A missing or wrong unit, a sign or another type is an error that shows what was given."""
    with pytest.raises(ValueError, match="expected a size such as 512KiB, 64MiB or 2GB, not") as caught:
        parse_size(bad)
    assert str(caught.value).endswith(repr(bad))


def test_a_size_has_no_upper_end() -> None:
    """An absurd number is a large size, not a crash."""
    assert parse_size("9" * 400 + "B") == int("9" * 400)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0ms"),
        (0.83, "830ms"),
        (0.9999, "1s"),
        (1, "1s"),
        (4.2, "4.2s"),
        (59.9, "59.9s"),
        (59.97, "1m"),
        (60, "1m"),
        (200, "3m 20s"),
        (3599.7, "1h"),
        (3600, "1h"),
        (7500, "2h 5m"),
        (86400, "1d"),
        (86400 + 59, "1d"),
        (3 * 86400 + 4 * 3600, "3d 4h"),
    ],
)
def test_durations_for_people(seconds: float, text: str) -> None:
    """Two units at most, and never a full larger unit written in the smaller one."""
    assert format_duration(seconds) == text


@given(st.floats(0.001, 1e7))
def test_what_is_shown_is_near_what_is_meant(seconds: float) -> None:
    """What is written for people, read back, is within the smaller unit that it shows."""
    again = parse_duration(format_duration(seconds).replace(" ", ""))
    unit = 0.0005 if seconds < 1 else 0.06 if seconds < 60 else 1 if seconds < 3600 else 60 if seconds < 86400 else 3600
    assert abs(again - seconds) <= unit


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 B"),
        (512, "512 B"),
        (1024, "1.0 KiB"),
        (3.2 * 1024**2, "3.2 MiB"),
        (1024**3, "1.0 GiB"),
        (5 * 1024**4, "5.0 TiB"),
        (5000 * 1024**4, "5000.0 TiB"),
        (-2048, "-2.0 KiB"),
    ],
)
def test_sizes_for_people(value: float, text: str) -> None:
    """The unit in which the number is below 1024; the largest takes all the rest."""
    assert format_bytes(value) == text
