"""OpenAI's client for Node, and curl, as judges of the proxy."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
from served_proxy import Served

_CLIENTS = Path(__file__).resolve().parents[2] / "clients_node"
_MANIFESTS = ("package.json", "package-lock.json")


def _missing(what: str) -> None:
    """In CI what a judge needs is there, or the run has failed."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} is needed in CI")
    pytest.skip(f"{what} is not installed")


@pytest.fixture(scope="module")
def node_modules() -> Path:
    """A folder outside the repository in which Node finds the packages of the lock file; made once for each lock."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            _missing(program)
    digest = hashlib.sha256(b"".join((_CLIENTS / name).read_bytes() for name in _MANIFESTS)).hexdigest()[:16]
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llm-proxy-tests"
    made = caches / f"node-{digest}"
    if not made.is_dir():
        caches.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=caches, ignore_cleanup_errors=True) as scratch:
            for name in _MANIFESTS:
                shutil.copy(_CLIENTS / name, scratch)
            argv = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
            installed = subprocess.run(argv, cwd=scratch, capture_output=True, text=True, timeout=100, check=False)
            if installed.returncode != 0:
                _missing(f"the npm package openai ({installed.stderr.strip()[-300:]})")
            try:
                Path(scratch).rename(made)
            except OSError:
                assert made.is_dir()  # another run of these tests was faster
    return made


@pytest.fixture(scope="module")
def asked(proxy_process: Served, node_modules: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the Node client got, from one run of it. It looks for modules beside itself, and so it moves."""
    proxy_process.behave()
    program = tmp_path_factory.mktemp("node") / "ask_openai.mjs"
    shutil.copy(_CLIENTS / program.name, program)
    (program.parent / "node_modules").symlink_to(node_modules / "node_modules")
    environment = {**os.environ, "BASE_URL": proxy_process.base, "API_KEY": proxy_process.key}
    run = subprocess.run(["node", program], env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
    found: dict[str, Any] = json.loads(run.stdout)
    return found


def test_node_answers(asked: dict[str, Any]) -> None:
    """Whole answers, JSON mode, embeddings and models."""
    assert asked["whole"]["text"] == "demo heard: hello from node"
    assert asked["whole"]["id"]
    assert asked["json"] == {"heard": "as JSON"}
    assert asked["embeddings"] == [8, 8]
    assert sorted(asked["models"]) == ["demo-claude", "demo-large", "demo-small"]
    assert asked["model"] == "demo-small"


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
def test_node_streams(asked: dict[str, Any], dialect: str) -> None:
    """Text, finish and usage of a stream."""
    streamed = asked["streamed"][dialect]
    assert streamed["text"].strip() == "demo heard: hello from node"
    assert (streamed["finish"], streamed["tokens"]) == ("stop", 5)


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
def test_node_tools(asked: dict[str, Any], dialect: str) -> None:
    """A tool is called, told, and answered with."""
    called = asked["tools"][dialect]
    assert (called["finish"], called["name"]) == ("tool_calls", "weather")
    assert called["arguments"] == {"town": "use the weather tool"}
    assert called["text"] == "demo heard: sunny"


def test_node_errors(asked: dict[str, Any]) -> None:
    """Each status raises its class, with code and the request's id."""
    found = {name: (asked[name]["name"], asked[name]["status"]) for name in ("unauthorized", "unknown", "invalid")}
    assert found == {
        "unauthorized": ("AuthenticationError", 401),
        "unknown": ("NotFoundError", 404),
        "invalid": ("BadRequestError", 400),
    }
    assert asked["unknown"]["code"] == "model_not_found"
    assert asked["unknown"]["requestID"]


def _curl(served: Served, path: str, *arguments: str) -> tuple[int, str]:
    """Status and body of what curl asks."""
    if shutil.which("curl") is None:
        _missing("curl")
    argv = ["curl", "-sS", "--max-time", "20", "-w", "\n%{http_code}", *arguments, served.root + path]
    run = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True)
    body, _, status = run.stdout.rpartition("\n")
    return int(status), body


def _posted(served: Served, path: str, body: dict[str, Any], *arguments: str) -> tuple[int, str]:
    bearer = ["-H", f"Authorization: Bearer {served.key}"]
    sent = ["-H", "Content-Type: application/json", "-d", json.dumps(body)]
    return _curl(served, path, *bearer, *sent, *arguments)


def test_curl_chat(served: Served) -> None:
    """The first command that anybody tries, whole and streaming."""
    body: dict[str, Any] = {"model": "demo-small", "messages": [{"role": "user", "content": "hi"}]}
    status, said = _posted(served, "/v1/chat/completions", body)
    assert status == 200
    assert json.loads(said)["choices"][0]["message"]["content"] == "demo heard: hi"
    status, said = _posted(served, "/v1/chat/completions", body | {"stream": True}, "-N")
    assert status == 200
    assert said.endswith("data: [DONE]\n\n")


def test_curl_messages(served: Served) -> None:
    """Anthropic's endpoint by its own header, whole and streaming."""
    body = {"model": "demo-small", "max_tokens": 50, "messages": [{"role": "user", "content": "hi"}]}
    headers = ["-H", f"x-api-key: {served.key}", "-H", "anthropic-version: 2023-06-01"]
    status, said = _curl(served, "/v1/messages", *headers, "-d", json.dumps(body))
    assert (status, json.loads(said)["content"]) == (200, [{"type": "text", "text": "demo heard: hi"}])
    status, said = _curl(served, "/v1/messages", *headers, "-N", "-d", json.dumps(body | {"stream": True}))
    assert status == 200
    assert said.startswith("event: message_start\n")
    assert said.rstrip().endswith('data: {"type":"message_stop"}')


@pytest.mark.parametrize(
    ("path", "status", "envelope"),
    [
        ("/v1/nothing", 404, {"error"}),
        ("/v1/messages/batches", 404, {"type", "error", "request_id"}),
        ("/v1/messages", 405, {"type", "error", "request_id"}),
        ("/v1/chat/completions", 405, {"error"}),
    ],
    ids=["unknown", "unknown at anthropic", "method at anthropic", "method"],
)
def test_curl_errors(served: Served, path: str, status: int, envelope: set[str]) -> None:
    """An error has the envelope of the API whose path it is."""
    found, said = _curl(served, path, "-H", f"Authorization: Bearer {served.key}")
    assert (found, set(json.loads(said))) == (status, envelope)
