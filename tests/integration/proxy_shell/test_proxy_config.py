"""Faults of the configuration: one line with file, line, key and what was expected."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from proxy import config_file
from proxy.__main__ import main
from proxy.config_file import load
from proxy.errors import ConfigError

GOOD = """\
port: 0
providers:
  - name: primary
    kind: local
    port: 8091
"""


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        (GOOD + "wrokers: 2\n", 6, ["wrokers: unknown key", "did you mean workers?"]),
        (GOOD + "zzz: 2\n", 6, ["zzz: unknown key", "expected one of", "workers"]),
        (GOOD + "cache:\n  tll: 5m\n", 7, ["cache.tll: unknown key", "did you mean ttl?"]),
        (GOOD + "    prot: 1\n", 6, ["providers.0.prot: unknown key", "did you mean port?"]),
        (GOOD + "workers: many\n", 6, ["workers: ", "valid integer", "'many'"]),
        (GOOD + "workers: 0\n", 6, ["workers: ", "greater than or equal to 1"]),
        (GOOD + "cache:\n  ttl: 30\n", 7, ["cache.ttl: expected a duration such as 30s", "not 30"]),
        (GOOD + "cache:\n  ttl: 30 parsecs\n", 7, ["cache.ttl: expected a duration"]),
        (GOOD + "log: loud\n", 6, ["log: ", "log: expected a valid dictionary"]),
        (GOOD.replace("kind: local", "kind: locall"), 3, ["providers.0", "unknown kind 'locall'", "'local'"]),
        (GOOD.replace("    kind: local\n", ""), 3, ["providers.0", "has no kind"]),
        (GOOD.replace("    port: 8091\n", ""), 3, ["providers.0.port: is missing"]),
        ("port: 0\n", 1, ["providers: is missing"]),
        ("port: [\n", 2, ["is not YAML"]),
        ("- a\n", 1, ["expected keys and values"]),
        ("", None, ["providers: is missing"]),
        (GOOD + "port: 1\n", 6, ["port: is given twice", "line 1"]),
        (GOOD + GOOD.split("providers:\n")[1], 2, ["every provider name once", "'primary' twice"]),
        (GOOD + "auth:\n  keys:\n    - id: a\n", 8, ["auth.keys.0", "exactly one of sha256 and key_file"]),
        (GOOD + "auth:\n  keys:\n    - {id: a, sha256: abc}\n", 8, ["auth.keys.0.sha256", "pattern"]),
        (GOOD + "auth:\n  keys:\n    - {id: a, key_file: none.key}\n", 8, ["key_file: none.key does not exist"]),
    ],
)
def test_a_fault_is_named_where_it_stands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, line: int | None, words: list[str]
) -> None:
    """`config check` ends with 2 and one line that has file, line, key and expectation."""
    file = tmp_path / "c.yaml"
    file.write_text(text)
    assert main(["config", "check", str(file)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith(f"llm-proxy: {file}:{line}: " if line else f"llm-proxy: {file}: "), said
    for word in words:
        assert word in said


def test_secrets_must_be_private(tmp_path: Path) -> None:
    """A secret that others can read is refused with the command that mends it; an empty one is refused too."""
    secret = tmp_path / "key"
    secret.write_text("s")
    secret.chmod(0o640)
    file = tmp_path / "c.yaml"
    file.write_text(GOOD + f"  - {{name: b, kind: openai, base_url: 'http://x/v1', api_key_file: '{secret}'}}\n")
    with pytest.raises(ConfigError, match=rf"c.yaml:6: providers.1.api_key_file: .*mode 0640.*chmod 600 {secret}"):
        load(file, {})
    secret.chmod(0o600)
    assert load(file, {}).settings.providers[1].name == "b"
    secret.write_text("\n")
    with pytest.raises(ConfigError, match="is empty"):
        load(file, {})


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A missing file, a directory and bytes that are no text are three plain messages with exit 2."""
    binary = tmp_path / "b.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    for path, words in ((tmp_path / "none.yaml", "No such file"), (tmp_path, "Is a directory"), (binary, "not UTF-8")):
        assert main(["config", "check", str(path)]) == 2
        assert words in capsys.readouterr().err


def test_another_user_judges_without_the_secrets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`config check --without-secrets` takes a secret that is not there for granted, and still names every fault."""
    file = tmp_path / "c.yaml"
    key = "auth: {keys: [{id: caller, key_file: " + str(tmp_path / "handed-to-the-unit-alone") + "}]}\n"
    file.write_text(GOOD + key)
    assert main(["config", "check", str(file)]) == 2
    assert main(["config", "check", "--without-secrets", str(file)]) == 0
    file.write_text(GOOD + key + "wrokers: 2\n")
    assert main(["config", "check", "--without-secrets", str(file)]) == 2
    assert "wrokers" in capsys.readouterr().err


def test_the_environment_overrides_and_its_faults_are_named(tmp_path: Path) -> None:
    """LLM_PROXY_* values win over the file, reach sections, and are named when wrong."""
    file = tmp_path / "c.yaml"
    file.write_text(GOOD)
    loaded = load(file, {"LLM_PROXY_WORKERS": "3", "LLM_PROXY_LOG__LEVEL": "error", "LLM_PROXY_CONFIG": "x"})
    assert (loaded.settings.workers, loaded.settings.log.level) == (3, "error")
    with pytest.raises(ConfigError, match=r"^environment LLM_PROXY_WORKERS: .*'lots'"):
        load(file, {"LLM_PROXY_WORKERS": "lots"})
    with pytest.raises(ConfigError, match=r"^environment LLM_PROXY_WROKERS: unknown key; did you mean workers"):
        load(file, {"LLM_PROXY_WROKERS": "3"})
    assert load(file, {"LLM_PROXY_WORKERS": "3"}, {"workers": 4}).settings.workers == 4


def test_the_shipped_file_is_good() -> None:
    """config/llm-proxy.yaml is accepted, and what was handed over as a document gives the same settings again."""
    loaded = load(Path(config_file.__file__).parents[1] / "config/llm-proxy.yaml", {})
    assert type(loaded.settings).model_validate(loaded.document) == loaded.settings
    assert [provider.name for provider in loaded.settings.providers] == ["primary", "secondary"]


def test_a_master_with_a_bad_file_never_starts(tmp_path: Path) -> None:
    """`run` ends with 2 and the same one line, and leaves nothing behind."""
    (tmp_path / "c.yaml").write_text(GOOD + "wrokers: 2\n")
    ended = subprocess.run(
        [sys.executable, "-m", "proxy", "run", "--config", "c.yaml"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(config_file.__file__).parents[1])},
        capture_output=True,
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stderr.decode() == "llm-proxy: c.yaml:6: wrokers: unknown key; did you mean workers?\n"
    assert [path.name for path in tmp_path.iterdir()] == ["c.yaml"]
