"""What may begin a playbook beside alerts and people: a time, or another program that knows a secret."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from watchdog.core.targets import parse_target
from watchdog.registry import Duration, Settings

SHORTEST_SECONDS = 60.0


class TriggerSettings(Settings):
    """Keys that every trigger has."""

    targets: tuple[str, ...] = Field(min_length=1)
    """Whole names such as `service:web`: what is begun without anybody looking has no patterns."""

    @field_validator("targets")
    @classmethod
    def _whole(cls, targets: tuple[str, ...]) -> tuple[str, ...]:
        for target in targets:
            parse_target(target)
        return targets


class ScheduleTrigger(TriggerSettings):
    """Either `cron` (five fields, in this machine's local time) or `every` (counted from the agent's start)."""

    kind: Literal["schedule"]
    cron: str = ""
    every: Duration | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> ScheduleTrigger:
        if bool(self.cron) == (self.every is not None):
            raise ValueError("expected exactly one of cron and every")
        if self.every is not None and self.every < SHORTEST_SECONDS:
            raise ValueError(f"`every` is shorter than {SHORTEST_SECONDS:g}s")
        if self.cron:
            _check_cron(self.cron)
        return self


class WebhookTrigger(TriggerSettings):
    """`POST /hooks/NAME` with `Authorization: Bearer TOKEN`, or signed with the token as our own webhooks are."""

    kind: Literal["webhook"]
    name: str = Field(pattern=r"^[a-z][a-z0-9-]*$")
    token_file: Path
    """Holds the token; only its owner may read it."""


Trigger = Annotated[ScheduleTrigger | WebhookTrigger, Field(discriminator="kind")]


def _check_cron(text: str) -> None:
    from apscheduler.triggers.cron import CronTrigger

    try:
        CronTrigger.from_crontab(text)
    except ValueError as error:
        raise ValueError(f'{text!r} is no cron expression such as "30 3 * * sun": {error}') from None
    if any(character.isdigit() for character in text.rsplit(maxsplit=1)[-1].partition("#")[0]):
        # APScheduler counts weekdays from Monday, cron from Sunday: whoever writes a number means one of the two.
        raise ValueError("write the day of the week by name, such as sun or mon-fri")
