"""Makes a build of the proxy that leaks: a copy with one call planted where requests are answered."""

from __future__ import annotations

import shutil
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]
PLANTED = Path(__file__).with_name("planted.py")
_WHERE = "        return await route.handler(request)\n"
_IMPORT = "from proxy.settings import Settings\n"


def build(place: Path) -> Path:
    """A directory to be put on PYTHONPATH, in which `proxy` is the leaking build."""
    shutil.copytree(REPOSITORY / "proxy", place / "proxy", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PLANTED, place / "proxy" / "planted.py")
    app = place / "proxy" / "app.py"
    text = app.read_text()
    assert text.count(_WHERE) == 1
    text = text.replace(_WHERE, "        planted.on_request()\n" + _WHERE)
    text = text.replace(_IMPORT, "from proxy import planted\n" + _IMPORT)
    app.write_text(text)
    return place


def line(case: str) -> int:
    """The line of `planted.py` that is to blame for a case; 0 for one that has none."""
    for number, text in enumerate(PLANTED.read_text().splitlines(), 1):
        if text.endswith(f"# leak: {case}"):
            return number
    return 0
