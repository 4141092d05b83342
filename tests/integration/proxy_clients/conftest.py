"""Brings the fixtures of served_proxy.py to this directory's tests."""

from __future__ import annotations

from served_proxy import proxy_process, served

__all__ = ["proxy_process", "served"]
