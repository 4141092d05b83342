"""`tls`: the certificate that a server shows, or that lies in a file, and whether clients would trust it.

Gives `probe_ssl_earliest_cert_expiry` (epoch; of all certificates that were shown) and `probe_tls_certificates`. Of a
file also `probe_tls_file_info{fingerprint_sha256}` (1; of the first certificate in it, as servers want them). Of a
server `probe_tls_verified` (0/1), `probe_tls_problem{reason}` (0/1 for each of expired, not_yet_valid, hostname,
self_signed, untrusted, other), `probe_tls_version_info{version}` and
`probe_ssl_last_chain_info{fingerprint_sha256}` (1; of the server's own certificate). Fails when nothing is reached,
when the handshake breaks, when a file has no certificate in it and, with these samples, when a client would not trust
what it is shown.
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from watchdog.core.model import Labels, Measurement, Sample, labels_of
from watchdog.errors import ProbeError
from watchdog.probes import MeasurementError, ProbeContext, ProbeSettings, probes
from watchdog.registry import Duration
from watchdog.system.certificate import Validity, certificates_of, validity
from watchdog.system.dialing import HostPort, connected, split_address
from watchdog.system.http_pool import tls_context
from watchdog.units import format_duration

_MOST_BYTES = 1024 * 1024
_REASONS = {
    9: "not_yet_valid",
    10: "expired",
    18: "self_signed",
    19: "untrusted",
    20: "untrusted",
    21: "untrusted",
    62: "hostname",
    64: "hostname",
}
"""By OpenSSL's X509_V_ERR numbers."""
_ALL_REASONS = (*dict.fromkeys(_REASONS.values()), "other")


class TlsProbeSettings(ProbeSettings):
    """Either `address` or `file` (PEM). Without `ca_file` the authorities are those that our own client trusts."""

    kind: Literal["tls"]
    interval: Duration = Field(300.0, ge=0.05)
    timeout: Duration = Field(10.0, gt=0)
    address: HostPort | None = None
    file: Path | None = None
    server_name: str | None = Field(None, min_length=1)
    """Asked for and looked for in the certificate, where it is not the address's host."""
    ca_file: Path | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> TlsProbeSettings:
        if (self.address is None) is (self.file is None):
            raise ValueError("expected exactly one of `address` and `file`")
        if self.file is not None and (self.server_name or self.ca_file):
            raise ValueError("`server_name` and `ca_file` are for an `address`")
        return self


@probes.register(TlsProbeSettings)
class TlsProbe:
    """See the module."""

    def __init__(self, settings: TlsProbeSettings, context: ProbeContext) -> None:
        self._settings = settings
        self._clock = context.clock

    async def measure(self) -> Measurement:
        file = self._settings.file
        if file is not None:
            found = await asyncio.to_thread(_read, file)
            samples, ends = _expiry(found, str(file))
            return Measurement((*samples, Sample("probe_tls_file_info", 1.0, _fingerprint(found))), self._left(ends))
        refusal: ssl.SSLCertVerificationError | None = None
        try:
            shown, version = await self._shake(verified=True)
        except ssl.SSLCertVerificationError as error:
            # Once more without looking, to learn what it is that cannot be trusted.
            refusal = error
            shown, version = await self._shake(verified=False)
        place = str(self._settings.address)
        samples, ends = _expiry(shown, place)
        reason = _REASONS.get(refusal.verify_code, "other") if refusal else ""
        samples += (
            Sample("probe_tls_verified", float(refusal is None)),
            *(Sample("probe_tls_problem", float(one == reason), labels_of(reason=one)) for one in _ALL_REASONS),
            Sample("probe_tls_version_info", 1.0, labels_of(version=version)),
            Sample("probe_ssl_last_chain_info", 1.0, _fingerprint(shown)),
        )
        if refusal is not None:
            raise MeasurementError(f"{place}: {refusal.verify_message}; {self._left(ends)}", samples)
        return Measurement(samples, f"{version}, {self._left(ends)}")

    async def _shake(self, *, verified: bool) -> tuple[tuple[bytes, ...], str]:
        """The certificates that the server shows, its own first, and the version of the protocol."""
        settings = self._settings
        host, port = split_address(str(settings.address))
        context = await asyncio.to_thread(_context, settings.ca_file, verified)
        limit = settings.timeout * 0.45
        try:
            async with connected(host, port, limit=limit, tls=context, server_name=settings.server_name) as connection:
                return _chain(connection.writer.get_extra_info("ssl_object"))
        except ssl.SSLCertVerificationError:
            raise
        except ssl.SSLError as error:
            raise ProbeError(f"{settings.address}: the TLS handshake broke: {error.reason or error}") from error

    def _left(self, ends: float) -> str:
        left = ends - self._clock.wall()
        ago = "expired {} ago" if left < 0 else "good for {}"
        return ago.format(format_duration(abs(left)))


def _context(ca_file: Path | None, verified: bool) -> ssl.SSLContext:
    if ca_file is None or not verified:
        return tls_context(verified)
    return ssl.create_default_context(cafile=ca_file)


def _chain(connection: Any) -> tuple[tuple[bytes, ...], str]:
    # Public since Python 3.13; before, the same call of the C object beneath, which has been there since 3.10.
    giver = connection if hasattr(connection, "get_unverified_chain") else connection._sslobj  # noqa: SLF001
    chain = giver.get_unverified_chain() or ()
    shown = tuple(one if isinstance(one, bytes) else ssl.PEM_cert_to_DER_cert(one.public_bytes()) for one in chain)
    return shown or (connection.getpeercert(binary_form=True),), connection.version() or "unknown"


def _fingerprint(shown: tuple[bytes, ...]) -> Labels:
    return labels_of(fingerprint_sha256=hashlib.sha256(shown[0]).hexdigest())


def _read(file: Path) -> tuple[bytes, ...]:
    with file.open(errors="replace") as content:
        try:
            found = certificates_of(content.read(_MOST_BYTES))
        except ValueError as error:
            raise ProbeError(f"{file}: a certificate in it cannot be read: {error}") from None
    if not found:
        raise ProbeError(f"{file}: no certificate is in it")
    return found


def _expiry(shown: tuple[bytes, ...], place: str) -> tuple[tuple[Sample, ...], float]:
    try:
        times: list[Validity] = [validity(der) for der in shown]
    except ValueError as error:
        raise ProbeError(f"{place}: {error}") from None
    ends = min(one.not_after for one in times)
    return (Sample("probe_ssl_earliest_cert_expiry", ends), Sample("probe_tls_certificates", len(shown))), ends
