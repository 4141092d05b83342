"""Finds another stream for the rest of an answer whose stream broke after its beginning had been sent."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace

from proxy.call import Account, Call
from proxy.dialects.continuation import Mode, mode_of, modes, prefilled
from proxy.dialects.contract import Sent
from proxy.routing.candidates import Candidate
from proxy.routing.cost import cost_usd
from proxy.streams.contract import Ending, OpenStream, Resumed, Totals


@dataclass(frozen=True, slots=True)
class Serving:
    """Who is answering."""

    candidate: Candidate
    key_id: str | None


Another = Callable[
    [Sequence[Candidate], Callable[[Candidate], Call], Account, float],
    Awaitable[tuple[Serving, OpenStream] | list[Candidate]],
]
"""A stream from the first of the candidates that gives one, each asked once with the call that is made for it; or those
that would not have theirs."""


@dataclass(slots=True)
class Continuation:
    """Of one streamed answer. `left` is how many more streams may be opened for it."""

    call: Call
    account: Account
    candidates: Sequence[Candidate]
    serving: Serving
    deadline: float
    """On the event loop's clock."""
    left: int
    another: Another
    used: set[tuple[str, str]] = field(default_factory=set)

    async def resume(self, sent: Sent, _ending: Ending, _message: str) -> Resumed | None:
        """See `streams.contract.Resume`. Models that continue a text come first; the rest begin again."""
        self.used.add(_place(self.serving.candidate))
        ways = modes(self.call, sent)
        pool = [candidate for candidate in self.candidates if _place(candidate) not in self.used]
        if not pool and len(self.candidates) == 1:
            pool = list(self.candidates)
        if "prefill" not in ways:
            pool = [replace(candidate, prefill="no") for candidate in pool]
        pool.sort(key=lambda candidate: candidate.prefill == "no")
        while self.left > 0 and ways and pool and asyncio.get_running_loop().time() < self.deadline:
            found = await self.another(
                pool, lambda candidate: self._call_for(candidate, sent), self.account, self.deadline
            )
            if isinstance(found, list):
                pool = [replace(candidate, prefill="no") for candidate in found if candidate.prefill != "no"]
                continue
            self.left -= 1
            self.serving, stream = found
            return Resumed(stream, _mode(self.serving.candidate))
        return None

    def settled(self, totals: Totals) -> None:
        """Completes the account when the whole is over: the provider that had the last word is named and billed."""
        account, candidate = self.account, self.serving.candidate
        account.provider, account.key_id = candidate.provider, self.serving.key_id
        account.model, account.usage, account.finish = totals.model or candidate.model, totals.usage, totals.finish
        account.cost_usd = cost_usd(candidate.price, totals.usage)
        account.continued = totals.continued
        if totals.ending not in (Ending.COMPLETE, Ending.ABANDONED):
            account.error = f"stream_{totals.ending}"

    def _call_for(self, candidate: Candidate, sent: Sent) -> Call:
        return self.call if candidate.prefill == "no" else prefilled(self.call, sent, candidate.prefill)


def _mode(candidate: Candidate) -> Mode:
    return "restart" if candidate.prefill == "no" else mode_of(candidate.prefill)


def _place(candidate: Candidate) -> tuple[str, str]:
    return candidate.provider, candidate.model
