"""Reads those events of a stream quickly that differ from an earlier one in nothing but their text.

Let an event be P + X + S, P ending with the quote before the text and S beginning with the quote after it. When M is
such that `"M"` is one JSON string, P + M + S is read token by token as P + X + S was, but for that string: so the rest
needs no reading again.
"""

from __future__ import annotations

import orjson

from proxy.dialects.contract import Delta
from proxy.dialects.sse import data_of

_PLACES = (b'"content":"', b'"content": "')
_PROBE = "x"


class Mould:
    """What the events have in common."""

    __slots__ = ("_after", "_before", "_shortest", "model")

    def __init__(self, before: bytes, after: bytes, model: str | None) -> None:
        self._before = before
        self._after = after
        self._shortest = len(before) + len(after)
        self.model = model

    def text_of(self, event: bytes) -> str | None:
        """The text of an event that came of this mould; None for any other."""
        if not (event.startswith(self._before) and event.endswith(self._after) and len(event) >= self._shortest):
            return None
        try:
            text = orjson.loads(event[len(self._before) - 1 : 1 - len(self._after) or None])
        except orjson.JSONDecodeError:
            return None
        return text if text.__class__ is str else None


def mould_of(event: bytes, delta: Delta) -> Mould | None:
    """The mould of an event of one line that says nothing but a text (and its model); None if it cannot be proved to be
    one: another text put into it must give the same chunk with that text."""
    if not event.startswith(b"data: ") or delta != Delta(delta.meaning, delta.text, model=delta.model):
        return None
    written = orjson.dumps(delta.text)[1:-1]
    begin = max(event.find(place + written) + len(place) if place in event else 0 for place in _PLACES)
    before, after = event[:begin], event[begin + len(written) :]
    if not before.endswith(_PLACES) or not after.startswith(b'"'):
        return None
    try:
        chunk, probed = (orjson.loads(data_of(one) or b"") for one in (event, before + _PROBE.encode() + after))
        chunk["choices"][0]["delta"]["content"] = _PROBE
    except (orjson.JSONDecodeError, KeyError, IndexError, TypeError):
        return None
    return Mould(before, after, delta.model) if probed == chunk else None
