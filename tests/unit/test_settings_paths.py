"""Patterns of files in the configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from watchdog.errors import ConfigError
from watchdog.settings import Config, Loaded


@pytest.mark.parametrize("pattern", ["", ".", "/", "rules/nothing-*.yaml"])
def test_a_pattern_that_names_no_file_is_an_error_with_its_place(pattern: str) -> None:
    """What would be a traceback, or silently nothing, names the file and the key instead."""
    loaded = Loaded(config=Config(), file=Path("config/proxywatch.yaml"), files=())
    with pytest.raises(ConfigError, match=r"config/proxywatch.yaml: rules: "):
        loaded.paths([pattern], "rules")
