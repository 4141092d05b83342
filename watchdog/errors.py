"""Every error that proxywatch raises on purpose, drawn as one tree.

    ProxywatchError
    ├── ConfigError          the operator's files; carries file, line, key        exit 2
    ├── EnvironmentUnfit     the machine or virtual environment cannot run us     exit 2
    ├── QueryError           a PromQL expression that cannot be parsed or evaluated
    ├── TemplateError        an annotation template that cannot be parsed or rendered
    ├── ProbeError           a measurement failed (itself a sample)
    ├── ActionError          an effect failed or could not be confirmed
    ├── DeliveryError        a notification was not accepted
    ├── BackupError          an archive that cannot be made, is not what it should be, or cannot be put back
    ├── InstallationError    a step of putting us onto a host, or taking us away, did not work
    ├── StoreError           our own memory cannot be read or written: act on nothing
    ├── ControlError         a call to the running daemon failed
    └── TransitionError      an event that the state it met cannot take: a bug, named precisely

`permanent` says whether trying the same again can help; `hint` says what the operator can do.
"""

from __future__ import annotations


class ProxywatchError(Exception):
    """The root. `str(error)` is one line for a person, without the hint."""

    def __init__(self, message: str, *, hint: str = "", permanent: bool = False) -> None:
        super().__init__(message)
        self.hint = hint
        self.permanent = permanent


class ConfigError(ProxywatchError):
    """Something in the operator's files. `str()` is `file:line: key: what is wrong; what was expected`."""

    def __init__(self, message: str, *, file: str = "", line: int | None = None, key: str = "", hint: str = "") -> None:
        place = f"{file}:{line}" if file and line else file
        text = ": ".join(part for part in (place, key, message) if part)
        super().__init__(text, hint=hint, permanent=True)
        self.file = file
        self.line = line
        self.key = key
        self.message = message


class EnvironmentUnfit(ProxywatchError):  # noqa: N818 - it names a state of the machine
    """This machine or virtual environment cannot run us as it is."""


class QueryError(ProxywatchError):
    """A PromQL expression that cannot be parsed or evaluated."""


class TemplateError(ProxywatchError):
    """A label or annotation template that cannot be parsed or rendered."""


class ProbeError(ProxywatchError):
    """A measurement failed; the message is the probe's note."""


class ActionError(ProxywatchError):
    """An effect failed, was refused by its target, or could not be confirmed."""


class DeliveryError(ProxywatchError):
    """A notification was not accepted. `permanent` errors are not retried."""


class BackupError(ProxywatchError):
    """An archive cannot be made, is not what it should be, or cannot be put back."""


class InstallationError(ProxywatchError):
    """A step of an installation, an upgrade or a removal did not work; `hint` says what stands and what to do."""


class StoreError(ProxywatchError):
    """The agent's own memory cannot be read or written. Whoever sees it acts on nothing and pages."""


class ControlError(ProxywatchError):
    """A call over the control socket failed."""


class TransitionError(ProxywatchError):
    """An event that the state it met cannot take."""

    def __init__(self, machine: str, state: str, event: str) -> None:
        super().__init__(f"{machine}: event {event!r} is impossible in state {state!r}", permanent=True)
        self.machine = machine
        self.state = state
        self.event = event
