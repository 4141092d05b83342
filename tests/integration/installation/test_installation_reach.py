"""What the services' users could not run is refused before anything is installed, and each refusal is one line."""

from __future__ import annotations

import json
import pwd
from pathlib import Path

import pytest

from watchdog.cli.main import main
from watchdog.errors import InstallationError
from watchdog.installation.environment import check_brought, out_of_reach, required

ROOTS_HOME = pwd.getpwuid(0).pw_dir


@pytest.mark.parametrize("place", [f"{ROOTS_HOME}/venv", "/home/me/venv", "/tmp/venv", "/run/user/0/venv"])
def test_directories_that_the_units_do_not_see_are_out_of_reach(place: str) -> None:
    """Homes and temporary directories are other ones for the units, or empty."""
    assert "which the units do not see" in (out_of_reach(Path(place)) or "")


def test_a_closed_directory_on_the_way_is_named() -> None:
    """The interpreter of the system is in reach; below a directory of mode 0700 nothing is."""
    assert out_of_reach(Path("/usr/bin")) is None
    closed = next((p for p in (Path("/var/lib/private"), Path("/lost+found")) if p.is_dir()), None)
    if closed is None:
        pytest.skip("this machine has no closed directory outside of homes")
    assert out_of_reach(closed) == f"{closed} may not be entered by the users llm-proxy and proxywatch"


def test_an_environment_without_the_programs_is_refused(tmp_path: Path) -> None:
    """The message names the program that is missing, and how it gets there."""
    with pytest.raises(InstallationError, match="has no bin/llm-proxy") as failure:
        check_brought(tmp_path, reach=True)
    assert "pip install proxywatch" in failure.value.hint
    for name in ("llm-proxy", "proxywatch", "python"):
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).touch()
    check_brought(tmp_path, reach=False)
    with pytest.raises(InstallationError, match="--venv cannot be used"):
        check_brought(tmp_path, reach=True)


def test_what_is_copied_is_what_the_project_requires() -> None:
    """Each distribution once, those that they require in turn too, and nothing that only development needs."""
    names = [distribution.metadata["Name"].lower().replace("_", "-") for distribution in required()]
    assert len(names) == len(set(names))
    assert {"dbus-fast", "pydantic", "pydantic-core", "httpcore"} <= set(names)
    assert not {"pytest", "mypy", "ruff", "proxywatch"} & set(names)


def test_a_refusal_is_one_line_or_one_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 1, what is wrong and what to do; with --json a document that says the same."""
    assert main(["upgrade", "--root", str(tmp_path)]) == 1
    assert capsys.readouterr().err == "proxywatch: nothing is installed, or not to its end; proxywatch install\n"
    assert main(["upgrade", "--root", str(tmp_path), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["outcome"], told["hint"]) == ("failed", "proxywatch install")
    assert main(["uninstall", "--root", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "nothing to do"
