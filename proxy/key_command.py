"""`llm-proxy key`: makes callers' keys, and the hash that the configuration knows them by."""

from __future__ import annotations

import hashlib
import json
import secrets
import sys
from typing import TextIO

from proxy.errors import ProxyError

_BYTES = 32


def new(key_id: str, *, admin: bool, out: TextIO) -> None:
    """Tells a fresh key of 256 random bits, once, and the entry for `auth.keys`."""
    key = f"sk-{secrets.token_urlsafe(_BYTES)}"
    role = ", role: admin" if admin else ""
    out.write(f"key (shown only now): {key}\n")
    out.write(f"add to auth.keys:     - {{id: {json.dumps(key_id)}{role}, sha256: {digest(key)}}}\n")


def hashed(source: TextIO, out: TextIO) -> None:
    """Reads a key from `source`, for a command line is everybody's to read, and tells its hash. ProxyError if there is
    none."""
    key = source.readline().strip()
    if not key:
        raise ProxyError("no key came on standard input; run: llm-proxy key hash < FILE")
    out.write(f"{digest(key)}\n")


def digest(key: str) -> str:
    """What `sha256` of a key in the configuration is."""
    return hashlib.sha256(key.encode()).hexdigest()


def prompt() -> TextIO:
    """Standard input; says what is awaited if a person sits there."""
    if sys.stdin.isatty():
        sys.stderr.write("key: ")
        sys.stderr.flush()
    return sys.stdin
