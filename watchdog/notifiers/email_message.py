"""Builds an e-mail from a delivery: headers that thread an incident, a text part and an HTML part."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime, getaddresses
from html import escape

from watchdog.core.routing import Delivery, Notice, NoticeKind
from watchdog.notifiers.wording import WORDS, Section, facts, sections, subject, summary, verdict

_COLOURS = {
    NoticeKind.OPENED: "#8a5a00",
    NoticeKind.ESCALATED: "#a61b1b",
    NoticeKind.APPROVAL: "#8a5a00",
    NoticeKind.RESOLVED: "#1d6b3a",
    NoticeKind.HEALED: "#1d6b3a",
}
_UNSAFE_IN_ID = re.compile(r"[^A-Za-z0-9.-]+")
_ADDRESS = re.compile(r"[^@\s<>\"(),;:\\]+@[^@\s<>\"(),;:\\]+")


def addresses(text: str) -> tuple[Address, ...]:
    """The addresses of a comma-separated list. Raises ValueError for what is none."""
    parts = getaddresses([text]) if text.isprintable() else []
    found = []
    for name, address in parts or [("", "")]:
        if not _ADDRESS.fullmatch(address):
            raise ValueError(f"{text!r} is not an e-mail address or a list of them separated by commas")
        found.append(Address(display_name=name, addr_spec=address))
    return tuple(found)


def message_id(key: str, domain: str) -> str:
    """The Message-ID of a delivery: made of its idempotency key, so that a retry carries the same one."""
    return f"<{_UNSAFE_IN_ID.sub('.', key)}@{domain}>"


def thread_id(notice: Notice, domain: str) -> str:
    """What every mail about an incident refers to. No mail has this id; readers thread by the reference alone."""
    return f"<incident.{notice.incident_id}.{notice.started_at:.0f}@{domain}>"


def compose(
    delivery: Delivery, *, sender: str, recipients: str, host: str, headers: Mapping[str, str] | None = None
) -> EmailMessage:
    """The whole message. `headers` are the operator's and may replace `Subject`, none of the others here."""
    (sender_address,) = addresses(sender)
    domain = sender_address.domain
    extra = dict(headers or {})
    message = EmailMessage(policy=SMTP)
    title = next((extra.pop(name) for name in tuple(extra) if name.lower() == "subject"), None)
    message["Subject"] = title or subject(delivery, host)
    message["From"] = sender_address
    message["To"] = addresses(recipients)
    message["Date"] = format_datetime(datetime.fromtimestamp(delivery.created_at, UTC))
    message["Message-ID"] = message_id(delivery.key, domain)
    threads = list(dict.fromkeys(thread_id(notice, domain) for notice in delivery.notices))
    message["In-Reply-To"] = threads[0]
    message["References"] = " ".join(threads)
    message["Auto-Submitted"] = "auto-generated"
    message["X-Proxywatch-Incident"] = ", ".join(dict.fromkeys(str(n.incident_id) for n in delivery.notices))
    for name, value in extra.items():
        message[name] = value
    message.set_content(text_body(delivery, host), cte="quoted-printable")
    message.add_alternative(html_body(delivery, host), subtype="html", cte="quoted-printable")
    return message


def text_body(delivery: Delivery, host: str) -> str:
    """Plain text of lines that a terminal and a telephone can show."""
    parts = [part for notice in _detailed(delivery) for part in _text_of(notice, host)]
    standing = _standing(delivery)
    if standing:
        parts.append("\n".join(["ALSO NOT OVER", *(f"  incident {n.incident_id}: {summary(n)}" for n in standing)]))
    parts.append(f"-- \nproxywatch on {host}")
    return "\n\n".join(parts) + "\n"


def _text_of(notice: Notice, host: str) -> list[str]:
    parts = [f"{WORDS[notice.kind]}: {summary(notice)}\n{verdict(notice)}"]
    for section in sections(notice):
        lines = [section.title.upper()]
        for line in section.lines:
            lines.append("  " + "  ".join(part for part in (line.when, line.text) if part))
            lines.extend("      " + row for row in line.block.splitlines())
        parts.append("\n".join(lines))
    parts.append("\n".join(f"{name + ':':<10}{value}" for name, value in facts(notice, host)))
    return parts


def html_body(delivery: Delivery, host: str) -> str:
    """One self-contained page: nothing is loaded, every value is escaped, and it reads well without its colours."""
    first = delivery.notices[0]
    body = "".join(_html_of(notice, host) for notice in _detailed(delivery))
    standing = _standing(delivery)
    if standing:
        rows = "".join(f"<li>incident {n.incident_id}: {escape(summary(n))}</li>" for n in standing)
        body += f'<h2 style="{_HEADING}">Also not over</h2><ul style="margin:0;padding-left:20px">{rows}</ul>'
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(WORDS[first.kind])}: {escape(summary(first))}</title></head>\n"
        f'<body style="margin:0;padding:16px;background:#f2f3f5;color:#1c1e21;'
        f'font:15px/1.5 -apple-system,Segoe UI,Roboto,Helvetica,Arial,sans-serif">\n'
        f'<div style="max-width:680px;margin:0 auto;background:#fff;border:1px solid #d9dce1;border-radius:6px;'
        f'padding:0 24px 20px">{body}\n<p style="margin:24px 0 0;color:#5b6068;font-size:13px">'
        f"proxywatch on {escape(host)}</p></div></body></html>\n"
    )


_HEADING = "margin:22px 0 6px;font-size:13px;letter-spacing:.04em;text-transform:uppercase;color:#5b6068"
_BLOCK = (
    "margin:4px 0 8px;padding:8px 10px;background:#f6f7f9;border:1px solid #e3e5e9;border-radius:4px;overflow-x:auto;"
    "white-space:pre-wrap;word-break:break-word;font:12px/1.45 ui-monospace,Menlo,Consolas,monospace"
)


def _html_of(notice: Notice, host: str) -> str:
    colour = _COLOURS[notice.kind]
    pairs = "".join(
        f'<tr><td style="padding:2px 16px 2px 0;color:#5b6068">{escape(name)}</td><td>{escape(value)}</td></tr>'
        for name, value in facts(notice, host)
    )
    return (
        f'\n<div style="margin:0 -24px;padding:14px 24px;background:{colour};color:#fff">'
        f'<div style="font-size:13px;letter-spacing:.06em">{escape(WORDS[notice.kind])}</div>'
        f'<h1 style="margin:2px 0 0;font-size:20px;line-height:1.3">{escape(summary(notice))}</h1></div>\n'
        f'<p style="margin:14px 0 0;font-size:16px"><strong>{escape(verdict(notice))}</strong></p>'
        f"{''.join(map(_html_section, sections(notice)))}\n"
        f'<h2 style="{_HEADING}">Where and when</h2>'
        f'<table style="border-collapse:collapse;font-size:14px;margin-bottom:16px">{pairs}</table>'
    )


def _html_section(section: Section) -> str:
    rows = []
    for line in section.lines:
        stamp = (
            f'<span style="color:#5b6068;font-variant-numeric:tabular-nums">{line.when}</span> ' if line.when else ""
        )
        block = f'<pre style="{_BLOCK}">{escape(line.block)}</pre>' if line.block else ""
        rows.append(f'<div style="margin:2px 0">{stamp}{escape(line.text)}{block}</div>')
    return f'\n<h2 style="{_HEADING}">{escape(section.title)}</h2>{"".join(rows)}'


def _detailed(delivery: Delivery) -> tuple[Notice, ...]:
    return delivery.notices if delivery.repeat else delivery.notices[: delivery.fresh]


def _standing(delivery: Delivery) -> tuple[Notice, ...]:
    return () if delivery.repeat else delivery.notices[delivery.fresh :]
