"""The structured logs: `llm_proxy.log` and, beside it, `security.log`. Secrets and bodies never come here."""

from proxy.logs.writer import LogWriter, bridge_logging

__all__ = ["LogWriter", "bridge_logging"]
