"""Who may have one more: the limits of callers and of providers, in OpenAI's words.

Requests are counted when they begin, tokens when an answer has ended. A limit costs a request some microseconds and
no lock; `counters.py` shares it between workers, `window.py` says how exact it is.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterable, Iterator

from proxy import metrics
from proxy.clock import Clock
from proxy.errors import ApiError, ConfigError
from proxy.limits.counters import Counters
from proxy.limits.restraints import Restraints
from proxy.limits.window import Window
from proxy.settings import RateLimit, Settings

ANONYMOUS = "anonymous"
"""The id under which callers without a key are counted together."""

log = logging.getLogger("proxy.security")


class Meter:
    """The windows of one caller or provider: requests, tokens, or both."""

    __slots__ = ("_requests_told", "_tokens_told", "limit", "requests", "tokens", "told_until")

    def __init__(self, subject: str, limit: RateLimit, counters: Counters) -> None:
        self.limit = limit
        self.told_until = -math.inf
        self.requests = (
            Window(limit.requests, limit.window, limit.burst, counters.ring(_requests_of(subject, limit)))
            if limit.requests is not None
            else None
        )
        self.tokens = (
            Window(limit.tokens, limit.window, None, counters.ring(_tokens_of(subject, limit)))
            if limit.tokens is not None
            else None
        )
        self._requests_told = _Told(b"requests")
        self._tokens_told = _Told(b"tokens")

    def take(self, now: float) -> Window | None:
        """Counts a request if it may begin, and returns None; else the window that has no room."""
        requests, tokens = self.requests, self.tokens
        if tokens is not None:
            tokens.glance(now)
        if requests is not None:
            requests.look(now)
        if tokens is not None and tokens.used >= tokens.limit:
            return tokens
        if requests is not None:
            if requests.remaining() <= 0:
                return requests
            requests.add(1)
        return None

    def tighten(self, share: float) -> None:
        """From now on so much of the limit holds, at least one request; 1 is all of it."""
        for window in (self.requests, self.tokens):
            if window is not None:
                window.tighten(share)

    def charge(self, now: float, tokens: int) -> None:
        """Counts the tokens of an answer."""
        if self.tokens is not None and tokens > 0:
            self.tokens.look(now)
            self.tokens.add(tokens)

    def lines(self) -> bytes:
        """The header lines `x-ratelimit-*`, as of the last look."""
        requests, tokens = self.requests, self.tokens
        told = b"" if requests is None else self._requests_told.lines(requests)
        return told if tokens is None else told + self._tokens_told.lines(tokens)

    def headers(self) -> Iterator[tuple[bytes, bytes]]:
        """The same one by one."""
        for line in self.lines().splitlines():
            name, _, value = line.partition(b": ")
            yield name, value


class KeyLimits:
    """What each caller may have."""

    def __init__(
        self,
        settings: Settings,
        counters: Counters | None,
        refused: metrics.Counter,
        restraints: Restraints,
        clock: Clock,
    ) -> None:
        self._restraints = restraints
        restraints.on_change(self._tighten)
        self._own = {key.id: key.limit for key in settings.auth.keys if key.limit is not None}
        self._default = settings.limits.per_key
        self._counters = counters
        self._clock = clock
        self._meters: dict[str, Meter | None] = {}
        self._refused = refused

    def admit(self, caller: str) -> bytes:
        """Counts one request of that key and returns the header lines that tell of its limits; ApiError 429 beyond
        them."""
        meter = self._meter(caller)
        if meter is None:
            return b""
        now = self._clock.monotonic()
        full = meter.take(now)
        if full is None:
            return meter.lines()
        kind = "requests" if full is meter.requests else "tokens"
        self._refused.inc(kind)
        if now >= meter.told_until:
            meter.told_until = now + meter.limit.window
            log.warning(
                "limit reached: more %s than %d in %g s",
                kind,
                full.limit,
                meter.limit.window,
                extra={"event": "rate_limited", "category": "limit", "success": False, "key_id": caller},
            )
        raise _too_many(kind, full, meter)

    def charge(self, caller: str, tokens: int) -> None:
        """Counts the tokens of an answer that has ended."""
        meter = self._meter(caller)
        if meter is not None:
            meter.charge(self._clock.monotonic(), tokens)

    def _meter(self, caller: str) -> Meter | None:
        try:
            return self._meters[caller]
        except KeyError:
            limit = self._own.get(caller, self._default)
            counters = self._counters
            made = Meter(f"key {caller}", limit, counters) if counters is not None and _bounds(limit) else None
            if made is not None:
                made.tighten(self._restraints.limits())
            self._meters[caller] = made
            return made

    def _tighten(self) -> None:
        share = self._restraints.limits()
        for meter in self._meters.values():
            if meter is not None:
                meter.tighten(share)


class ProviderLimits:
    """What the proxy itself sends to each provider."""

    def __init__(self, settings: Settings, counters: Counters | None, restraints: Restraints, clock: Clock) -> None:
        self._restraints = restraints
        self._clock = clock
        self._meters = {
            provider.name: Meter(f"provider {provider.name}", provider.limit, counters)
            for provider in settings.providers
            if provider.limit is not None and _bounds(provider.limit) and counters is not None
        }

    def allows(self, provider: str, now: float | None = None) -> bool:
        """Whether one more request may be sent there, which is then counted. `now` is on the monotonic clock; None
        asks for it."""
        meter = self._meters.get(provider)
        return meter is None or meter.take(self._clock.monotonic() if now is None else now) is None

    def lowered(self) -> bool:
        """Whether anything is held back."""
        return self._restraints.active

    def spared(self, providers: Iterable[str]) -> frozenset[str]:
        """See `Restraints.spared`."""
        return self._restraints.spared(providers)

    def wait(self, provider: str) -> float:
        """Seconds until `allows` may say yes again; 0 if it would now."""
        meter = self._meters.get(provider)
        if meter is None:
            return 0.0
        now, waits = self._clock.monotonic(), [0.0]
        for window in (meter.requests, meter.tokens):
            if window is not None:
                window.look(now)
                waits.append(window.wait())
        return max(waits)

    def charge(self, provider: str, tokens: int) -> None:
        """Counts the tokens of an answer that has ended."""
        meter = self._meters.get(provider)
        if meter is not None:
            meter.charge(self._clock.monotonic(), tokens)


class OpenStreams:
    """How many streams each key has open at this worker. Each is named by the object that lives as long as it does."""

    def __init__(self, most: int | None, refused: metrics.Counter) -> None:
        self._most = most
        self._refused = refused
        self._callers: dict[int, str] = {}
        self._open: Counter[str] = Counter()

    def enter(self, caller: str, stream: object) -> None:
        """One more, until it leaves. ApiError 429 if the key has as many as it may."""
        if self._most is None:
            return
        if self._open[caller] >= self._most:
            self._refused.inc("streams")
            raise ApiError(
                429,
                f"This key has {self._open[caller]} streams open, which is as many as it may; end one first.",
                type="streams",
                code="rate_limit_exceeded",
                headers=((b"retry-after", b"1"),),
            )
        self._open[caller] += 1
        self._callers[id(stream)] = caller

    def leave(self, stream: object) -> None:
        """It has ended; one that never entered needs nothing."""
        caller = self._callers.pop(id(stream), None)
        if caller is not None:
            self._open[caller] -= 1
            if not self._open[caller]:
                del self._open[caller]


class Limits:
    """All limits of one worker, over counters that it shares with the others. `close` when the worker ends."""

    def __init__(self, settings: Settings, measured: metrics.Metrics, clock: Clock) -> None:
        """ConfigError if the file of counters in `run_dir` cannot be used. Without a limit there is no such file."""
        subjects = list(_subjects(settings))
        self._counters: Counters | None = None
        if subjects:
            try:
                settings.run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._counters = Counters(settings.run_dir / "limits.counters", subjects)
            except OSError as error:
                raise ConfigError(
                    f"{settings.run_dir} cannot hold the limits' counters: {error}", key="run_dir"
                ) from error
        refused = measured.counter("rate_limited_total", "Requests refused for a caller's limit.", ("type",))
        names, keys = [one.name for one in settings.providers], [key.id for key in settings.auth.keys]
        self.restraints = Restraints(names, [*keys, ANONYMOUS], measured, clock)
        self.keys = KeyLimits(settings, self._counters, refused, self.restraints, clock)
        self.providers = ProviderLimits(settings, self._counters, self.restraints, clock)
        self.streams = OpenStreams(settings.limits.max_streams_per_key, refused)

    def charge(self, caller: str, tokens: int, provider: str | None = None) -> None:
        """Counts the tokens of an answer that has ended, for its caller's key and for the provider that gave it."""
        self.keys.charge(caller, tokens)
        if provider is not None:
            self.providers.charge(provider, tokens)

    def close(self) -> None:
        """Lets others have this worker's row of counters."""
        if self._counters is not None:
            self._counters.close()


def _bounds(limit: RateLimit) -> bool:
    return limit.requests is not None or limit.tokens is not None


def _requests_of(subject: str, limit: RateLimit) -> str:
    return f"{subject} requests {limit.window:g}"


def _tokens_of(subject: str, limit: RateLimit) -> str:
    return f"{subject} tokens {limit.window:g}"


def _subjects(settings: Settings) -> Iterator[str]:
    """What is counted: the window is a part of the name, for buckets of another width mean another thing."""
    callers = [(key.id, key.limit or settings.limits.per_key) for key in settings.auth.keys]
    limited = [(f"key {name}", limit) for name, limit in [*callers, (ANONYMOUS, settings.limits.per_key)]]
    limited += [(f"provider {provider.name}", provider.limit) for provider in settings.providers if provider.limit]
    for subject, limit in limited:
        if limit.requests is not None:
            yield _requests_of(subject, limit)
        if limit.tokens is not None:
            yield _tokens_of(subject, limit)


def _too_many(kind: str, full: Window, meter: Meter) -> ApiError:
    wait = full.wait()
    return ApiError(
        429,
        f"Rate limit reached: this key may have {full.limit} {kind} in {meter.limit.window:g} s. "
        f"Try again in {math.ceil(wait)} s.",
        type=kind,
        code="rate_limit_exceeded",
        headers=(
            (b"retry-after", b"%d" % max(1, math.ceil(wait))),
            (b"retry-after-ms", b"%d" % max(1, math.ceil(wait * 1000))),
            *meter.headers(),
        ),
    )


class _Told:
    """The three headers of one window. What stays as it is, is made once."""

    __slots__ = ("_form", "_kind", "_shown")

    def __init__(self, kind: bytes) -> None:
        self._kind = kind
        self._shown = -1, 0
        self._form = b""

    def lines(self, window: Window) -> bytes:
        seconds = int(window.reset() + 0.99)
        if (seconds, window.limit) != self._shown:
            self._shown = seconds, window.limit
            self._form = (
                b"x-ratelimit-limit-%b: %d\r\nx-ratelimit-reset-%b: %b\r\nx-ratelimit-remaining-%b: %%d\r\n"
                % (self._kind, window.limit, self._kind, span(seconds), self._kind)
            )
        return self._form % window.remaining()


def span(seconds: int) -> bytes:
    """A time span as OpenAI writes it: `1s`, `6m0s`, `1h0m0s`."""
    minutes, second = divmod(seconds, 60)
    hour, minute = divmod(minutes, 60)
    text = f"{hour}h{minute}m{second}s" if hour else f"{minute}m{second}s" if minute else f"{second}s"
    return text.encode()
