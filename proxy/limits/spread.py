"""PURE. Lets a share of what comes through, as evenly as whole requests can be."""

from __future__ import annotations

_ALMOST_ONE = 1.0 - 1e-9


class Spread:
    """Carries what a whole request leaves over to the next one (error diffusion): of n that come, n times the share
    pass, to within one, wherever in the row one looks."""

    __slots__ = ("_carried",)

    def __init__(self) -> None:
        self._carried = 0.0

    def admits(self, share: float) -> bool:
        """Whether the next one passes; `share` is from 0 to 1."""
        self._carried += share
        if self._carried < _ALMOST_ONE:
            return False
        self._carried -= 1.0
        return True
