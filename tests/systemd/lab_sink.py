"""Runs in the lab: takes one webhook on the port that it is given, prints its body and ends."""

from __future__ import annotations

import http.server
import sys


class Sink(http.server.BaseHTTPRequestHandler):
    """Accepts whatever is posted."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()
        print(body.decode(), flush=True)

    def log_message(self, *_arguments: object) -> None:
        """Says nothing of its own."""


with http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Sink) as server:
    print("listening", flush=True)
    server.handle_request()
