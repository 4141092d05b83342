"""Which translation serves which callers at which providers: a table, made once."""

from __future__ import annotations

from collections.abc import Mapping

from proxy.call import Operation
from proxy.dialects import chat, completions, embeddings
from proxy.dialects.anthropic import translations as anthropic
from proxy.dialects.contract import Dialect, Translation

_TRANSLATIONS: Mapping[tuple[Operation, Dialect], Translation] = {
    (Operation.CHAT, Dialect.OPENAI): chat.ToOpenAI(),
    (Operation.COMPLETIONS, Dialect.OPENAI): completions.ToOpenAI(),
    (Operation.EMBEDDINGS, Dialect.OPENAI): embeddings.ToOpenAI(),
    (Operation.MESSAGES, Dialect.OPENAI): anthropic.MessagesAtOpenAI(),
    (Operation.CHAT, Dialect.ANTHROPIC): anthropic.ChatAtAnthropic(),
    (Operation.MESSAGES, Dialect.ANTHROPIC): anthropic.MessagesAtAnthropic(),
}


def translation(operation: Operation, dialect: Dialect) -> Translation | None:
    """How callers of `operation` are served by providers that speak `dialect`; None: not at all."""
    return _TRANSLATIONS.get((operation, dialect))


def spoken(operation: Operation) -> Translation:
    """The translation whose `replayed` and `encoder` speak the dialect of the operation's callers."""
    return _TRANSLATIONS[operation, Dialect.OPENAI]
