"""What is written down of the world before a playbook changes it: one file a family of collectors."""

from __future__ import annotations

from watchdog.playbooks.evidence.collecting import COLLECTORS, Evidence

__all__ = ["COLLECTORS", "Evidence"]
