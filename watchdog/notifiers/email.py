"""Notifier `email`: hands a delivery to a mail server over SMTP.

Port 465 is TLS from the first byte; on any other port STARTTLS is required unless `require_tls: false`, as in
Alertmanager. How it fails: no connection, a broken one, a 4xx answer and anything about signing in are passing (a
wrong password is put right by a person, the file is read again at each attempt, and the error stands in `status`
until then; dropping the page instead would help nobody); a 5xx to sender, recipients or content is permanent. If some
recipients are refused and others accepted, the mail is delivered and the refusal is logged.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import re
import ssl
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, SecretStr, field_validator

from watchdog.core.routing import Delivery
from watchdog.errors import DeliveryError
from watchdog.notifiers import Defaults, NotifierContext, NotifierSettings, notifiers, secret_text
from watchdog.notifiers.email_message import addresses, compose
from watchdog.registry import Settings

log = logging.getLogger("proxywatch.notify")

ATTEMPT_SECONDS = 60.0
"""For the whole exchange; shorter than the outbox's lease."""
ANSWER_SECONDS = 20.0
FAREWELL_SECONDS = 2.0
_OURS = frozenset(
    {"to", "from", "cc", "bcc", "sender", "date", "message-id", "in-reply-to", "references", "auto-submitted"}
    | {"mime-version", "content-type", "content-transfer-encoding", "x-proxywatch-incident"}
)
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HOST_PORT = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9._-]+)):(?P<port>\d{1,5})")


class TlsSettings(Settings):
    """`tls_config`: how the server's certificate is checked."""

    ca_file: Path | None = None
    insecure_skip_verify: bool = False


class EmailSettings(NotifierSettings):
    """Alertmanager's `email_configs`; what is left out comes from `global`."""

    not_yet: ClassVar[frozenset[str]] = frozenset({"html", "text", "auth_secret", "auth_identity"})
    kind: Literal["email"] = "email"
    send_resolved: bool = False
    to: str
    from_: str | None = Field(default=None, alias="from")
    smarthost: str | None = None
    hello: str | None = None
    auth_username: str | None = None
    auth_password: SecretStr | None = None
    auth_password_file: Path | None = None
    require_tls: bool | None = None
    tls_config: TlsSettings = TlsSettings()
    headers: dict[str, str] = {}

    @field_validator("to", "from_")
    @classmethod
    def _addresses(cls, value: str) -> str:
        addresses(value)
        return value

    @field_validator("smarthost")
    @classmethod
    def _smarthost(cls, value: str) -> str:
        host_and_port(value)
        return value

    @field_validator("headers")
    @classmethod
    def _headers(cls, value: dict[str, str]) -> dict[str, str]:
        if len({name.lower() for name in value}) < len(value):
            raise ValueError("a header stands twice")
        for name, content in value.items():
            if not _HEADER_NAME.fullmatch(name) or not content.isprintable():
                raise ValueError(f"header {name!r}: a name without spaces and a value of one line are needed")
            if name.lower() in _OURS:
                raise ValueError(f"header {name!r} is set by proxywatch")
            if "{{" in content:
                raise ValueError(f"header {name!r}: templates are not supported yet")
        return value

    def completed(self, defaults: Defaults) -> Self:
        """See `NotifierSettings.completed`. A password is never sent unencrypted to another host."""
        filled: dict[str, object] = {
            "from_": self.from_ or defaults.smtp_from,
            "smarthost": self.smarthost or defaults.smtp_smarthost,
            "hello": self.hello or defaults.smtp_hello,
            "auth_username": self.auth_username or defaults.smtp_auth_username,
            "require_tls": defaults.smtp_require_tls if self.require_tls is None else self.require_tls,
        }
        if self.auth_password is None and self.auth_password_file is None:
            filled["auth_password"] = defaults.smtp_auth_password
            filled["auth_password_file"] = defaults.smtp_auth_password_file
        whole = self.model_copy(update=filled)
        for key, name in (("smarthost", "smtp_smarthost"), ("from_", "smtp_from")):
            value = getattr(whole, key)
            if not value:
                raise ValueError(f"neither `{key.removesuffix('_')}` here nor `{name}` in `global` is set")
        if whole.auth_password is not None and whole.auth_password_file is not None:
            raise ValueError("at most one of auth_password and auth_password_file can be set")
        host, port = host_and_port(whole.smarthost or "")
        if len(addresses(whole.from_ or "")) != 1:
            raise ValueError("`from` is exactly one address")
        if whole.auth_username and not whole.require_tls and port != 465 and not _is_loopback(host):
            raise ValueError(f"require_tls: false would send the password for {host} unencrypted")
        return whole


def host_and_port(text: str) -> tuple[str, int]:
    """From `mail.example.org:587` or `[::1]:25`. Raises ValueError."""
    found = _HOST_PORT.fullmatch(text)
    if found is None or not 0 < int(found["port"]) < 65536:
        raise ValueError(f"expected host:port such as mail.example.org:587, not {text!r}")
    return found["six"] or found["host"], int(found["port"])


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@notifiers.register(EmailSettings)
class EmailNotifier:
    """One connection per delivery: they are rare, and a kept one is dead when it is needed."""

    def __init__(self, settings: EmailSettings, context: NotifierContext) -> None:
        self._settings = settings
        self._context = context
        self._host, self._port = host_and_port(settings.smarthost or "")

    async def deliver(self, delivery: Delivery) -> None:
        """See `Notifier.deliver`."""
        import aiosmtplib

        settings = self._settings
        message = compose(
            delivery,
            sender=settings.from_ or "",
            recipients=settings.to,
            host=self._context.host,
            headers=settings.headers,
        )
        place = f"mail server {self._host}:{self._port}"
        implicit = self._port == 465
        client = aiosmtplib.SMTP(
            hostname=self._host,
            port=self._port,
            local_hostname=settings.hello or self._context.host,
            timeout=ANSWER_SECONDS,
            use_tls=implicit,
            start_tls=bool(settings.require_tls) and not implicit,
            tls_context=await asyncio.to_thread(self._tls) if implicit or settings.require_tls else None,
            username=settings.auth_username,
            password=self._password() if settings.auth_username else None,
        )
        try:
            async with asyncio.timeout(ATTEMPT_SECONDS):
                await client.connect()
                refused, _ = await client.send_message(message)
                # What has been accepted cannot be undone by a farewell that fails.
                with contextlib.suppress(aiosmtplib.SMTPException, OSError):
                    await client.quit(timeout=FAREWELL_SECONDS)
        except (aiosmtplib.SMTPException, OSError) as error:
            raise _explained(error, place) from error
        finally:
            client.close()
        if refused:
            log.warning("%s refused %s; the others have the mail", place, ", ".join(sorted(refused)))

    def _password(self) -> str:
        settings = self._settings
        if settings.auth_password_file is not None:
            return secret_text(settings.auth_password_file, "mail password")
        return settings.auth_password.get_secret_value() if settings.auth_password else ""

    def _tls(self) -> ssl.SSLContext:
        tls = self._settings.tls_config
        try:
            context = ssl.create_default_context(cafile=str(tls.ca_file) if tls.ca_file else None)
        except (OSError, ssl.SSLError) as error:
            raise DeliveryError(f"ca_file {tls.ca_file} cannot be used: {error}") from error
        if tls.insecure_skip_verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


def _explained(error: Exception, place: str) -> DeliveryError:
    import aiosmtplib

    match error:
        case aiosmtplib.SMTPRecipientsRefused():
            reasons = "; ".join(f"{one.recipient}: {one.code} {one.message}" for one in error.recipients)
            permanent = all(one.code >= 500 for one in error.recipients)
            return DeliveryError(_line(f"{place} refused every recipient: {reasons}"), permanent=permanent)
        case aiosmtplib.SMTPSenderRefused() | aiosmtplib.SMTPDataError() | aiosmtplib.SMTPRecipientRefused():
            # 530 wants a sign-in or TLS first: a matter of configuration, like a wrong password.
            permanent = error.code >= 500 and error.code != 530
            return DeliveryError(_line(f"{place} refused the mail: {error.code} {error.message}"), permanent=permanent)
        case aiosmtplib.SMTPAuthenticationError():
            text = _line(f"{place} refused user or password: {error.code} {error.message}")
            return DeliveryError(text, hint="check auth_username and auth_password_file")
        case TimeoutError():
            return DeliveryError(f"{place} did not answer in time")
        case _:
            return DeliveryError(_line(f"{place}: {error}"))


def _line(text: str) -> str:
    return " ".join(text.split())
