"""Replaces workers, one alone or all in turn, so that at no time more than one is extra and none is missing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from proxy.control import Answer, Document
from proxy.slots import State
from proxy.supervision import RecycleFailed, Slot

REASONS = ("command", "reload", "age", "leak")
"""Why a worker is replaced that could have gone on."""


class Rolling:
    """Over the slots of one master; `patience` is how long a worker may take to start now, in seconds; `count` is told
    why each worker was replaced."""

    def __init__(self, slots: Mapping[int, Slot], patience: Callable[[], float], count: Callable[[str], None]) -> None:
        self._slots = slots
        self._patience = patience
        self._count = count
        self._turn = asyncio.Lock()

    async def one(self, slot: Slot, body: Document) -> Answer:
        """Replaces one worker as `body` asks (mode, expect_pid, reason), and answers when the new one serves."""
        mode, reason = body.get("mode", "graceful"), body.get("reason", "command")
        if mode not in ("graceful", "kill"):
            return Answer(400, {"error": f"mode: expected graceful or kill, not {mode!r}"})
        if reason not in REASONS:
            return Answer(400, {"error": f"reason: expected one of {', '.join(REASONS)}, not {reason!r}"})
        answer = await self._replace(slot, mode, body)
        if answer.status == 200:
            self._count(reason)
        return answer

    async def alone(self, slot: Slot, body: Document) -> Answer:
        """The same in its turn among all that is rolled, and answers when the old process is gone."""
        async with self._turn:
            answer = await self.one(slot, body)
            assert isinstance(answer.document, dict)
            if answer.status == 200 and answer.document["old_pid"] is not None:
                await slot.gone(answer.document["old_pid"])
        return answer

    async def _replace(self, slot: Slot, mode: str, body: Document) -> Answer:
        old = slot.child.pid if slot.child else None
        if "expect_pid" in body and body["expect_pid"] != old:
            return Answer(409, {"error": f"slot {slot.number} has pid {old}, not {body['expect_pid']}"})
        if slot.state in (State.STOPPING, State.GONE):
            return Answer(409, {"error": f"slot {slot.number} is being stopped"})
        if mode == "kill" and slot.child is not None:
            served = slot.served()
            slot.kill()
        elif slot.state is State.BACKOFF:
            served = slot.served()
            slot.start()
        else:
            # One that is only just starting is let finish, for it may have been started with an older configuration.
            # Only a caller who named a process joins the replacement of that process which is already under way.
            if slot.state is State.STARTING or (slot.state is State.REPLACING and "expect_pid" not in body):
                settled = await self._await_served(slot, old, slot.served())
                if settled.status != 200:
                    return settled
                old = slot.child.pid if slot.child else None
            served = slot.recycle()
        return await self._await_served(slot, old, served)

    async def _await_served(self, slot: Slot, old: int | None, served: asyncio.Future[int]) -> Answer:
        limit = self._patience() + 1.0
        try:
            async with asyncio.timeout(limit):
                return Answer(200, {"old_pid": old, "new_pid": await served})
        except RecycleFailed as error:
            return Answer(502, {"error": f"slot {slot.number}: {error}", "old_pid": old})
        except TimeoutError:
            return Answer(504, {"error": f"slot {slot.number}: no worker served within {limit:g} s", "old_pid": old})

    async def all(self, reason: str) -> Answer:
        """One slot at a time; the next one waits until the old process is gone, so that at most one is extra."""
        recycled: list[Document] = []
        async with self._turn:
            for slot in list(self._slots.values()):
                answer = await self.one(slot, {"reason": reason})
                assert isinstance(answer.document, dict)
                if answer.status != 200:
                    return Answer(answer.status, {**answer.document, "recycled": recycled})
                recycled.append({"slot": slot.number, **answer.document})
                if answer.document["old_pid"] is not None:
                    await slot.gone(answer.document["old_pid"])
        return Answer(200, {"recycled": recycled})
