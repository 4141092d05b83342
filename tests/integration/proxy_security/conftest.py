"""Lets this directory's tests use the real llm-proxy of tests/integration/proxy_shell."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "proxy_shell"))
