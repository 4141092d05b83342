"""The part of Go's templates that rule files use in labels and annotations.

Text with actions in `{{ }}`: `$labels.x`, `$value`, `.Labels.x`, `.Value`, literals, the functions below with arguments
or pipes, parentheses, `if`/`else if`/`else`/`end`, comments, `{{-` and `-}}`. Everything else (`range`, `query`,
`define` …) fails when the file is loaded. The helpers print as Prometheus' do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from watchdog.errors import TemplateError
from watchdog.metrics import formats

Value = str | float | bool | Mapping[str, str]
_ACTION = re.compile(r"\{\{(- )?\s*(/\*.*?\*/|(?:\"(?:[^\"\\]|\\.)*\"|`[^`]*`|[^\"`])*?)\s*( -)?\}\}", re.DOTALL)
_TOKEN = re.compile(
    r'\s+|(?P<text>"(?:[^"\\\n]|\\.)*"|`[^`]*`)|(?P<number>[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)'
    r"|(?P<path>[$.]\w*(?:\.\w+)*)|(?P<word>\w+)|(?P<sign>[|()]|:?=)"
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", '"': '"', "\\": "\\", "'": "'"}
_ROOTS = {"$labels": "labels", "$value": "value", "$externalLabels": "external", "$externalURL": "url"}
_FIELDS = {"Labels": "labels", "Value": "value", "ExternalLabels": "external", "ExternalURL": "url"}


@dataclass(frozen=True, slots=True)
class _Literal:
    value: Value


@dataclass(frozen=True, slots=True)
class _Path:
    root: str
    key: str


@dataclass(frozen=True, slots=True)
class _Call:
    name: str
    args: tuple[_Expression, ...]


@dataclass(frozen=True, slots=True)
class _If:
    condition: _Expression
    then: tuple[_Part, ...]
    otherwise: tuple[_Part, ...]


_Expression = _Literal | _Path | _Call
_Part = str | _Expression | _If


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed template. One without actions costs nothing to render."""

    parts: tuple[_Part, ...]

    def render(self, labels: Mapping[str, str], value: float) -> str:
        """The text for an alert's labels and value. A label that is missing is empty. Raises TemplateError."""
        scope: dict[str, Value] = {"labels": labels, "value": value, "external": {}, "url": ""}
        return _render(self.parts, scope)


def parse_template(text: str) -> Template:
    """The template of `text`. Raises TemplateError, in one line, for what is malformed or not supported."""
    parser = _Parser(_split(text))
    parts = parser.block(("",))
    return Template(tuple(parts))


def _split(text: str) -> list[tuple[bool, str]]:
    """(is it an action, text) pieces, with the spaces trimmed that `{{-` and `-}}` ask to be."""
    pieces: list[tuple[bool, str]] = []
    position, trim_next = 0, False
    while (start := text.find("{{", position)) >= 0:
        match = _ACTION.match(text, start)
        if match is None:
            raise TemplateError("an action that begins with {{ is not closed by }}")
        before = text[position:start]
        before = before.lstrip() if trim_next else before
        pieces.append((False, before.rstrip() if match[1] else before))
        if not match[2].startswith("/*"):
            pieces.append((True, match[2]))
        position, trim_next = match.end(), bool(match[3])
    rest = text[position:]
    pieces.append((False, rest.lstrip() if trim_next else rest))
    return pieces


class _Parser:
    """Reads the pieces once, from left to right."""

    def __init__(self, pieces: list[tuple[bool, str]]) -> None:
        self._pieces = pieces
        self._next = 0
        self.ended_by = ""

    def block(self, ends: tuple[str, ...]) -> list[_Part]:
        """The parts up to an action that is in `ends`; an empty end is the end of the text."""
        parts: list[_Part] = []
        while self._next < len(self._pieces):
            is_action, text = self._pieces[self._next]
            self._next += 1
            if not is_action:
                if text:
                    parts.append(text)
                continue
            word, _, rest = text.partition(" ")
            if word in {"end", "else"}:
                if word not in ends:
                    raise TemplateError(f"{{{{ {word} }}}} without an if")
                self.ended_by = text
                return parts
            parts.append(self._if(rest) if word == "if" else _expression(text))
        if "" not in ends:
            raise TemplateError("{{ if }} without {{ end }}")
        return parts

    def _if(self, condition: str) -> _If:
        then = self.block(("end", "else"))
        otherwise: list[_Part] = []
        if self.ended_by.startswith("else"):
            rest = self.ended_by.removeprefix("else").strip()
            if rest.startswith("if "):
                otherwise = [self._if(rest.removeprefix("if "))]
            elif rest:
                raise TemplateError(f"expected {{{{ else }}}} or {{{{ else if }}}}, not {{{{ else {rest} }}}}")
            else:
                otherwise = self.block(("end",))
        return _If(_expression(condition), tuple(then), tuple(otherwise))


def _expression(text: str) -> _Expression:
    tokens = _tokens(text)
    if not tokens:
        raise TemplateError("an empty action {{ }}")
    expression, rest = _pipeline(tokens)
    if rest:
        raise TemplateError(f"unexpected {rest[0][1]!r} in {{{{ {text} }}}}")
    return expression


def _tokens(text: str) -> list[tuple[str, str]]:
    tokens, position = [], 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise TemplateError(f"unexpected {text[position : position + 10]!r} in {{{{ {text} }}}}")
        if match.lastgroup:
            tokens.append((match.lastgroup, match[0]))
        position = match.end()
    return tokens


_Tokens = Sequence[tuple[str, str]]


def _pipeline(tokens: _Tokens) -> tuple[_Expression, _Tokens]:
    piped, tokens = _command(tokens, None)
    while tokens and tokens[0] == ("sign", "|"):
        piped, tokens = _command(tokens[1:], piped)
    return piped, tokens


def _command(tokens: _Tokens, piped: _Expression | None) -> tuple[_Expression, _Tokens]:
    """One command of a pipeline: a function with its arguments, the last of them piped in, or a single operand."""
    if not tokens:
        raise TemplateError("a pipeline lacks a command")
    kind, word = tokens[0]
    if kind == "word" and word not in {"true", "false"}:
        if word not in FUNCTIONS:
            raise TemplateError(f"function {word!r} is not supported in templates")
        args, tokens = [], tokens[1:]
        while tokens and tokens[0] not in {("sign", "|"), ("sign", ")")}:
            argument, tokens = _operand(tokens)
            args.append(argument)
        args += [piped] if piped is not None else []
        least, most, _ = FUNCTIONS[word]
        if not least <= len(args) <= most:
            raise TemplateError(f"function {word!r} takes {least} arguments, not {len(args)}")
        return _Call(word, tuple(args)), tokens
    if piped is not None:
        raise TemplateError(f"cannot pipe into {word!r}, which is not a function")
    return _operand(tokens)


def _operand(tokens: _Tokens) -> tuple[_Expression, _Tokens]:
    (kind, text), rest = tokens[0], tokens[1:]
    match kind:
        case "text":
            return _Literal(_unquoted(text)), rest
        case "number":
            return _Literal(float(text)), rest
        case "path":
            return _path(text), rest
        case "word" if text in {"true", "false"}:
            return _Literal(text == "true"), rest
        case "word" if text in FUNCTIONS:
            return _command(tokens[:1], None)[0], rest
        case "sign" if text == "(":
            inner, after = _pipeline(rest)
            if not after or after[0] != ("sign", ")"):
                raise TemplateError("a parenthesis is not closed")
            return inner, after[1:]
        case _:
            raise TemplateError(f"{text!r} is not supported in templates")


def _unquoted(text: str) -> str:
    if text.startswith("`"):
        return text[1:-1]
    return re.sub(r"\\(.)", lambda escape: _ESCAPES.get(escape[1], escape[0]), text[1:-1])


def _path(text: str) -> _Path:
    first, *fields = text.split(".")
    if first:
        root = _ROOTS.get(first)
        if root is None:
            raise TemplateError(f"undefined variable {first!r}")
    else:
        root = _FIELDS.get(fields[0] if fields else "")
        if root is None:
            raise TemplateError(f"{text!r} is not known; there are .Labels and .Value")
        fields = fields[1:]
    if len(fields) > 1 or (fields and root in {"value", "url"}):
        raise TemplateError(f"{text!r} has no such field")
    return _Path(root, fields[0] if fields else "")


def _render(parts: Sequence[_Part], scope: Mapping[str, Value]) -> str:
    out = []
    for part in parts:
        match part:
            case str():
                out.append(part)
            case _If():
                chosen = part.then if _truth(_evaluate(part.condition, scope)) else part.otherwise
                out.append(_render(chosen, scope))
            case _:
                out.append(formats.shown(_evaluate(part, scope)))
    return "".join(out)


def _evaluate(expression: _Expression, scope: Mapping[str, Value]) -> Value:
    match expression:
        case _Literal(value=value):
            return value
        case _Path(root=root, key=key):
            found = scope[root]
            return found.get(key, "") if key and isinstance(found, Mapping) else found
        case _Call(name=name, args=args):
            try:
                return FUNCTIONS[name][2](*(_evaluate(arg, scope) for arg in args))
            except (TypeError, ValueError, ArithmeticError) as error:
                raise TemplateError(f"{name}: {error}") from error


def _truth(value: Value) -> bool:
    return value == value and bool(value) if isinstance(value, float) else bool(value)


def _index(mapping: Value, key: Value) -> Value:
    if not isinstance(mapping, Mapping):
        raise TypeError("expected labels")
    return mapping.get(str(key), "")


def _all(*values: Value) -> Value:
    return next((value for value in values if not _truth(value)), values[-1])


def _any(*values: Value) -> Value:
    return next((value for value in values if _truth(value)), values[-1])


_MANY = 100
FUNCTIONS: dict[str, tuple[int, int, Callable[..., Value]]] = {
    "humanize": (1, 1, lambda value: formats.humanize(formats.number(value))),
    "humanize1024": (1, 1, lambda value: formats.humanize1024(formats.number(value))),
    "humanizeDuration": (1, 1, lambda value: formats.humanize_duration(formats.number(value))),
    "humanizePercentage": (1, 1, lambda value: formats.general(formats.number(value) * 100) + "%"),
    "printf": (1, _MANY, formats.printf),
    "print": (0, _MANY, lambda *values: "".join(formats.shown(value) for value in values)),
    "toUpper": (1, 1, lambda text: str(text).upper()),
    "toLower": (1, 1, lambda text: str(text).lower()),
    "index": (2, 2, _index),
    "len": (1, 1, lambda value: float(len(value))),
    "eq": (2, _MANY, lambda first, *others: first in others),
    "ne": (2, 2, lambda left, right: left != right),
    "lt": (2, 2, lambda left, right: left < right),
    "le": (2, 2, lambda left, right: left <= right),
    "gt": (2, 2, lambda left, right: left > right),
    "ge": (2, 2, lambda left, right: left >= right),
    "and": (1, _MANY, _all),
    "or": (1, _MANY, _any),
    "not": (1, 1, lambda value: not _truth(value)),
}
"""Least and most arguments, and the function."""
