"""How requests are written down."""

from __future__ import annotations

import pytest

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
