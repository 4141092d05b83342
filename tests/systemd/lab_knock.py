"""Run in the lab: opens a new connection to URL about a hundred times a second, until its standard input ends; then
prints how often it saw what."""

from __future__ import annotations

import collections
import http.client
import json
import select
import sys
from urllib.parse import urlsplit


def knock(place: str, path: str) -> str:
    connection = http.client.HTTPConnection(place, timeout=60)
    try:
        connection.request("GET", path)
        return str(connection.getresponse().status)
    except OSError as error:
        return type(error).__name__
    finally:
        connection.close()


seen: collections.Counter[str] = collections.Counter()
parts = urlsplit(sys.argv[1])
while not select.select([sys.stdin], [], [], 0.01)[0]:
    seen[knock(parts.netloc, parts.path)] += 1
print(json.dumps(seen))
