"""Files that hold one secret: what makes such a file unusable."""

from __future__ import annotations

import stat
from pathlib import Path


def secret_fault(path: Path, *, may_be_missing: bool = False) -> str | None:
    """Why the secret in `path` cannot be used, and what to do; None if it can."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode) and mode & 0o077:
            return f"{path} can be read by others (mode {stat.S_IMODE(mode):04o}); run: chmod 600 {path}"
        if not path.read_text(encoding="utf-8").strip():
            return f"{path} is empty; expected a secret on its first line"
    except FileNotFoundError:
        return None if may_be_missing else f"{path} does not exist; expected a file of mode 0600 with the secret"
    except (OSError, UnicodeDecodeError) as error:
        return f"{path} cannot be read: {error}"
    return None
