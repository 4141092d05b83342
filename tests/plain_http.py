"""httpx for addresses without TLS: reading every authority's certificate for each client took most of some tests."""

from __future__ import annotations

import ssl
from functools import partial

import httpx

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Trusts nobody, and is shared."""

Client = partial(httpx.Client, verify=NO_TLS)
AsyncClient = partial(httpx.AsyncClient, verify=NO_TLS)
HTTPTransport = partial(httpx.HTTPTransport, verify=NO_TLS)
AsyncHTTPTransport = partial(httpx.AsyncHTTPTransport, verify=NO_TLS)
get = partial(httpx.get, verify=NO_TLS)
post = partial(httpx.post, verify=NO_TLS)
stream = partial(httpx.stream, verify=NO_TLS)
