"""The headers of an answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeVar, overload

_Default = TypeVar("_Default")


class Headers(Mapping[str, str]):
    """Reads `raw`, whose names are lower-case, by names in any case; they are told in lower case."""

    __slots__ = ("_raw",)

    def __init__(self, raw: dict[bytes, bytes]) -> None:
        self._raw = raw

    def __getitem__(self, name: str) -> str:
        return self._raw[name.lower().encode("latin-1")].decode("latin-1")

    @overload
    def get(self, key: str, default: None = None, /) -> str | None: ...
    @overload
    def get(self, key: str, default: str | _Default, /) -> str | _Default: ...
    def get(self, key: str, default: object = None, /) -> object:
        """The value, or `default`."""
        value = self._raw.get(key.lower().encode("latin-1"))
        return default if value is None else value.decode("latin-1")

    def __iter__(self) -> Iterator[str]:
        return (name.decode("latin-1") for name in self._raw)

    def __len__(self) -> int:
        return len(self._raw)

    def __repr__(self) -> str:
        return f"Headers({dict(self)!r})"
