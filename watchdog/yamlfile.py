"""YAML files read safely, with the line of every key, so that an error can say where it is.

`load` parses; `validate` runs a pydantic model over the parsed data and turns the first problem into one
`ConfigError`: file, line, key, what is wrong, what was expected, the nearest allowed name.
"""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails
from yaml.composer import Composer
from yaml.resolver import Resolver

from watchdog.errors import ConfigError

Location = tuple[str | int, ...]
MOST_VALUES = 200_000
"""In one file: far above what people write, far below what aliases of aliases could make of a few lines."""
_WHOLE = object()
_SECRET_WORDS = frozenset({"password", "passphrase", "secret", "token", "key", "keys", "credentials", "authorization"})


@dataclass(frozen=True, slots=True)
class Document:
    """One parsed file. `lines` maps the path of a key (`("probes", "web", "url")`) to its line, counted from 1."""

    file: str
    data: Any
    lines: Mapping[Location, int]
    files: Mapping[Location, str] = field(default_factory=dict)
    """Where a document was merged from several files: the file of each key that is not `file`'s own."""

    def file_of(self, location: Iterable[str | int]) -> str:
        """The file that the innermost part of `location` stands in."""
        path = tuple(location)
        while path:
            if path in self.files:
                return self.files[path]
            if path in self.lines:
                return self.file
            path = path[:-1]
        return self.file

    def line(self, location: Iterable[str | int]) -> int | None:
        """The line of the innermost part of `location` that the file really has."""
        path = tuple(location)
        while path:
            if path in self.lines:
                return self.lines[path]
            path = path[:-1]
        return self.lines.get(())


def load(path: Path) -> Document:
    """Reads one YAML document. Raises ConfigError for a missing, unreadable or malformed file and for double keys."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError("no such file", file=str(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"cannot be read: {reason}", file=str(path)) from error
    return parse(text, str(path))


def parse(text: str, file: str) -> Document:
    """As `load`, from text; `file` is only used in messages. An empty document is an empty mapping."""
    try:
        lines: dict[Location, int] = {}
        node = compose(text, _Loader)
        if node is not None:
            _walk(node, (), lines, file)
        data = construct(node, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else None
        raise ConfigError(f"not valid YAML: {error.problem or error.context}", file=file, line=line) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        reason = f"not valid YAML: character U+{error.character:04X} is not allowed"
        raise ConfigError(reason, file=file, line=line) from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"not valid YAML: {error}", file=file) from error
    except RecursionError:
        raise ConfigError("not valid YAML: nested too deeply", file=file) from None
    return Document(file, {} if data is None else data, lines)


def compose(text: str, loader: type[yaml.SafeLoader]) -> yaml.Node | None:
    """The nodes of one YAML document, tagged as `loader` resolves them. None if it is empty. Raises as PyYAML does.

    libyaml reads ten times as fast; but the nodes are put together by PyYAML's own composer, for libyaml's ends the
    process where a text is nested too deeply, and what is wrong with a text is told by PyYAML, in its own words.
    """
    if yaml.__with_libyaml__:
        with contextlib.suppress(yaml.YAMLError):
            return _composed(_over_libyaml(text, loader))
    return _composed(loader(text))


def construct(node: yaml.Node | None, loader: type[yaml.SafeLoader]) -> Any:
    """The data that the nodes stand for; None for no node."""
    return None if node is None else loader("").construct_document(node)


def _composed(reader: Any) -> yaml.Node | None:
    try:
        node: yaml.Node | None = reader.get_single_node()
    finally:
        reader.dispose()
    return node


def _over_libyaml(text: str, loader: type[yaml.SafeLoader]) -> Any:
    from yaml._yaml import CParser

    class Fast(Composer, CParser, Resolver):
        yaml_implicit_resolvers = loader.yaml_implicit_resolvers

    reader = Fast.__new__(Fast, text)  # type: ignore[call-arg]  # the parser in C takes it at this point
    CParser.__init__(reader, text)
    Composer.__init__(reader)
    Resolver.__init__(reader)
    return reader


class _Loader(yaml.SafeLoader):
    """Plain scalars as Prometheus reads them: only `true` and `false` are booleans (`on` and `no` are words), and a
    date is text."""

    yaml_implicit_resolvers = {
        first: [
            (tag, re.compile("(?:true|True|TRUE|false|False|FALSE)$") if tag.endswith(":bool") else pattern)
            for tag, pattern in resolvers
            if not tag.endswith(":timestamp")
        ]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def overlay(base: Document, upper: Document) -> Document:
    """`upper` over `base`: mappings are merged key by key, everything else is replaced whole."""
    lines = dict(base.lines)
    files = dict(base.files)

    def merge(below: Any, above: Any, path: Location) -> Any:
        if isinstance(below, dict) and isinstance(above, dict):
            merged = dict(below)
            for key, value in above.items():
                merged[key] = merge(below[key], value, (*path, key)) if key in below else claim(value, (*path, key))
            return merged
        return claim(above, path)

    def claim(value: Any, path: Location) -> Any:
        for known in [known for known in lines if known[: len(path)] == path]:
            del lines[known]
            files.pop(known, None)
        for known, line in upper.lines.items():
            if known[: len(path)] == path:
                lines[known] = line
                files[known] = upper.file_of(known)
        return value

    return Document(base.file, merge(base.data, upper.data, ()), lines, files)


def _walk(node: yaml.Node, path: Location, lines: dict[Location, int], file: str) -> None:
    lines.setdefault(path, node.start_mark.line + 1)
    if len(lines) > MOST_VALUES:
        raise ConfigError("holds too much once its aliases are written out", file=file, line=node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            name = str(key.value)
            line = key.start_mark.line + 1
            if name in seen:
                raise ConfigError("this key stands twice in the same mapping", file=file, line=line, key=name)
            seen.add(name)
            lines[(*path, name)] = line
            _walk(value, (*path, name), lines, file)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _walk(item, (*path, index), lines, file)


M = TypeVar("M", bound=BaseModel)


def validate(model: type[M], document: Document, data: Any = _WHOLE, at: Location = ()) -> M:
    """`model` over the document, or over `data` that stands in it at `at`. Raises ConfigError for the first problem."""
    return validate_as(TypeAdapter(model), document, document.data if data is _WHOLE else data, at)


def validate_as(adapter: TypeAdapter[M], document: Document, data: Any, at: Location = ()) -> M:
    """As `validate`, for any type that pydantic understands, such as a discriminated union."""
    try:
        return adapter.validate_python(data)
    except ValidationError as error:
        raise _explain(error, document, data, at, _key_names(adapter)) from None


def _key_names(adapter: TypeAdapter[M]) -> set[str]:
    """Every key that some model of the adapter has, for suggestions."""
    schema = adapter.json_schema()
    parts = [schema, *schema.get("$defs", {}).values()]
    return {name for part in parts for name in part.get("properties", {})}


def _explain(error: ValidationError, document: Document, data: Any, at: Location, names: Iterable[str]) -> ConfigError:
    # An unknown key explains a missing one far more often than the other way round, so it is told first.
    problems = error.errors(include_url=False)
    problem = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    location = _real_location(problem["loc"], data)
    key = ".".join(str(part) for part in (*at, *location))
    line = document.line((*at, *location))
    file = document.file_of((*at, *location))
    return ConfigError(_sentence(problem, location, names), file=file, line=line, key=key)


def _real_location(loc: Location, data: Any) -> Location:
    """Drops from pydantic's location the tags of discriminated unions, which the file does not have."""
    real: list[str | int] = []
    for part in loc:
        if isinstance(data, Mapping):
            if part in data:
                data = data[part]
            elif data.get("kind") == part:
                continue
            else:
                data = None
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        elif part == "[key]":
            continue
        real.append(part)
    return tuple(real)


def _sentence(problem: ErrorDetails, location: Location, names: Iterable[str]) -> str:
    context = problem.get("ctx", {})
    match problem["type"]:
        case "extra_forbidden":
            return f"unknown key{_nearest(str(location[-1]), names)}"
        case "missing":
            return "is required and missing"
        case "union_tag_invalid":
            allowed = [name.strip("'") for name in str(context.get("expected_tags", "")).split(", ")]
            tag = str(context.get("tag", ""))
            return f"unknown kind {tag!r}; expected one of {', '.join(allowed)}{_nearest(tag, allowed)}"
        case "union_tag_not_found":
            return "`kind` is required and missing"
        case "value_error":
            return str(context.get("error", problem["msg"]))
        case _:
            subject, _, wanted = problem["msg"].partition(" should ")
            if wanted and not wanted.startswith("be "):
                wanted = f"to {wanted}"
            wanted = wanted.removeprefix("be ").removeprefix("a valid ") or subject
            return f"expected {wanted}, not {_shown(problem['input'], location)}"


def _shown(value: object, location: Location) -> str:
    """The value for a message that may end in a log: never a secret, nor a section that may hold one."""
    words = {word for part in location for word in re.split(r"[^a-z]+", str(part).lower())}
    if words & _SECRET_WORDS:
        return "the value there (not shown: it may be secret)"
    if isinstance(value, Mapping) and value:
        return "a mapping"
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."


def _nearest(name: str, allowed: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(allowed), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
