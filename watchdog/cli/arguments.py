"""Types of arguments that several commands take."""

from __future__ import annotations

import argparse

from watchdog.units import parse_duration


def duration(value: str) -> float:
    """`2h` in seconds, more than 0; for argparse's `type`."""
    try:
        seconds = parse_duration(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if seconds <= 0:
        raise argparse.ArgumentTypeError("expected more than 0s")
    return seconds
