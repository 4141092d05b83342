"""What the command line can do without a daemon."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import select
import signal
import socket
import stat
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_daemon import write_config

from watchdog import settings
from watchdog.cli import places
from watchdog.cli.effective import MASK, effective
from watchdog.cli.main import main
from watchdog.settings import load_config

SHIPPED = Path(__file__).resolve().parents[3] / "config"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test finds the repository's own configuration by chance."""
    monkeypatch.chdir(tmp_path)


def run(*argv: str) -> int:
    return main(list(argv))


def test_a_good_configuration_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`config check` exits 0 and says what it judged."""
    assert run("config", "check", str(write_config(tmp_path))) == 0
    assert "1 service, 1 probe, 3 rules, 2 playbooks, 1 receiver" in capsys.readouterr().out


def test_the_shipped_configuration_is_good(capsys: pytest.CaptureFixture[str]) -> None:
    """What comes with proxywatch passes its own judge."""
    assert run("config", "check", str(SHIPPED / "proxywatch.yaml")) == 0
    assert capsys.readouterr().out.startswith("OK")


@pytest.mark.parametrize(
    ("file", "old", "new", "says"),
    [
        ("proxywatch.yaml", "state_dir", "state_dirr", "unknown key (did you mean 'state_dir'?)"),
        ("proxywatch.yaml", "interval: 1h", "interval: 1 hour", "expected a duration such as 30s"),
        ("proxywatch.yaml", "kind: http", "kind: htp", "did you mean 'http'?"),
        ("rules/small.yaml", "provider_fault == 1", "provider_fault ==", "ProviderFailing"),
        ("rules/small.yaml", "alert: Strange", "allert: Strange", "unknown field"),
        ("playbooks/restore-worker.yaml", "- worker", "- wrker", "unknown kind of target"),
        ("playbooks/restore-worker.yaml", "kind: command", "kind: comand", "unknown kind 'comand'"),
        ("playbooks/restore-worker.yaml", "within: 3s", "within: 10ms", "could never verify"),
        ("routes.yaml", "receiver: journal", "receiver: jurnal", "there is no receiver"),
        ("routes.yaml", "receivers:", "receivers: [", "not valid YAML"),
    ],
)
def test_each_mistake_is_one_line_with_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, old: str, new: str, says: str
) -> None:
    """`config check` exits 2 with `file:line: key: what; expected`, whichever file is wrong."""
    config = write_config(tmp_path)
    broken = config.parent / file
    assert old in broken.read_text()
    broken.write_text(broken.read_text().replace(old, new, 1))
    assert run("config", "check", str(config)) == 2
    told = capsys.readouterr().out
    assert told.count("\n") == 1
    assert told.startswith(f"{broken}:")
    assert says in told


def test_all_wrong_files_are_told_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rules, a playbook and routes that are wrong together give three lines, not one."""
    config = write_config(tmp_path)
    (config.parent / "rules/other.yaml").write_text("groups: [{name: x, rules: [{alert: A, expr: 'sum('}]}]")
    (config.parent / "playbooks/other.yaml").write_text("name: other\n")
    (config.parent / "routes.yaml").write_text("route: {}\n")
    assert run("config", "check", str(config)) == 2
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_two_playbooks_of_one_name_are_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each file is good by itself, but not both together."""
    config = write_config(tmp_path)
    twin = (config.parent / "playbooks/restore-worker.yaml").read_text()
    (config.parent / "playbooks/twin.yaml").write_text(twin)
    assert run("config", "check", str(config)) == 2
    assert "defined twice" in capsys.readouterr().out


def test_a_broken_fragment_does_not_cut_the_line_to_the_daemon(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The daemon runs on with its last good configuration, so its socket is still found, with a word about the file."""
    file = write_config(tmp_path)
    socket = load_config(file).control_socket
    (file.parent / "conf.d").mkdir()
    (file.parent / "conf.d/bad.yaml").write_text("probes: [\n")
    assert places.control_socket(str(file), None) == socket
    assert "bad.yaml:2: not valid YAML" in capsys.readouterr().err


def test_a_missing_configuration_is_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`run` and `status` with a file that is not there exit 2 and name it."""
    for argv in (["run", "--plain"], ["status"], ["config", "show"]):
        assert run("--config", str(tmp_path / "none.yaml"), *argv) == 2
        assert capsys.readouterr().err.startswith(f"proxywatch: {tmp_path}/none.yaml")


def test_rules_are_judged_by_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`rules check` takes files by name, exits 2 with the problems and 0 with the count."""
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text("groups: [{name: x, rules: [{alert: A, expr: up == 0}]}]")
    bad.write_text("groups: [{name: x, rules: [{alert: A, expr: nofunction(up)}]}]")
    assert run("rules", "check", str(good)) == 0
    assert "1 rule in 1 file" in capsys.readouterr().out
    assert run("rules", "check", str(good), str(bad), "--json") == 2
    (problem,) = json.loads(capsys.readouterr().out)["problems"]
    assert problem.startswith(f"{bad}:1:")


def test_what_is_shown_loads_again_as_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`config show` is YAML that means exactly the configuration in force, defaults included."""
    original = SHIPPED / "proxywatch.yaml"
    assert run("--config", str(original), "config", "show") == 0
    shown = tmp_path / "proxywatch.yaml"
    shown.write_text(capsys.readouterr().out)
    assert load_config(shown).config == load_config(original).config


def test_secrets_are_masked(tmp_path: Path) -> None:
    """Values under keys that name a secret are not shown; the path of a secret file is."""
    child = {"kind": "child", "argv": ["true"], "environment": {"API_KEY": "sk-123", "HOME": "/root"}}
    file = write_config(tmp_path, services={"web": child}, probes={})
    shown = effective(load_config(file).config)
    assert shown["services"]["web"]["environment"] == {"API_KEY": MASK, "HOME": "/root"}
    assert "sk-123" not in json.dumps(shown)


def test_init_writes_a_good_start_and_overwrites_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The files that come with us are copied, pass the judge, and a second init is refused."""
    directory = tmp_path / "fresh"
    assert run("config", "init", str(directory)) == 0
    assert run("config", "check", str(directory / "proxywatch.yaml")) == 0
    mine = directory / "proxywatch.yaml"
    mine.write_text("mine")
    assert run("config", "init", str(directory)) == 1
    assert mine.read_text() == "mine"
    assert "exists already" in capsys.readouterr().err


def test_the_quick_look_agrees_with_the_whole_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The socket that `status` finds without the model is the one that the daemon listens on: by file, conf.d and
    environment."""
    monkeypatch.chdir(tmp_path)
    file = write_config(tmp_path)
    assert places.control_socket(str(file), None) == load_config(file).control_socket
    (tmp_path / "config/conf.d").mkdir()
    (tmp_path / "config/conf.d/10.yaml").write_text("run_dir: ten\n")
    (tmp_path / "config/conf.d/20.yaml").write_text("run_dir: twenty\n")
    assert places.control_socket(None, None) == load_config().control_socket == Path("twenty/control.sock")
    monkeypatch.setenv("PROXYWATCH_RUN_DIR", "elsewhere")
    assert places.control_socket(None, None) == load_config().control_socket == Path("elsewhere/control.sock")
    assert places.config_file(None) == settings.default_file()


@contextlib.contextmanager
def silent_server() -> Iterator[int]:
    """A port that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@contextlib.contextmanager
def good_server() -> Iterator[int]:
    """A port that answers 200 to every request, until the block ends."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok")

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join(10)


def probing(port: int) -> dict[str, Any]:
    return {"front": {"kind": "http", "url": f"http://127.0.0.1:{port}/", "timeout": "300ms"}}


def test_a_probe_without_a_daemon_measures_by_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Built from the configuration and run once: OK with perfdata, exit 0."""
    with good_server() as port:
        file = write_config(tmp_path, probes=probing(port))
        assert run("--config", str(file), "probe", "run", "front", "--samples") == 0
    told = capsys.readouterr().out
    assert told.startswith("PROBE front OK - 200")
    assert "probe_success_kind_http_probe_front=1" in told.splitlines()[0]
    assert 'probe_success{kind="http",probe="front"} 1' in told.splitlines()


def test_a_socket_timeout_is_critical(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A target that takes the connection and stays silent is CRITICAL (2), not UNKNOWN (3)."""
    with silent_server() as port:
        file = write_config(tmp_path, probes=probing(port))
        assert run("--config", str(file), "probe", "run", "front") == 2
    assert "CRITICAL" in capsys.readouterr().out


def test_a_probe_that_cannot_be_tried_is_unknown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown name suggests the nearest one; a broken configuration is named: both exit 3."""
    file = write_config(tmp_path)
    assert run("--config", str(file), "probe", "run", "frnt") == 3
    assert "did you mean 'front'?" in capsys.readouterr().out
    file.write_text("probes: 7\n")
    assert run("--config", str(file), "probe", "run", "front") == 3


def test_doctor_finds_what_is_unfit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A good installation exits 0; a wrong configuration exits 1, says what is wrong and what to do about it."""
    file = write_config(tmp_path)
    assert run("--config", str(file), "doctor", "--json") == 0
    findings = {one["what"]: one for one in json.loads(capsys.readouterr().out)["findings"]}
    assert findings["pidfd"]["state"] == "ok"
    assert findings["import names"]["state"] == "ok"
    assert findings["llm-proxy"]["state"] == "warn"
    assert findings["daemon"]["state"] == "warn"
    file.write_text(file.read_text().replace("kind: http", "kind: htp"))
    assert run("--config", str(file), "doctor") == 1
    told = capsys.readouterr().out
    assert "fail" in told
    assert "did you mean" in " ".join(told.split())


def test_wrong_usage_exits_2(capsys: pytest.CaptureFixture[str]) -> None:
    """Unknown commands, missing names and durations without a unit are refused by the parser."""
    for argv in (["nope"], ["incident", "show"], ["incident", "show", "x"], ["pause", "--for", "7"], []):
        with pytest.raises(SystemExit) as caught:
            main(argv)
        assert caught.value.code == 2
    assert "30s" in capsys.readouterr().err


class Terminal:
    """A program on a pseudo-terminal of a given size; everything that it wrote."""

    def __init__(self, argv: list[str], cwd: Path, rows: int = 24, columns: int = 80) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        environment = {**os.environ, "TERM": "xterm-256color"}
        environment.pop("COLUMNS", None)
        self.process = subprocess.Popen(argv, stdin=slave, stdout=slave, stderr=slave, cwd=cwd, env=environment)
        os.close(slave)
        os.set_blocking(self.master, False)
        self.seen = b""

    def until(self, wanted: bytes, seconds: float = 30.0) -> None:
        """Reads until `wanted` was written."""
        self._read(seconds, lambda: wanted in self.seen)
        assert wanted in self.seen, self.seen[-3000:].decode("utf-8", "replace")

    def end(self, seconds: float = 30.0) -> int:
        """Reads until the program has ended; its exit code."""
        self._read(seconds, lambda: self.process.poll() is not None)
        code = self.process.poll()
        assert code is not None, "it did not end"
        self._read(0.0, lambda: False)
        return code

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)

    def _read(self, seconds: float, done: Any) -> None:
        deadline = time.monotonic() + seconds
        while True:
            ready, _, _ = select.select([self.master], [], [], 0.05 if seconds else 0)
            if ready:
                try:
                    self.seen += os.read(self.master, 65536)
                except OSError:
                    ready = []
            if done() or (not ready and time.monotonic() >= deadline):
                return


def test_the_live_view_leaves_the_terminal_clean(tmp_path: Path) -> None:
    """On a terminal `run` draws the whole screen; Ctrl-C ends daemon and view, exit 0, and gives screen and cursor
    back; the control socket is gone."""
    file = write_config(tmp_path)
    terminal = Terminal([sys.executable, "-m", "watchdog.cli.main", "run", "--config", str(file)], tmp_path)
    try:
        terminal.until(b"Ctrl-C leaves")
        assert b"\x1b[?1049h" in terminal.seen
        assert b"proxywatch" in terminal.seen
        assert stat.S_ISSOCK((tmp_path / "run/control.sock").stat().st_mode)
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.end() == 0
    finally:
        terminal.close()
    assert b"\x1b[?1049l" in terminal.seen
    assert terminal.seen.rindex(b"\x1b[?25h") > terminal.seen.rindex(b"\x1b[?25l")
    assert b"stopped" in terminal.seen.partition(b"\x1b[?1049l")[2]
    assert not (tmp_path / "run/control.sock").exists()


def test_plain_run_logs_lines(tmp_path: Path) -> None:
    """With --plain, on a terminal too, there are only lines."""
    file = write_config(tmp_path)
    terminal = Terminal([sys.executable, "-m", "watchdog.cli.main", "run", "--plain", "--config", str(file)], tmp_path)
    try:
        terminal.until(b"ready: ")
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.end() == 0
    finally:
        terminal.close()
    assert b"\x1b[?1049h" not in terminal.seen


def test_a_reader_that_leaves_early_is_no_error(tmp_path: Path) -> None:
    """`proxywatch … | head` ends without a traceback."""
    file = write_config(tmp_path)
    program = [sys.executable, "-m", "watchdog.cli.main", "--config", str(file), "config", "show"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as reading:
        assert reading.stdout is not None
        assert reading.stderr is not None
        reading.stdout.close()
        complaint = reading.stderr.read()
    assert reading.returncode == 1
    assert complaint == b""
