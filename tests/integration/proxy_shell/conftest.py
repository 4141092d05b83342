"""Brings the fixtures of proxy_service.py to this directory's tests."""

from __future__ import annotations

from proxy_service import service, shared

__all__ = ["service", "shared"]
