"""Brings the fixtures of cache_workers.py to this directory's tests."""

from __future__ import annotations

from cache_workers import world

__all__ = ["world"]
