"""Label matchers and regular expressions with the semantics of RE2: fully anchored, and linear in the text.

Matching runs on Rust's regex engine, which pydantic brings along; Python's own is used only to split a text that has
already matched into its groups, and only for patterns in which no repetition contains another one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from pydantic_core import SchemaError, SchemaValidator, core_schema

from watchdog.errors import QueryError

MAX_PATTERN = 1000
_SPECIAL = re.compile(r"[\\.+*?()|\[\]{}^$]")
_REFERENCE = re.compile(r"\$(?:\$|(\w+)|\{(\w+)\})")


class MatchKind(StrEnum):
    """The four matchers of a selector."""

    EQUAL = "="
    NOT_EQUAL = "!="
    MATCHES = "=~"
    NOT_MATCHES = "!~"


@lru_cache(maxsize=512)
def full_match(pattern: str) -> Callable[[str], bool]:
    """A predicate that is true for the texts that match `pattern` as a whole. Raises QueryError for a bad pattern."""
    if len(pattern) > MAX_PATTERN:
        raise QueryError(f"the regular expression is longer than {MAX_PATTERN} characters")
    if not _SPECIAL.search(pattern.replace("|", "")):
        return frozenset(pattern.split("|")).__contains__
    try:
        return SchemaValidator(core_schema.str_schema(pattern=f"^(?:{pattern})$")).isinstance_python
    except SchemaError as error:
        reason = next((line[7:] for line in str(error).splitlines() if line.startswith("error: ")), "not understood")
        raise QueryError(f"the regular expression {pattern!r} is invalid: {reason}") from None


@dataclass(frozen=True, slots=True)
class LabelMatcher:
    """One matcher of a selector. A label that a series lacks is an empty text."""

    label: str
    kind: MatchKind
    value: str

    def matches(self, value: str) -> bool:
        """Whether a label's value satisfies the matcher."""
        match self.kind:
            case MatchKind.EQUAL:
                return value == self.value
            case MatchKind.NOT_EQUAL:
                return value != self.value
            case MatchKind.MATCHES:
                return full_match(self.value)(value)
            case MatchKind.NOT_MATCHES:
                return not full_match(self.value)(value)


def replacer(pattern: str, template: str) -> Callable[[str], str | None]:
    """A function from a text to `template` with the groups of `pattern` filled in, or None if it does not match.

    `$1`, `${1}`, `$name`, `${name}` and `$$` as in Go; an unknown group is empty. Raises QueryError for a pattern that
    is invalid or could take exponential time to split.
    """
    matches = full_match(pattern)
    _refuse_nested_repetition(pattern)
    try:
        groups = re.compile(f"(?:{pattern})", re.ASCII)
    except re.error as error:
        raise QueryError(f"the regular expression {pattern!r} is invalid: {error}") from None

    def replace(text: str) -> str | None:
        found = groups.fullmatch(text) if matches(text) else None
        if found is None:
            return None
        return _REFERENCE.sub(lambda reference: _group(found, reference), template)

    return replace


def _group(found: re.Match[str], reference: re.Match[str]) -> str:
    name = reference[1] or reference[2]
    if name is None:
        return "$"
    try:
        return found[int(name) if name.isdigit() else name] or ""
    except IndexError:
        return ""


def _refuse_nested_repetition(pattern: str) -> None:
    """QueryError if a group that repeats, or has alternatives, is itself repeated without bound."""
    bare = re.sub(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", "x", pattern)
    risky = [False]
    for position, character in enumerate(bare):
        match character:
            case "(":
                risky.append(False)
            case ")":
                inner = risky.pop() if len(risky) > 1 else False
                if inner and bare[position + 1 : position + 2] in {"*", "+", "{"}:
                    raise QueryError(f"the regular expression {pattern!r} repeats a group that repeats or chooses")
                risky[-1] = risky[-1] or inner
            case "*" | "+" | "{" | "|":
                risky[-1] = True
            case _:
                pass
