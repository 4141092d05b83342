"""`llm-proxy`: the command line. Parses, calls one function, prints; exit 0, 1 (failed) or 2 (wrong use or file)."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from proxy import __version__
from proxy.errors import ConfigError, ProxyError

_RECYCLE_TIMEOUT_SECONDS = 3600.0
_DEMO_TIMEOUT_SECONDS = 5.0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit status."""
    given = list(sys.argv[1:] if argv is None else argv)
    arguments = _parser().parse_args(_with_command(given))
    command: Callable[[argparse.Namespace], int] = arguments.command
    try:
        return command(arguments)
    except ConfigError as error:
        _complain(f"{error}{f' ({error.hint})' if error.hint else ''}")
        return 1 if command in (_worker, _zygote) else 2
    except ProxyError as error:
        _complain(str(error))
        return 2
    except BrokenPipeError:
        return 1


def _with_command(given: list[str]) -> list[str]:
    """`run` is what a bare `llm-proxy --port 9000` means."""
    bare = not given or (given[0].startswith("-") and given[0] not in ("-h", "--help", "--version"))
    return ["run", *given] if bare else given


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="llm-proxy", description="A small OpenAI-compatible proxy. Without a command it runs."
    )
    parser.add_argument("--version", action="version", version=f"llm-proxy {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="serve until SIGTERM")
    _config_option(run)
    run.add_argument("--host")
    run.add_argument("--port", type=int)
    run.add_argument("--workers", type=int)
    run.set_defaults(command=_run)

    config = commands.add_parser("config", help="judge a configuration").add_subparsers(required=True, metavar="WHAT")
    check = config.add_parser("check", help="say whether FILE could be run")
    check.add_argument("file", nargs="?")
    check.add_argument(
        "--without-secrets", action="store_true", help="for another user: do not look at the files that hold secrets"
    )
    check.set_defaults(command=_config_check)

    keys = commands.add_parser("key", help="make callers' keys").add_subparsers(required=True, metavar="WHAT")
    new = keys.add_parser("new", help="make a key, and its entry for the configuration")
    new.add_argument("--id", default="new-key")
    new.add_argument("--admin", action="store_true")
    new.set_defaults(command=_key_new)
    hashed = keys.add_parser("hash", help="the hash of a key that comes on standard input")
    hashed.set_defaults(command=_key_hash)

    status = commands.add_parser("status", help="what the master and its workers do")
    _config_option(status)
    status.add_argument("--json", action="store_true")
    status.set_defaults(command=_status)

    recycle = commands.add_parser("recycle", help="replace one worker, or all, one at a time, without losing a request")
    _config_option(recycle)
    recycle.add_argument("slot", nargs="?", type=int)
    recycle.set_defaults(command=_recycle)

    age = commands.add_parser("recycle-age", help="have workers replaced younger than configured, for a while")
    _config_option(age)
    age.add_argument("age", metavar="DURATION", help="how old a worker may become; 0 ends what was ordered")
    age.add_argument("--for", dest="lasting", metavar="DURATION", default="24h")
    age.add_argument("--reason", default="by hand")
    age.set_defaults(command=_recycle_age)

    reload = commands.add_parser(
        "reload", help="take the configuration over; a bad one is refused, and nothing changes"
    )
    _config_option(reload)
    reload.add_argument("--run-dir", type=Path, help="of the service that runs, if its file may be too bad to say")
    reload.set_defaults(command=_reload)

    usage = commands.add_parser("usage", help="what the ledger says was used, and what it cost")
    _config_option(usage)
    usage.add_argument("--since", metavar="DURATION", default="24h")
    usage.add_argument("--by", choices=("model", "caller", "provider"), default="model")
    usage.add_argument("--json", action="store_true")
    usage.set_defaults(command=_usage)

    demo = commands.add_parser("demo", help="tell a demo upstream how to behave")
    _config_option(demo)
    demo.add_argument("name")
    demo.add_argument("mode")
    demo.add_argument("--seconds", type=float, dest="delay_seconds", help="delay of slow and silent")
    demo.add_argument("--retry-after", type=float)
    demo.add_argument("--after-chunks", type=int)
    demo.add_argument("--chunks", type=int)
    demo.add_argument("--chunk-delay", type=float, dest="chunk_delay_seconds")
    demo.add_argument("--for-requests", type=int)
    demo.add_argument("--text", help="what it answers to everything, word for word")
    demo.add_argument("--same-text", action="store_true", default=None, help="leave its name out of what it answers")
    demo.set_defaults(command=_demo)

    worker = commands.add_parser("worker")
    worker.add_argument("order_fd", type=int)
    worker.set_defaults(command=_worker)

    upstream = commands.add_parser("demo-upstream")
    upstream.add_argument("--name", required=True)
    upstream.add_argument("--port", type=int, required=True)
    upstream.set_defaults(command=_demo_upstream)

    zygote = commands.add_parser("zygote")
    zygote.add_argument("control_fd", type=int)
    zygote.set_defaults(command=_zygote)
    return parser


def _config_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="FILE", default=os.environ.get("LLM_PROXY_CONFIG"))


def _run(arguments: argparse.Namespace) -> int:
    from proxy import namesake

    if (fault := namesake.fault()) is not None:
        _complain(fault)
        return 2
    from proxy.forking import Zygote

    overrides = {name: value for name in ("host", "port", "workers") if (value := getattr(arguments, name)) is not None}
    zygote = Zygote()  # at once, for it imports while this process does
    try:
        from proxy import master

        return master.run(zygote, arguments.config, overrides)
    finally:
        zygote.close()


def _load(file: str | None, overrides: dict[str, Any], *, secrets: bool = True) -> Any:
    from proxy import config_file

    return config_file.load(config_file.find(file), os.environ, overrides, secrets=secrets)


def _config_check(arguments: argparse.Namespace) -> int:
    secrets = not arguments.without_secrets
    loaded = _load(arguments.file or os.environ.get("LLM_PROXY_CONFIG"), {}, secrets=secrets)
    print(f"{loaded.file}: good")
    return 0


def _key_new(arguments: argparse.Namespace) -> int:
    from proxy import key_command

    key_command.new(arguments.id, admin=arguments.admin, out=sys.stdout)
    return 0


def _key_hash(_arguments: argparse.Namespace) -> int:
    from proxy import key_command

    key_command.hashed(key_command.prompt(), sys.stdout)
    return 0


def _zygote(arguments: argparse.Namespace) -> int:
    from proxy import zygote

    return zygote.run(arguments.control_fd)


def _worker(arguments: argparse.Namespace) -> int:
    from proxy import worker

    with os.fdopen(arguments.order_fd, "rb") as order:
        return worker.run(worker.Order(**json.load(order)))


def _demo_upstream(arguments: argparse.Namespace) -> int:
    import ctypes
    import signal

    from proxy.demo import server

    # It has no pipe to a master, so the kernel tells it of the master's death (prctl(2), PR_SET_PDEATHSIG).
    ctypes.CDLL(None).prctl(1, int(signal.SIGTERM))
    server.run(arguments.name, arguments.port)
    return 0


def _ask_master(
    arguments: argparse.Namespace,
    method: str,
    target: str,
    timeout: float,
    run_dir: Path | None = None,
    body: dict[str, Any] | None = None,
) -> tuple[int, dict[str, Any]]:
    from proxy.control import request

    socket_path = (run_dir or _load(arguments.config, {}).settings.run_dir) / "master.sock"
    try:
        return request(socket_path, method, target, body, timeout=timeout)
    except OSError as error:
        raise ProxyError(f"no llm-proxy answers at {socket_path}: {error.strerror or error}") from error


def _status(arguments: argparse.Namespace) -> int:
    _, status = _ask_master(arguments, "GET", "/status", 5.0)
    if arguments.json:
        print(json.dumps(status, indent=2))
        return 0
    place = f"http://{status['host']}:{status['port']}"
    lines = [f"llm-proxy {status['version']} {status['state']} on {place} pid {status['pid']}"]
    lines += [
        f"  worker {worker['slot']}: {worker['state']} pid {worker['pid']} "
        f"starts {worker['starts']} crashes {worker['crashes']} last exit: {worker['last_exit'] or 'none'}"
        for worker in status["workers"]
    ]
    print("\n".join(lines))
    return 0 if status["state"] == "serving" else 1


def _recycle(arguments: argparse.Namespace) -> int:
    target = "/recycle" if arguments.slot is None else f"/workers/{arguments.slot}/recycle"
    code, answer = _ask_master(arguments, "POST", target, _RECYCLE_TIMEOUT_SECONDS)
    if code != 200:
        _complain(str(answer.get("error", answer)))
        return 1
    for done in answer.get("recycled", [answer | {"slot": arguments.slot}]):
        print(f"worker {done['slot']}: pid {done['old_pid']} replaced by {done['new_pid']}")
    return 0


def _recycle_age(arguments: argparse.Namespace) -> int:
    from proxy.settings import parse_duration

    try:
        seconds = parse_duration(0 if arguments.age == "0" else arguments.age)
        order = {"seconds": seconds, "for_seconds": parse_duration(arguments.lasting), "reason": arguments.reason}
    except ValueError as error:
        raise ProxyError(str(error)) from None
    code, answer = _ask_master(arguments, "POST", "/recycle-age", 5.0, body=order)
    if code != 200:
        _complain(str(answer.get("error", answer)))
        return 1
    age = answer["seconds"]
    print("workers may become any age" if age is None else f"workers are replaced after {age:g} s at the latest")
    return 0


def _reload(arguments: argparse.Namespace) -> int:
    code, answer = _ask_master(arguments, "POST", "/reload", _RECYCLE_TIMEOUT_SECONDS, arguments.run_dir)
    if code != 200:
        _complain(str(answer.get("error", answer)))
        return 1
    print(f"reloaded; {len(answer['recycled'])} workers replaced")
    return 0


def _usage(arguments: argparse.Namespace) -> int:
    from dataclasses import asdict

    from proxy.clock import SystemClock
    from proxy.ledger.usage import table, used
    from proxy.settings import parse_duration

    settings = _load(arguments.config, {}).settings
    if settings.ledger.kind != "sqlite":
        raise ProxyError("the ledger is in PostgreSQL: ask its table llm_proxy_requests")
    try:
        since = SystemClock().wall() - parse_duration(arguments.since)
    except ValueError as error:
        raise ProxyError(f"--since: {error}") from None
    rows = used(settings.ledger.file or settings.state_dir / "ledger.sqlite", since, arguments.by)
    print(json.dumps([asdict(row) for row in rows], indent=2) if arguments.json else table(rows, arguments.by))
    return 0


def _demo(arguments: argparse.Namespace) -> int:
    import urllib.error
    import urllib.request

    ports = {p.name: p.port for p in _load(arguments.config, {}).settings.providers if p.kind == "local"}
    if arguments.name not in ports:
        raise ProxyError(f"no provider {arguments.name!r} of kind local; expected one of {', '.join(sorted(ports))}")
    told = ("mode", "delay_seconds", "retry_after", "after_chunks", "chunks", "chunk_delay_seconds", "for_requests")
    behaviour = {
        name: value for name in (*told, "text", "same_text") if (value := getattr(arguments, name)) is not None
    }
    url = f"http://127.0.0.1:{ports[arguments.name]}/_demo/behaviour"
    call = urllib.request.Request(
        url, json.dumps(behaviour).encode(), {"content-type": "application/json"}, method="POST"
    )
    try:
        with urllib.request.urlopen(call, timeout=_DEMO_TIMEOUT_SECONDS) as response:  # noqa: S310
            print(response.read().decode().strip())
    except urllib.error.HTTPError as error:
        _complain(error.read().decode().strip())
        return 2
    except OSError as error:
        raise ProxyError(f"the demo upstream {arguments.name} does not answer at {url}: {error}") from error
    return 0


def _complain(line: str) -> None:
    sys.stderr.write(f"llm-proxy: {line}\n")


if __name__ == "__main__":
    sys.exit(main())
