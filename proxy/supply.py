"""Keeps a warm zygote at the master's hand, and starts another when it dies; until then workers start afresh."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from proxy.children import watch_death
from proxy.forking import Document, Zygote, ZygoteFailed
from proxy.plan import Plan, load_plan

_PAUSE_INITIAL_SECONDS = 1.0
_PAUSE_MOST_SECONDS = 60.0


def judged(file: str | None, overrides: Document) -> tuple[Zygote, Plan]:
    """A warm zygote of what the disk holds now, and the configuration as it judged it. ConfigError, ZygoteFailed."""
    zygote = Zygote()
    try:
        plan = load_plan(zygote, file, overrides)
        zygote.warm()
    except BaseException:
        zygote.close()
        raise
    return zygote, plan


def warmed() -> Zygote:
    """A warm zygote of what the disk holds now. ZygoteFailed."""
    zygote = Zygote()
    try:
        zygote.warm()
    except BaseException:
        zygote.close()
        raise
    return zygote


class Supply:
    """Made with a zygote that is warm; `start` takes the running loop."""

    def __init__(self, zygote: Zygote, say: Callable[[str], None]) -> None:
        self.zygote: Zygote | None = zygote
        self._say = say
        self._pause = _PAUSE_INITIAL_SECONDS
        self._replacing: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to watch."""
        if self.zygote is not None:
            self._watch(self.zygote)

    def adopt(self, fresh: Zygote) -> None:
        """Forks from `fresh` from now on."""
        old, self.zygote = self.zygote, fresh
        self._watch(fresh)
        if old is not None:
            old.close()

    def lose(self, zygote: Zygote) -> None:
        """It is dead, or does not do what it should. One that is not used any more is no loss."""
        if zygote is not self.zygote:
            return
        self._say(f"the zygote (pid {zygote.pid}) is lost; workers start in fresh interpreters until there is another")
        self.zygote = None
        zygote.close()
        self._replacing = asyncio.get_running_loop().create_task(self._replace())

    async def close(self) -> None:
        """Ends the zygote, and looks for no other."""
        zygote, self.zygote = self.zygote, None
        if zygote is not None:
            zygote.close()
        if self._replacing is not None:
            self._replacing.cancel()
            await asyncio.gather(self._replacing, return_exceptions=True)

    def _watch(self, zygote: Zygote) -> None:
        watch_death(zygote.pid, lambda: self.lose(zygote))

    async def _replace(self) -> None:
        while self._lacks():
            await asyncio.sleep(self._pause)
            self._pause = min(_PAUSE_MOST_SECONDS, self._pause * 2)
            try:
                fresh = await asyncio.to_thread(warmed)
            except ZygoteFailed as error:
                self._say(f"no zygote: {error}")
                continue
            if self._lacks():
                self.adopt(fresh)
            else:
                fresh.close()

    def _lacks(self) -> bool:
        return self.zygote is None
