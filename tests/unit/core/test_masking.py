"""What is masked in texts for people, and what is left to be read."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchdog.core.masking import MASK, mask

SECRET = "Zq9planted7secretXy"
PLACES = {
    "yaml": "password: {} and more",
    "yaml, quoted": "  api_key: '{}'",
    "yaml, a quote in it": "password: 'it''s {}'",
    "yaml, an item": "- key: {}",
    "yaml, in braces": "headers: {{Authorization: {}, b: 1}}",
    "yaml, a block": "password: |\n  first\n  {}\nport: 1",
    "yaml, on the next line": "password:\n    {}",
    "yaml, a list": "api_keys:\n- first\n- {}\nport: 1",
    "yaml, a list in a line": "tokens: [a, {}]",
    "yaml, an item's block": "- password:\n    {}",
    "a difference": "+    password: {}",
    "json": '{{"api_key": "{} x", "b": 1}}',
    "json, escaped": '{{"password": "a\\"{}"}}',
    "json, nested": '{{"api_keys": {{"openai": "{}"}}}}',
    "python": "{{'secret': '{}'}}",
    "environment": "OPENAI_API_KEY={} next",
    "camel case": "clientSecret={}",
    "a comma in it": "password=abc,{}",
    "a query": "GET /v1?key={}&a=1",
    "a url": "postgres://user:{}@host/db",
    "a url without a user": "redis://:{}@host:1/0",
    "a header": "x-api-key: {}",
    "bearer": "authorization: Bearer {}",
    "bearer in a sentence": "sent Bearer {} to it",
    "a cookie": "Cookie: a=1; session={}",
    "an option": "started with --api-key {}",
    "an option with =": "started with --password={}",
    "a provider's words": "Incorrect API key provided: {}.",
    "shape of a key": "it said sk-ant-{}",
    "shape of a token": "it said ghp_{}",
    "private key": "-----BEGIN RSA PRIVATE KEY-----\nabc\n{}\n-----END RSA PRIVATE KEY-----",
    "private key, cut": "-----BEGIN PRIVATE KEY-----\nabc\n{}",
    "private key, its end": "it said:\n{}\nabc=\n-----END EC PRIVATE KEY-----",
    "a webhook": "https://hooks.slack.com/services/T0/{}",
}


@pytest.mark.parametrize("place", PLACES)
def test_a_secret_is_masked(place: str) -> None:
    """Wherever people and programs write one; what stands around it is left."""
    masked = mask(f"before\n{PLACES[place].format(SECRET)}\nafter")
    assert SECRET not in masked
    assert MASK in masked
    assert masked.startswith("before\n")
    assert masked.endswith("\nafter") or place == "private key, cut"


@pytest.mark.parametrize(
    "text",
    [
        "tokens: 34, prompt_tokens=12, max_tokens: 100",
        '{"prompt_tokens": 12, "total_tokens": 55}',
        "api_key_file: /etc/llm-proxy/key",
        "keys:\n  - id: admin\n    key_file: var/x.key\n    role: admin",
        "keys: 2 alive, 1 dead",
        "monkey: banana, author: me",
        "the token of bob has expired",
        "worker 0: serving, pid 3, last exit None",
        "password: null",
        'File "/srv/secrets.py", line 12, in token_bytes',
        "--- a/x\n+++ b/x\n@@ -1,3 +1,3 @@\n-interval: 2s\n+interval: 3s\n workers: 5",
        "https://example.org:8443/path",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    """Counts of tokens, paths of files, words that only sound like it."""
    assert mask(text) == text


@given(
    text=st.lists(st.sampled_from(["key", "password", ": ", "=", "- ", "\n", "  ", "'", '"', "[", "{", "|", "x", "-"]))
)
def test_lines_stay_lines_and_a_second_time_changes_nothing(text: list[str]) -> None:
    """Of any text; only private keys become one line."""
    once = mask("".join(text))
    assert once.count("\n") == "".join(text).count("\n")
    assert mask(once).count("\n") == once.count("\n")


HOSTILE = [
    "a",
    "key ",
    "password ",
    "k-",
    "- ",
    "a.b-c_",
    "://",
    " ",
    "'",
    "a\n",
    'key="\\',
    "key: [",
    "-----BEGIN PRIVATE KEY-----",
]


@pytest.mark.parametrize("part", HOSTILE, ids=repr)
def test_no_text_takes_long(part: str) -> None:
    """64 KiB of whatever repeats cost no more than a moment: a careless pattern took minutes."""
    began = time.process_time()
    mask(part * (65_536 // len(part)))
    assert time.process_time() - began < 4
