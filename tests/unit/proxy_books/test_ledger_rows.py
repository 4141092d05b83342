"""Lines of waiting rows: what was packed is unpacked, what was torn is not, and no value is too odd."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.ledger.row import COLUMNS, packed, tamed, unpacked

_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
)
_ROWS = st.lists(_VALUES, min_size=len(COLUMNS), max_size=len(COLUMNS)).map(tuple)


@given(st.lists(_ROWS, max_size=4))
def test_rows_come_back_as_they_were(rows: list[tuple[Any, ...]]) -> None:
    """Packing to lines and back changes nothing, whatever line breaks the values hold."""
    assert unpacked(b"".join(map(packed, rows)).splitlines()) == (rows, 0)


@given(_ROWS, st.integers(0, 10_000), st.integers(1, 255))
def test_a_changed_byte_is_noticed(row: tuple[Any, ...], at: int, change: int) -> None:
    """A line with any byte changed, or its end cut off, is no row."""
    line = packed(row).rstrip(b"\n")
    at %= len(line)
    spoilt = line[:at] + bytes([line[at] ^ change]) + line[at + 1 :]
    assert unpacked([spoilt]) == ([], 1)
    assert unpacked([line[:at]]) == ([], 1)


def test_a_row_of_another_version_is_no_row() -> None:
    """A line with a right checksum and too few columns is left out."""
    assert unpacked([packed((1, 2, 3)).rstrip(b"\n")]) == ([], 1)


@pytest.mark.parametrize(
    ("odd", "tame"),
    [
        (2**63, None),
        (-(2**70), None),
        (2**63 - 1, 2**63 - 1),
        ("\ud800a", "?a"),
        ("a\0b", "ab"),
        (True, True),
        (0.5, 0.5),
    ],
    ids=["64 bits", "below", "63 bits", "surrogate", "nul", "boolean", "float"],
)
def test_odd_values_are_tamed(odd: Any, tame: Any) -> None:
    """What no database takes becomes what it takes, and can be packed; the rest stays."""
    assert tamed((odd,)) == (tame,)
    packed(tamed((odd,)))
