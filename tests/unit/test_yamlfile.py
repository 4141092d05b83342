"""Errors of configuration: one line that says file, line, key, what was expected, and the nearest name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, TypeAdapter

from watchdog.errors import ConfigError
from watchdog.registry import Duration, Registry, Settings, Size
from watchdog.yamlfile import Document, load, overlay, parse, validate, validate_as

kinds: Registry[object] = Registry("check")


class WebSettings(Settings):
    kind: Literal["web"]
    url: str
    timeout: Duration = 5.0


class DiskSettings(Settings):
    kind: Literal["disk"]
    path: str
    keep: Size = 0


kinds.register(WebSettings)(object)
kinds.register(DiskSettings)(object)


class Limits(Settings):
    count: int = Field(3, ge=1, le=10)
    share: float = Field(0.5, gt=0, lt=1)


class House(Settings):
    """A configuration with everything that ours has."""

    name: str = Field(pattern=r"^[a-z-]+$")
    mode: Literal["observe", "auto"] = "auto"
    interval: Duration = 10.0
    limits: Limits = Limits()
    rooms: tuple[str, ...] = Field(("hall",), min_length=1)
    checks: dict[str, kinds.union()] = {}  # type: ignore[valid-type]
    steps: tuple[kinds.union(), ...] = ()  # type: ignore[valid-type]


GOOD = """\
name: home
limits:
  count: 2
checks:
  front:
    kind: web
    url: http://127.0.0.1/
  cellar: {kind: disk, path: /srv, keep: 1GiB}
steps:
  - kind: disk
    path: /tmp
  - {kind: web, url: x}
"""


def test_a_good_file_is_read() -> None:
    """What is right becomes the model, with its units read."""
    house = validate(House, parse(GOOD, "house.yaml"))
    assert (house.name, house.limits.count, house.interval) == ("home", 2, 10.0)
    assert house.checks["cellar"] == DiskSettings.model_validate({"kind": "disk", "path": "/srv", "keep": "1GiB"})
    assert house.checks["cellar"].keep == 1024**3
    assert [step.kind for step in house.steps] == ["disk", "web"]


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("name: home", "nam: home", 1, "nam: unknown key (did you mean 'name'?)"),
        ("name: home", "nonsense: 1", 1, "nonsense: unknown key"),
        ("name: home", "", 2, "name: is required and missing"),
        ("name: home", "name: Home", 1, "name: expected to match pattern '^[a-z-]+$', not 'Home'"),
        ("name: home", "name: [home]", 1, "name: expected string, not ['home']"),
        ("name: home", "name:", 1, "name: expected string, not None"),
        ("name: home", "name: home\nmode: atuo", 2, "mode: expected 'observe' or 'auto', not 'atuo'"),
        ("name: home", "name: home\ninterval: 30", 2, "interval: expected a duration such as 30s, 5m or 1h30m, not 30"),
        ("name: home", "name: home\ninterval: 5 x", 2, "expected a duration such as 30s, 5m or 1h30m, not '5 x'"),
        ("name: home", "name: home\nrooms: []", 2, "rooms: expected to have at least 1 item"),
        ("name: home", "name: home\nrooms: hall", 2, "rooms: expected tuple, not 'hall'"),
        ("name: home", "name: home\nrooms: [a, {b: c}]", 2, "rooms.1: expected string, not a mapping"),
        ("count: 2", "count: many", 3, "limits.count: expected integer, unable to parse string as an integer"),
        ("count: 2", "count: 11", 3, "limits.count: expected less than or equal to 10, not 11"),
        ("count: 2", "count: 2\n  share: 1", 4, "limits.share: expected less than 1, not 1"),
        ("count: 2", "cuont: 2", 3, "limits.cuont: unknown key (did you mean 'count'?)"),
        ("  count: 2", "", 2, "limits: expected dictionary or instance of Limits, not None"),
        ("    kind: web", "", 5, "checks.front: `kind` is required and missing"),
        ("kind: web\n", "kind: wbe\n", 5, "checks.front: unknown kind 'wbe'; expected one of disk, web (did you mean"),
        ("    url: http", "    ulr: http", 7, "checks.front.ulr: unknown key (did you mean 'url'?)"),
        ("    url: http://127.0.0.1/", "    timeout: 5s", 5, "checks.front.url: is required and missing"),
        ("keep: 1GiB", "keep: 1Gib", 8, "checks.cellar.keep: expected a size such as 512KiB, 64MiB or 2GB, not '1Gib'"),
        ("    path: /tmp", "    pth: /tmp", 11, "steps.0.pth: unknown key (did you mean 'path'?)"),
        ("    path: /tmp", "    path: 7", 11, "steps.0.path: expected string, not 7"),
        ("{kind: web, url: x}", "{kind: web, url: x, timeout: [1]}", 12, "steps.1.timeout: expected a duration"),
        ("{kind: web, url: x}", "{url: x}", 12, "steps.1: `kind` is required and missing"),
        ("name: home", "name: home\nname: cave", 2, "name: this key stands twice in the same mapping"),
        ("  count: 2", "  count: 2\n  count: 3", 4, "count: this key stands twice in the same mapping"),
        ("name: home", "name: home\n  mode: auto", 2, "not valid YAML: mapping values are not allowed here"),
        ("name: home", "name: 'home", 13, "not valid YAML: found unexpected end of stream"),
        ("name: home", "name: *home", 1, "not valid YAML: found undefined alias"),
        ("name: home", "name: !!python/name:os.system", 1, "not valid YAML: could not determine a constructor"),
        ("name: home", "name: ho\x07me", 1, "not valid YAML: character U+0007 is not allowed"),
        ("  count: 2", "\tcount: 2", 3, "not valid YAML: found character '\\t' that cannot start any token"),
        ("steps:\n", "---\nsteps:\n", 9, "not valid YAML"),
        ("name: home", "name: &me [*me]", None, "not valid YAML: nested too deeply"),
        ("name: home", "name: " + "[" * 600, None, "not valid YAML: nested too deeply"),
    ],
)  # fmt: skip
def test_every_mistake_is_one_line_with_its_place(old: str, new: str, line: int | None, says: str) -> None:
    """A mistake names the file, the line, the key, what was expected, and the nearest name if there is one."""
    assert old in GOOD
    text = GOOD.replace(old, new, 1)
    with pytest.raises(ConfigError) as caught:
        validate(House, parse(text, "house.yaml"))
    message = str(caught.value)
    place = "house.yaml: " if line is None else f"house.yaml:{line}: "
    assert message.startswith(place)
    assert says in message
    assert "\n" not in message
    assert (caught.value.line, caught.value.file) == (line, "house.yaml")


def test_a_long_value_is_shortened() -> None:
    """What was given is shown, but no page of it."""
    with pytest.raises(ConfigError) as caught:
        validate(House, parse(f"name: [{'x' * 500}]", "house.yaml"))
    assert str(caught.value).endswith("...")
    assert len(str(caught.value)) < 150


@pytest.mark.parametrize("text", ["just words", "- a\n- b", "7"])
def test_a_file_that_is_no_mapping(text: str) -> None:
    """A file of another shape is refused at its first line."""
    with pytest.raises(ConfigError, match=r"house\.yaml:1: expected dictionary"):
        validate(House, parse(text, "house.yaml"))


def test_words_stay_words() -> None:
    """As in Prometheus' files only true and false are booleans: on, off, yes, no and dates are what they look like."""
    text = "on: [yes, no, on, off, y, true, False, 2026-11-23, null, ~, 3, 1.5, '1']"
    assert parse(text, "f").data == {
        "on": ["yes", "no", "on", "off", "y", True, False, "2026-11-23", None, None, 3, 1.5, "1"]
    }


def test_an_empty_file_is_an_empty_mapping() -> None:
    """Nothing, or nothing but comments, is {}; what is missing from it is at line 1 or has no line."""
    for text in ("", "# only words\n", "---\n"):
        assert parse(text, "f").data == {}
    with pytest.raises(ConfigError, match="name: is required and missing"):
        validate(House, parse("", "f"))


def test_a_part_that_is_empty_is_judged_as_itself() -> None:
    """`data` that is None is validated as None, not as the whole file; the key begins with its place."""
    document = parse("limits:\nname: home", "house.yaml")
    with pytest.raises(ConfigError, match=r"^house\.yaml:1: limits: expected dictionary .* not None"):
        validate(Limits, document, document.data["limits"], ("limits",))
    nested = parse("a:\n  limits:\n    count: x", "house.yaml")
    with pytest.raises(ConfigError, match=r"^house\.yaml:3: a\.limits\.count: expected integer"):
        validate_as(TypeAdapter(Limits), nested, nested.data["a"]["limits"], ("a", "limits"))


def test_aliases_that_multiply_are_stopped() -> None:
    """A few lines of aliases of aliases, which would be millions of values, are refused at once."""
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9))
    with pytest.raises(ConfigError, match="holds too much once its aliases are written out"):
        parse(bomb, "f")


def test_anchors_and_merges_work() -> None:
    """Honest aliases and merge keys are read; own keys win over merged ones."""
    document = parse("base: &base {count: 2, share: 0.1}\nlimits: {<<: *base, count: 4}\n", "f")
    assert document.data["limits"] == {"count": 4, "share": 0.1}


@pytest.mark.parametrize(
    ("content", "says"), [(None, "no such file"), (b"\xff\xfe\x00", "cannot be read"), ("directory", "Is a directory")]
)
def test_a_file_that_cannot_be_read(tmp_path: Path, content: object, says: str) -> None:
    """Missing, not text, or a directory: one line with the file's name."""
    path = tmp_path / "house.yaml"
    if content == "directory":
        path.mkdir()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=says) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_file_is_read_as_its_text(tmp_path: Path) -> None:
    """Loading gives what parsing the text gives, with the path as its name."""
    path = tmp_path / "house.yaml"
    path.write_text(GOOD, encoding="utf-8")
    assert load(path) == replace(parse(GOOD, "x"), file=str(path), files=load(path).files)


def test_the_innermost_known_line() -> None:
    """A key that the file does not have is where its parent is; an unknown file has no line at all."""
    document = parse(GOOD, "f")
    assert document.line(("checks", "front", "url")) == 7
    assert document.line(("checks", "front", "timeout")) == 5
    assert document.line(("steps", 1, "kind")) == 12
    assert document.line(("nowhere",)) == 1
    assert Document("f", {}, {}).line(("a",)) is None


def test_an_overlay_knows_which_file_said_what() -> None:
    """Mappings merge key by key, everything else is replaced whole, and an error names the file it came from."""
    upper = parse("\n\nlimits:\n  count: many\nsteps: []\n", "conf.d/10.yaml")
    merged = overlay(parse(GOOD, "house.yaml"), upper)
    assert merged.data["steps"] == []
    assert merged.data["name"] == "home"
    with pytest.raises(ConfigError, match=r"^conf\.d/10\.yaml:4: limits\.count: "):
        validate(House, merged)
    with pytest.raises(ConfigError, match=r"^house\.yaml:7: checks\.front\.ulr: "):
        validate(House, overlay(parse(GOOD.replace("url: h", "ulr: h"), "house.yaml"), parse("rooms: [a]", "up.yaml")))


TREES = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.text("abc 0:-", max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abcxyz", min_size=1, max_size=3), inner),
    max_leaves=8,
)


def complaint(document: Callable[[], Document]) -> str:
    """What is said of a document as a House; empty if nothing is."""
    try:
        validate(House, document())
    except ConfigError as error:
        return str(error)
    return ""


@given(st.text(":-[]{}&*!|>'\"%@`#, \n\tabc012<", max_size=30))
def test_no_text_is_a_traceback(text: str) -> None:
    """Whatever the file holds, it is refused with one line: without a name it can be no House."""
    said = complaint(lambda: parse(text, "f"))
    assert said
    assert "\n" not in said


@given(TREES)
def test_no_data_is_a_traceback(tree: object) -> None:
    """Whatever shape the data has, it is refused with one line."""
    said = complaint(lambda: Document("f", tree, {(): 1}))
    assert said.startswith("f:1: ")
    assert "\n" not in said


class Mail(Settings):
    """Where secrets may stand by mistake in the wrong shape."""

    smtp_auth_password: int = 0
    authorization: bool = False
    tokens_per_minute: int = 0
    monkey: int = 0
    part: int = 0


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("smtp_auth_password: hunter2", True),
        ("authorization: {credentials: hunter2}", True),
        ("part: {smtp_auth_password: hunter2}", True),
        ("monkey: hunter2", False),
        ("tokens_per_minute: hunter2", False),
    ],
)
def test_no_error_shows_a_secret(text: str, secret: bool) -> None:
    """What stands under a key that may be secret is never shown, nor a mapping that may hold such a key."""
    with pytest.raises(ConfigError) as caught:
        validate(Mail, parse(text, "mail.yaml"))
    assert ("hunter2" in str(caught.value)) is not secret
    assert str(caught.value).startswith("mail.yaml:1: ")
