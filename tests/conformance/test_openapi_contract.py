"""The service keeps to its own OpenAPI document, whatever it is sent: schemathesis and hypothesis try.

`FUZZ_EXAMPLES=500` looks that much deeper than a run of all tests has time for.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import plain_http
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "integration" / "proxy_shell"))

from proxy_service import Service, make_service

_EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "3"))
_SECONDS = 100.0 if "FUZZ_EXAMPLES" not in os.environ else 3600.0
_LEFT_OUT = (
    # Whether a model exists and what its provider takes is no matter of a schema.
    "positive_data_acceptance",
    # After some requests without a key there is a 429 instead of the 401 that it wants to see.
    "ignored_auth",
)
_REFUSES_THE_REST = "/api/load"
"""Asked to shed load, the service answers what follows with 503, as it should; its own tests look at it."""
_QUESTIONS = {
    "/v1/chat/completions": "messages",
    "/v1/completions": "prompt",
    "/v1/embeddings": "input",
    "/v1/messages": "messages",
}


@pytest.fixture(scope="module")
def fuzzed() -> Iterator[Service]:
    """A service before the demo upstream; every caller needs a key."""
    with tempfile.TemporaryDirectory(prefix="lf-") as name:
        made = make_service(Path(name))
        made.settings |= {"faults": False}
        made.settings["auth"]["anonymous_loopback"] = "none"
        try:
            made.start()
            yield made
        finally:
            made.end()


@pytest.fixture(scope="module")
def client(fuzzed: Service) -> Iterator[httpx.Client]:
    with plain_http.Client(base_url=fuzzed.url(""), headers=fuzzed.admin, timeout=30) as http:
        yield http


@pytest.mark.timeout(_SECONDS + 20)
def test_every_answer_is_as_the_document_says(fuzzed: Service, tmp_path: Path) -> None:
    """No status, header or body that the document does not tell of, and no error of the server's own, for requests
    that keep to it and for those that do not."""
    run = subprocess.run(
        [
            str(Path(sys.executable).with_name("schemathesis")),
            *("run", fuzzed.url("/openapi.json"), "--header", f"Authorization: {fuzzed.admin['authorization']}"),
            *("--phases", "coverage,fuzzing", "--exclude-checks", ",".join(_LEFT_OUT), "--continue-on-failure"),
            *("--max-examples", str(_EXAMPLES), "--seed", "1", "--request-timeout", "20"),
            *("--suppress-health-check", "all", "--no-shrink"),
            *("--exclude-path", _REFUSES_THE_REST),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    told = re.search(r"Tested: (\d+)", run.stdout)
    assert told is not None, run.stdout
    paths = plain_http.get(fuzzed.url("/openapi.json")).json()["paths"]
    # It leaves out the document itself.
    assert int(told[1]) == sum(map(len, paths.values())) - 1 - len(paths[_REFUSES_THE_REST])


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
_DEEPER = settings(
    max_examples=max(40, _EXAMPLES),
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@_DEEPER
@given(path=st.sampled_from([*_QUESTIONS, "/api/cache/evict", "/api/cache/import"]), body=st.binary(max_size=200))
def test_bytes_that_are_no_request_are_refused(client: httpx.Client, path: str, body: bytes) -> None:
    """Arbitrary bytes come to an error of the caller's, in an envelope, and the service lives on."""
    answer = client.post(path, content=body)
    assert 400 <= answer.status_code < 500
    assert answer.json()["error"]["message"]


@_DEEPER
@given(
    path=st.sampled_from(list(_QUESTIONS)),
    subject=_JSON,
    more=st.dictionaries(
        st.sampled_from(["stream", "n", "tools", "stream_options", "temperature", "stop", "system", "max_tokens", "x"]),
        _JSON,
        max_size=4,
    ),
)
def test_odd_requests_are_answered_or_refused(
    client: httpx.Client, path: str, subject: Any, more: dict[str, Any]
) -> None:
    """Whatever the fields hold, the answer is one, or the caller is told what is wrong; nothing breaks on our side."""
    fields = {"model": "demo-small", _QUESTIONS[path]: subject, **more}
    try:
        body = orjson.dumps(fields)
    except TypeError:
        return
    answer = client.post(path, content=body)
    assert answer.status_code < 500, f"{body!r}: {answer.text}"
    if answer.status_code != 200:
        assert answer.json()["error"]["message"]
