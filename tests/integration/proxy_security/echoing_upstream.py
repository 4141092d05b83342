"""An upstream that tells everybody's secrets: whatever it says, it repeats the key that it was called with."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CHUNK = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}


class Echo(BaseHTTPRequestHandler):
    """What it does is the first word of the model's name: a status, `ok`, `junk`, `redirect`, `cut` or `frame`."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        said = " ".join(f"{name}={value}" for name, value in self.headers.items() if name.lower() in SECRET_HEADERS)
        way, stream = str(request["model"]).partition("-")[0], request.get("stream") is True
        match way:
            case "ok" if stream:
                self._events(["hello", " world"], end="stop")
            case "ok":
                self._answer(200, completion("hello world"))
            case "junk":
                self._answer(200, {"said": said})
            case "redirect":
                self._answer(302, {"error": {"message": said}}, location=f"http://127.0.0.1:9/{said.replace(' ', '')}")
            case "cut":
                self._events(["hello"], end=None)
            case "frame":
                self._events(["hello"], end=None, error=said)
            case _:
                self._answer(int(way), {"error": {"message": f"no: {said}", "type": "x", "code": "y", "param": None}})

    def do_GET(self) -> None:
        self._answer(200, {"object": "list", "data": []})

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's own name
        """Says nothing."""

    def _answer(self, status: int, body: object, **headers: str) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _events(self, texts: list[str], end: str | None, error: str | None = None) -> None:
        self.close_connection = True
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        for text in texts:
            self._event(CHUNK | {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]})
        if error is not None:
            self._event({"error": {"message": error, "type": "server_error", "code": None}})
        if end is not None:
            self._event(CHUNK | {"choices": [{"index": 0, "delta": {}, "finish_reason": end}]})
            self.wfile.write(b"data: [DONE]\n\n")

    def _event(self, document: object) -> None:
        self.wfile.write(b"data: " + json.dumps(document).encode() + b"\n\n")
        self.wfile.flush()


SECRET_HEADERS = ("authorization", "x-api-key", "api-key", "x-gateway-token")


def completion(text: str) -> dict[str, object]:
    """A whole answer in OpenAI's form."""
    message = {"role": "assistant", "content": text}
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}


@contextmanager
def echoing_upstream() -> Iterator[str]:
    """Its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
