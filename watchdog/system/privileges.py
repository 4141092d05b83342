"""What an action needs and an agent without privileges lacks, said together with the way to grant it."""

from __future__ import annotations

import errno

from watchdog.errors import ActionError

_HOW = "`systemctl edit proxywatch.service`, with the lines that docs/systemd.md has for it under «Hardening»"


def missing(privilege: str, what_for: str) -> ActionError:
    """The error of an action that cannot work as the agent runs; permanent, for trying again grants nothing."""
    return ActionError(f"missing privilege {privilege}, {what_for}; to grant it: {_HOW}", permanent=True)


def denied(path: str, error: OSError) -> str:
    """Why a file could not be read, written or removed; for what a grant would change, with the grant."""
    said = f"{path}: {error.strerror}"
    match error.errno:
        case errno.EROFS:
            return f"{said}: missing privilege ReadWritePaths= of its directory; to grant it: {_HOW}"
        case errno.EACCES | errno.EPERM:
            return f"{said}: missing privilege CAP_DAC_OVERRIDE, or a group that may; to grant it: {_HOW}"
        case _:
            return said
