"""Errors of the proxy: configuration for the operator, OpenAI's envelope for the caller."""

from __future__ import annotations


class ProxyError(Exception):
    """The root of everything that the proxy raises on purpose."""


class ConfigError(ProxyError):
    """Something in the operator's file. `str()` is `file:line: key: what is wrong`."""

    def __init__(self, message: str, *, file: str = "", line: int | None = None, key: str = "", hint: str = "") -> None:
        place = f"{file}:{line}" if file and line else file
        super().__init__(": ".join(part for part in (place, key, message) if part))
        self.hint = hint


class ApiError(ProxyError):
    """An answer to the caller in OpenAI's envelope `{"error": {"message", "type", "param", "code"}}`.

    `retryable` False adds `x-should-retry: false`, which OpenAI's SDKs obey.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = "invalid_request_error",  # noqa: A002 - the envelope's own word
        code: str | None = None,
        param: str | None = None,
        retryable: bool | None = None,
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = type
        self.code = code
        self.param = param
        self.retryable = retryable
        self.headers = headers

    def body(self) -> bytes:
        """The envelope as JSON."""
        import orjson  # here, for the master starts the zygote sooner without it

        return orjson.dumps(
            {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}
        )
