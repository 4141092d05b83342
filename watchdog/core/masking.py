"""Takes secrets out of a text that people will read: a log's lines, a configuration, what a server said.

Too much is masked rather than too little: what is only named like a secret goes as well. Numbers of tokens stay.
"""

from __future__ import annotations

import re

MASK = "********"

_WORDS = r"passw(?:or)?ds?|passphrases?|secrets?|tokens?|api[_-]?keys?|private[_-]?keys?|credentials?|cookies?"
_END = rf"(?:{_WORDS}|authorization|(?:(?<![\w.-])|[_.-])keys?)[\"']?"
"""How a name ends that is a secret's."""
_NAME = rf"[\"']?[\w.-]{{0,64}}?{_END}"
_INDENT = r"{0,200}(?:- ){0,9}"
_QUOTED = r"\"(?:[^\"\\\n]|\\.)*(?:\"|$)|'(?:[^'\n]|'')*(?:'|$)"
_PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL)
_KEY_ENDS = re.compile(r"-----END [A-Z ]*PRIVATE KEY-----")
_KEY_LINE = re.compile(r"[ \t]*[A-Za-z0-9+/=]+[ \t]*")
_SHAPES = (
    (re.compile(r"\b(bearer|basic|digest|negotiate)[ \t]+[^\s\"',;]{6,}", re.IGNORECASE), rf"\1 {MASK}"),
    (
        re.compile(r"((?<![a-z0-9+.-])[a-z][a-z0-9+.-]{0,30}://[^\s/:@\"']{0,200}):[^\s/\"']+@", re.IGNORECASE),
        rf"\1:{MASK}@",
    ),
    (re.compile(r"\b(?:sk|pk|rk)-[\w-]{6,}"), MASK),
    (re.compile(r"\b(?:xox[a-z]|gh[a-z]|glpat|github_pat|npm|hf)[-_][\w-]{10,}"), MASK),
    (re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bAIza[\w-]{30,}"), MASK),
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?"), MASK),
    (
        re.compile(r"(hooks\.slack\.com/services/|discord(?:app)?\.com/api/webhooks/)[\w/-]+", re.IGNORECASE),
        rf"\1{MASK}",
    ),
    (re.compile(r"((?:key|token|password) provided:[ \t]*)\S+", re.IGNORECASE), rf"\1{MASK}"),
    (re.compile(rf"(--[\w-]{{0,64}}?(?:{_WORDS})[ \t]+)(?!-)\S+", re.IGNORECASE), rf"\1{MASK}"),
)
_NAMED = (
    # A line of YAML or a header: the value may hold blanks, and ends with the line.
    re.compile(
        rf"^([ +-]? {_INDENT}({_NAME})[ \t]*:[ \t]+)([^\s\[{{|>].*|[|>].*\S.*)$",
        re.IGNORECASE | re.MULTILINE,
    ),
    # In the middle of a line: key=value, "key": "value", {key: value}.
    re.compile(
        rf"(({_END})[ \t]*[=:][ \t]*)({_QUOTED}|\[[^\]\n]*\]?|\{{[^}}\n]*\}}?|[^\s\"'{{|>\[][^\s\"']*)",
        re.IGNORECASE,
    ),
)
_OPENS = re.compile(rf"^([ +-]? {_INDENT}{_NAME}[ \t]*:)[ \t]*([|>][-+\d]*)?[ \t]*(?:#.*)?$", re.IGNORECASE)
"""A key of YAML whose value stands in the lines below it."""
_NOTHING = re.compile(r"(?:null|none|true|false|~|\"\"|'')[,;)}\]]*$", re.IGNORECASE)
_COUNT = re.compile(r"\d+(?:\.\d+)?[,;)}\]]*(?:\s|$)")


def mask(text: str) -> str:
    """`text` with `********` for what may be a secret: values of keys that are named like one (`password`, `api_key`,
    `authorization`, … not `key_file`), blocks of YAML below such a key, private keys, bearer tokens, passwords in URLs,
    and what looks like a key of a known provider. Lines stay lines, but for those of a private key."""
    text = _ends_of_keys(_PRIVATE_KEY.sub(f"-----BEGIN PRIVATE KEY----- {MASK}", text))
    text = _below_keys(text)
    for pattern, instead in _SHAPES:
        text = pattern.sub(instead, text)
    for pattern in _NAMED:
        text = pattern.sub(_named, text)
    return text


def _named(found: re.Match[str]) -> str:
    before, name, value = found.groups()
    counts = name.strip("\"'").lower().endswith(("tokens", "keys"))
    harmless = _NOTHING.match(value) or (counts and _COUNT.match(value))
    return str(found[0] if harmless else before + MASK)


def _ends_of_keys(text: str) -> str:
    """Private keys whose beginning was cut off."""
    lines = text.split("\n")
    for end in [index for index, line in enumerate(lines) if _KEY_ENDS.search(line)]:
        index = end - 1
        while index >= 0 and _KEY_LINE.fullmatch(lines[index]):
            lines[index] = MASK
            index -= 1
    return "\n".join(lines)


def _below_keys(text: str) -> str:
    """Block scalars of YAML, and the plain items of a list, below a key that is named like a secret."""
    lines = text.split("\n")
    depth, scalar = -1, False
    for index, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if depth >= 0 and line.strip():
            item = line.lstrip().startswith("- ")
            if indent > depth or (item and indent == depth and not scalar):
                if scalar or not re.search(r":(?:\s|$)", line):
                    lines[index] = line[: len(line) - len(line.lstrip(" -"))] + MASK
                continue
            depth = -1
        opened = _OPENS.match(line)
        if opened is not None:
            depth, scalar = indent, opened[2] is not None
    return "\n".join(lines)
