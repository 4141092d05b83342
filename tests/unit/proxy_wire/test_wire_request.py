"""How requests are written down."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from proxy.settings.providers import OpenAIProvider
from proxy.wire.request import address_of, fixed_lines, is_numeric, lines


@pytest.mark.parametrize(
    ("url", "tls", "host", "port", "target", "authority"),
    [
        ("http://h.example/v1/x", False, "h.example", 80, "/v1/x", "h.example"),
        ("https://h.example", True, "h.example", 443, "/", "h.example"),
        ("https://h.example:8443/a?api-version=1&b=c d", True, "h.example", 8443, "/a?api-version=1&b=c%20d", None),
        ("http://[::1]:80/a%20b", False, "::1", 80, "/a%20b", "[::1]"),
        ("http://127.0.0.1:8080/ä", False, "127.0.0.1", 8080, "/%C3%A4", "127.0.0.1:8080"),
        ("http://bücher.example/", False, "xn--bcher-kva.example", 80, "/", "xn--bcher-kva.example"),
    ],
)
def test_wire_url_is_taken_apart(url: str, tls: bool, host: str, port: int, target: str, authority: str | None) -> None:
    """Scheme, host, port and target of a URL, encoded as they go out."""
    address = address_of(url)
    assert (address.tls, address.host, address.port, address.target) == (tls, host, port, target)
    assert address.authority == (authority or f"{host}:{port}")


@pytest.mark.parametrize(
    "url", ["ftp://h/", "h.example/v1", "http:///v1", "http://me:secret@h/", "http://h:99999/", "http://[::1/"]
)
def test_wire_what_is_no_url_is_refused(url: str) -> None:
    """ValueError, which does not tell a password."""
    with pytest.raises(ValueError) as caught:
        address_of(url)
    assert "secret" not in str(caught.value)


def test_wire_prepared_headers_replace_the_fixed_ones() -> None:
    """A header of the provider's takes the place of ours of the same name, whatever its case."""
    said = fixed_lines(address_of("http://h/"), [("User-Agent", "mine"), ("authorization", "Bearer x")])
    assert said.startswith(b"host: h\r\n")
    assert said.count(b"user-agent") == 1
    assert b"user-agent: mine\r\n" in said
    assert said.endswith(b"authorization: Bearer x\r\n")


@pytest.mark.parametrize(
    "header", [("a", "b\r\nc: d"), ("a", "b\nc"), ("a", "b\0"), ("a b", "c"), ("", "c"), ("a\n", "c")]
)
def test_wire_header_with_a_line_break_is_refused(header: tuple[str, str]) -> None:
    """No header can begin a line of its own."""
    with pytest.raises(ValueError):
        lines([header])


@pytest.mark.parametrize(
    ("host", "numeric"), [("127.0.0.1", True), ("::1", True), ("localhost", False), ("1.2", False)]
)
def test_wire_numeric_hosts(host: str, numeric: bool) -> None:
    """Addresses are told from names."""
    assert is_numeric(host) is numeric


@pytest.mark.parametrize("name", ["Content-Length", "transfer-encoding", "Connection", "upgrade"])
def test_wire_framing_cannot_be_configured(name: str) -> None:
    """What belongs to the connection is nobody else's; another host may be named."""
    with pytest.raises(ValueError):
        fixed_lines(address_of("http://h/"), [(name, "5")])
    said = fixed_lines(address_of("http://h/"), [("Host", "other")])
    assert b"host: other\r\n" in said
    assert said.count(b"host:") == 1


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("base_url", "ftp://h/v1"),
        ("base_url", "https:///v1"),
        ("base_url", "https://h:port/v1"),
        ("headers", {"content-length": "5"}),
        ("headers", {"x-key": "one\ntwo"}),
        ("headers", {"x key": "one"}),
    ],
    ids=["scheme", "no_host", "no_port", "framing", "line_break", "no_name"],
)
def test_wire_what_cannot_be_sent_is_an_error_of_configuration(key: str, value: object) -> None:
    """A provider's address and headers are judged when they are read, not when they are first used."""
    given = {"name": "p", "kind": "openai", "base_url": "https://h/v1"}
    OpenAIProvider.model_validate(given)
    with pytest.raises(ValidationError) as caught:
        OpenAIProvider.model_validate(given | {key: value})
    assert caught.value.errors()[0]["loc"] == (key,)
