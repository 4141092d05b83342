"""The master over real processes: deaths, recycles, stacks, reload, its own death, its own end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import plain_http
from proxy_service import Service, free_port

HELLO = {"model": "demo-small", "messages": [{"role": "user", "content": "hello"}]}


def serving(service: Service, slot: int, not_pid: int) -> int | None:
    worker = service.workers()[slot]
    return worker["pid"] if worker["state"] == "serving" and worker["pid"] != not_pid else None


def counted(service: Service) -> float:
    text = plain_http.get(service.url("/metrics"), headers={"accept": "text/plain"}).text
    return sum(
        float(line.rsplit(" ", 1)[1])
        for line in text.splitlines()
        if line.startswith('http_requests_total{method="POST"')
    )


def test_a_killed_worker_is_replaced_at_once_and_counters_never_go_back(shared: Service) -> None:
    """After kill -9 the slot starts again without a delay, the other worker answers, and no count is lost."""
    for _ in range(4):
        assert plain_http.post(shared.url("/v1/chat/completions"), json=HELLO).status_code == 200
    before = counted(shared)
    old = shared.workers()[0]
    os.kill(old["pid"], signal.SIGKILL)
    assert plain_http.post(shared.url("/v1/chat/completions"), json=HELLO).status_code == 200
    shared.until(lambda: serving(shared, 0, old["pid"]))
    worker = shared.workers()[0]
    assert (worker["last_exit"], worker["crashes"], worker["consecutive_crashes"]) == ("signal 9", 1, 1)
    assert worker["next_start_at"] is None
    assert before >= 4
    assert counted(shared) == before + 1
    assert len(list((shared.place / "run/metrics").glob("*.metrics"))) == 3, "the dead worker's file was folded"


def test_a_recycle_names_the_pid_that_it_means(shared: Service) -> None:
    """A graceful recycle answers when the replacement serves; repeated with the old pid it touches nobody."""
    old = shared.workers()[1]["pid"]
    code, answer = shared.ask("POST", "/workers/1/recycle", {"mode": "graceful", "expect_pid": old})
    assert (code, answer["old_pid"]) == (200, old)
    assert shared.workers()[1]["pid"] == answer["new_pid"]
    assert shared.ask("POST", "/workers/1/recycle", {"mode": "kill", "expect_pid": old})[0] == 409
    assert shared.ask("POST", "/workers/1/recycle", {"mode": "gently"})[0] == 400
    assert shared.ask("POST", "/workers/9/recycle")[0] == 404
    assert shared.workers()[1]["pid"] == answer["new_pid"]
    shared.until(lambda: not Path(f"/proc/{old}").exists())


def test_stacks_of_a_blocked_worker_name_the_guilty_line(shared: Service) -> None:
    """While an event loop is blocked, the dump still names the function that holds it."""
    caller = threading.Thread(
        target=httpx.post,
        args=(shared.url("/debug/fault"),),
        kwargs={"json": {"kind": "block", "seconds": 2}, "headers": shared.admin, "timeout": 10},
    )
    caller.start()
    try:
        shared.until(
            lambda: any("hold_the_event_loop" in shared.ask("POST", f"/workers/{n}/stacks")[1]["text"] for n in (0, 1)),
            2,
        )
    finally:
        caller.join()


def test_a_stopped_worker_gives_no_stacks_and_is_killed_and_replaced(shared: Service) -> None:
    """A worker in SIGSTOP is reported as such; a recycle by kill replaces it, without a crash being counted."""
    old = shared.workers()[0]
    os.kill(old["pid"], signal.SIGSTOP)
    code, answer = shared.ask("POST", "/workers/0/stacks")
    assert code == 504
    assert "T (stopped)" in answer["error"]
    code, answer = shared.ask("POST", "/workers/0/recycle", {"mode": "kill", "expect_pid": old["pid"]})
    assert code == 200, answer
    assert shared.workers()[0]["crashes"] == old["crashes"]


def test_events_are_told_as_they_happen(shared: Service) -> None:
    """The stream begins with the status and then names each change with slot and pid."""
    old = shared.workers()[0]["pid"]
    transport = plain_http.HTTPTransport(uds=str(shared.control))
    with plain_http.Client(transport=transport, timeout=15) as client, client.stream("GET", "http://x/events") as told:
        lines = told.iter_lines()
        assert json.loads(next(lines))["state"] == "serving"
        os.kill(old, signal.SIGKILL)
        seen = [json.loads(next(lines)) for _ in range(2)]
        while seen[-1]["event"] != "serving":
            seen.append(json.loads(next(lines)))
    assert (seen[0]["event"], seen[0]["pid"], seen[0]["last_exit"]) == ("exited", old, "signal 9")
    assert "starting" in {line["event"] for line in seen}


def test_a_rolling_recycle_replaces_every_worker(shared: Service) -> None:
    """POST /recycle replaces all, one at a time, and answers when the old ones are gone."""
    shared.until(lambda: all(worker["state"] == "serving" for worker in shared.workers()))
    before = [worker["pid"] for worker in shared.workers()]
    code, answer = shared.ask("POST", "/recycle")
    assert code == 200, answer
    assert [done["old_pid"] for done in answer["recycled"]] == before
    assert not any(Path(f"/proc/{pid}").exists() for pid in before)


def test_a_demo_upstream_that_dies_is_replaced(shared: Service) -> None:
    """The provider of kind local comes back by itself."""
    record = json.loads((shared.place / "run/children.json").read_bytes())
    (old,) = [row["pid"] for row in record if row["name"] == "demo-demo"]
    os.kill(old, signal.SIGKILL)
    shared.until(
        lambda: plain_http.get(f"http://127.0.0.1:{shared.settings['providers'][0]['port']}/v1/models").is_success
    )


def test_a_second_master_refuses_and_secrets_are_private(shared: Service) -> None:
    """The same run_dir is refused with the holder's pid and exit 2; key and sockets are for their owner alone."""
    second = subprocess.run(
        [sys.executable, "-m", "proxy", "run", "--config", str(shared.config)], capture_output=True, check=False
    )
    assert second.returncode == 2
    assert f"runs as pid {shared.masters[0].pid}" in second.stderr.decode()
    for private in ("admin.key", "run/master.sock", "run/worker-0.sock", "run/worker-1.sock"):
        assert (shared.place / private).stat().st_mode & 0o077 == 0, private


def test_a_reload_keeps_the_last_good_configuration(shared: Service) -> None:
    """A broken file changes nothing but one line and one flag; a good one reaches every worker."""
    before = [worker["pid"] for worker in shared.workers()]
    shared.config.write_text("porrt: 1\n")
    shared.masters[0].send_signal(signal.SIGHUP)
    assert "c.yaml:1: porrt: unknown key; did you mean port?" in shared.hear("reload refused")
    assert shared.ask("GET", "/status")[1]["config_last_reload_successful"] is False
    assert [worker["pid"] for worker in shared.workers()] == before
    shared.settings["max_body_mb"] = 0.001
    shared.write()
    shared.masters[0].send_signal(signal.SIGHUP)
    shared.hear("reloaded")
    assert shared.ask("GET", "/status")[1]["config_last_reload_successful"] is True
    assert not {worker["pid"] for worker in shared.workers()} & set(before)
    assert plain_http.post(shared.url("/v1/chat/completions"), content=b"x" * 5000).status_code == 413


def test_the_command_reload_waits_for_the_end_and_fails_where_it_was_refused(service: Service) -> None:
    """`llm-proxy reload` returns with every worker replaced; of a bad file, although it cannot be read, it says why."""
    service.start()
    before = {worker["pid"] for worker in service.workers()}

    def reload(*where: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "proxy", "reload", *where]
        return subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60)

    done = reload("--config", str(service.config))
    assert (done.returncode, done.stdout) == (0, f"reloaded; {len(before)} workers replaced\n")
    assert not before & {worker["pid"] for worker in service.workers()}
    service.config.write_text("porrt: 1\n")
    refused = reload("--run-dir", str(service.place / "run"))
    assert refused.returncode == 1
    assert "the last good configuration stays" in refused.stderr
    assert "porrt: unknown key" in refused.stderr
    assert service.ask("GET", "/status")[1]["config_last_reload_successful"] is False


def test_a_worker_that_cannot_start_is_tried_less_and_less_often_until_it_can(service: Service) -> None:
    """Without its secret a worker exits 1 with the reason; delays grow; with the secret back it serves by itself."""
    secret = service.place / "upstream.key"
    secret.write_text("s3cret")
    secret.chmod(0o600)
    provider = {"name": "other", "kind": "openai", "base_url": "http://127.0.0.1:9/v1", "api_key_file": str(secret)}
    service.settings["providers"].append(provider)
    service.settings["workers"] = 1
    service.start()
    secret.rename(service.place / "away")
    os.kill(service.workers()[0]["pid"], signal.SIGKILL)
    service.until(lambda: service.workers()[0]["consecutive_crashes"] >= 3)
    worker = service.until(lambda: (w := service.workers()[0])["state"] == "backoff" and w)
    assert worker["last_exit"].startswith("exit 1: ")
    assert "upstream.key" in worker["last_exit"]
    assert worker["next_start_at"] > time.time() - 1
    (service.place / "away").rename(secret)
    code, answer = service.ask("POST", "/workers/0/recycle")
    assert (code, answer["old_pid"]) == (200, None)
    assert service.workers()[0]["consecutive_crashes"] >= 3


def test_workers_drain_when_the_master_is_killed_and_its_successor_serves(service: Service) -> None:
    """After kill -9 of the master its workers leave the port, even a stopped one is ended, and a new master serves."""
    service.settings["port"] = free_port()
    service.start()
    orphans = [worker["pid"] for worker in service.workers()]
    os.kill(orphans[1], signal.SIGSTOP)
    service.masters[0].kill()
    service.masters[0].wait()
    service.until(lambda: not Path(f"/proc/{orphans[0]}").exists())
    service.start()
    assert plain_http.get(service.url("/health/live")).status_code == 200
    service.until(lambda: not Path(f"/proc/{orphans[1]}").exists())


def test_the_end_finishes_what_is_in_hand(service: Service) -> None:
    """On SIGTERM a stream in progress is delivered whole, the exit status is 0, and no process or socket is left."""
    service.settings["workers"] = 1
    service.start()
    demo = f"http://127.0.0.1:{service.settings['providers'][0]['port']}/_demo/behaviour"
    plain_http.post(demo, json={"mode": "ok", "chunks": 10, "chunk_delay_seconds": 0.1})
    pids = [row["pid"] for row in json.loads((service.place / "run/children.json").read_bytes())]
    with plain_http.stream("POST", service.url("/v1/chat/completions"), json={**HELLO, "stream": True}) as reply:
        lines = reply.iter_lines()
        assert next(lines).startswith("data: ")
        service.masters[0].send_signal(signal.SIGTERM)
        rest = [line for line in lines if line]
    assert rest[-1] == "data: [DONE]"
    assert service.masters[0].wait(timeout=20) == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert not list((service.place / "run").glob("*.sock"))


def test_systemd_is_told_and_its_socket_is_used(service: Service) -> None:
    """READY=1 comes once a worker serves, STOPPING=1 at the end; a socket that was passed is the one served."""
    service.write()
    address = service.place / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify, socket.socket() as listener:
        notify.bind(str(address))
        notify.settimeout(15)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        activate = (
            "import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ['LISTEN_PID'] = str(os.getpid());"
            "os.environ['LISTEN_FDS'] = '1'; os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"
        )
        service.masters.append(
            subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    activate,
                    str(listener.fileno()),
                    "-m",
                    "proxy",
                    "--config",
                    str(service.config),
                ],
                pass_fds=[listener.fileno()],
                stderr=subprocess.PIPE,
                env={**os.environ, "NOTIFY_SOCKET": str(address)},
            )
        )
        heard: list[bytes] = []
        while b"READY=1" not in heard:
            heard.append(notify.recv(1024))
        assert plain_http.get(f"http://127.0.0.1:{port}/health/ready").status_code == 200
        assert service.stop() == 0
        while not heard[-1].startswith(b"STOPPING=1\nEXTEND_TIMEOUT_USEC="):
            heard.append(notify.recv(1024))
    assert any(line.startswith(b"STATUS=") for line in heard)
