"""Reads llm-proxy.yaml and the `LLM_PROXY_*` environment into Settings; every fault names file, line and key.

The environment overrides single values: `LLM_PROXY_PORT=9000`, `LLM_PROXY_LOG__LEVEL=debug` (two underscores go one
level down). What was read stays a plain document, so that the master can hand the very same to its workers.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from proxy.errors import ConfigError
from proxy.secret_file import secret_fault
from proxy.settings import OpenAIProvider, Settings

_ENVIRONMENT_PREFIX = "LLM_PROXY_"
_SECRET_KEYS = frozenset(("key", "api_key", "sha256", "dsn", "headers", "base_url"))
_QUOTED = re.compile(r"'(?!<)[^']{8,}'")
"""What YAML's parser quotes from the file: an alias or a tag, which a key that begins with * or ! is taken for."""
_NOT_SETTINGS = {"LLM_PROXY_CONFIG"}
Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration that has been judged good: the model, and the document that it came from."""

    settings: Settings
    document: Document
    file: Path


def find(given: str | None) -> Path:
    """The file that was named, else the first that exists of the usual places. ConfigError if there is none."""
    if given is not None:
        return Path(given)
    places = [
        Path("config/llm-proxy.yaml"),
        Path("/etc/llm-proxy/llm-proxy.yaml"),
        Path(sys.prefix) / "share/proxywatch/config/llm-proxy.yaml",
        Path(__file__).resolve().parent.parent / "config/llm-proxy.yaml",
    ]
    for place in places:
        if place.is_file():
            return place
    raise ConfigError(f"no configuration found; expected one of {', '.join(map(str, places))}, or --config FILE")


def load(
    file: Path, environment: Mapping[str, str], overrides: Document | None = None, *, secrets: bool = True
) -> Loaded:
    """Settings from `file`, overridden by `environment` and then by `overrides`. ConfigError for every fault; without
    `secrets` not for those of the files that hold them, which only the proxy's own user may be able to see."""
    root, document = _parse(file)
    for name, value in sorted(environment.items()):
        if name.startswith(_ENVIRONMENT_PREFIX) and name not in _NOT_SETTINGS:
            _override(document, name, value)
    document.update(overrides or {})
    try:
        settings = Settings.model_validate(document)
    except ValidationError as error:
        raise _explain(error, file, root, environment) from None
    if secrets:
        _check_secrets(settings, file, root)
    return Loaded(settings, document, file)


def _parse(file: Path) -> tuple[yaml.Node | None, Document]:
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", file=str(file)) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"is not UTF-8 text: {error.reason} at byte {error.start}", file=str(file)) from error
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        document = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        problem = _QUOTED.sub("…", error.problem or "it cannot be read")
        raise ConfigError(f"is not YAML: {problem}", file=str(file), line=line) from error
    except yaml.YAMLError as error:
        raise ConfigError(f"is not YAML: {' '.join(str(error).split())}", file=str(file)) from error
    if document is None:
        document = {}
    if not isinstance(document, dict):
        raise ConfigError("expected keys and values at the top level", file=str(file), line=1)
    _refuse_duplicates(root, file)
    return root, document


def _refuse_duplicates(node: yaml.Node | None, file: Path, path: str = "") -> None:
    """YAML's loader silently keeps the last of two equal keys, and the operator would not know which one counts."""
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name in seen:
                raise ConfigError(
                    f"is given twice; it already stands in line {seen[name]}",
                    file=str(file),
                    line=line,
                    key=path + name,
                )
            seen[name] = line
            _refuse_duplicates(value, file, f"{path}{name}.")
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            _refuse_duplicates(value, file, f"{path}{number}.")


def _override(document: Document, name: str, value: str) -> None:
    *parents, leaf = name.removeprefix(_ENVIRONMENT_PREFIX).lower().split("__")
    section = document
    for parent in parents:
        section = section.setdefault(parent, {})
        if not isinstance(section, dict):
            raise ConfigError(f"{parent!r} is not a section", file=f"environment {name}")
    section[leaf] = value


def _explain(error: ValidationError, file: Path, root: yaml.Node | None, environment: Mapping[str, str]) -> ConfigError:
    """One line for the first fault in the file, with how many more there are."""
    every = error.errors(include_url=False)
    # Pydantic also reports a list as too short when its only item was refused; the item's own fault says it better.
    inner = [fault for fault in every if not any(_within(other["loc"], fault["loc"]) for other in every)]
    faults = sorted(
        inner,
        key=lambda fault: (_line(root, fault["loc"])[0] or 0, fault["type"] == "missing"),
    )
    fault = faults[0]
    line, shown = _line(root, fault["loc"])
    key = ".".join(shown) or (".".join(map(str, fault["loc"])))
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    message = _wording(fault["type"], fault["msg"], fault.get("input"), fault["loc"], fault.get("ctx") or {}) + more
    variable = _ENVIRONMENT_PREFIX + "__".join(str(part).upper() for part in fault["loc"])
    if variable in environment:
        return ConfigError(message, file=f"environment {variable}")
    return ConfigError(message, file=str(file), line=line, key=key)


def _within(loc: tuple[int | str, ...], outer: tuple[int | str, ...]) -> bool:
    return len(loc) > len(outer) and loc[: len(outer)] == outer


def _wording(kind: str, text: str, given: object, loc: tuple[int | str, ...], context: Mapping[str, object]) -> str:
    match kind:
        case "extra_forbidden":
            allowed = sorted(_model_at(loc[:-1]).model_fields)
            near = difflib.get_close_matches(str(loc[-1]), allowed, n=1)
            return "unknown key; " + (f"did you mean {near[0]}?" if near else f"expected one of {', '.join(allowed)}")
        case "missing":
            return "is missing; expected a value"
        case "union_tag_invalid":
            return f"unknown kind {context.get('tag')!r}; expected one of {context.get('expected_tags')}"
        case "union_tag_not_found":
            return "has no kind; expected one of 'local', 'openai', 'anthropic', 'azure'"
        case "value_error":
            return text.removeprefix("Value error, ")
        case _:
            expected = _lower(text).replace("input should be", "expected")
            return f"{expected}, not {given!r}" if _may_be_shown(given, loc) else expected


def _may_be_shown(given: object, loc: tuple[int | str, ...]) -> bool:
    """Whether what was given, or stands where something else belongs, surely holds no secret."""
    if isinstance(given, dict | list) or _SECRET_KEYS.intersection(loc):
        return False
    return not isinstance(given, str) or (isinstance(loc[-1], str) and not _is_section(loc))


def _is_section(loc: tuple[int | str, ...]) -> bool:
    """Whether a section or a list belongs there, in whose place may stand anything that belongs into it."""
    parent = _model_at(loc[:-1])
    field = parent.model_fields.get(str(loc[-1]))
    return field is None or bool(_models_in(field.annotation)) or get_origin(field.annotation) in (tuple, dict)


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _model_at(loc: tuple[int | str, ...]) -> type[BaseModel]:
    """The model that stands at a pydantic location, whose union tags are steps of their own."""
    models: list[type[BaseModel]] = [Settings]
    for step in loc:
        if not isinstance(step, str):
            continue
        for model in models:
            if step in model.model_fields:
                models = _models_in(model.model_fields[step].annotation)
                break
        else:
            models = [model for model in models if step in get_args(model.model_fields["kind"].annotation)]
    return models[0]


def _models_in(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]


def _line(root: yaml.Node | None, loc: tuple[int | str, ...]) -> tuple[int | None, list[str]]:
    """The line where `loc` stands, or its nearest ancestor's, and the key as the file spells it."""
    node, line, shown = root, None, []
    for step in loc:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == str(step):
                    node, line = value, key.start_mark.line + 1
                    shown.append(str(step))
                    break
            else:
                if step == loc[-1]:
                    shown.append(str(step))
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            node = node.value[step]
            line = node.start_mark.line + 1
            shown.append(str(step))
    return line or (1 if root is not None else None), shown


def _check_secrets(settings: Settings, file: Path, root: yaml.Node | None) -> None:
    """Refuses secret files that are missing or readable by others. The master makes a missing admin key itself."""
    wanted: list[tuple[tuple[int | str, ...], Path, bool]] = [
        (("auth", "keys", number, "key_file"), key.key_file, key.role == "admin")
        for number, key in enumerate(settings.auth.keys)
        if key.key_file is not None
    ]
    wanted += [
        (("providers", number, "api_key_file"), provider.api_key_file, False)
        for number, provider in enumerate(settings.providers)
        if isinstance(provider, OpenAIProvider) and provider.api_key_file is not None
    ]
    if settings.ledger.dsn_file is not None:
        wanted.append((("ledger", "dsn_file"), settings.ledger.dsn_file, False))
    for loc, path, may_be_missing in wanted:
        if (fault := secret_fault(path, may_be_missing=may_be_missing)) is not None:
            line, shown = _line(root, loc)
            raise ConfigError(fault, file=str(file), line=line, key=".".join(shown))
