"""`proxywatch backup create|list|verify|restore|undo|prune`: archives of configurations and databases.

Works on the files themselves, with and without the daemon, and with a configuration of our own that is broken.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

from watchdog.cli import text
from watchdog.cli.control import RefusedRequest, Unreachable, control_of
from watchdog.errors import BackupError, ConfigError

if TYPE_CHECKING:
    from watchdog.backups.holding import Holding
    from watchdog.backups.judging import Verdict
    from watchdog.backups.vault import Vault

Shape = dict[str, Any]
RELOAD_SECONDS = 60.0


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Adds the actions."""
    noun = commands.add_parser(
        "backup", aliases=["backups"], parents=[common], help="archives of configurations and databases"
    )
    actions = noun.add_subparsers(metavar="ACTION", required=True)
    create = actions.add_parser("create", parents=[common], help="make one now, and verify it")
    create.add_argument("names", nargs="*", metavar="NAME", help="proxywatch, or a service; default: all that are kept")
    create.set_defaults(do=_awaited(_create))
    listing = actions.add_parser("list", parents=[common], help="those that are there, newest first")
    listing.add_argument("name", nargs="?", metavar="NAME")
    listing.set_defaults(do=_list)
    verify = actions.add_parser("verify", parents=[common], help="unpack, judge and open what is in them")
    verify.add_argument("what", nargs="*", metavar="NAME|ARCHIVE", help="default: every archive")
    verify.set_defaults(do=_awaited(_verify))
    restore = actions.add_parser("restore", parents=[common], help="put the newest that verifies back")
    restore.add_argument("name", metavar="NAME")
    restore.add_argument("--archive", metavar="ARCHIVE", help="this one, as `list` names it")
    restore.add_argument(
        "--databases", action="store_true", help="those that are not sound too; the service is stopped"
    )
    restore.add_argument("--different", action="store_true", help="not the configuration that is in place")
    restore.set_defaults(do=_awaited(_restore))
    undo = actions.add_parser("undo", parents=[common], help="take the last restore by hand back, to the byte")
    undo.add_argument("name", metavar="NAME")
    undo.set_defaults(do=_awaited(_undo))
    prune = actions.add_parser("prune", parents=[common], help="remove what is older than `backups.keep`")
    prune.set_defaults(do=_awaited(_prune))


def _awaited(work: Callable[[argparse.Namespace], Coroutine[Any, Any, int]]) -> Callable[[argparse.Namespace], int]:
    """The command as others are; asyncio is loaded only where one of these is really run."""

    def do(options: argparse.Namespace) -> int:
        import asyncio

        return asyncio.run(work(options))

    return do


async def _create(options: argparse.Namespace) -> int:
    from watchdog.backups.making import create

    vault = _vault(options)
    made = []
    for name in options.names or list(vault.holdings):
        holding = _holding(vault, name)
        with _Progress(f"archiving {name}"):
            made.append(await create(vault.shelf, holding, now=_now(), reason="by hand"))
    return _say_verdicts(options, made)


def _list(options: argparse.Namespace) -> int:
    from watchdog.backups.archive import read_manifest

    vault = _vault(options)
    shapes: list[Shape] = []
    for archive in [*vault.shelf.archives(options.name), *vault.shelf.archives(options.name, found=True)]:
        shape: Shape = {"name": archive.name, "of": archive.holding, "bytes": archive.path.stat().st_size}
        try:
            manifest = read_manifest(archive.path)
            said = manifest.reason + (", a minimal configuration" if manifest.minimal else "")
            shape |= {"made_at": manifest.made_at, "said": said, "files": len(manifest.files)}
            shape |= {"databases": [m.path for m in manifest.members if m.kind == "database"], "problem": None}
        except BackupError as error:
            shape["problem"] = str(error).removeprefix(f"{archive.name}: ")
        shapes.append(shape)
    if options.json:
        text.say_json({"directory": str(vault.shelf.directory), "archives": shapes})
    elif not shapes:
        text.say(f"there is no archive in {vault.shelf.directory}")
    else:
        rows = [[s["name"], text.size(s["bytes"]), s["problem"] or _content(s)] for s in shapes]
        text.say(text.columns(rows))
    return 0


def _content(shape: Shape) -> str:
    databases = "".join(f", {Path(path).name}" for path in shape["databases"])
    return f"{text.count(shape['files'], 'file')}{databases}; {shape['said']}"


async def _verify(options: argparse.Namespace) -> int:
    from watchdog.backups.judging import examine

    vault = _vault(options)
    archives = vault.shelf.archives()
    if options.what:
        named = [a for word in options.what for a in vault.shelf.archives(word)]
        single = [w for w in options.what if w not in vault.holdings and not vault.shelf.archives(w)]
        archives = [*named, *(vault.shelf.find(word) for word in single)]
    verdicts = []
    for archive in archives:
        holding = vault.holdings.get(archive.holding)
        with _Progress(f"verifying {archive.name}"), vault.shelf.scratch() as scratch:
            verdicts.append(await examine(archive.path, () if holding is None else holding.check, scratch))
    return _say_verdicts(options, verdicts)


def _say_verdicts(options: argparse.Namespace, verdicts: list[Verdict]) -> int:
    bad = [verdict for verdict in verdicts if verdict.bad]
    shapes = [
        {
            "name": verdict.name,
            "good": not verdict.bad,
            "problem": verdict.bad or None,
            "left_out": verdict.manifest.left_out if verdict.manifest else {},
        }
        for verdict in verdicts
    ]
    if options.json:
        text.say_json({"archives": shapes})
    else:
        rows = [["fail" if s["problem"] else "ok", str(s["name"]), _remark(s)] for s in shapes]
        text.say(text.columns(rows, wrap_last=True) or "there is no archive")
    return 1 if bad or any(shape["left_out"] for shape in shapes) else 0


def _remark(shape: Shape) -> str:
    left_out = "; ".join(f"without {path}: {why}" for path, why in shape["left_out"].items())
    return str(shape["problem"] or left_out or "verified")


async def _restore(options: argparse.Namespace) -> int:
    from watchdog.backups.holding import OWN
    from watchdog.backups.restoring import Wanted, forget, plan_of, restore

    vault = _vault(options)
    holding = _holding(vault, options.name)
    if options.databases:
        await _require_stopped(options, holding)
    archive = vault.shelf.find(options.archive) if options.archive else None
    wanted = Wanted(databases=options.databases, different=options.different, archive=archive)
    async with vault.shelf.lock():
        point = vault.shelf.place(holding.name, _now(), point=True)
        try:
            with _Progress("") as progress:
                said = await restore(vault.shelf, holding, wanted, point, now=_now(), tell=progress)
        except BackupError:
            if not plan_of(point).exists():  # Nothing was changed, so `undo` still means the restore before this one.
                forget(point)
            raise
    await _require_good(options, vault, holding, point)
    taken_over = holding.name == OWN and _runs(options)
    if options.json:
        text.say_json({"restored": holding.name, "said": said, "point": point.name, "reloaded": taken_over})
        return 0
    text.say_sentence(said)
    text.say(f"`proxywatch backup undo {holding.name}` takes it back")
    if holding.name != OWN:
        text.say(f"{holding.name} reads it when it is restarted")
    elif not taken_over:
        text.say("the daemon does not run; start it with `proxywatch run`")
    return 0


async def _require_good(options: argparse.Namespace, vault: Vault, holding: Holding, point: Path) -> None:
    """What is in place now is judged there, and by the running daemon if it is its own; undone if it is refused."""
    from watchdog.backups.holding import OWN, read_pieces
    from watchdog.backups.judging import judge_pieces
    from watchdog.backups.restoring import forget
    from watchdog.backups.undoing import undo

    async with vault.shelf.lock():
        with vault.shelf.scratch() as scratch:
            problem = await judge_pieces(holding, read_pieces(holding), scratch)
    if not problem and holding.name == OWN:
        # Without the lock: the daemon archives what is in force before it takes over something else.
        try:
            control_of(options).post("/v1/reload", timeout=RELOAD_SECONDS)
        except RefusedRequest as error:
            problem = str(error)
        except Unreachable:
            return
    if problem:
        async with vault.shelf.lock():
            said = await undo(vault.shelf, holding, point, now=_now())
            forget(point)
        raise BackupError(f"it was refused in its place, and everything is as it was: {problem} ({said})")


def _runs(options: argparse.Namespace) -> bool:
    try:
        control_of(options).get("/v1/status")
    except (Unreachable, RefusedRequest):
        return False
    return True


async def _undo(options: argparse.Namespace) -> int:
    from watchdog.backups.archive import read_manifest
    from watchdog.backups.restoring import forget
    from watchdog.backups.undoing import undo

    vault = _vault(options)
    holding = _holding(vault, options.name)
    points = vault.shelf.archives(holding.name, points=True)
    if not points:
        raise BackupError(f"there is no restore point of {holding.name}", hint="only a restore by hand leaves one here")
    if read_manifest(points[0].path).databases:
        await _require_stopped(options, holding)
    async with vault.shelf.lock():
        said = await undo(vault.shelf, holding, points[0].path, now=_now())
        forget(points[0].path)
    if options.json:
        text.say_json({"undone": holding.name, "point": points[0].name, "said": said})
    else:
        text.say(f"{holding.name}: {said}")
    return 0


async def _prune(options: argparse.Namespace) -> int:
    from watchdog.backups.pruning import prune

    vault, loaded = _vault(options), _load(options)
    settings = loaded.config.backups
    gone = []
    for holding in vault.holdings.values():
        with _Progress(f"looking at the archives of {holding.name}"):
            async with vault.shelf.lock():
                gone += await prune(
                    vault.shelf, holding, now=_now(), keep=settings.keep, at_least=settings.keep_at_least
                )
    if options.json:
        text.say_json({"removed": [archive.name for archive in gone]})
    else:
        text.say([f"removed {archive.name}" for archive in gone] or "nothing is too old")
    return 0


async def _require_stopped(options: argparse.Namespace, holding: Holding) -> None:
    from watchdog.backups.holding import OWN

    hint = "stop it first; its databases are in use"
    if holding.name == OWN:
        if _runs(options):
            raise BackupError("proxywatch runs", hint=hint)
        return
    state = await _state(options, holding.name)
    if state not in {"stopped", "failed"}:
        raise BackupError(f"{holding.name} is {state}", hint=hint)


async def _state(options: argparse.Namespace, name: str) -> str:
    from watchdog.clock import SystemClock
    from watchdog.system.http import HttpClient
    from watchdog.system.services import ServiceContext, services

    config, http = _load(options).config, HttpClient()
    try:
        context = ServiceContext(name, config.run_dir, config.log_dir, SystemClock(), http)
        controller = services.implementation(config.services[name].kind)(config.services[name], context)
        return str((await controller.status()).state)
    finally:
        await http.close()


def _vault(options: argparse.Namespace) -> Vault:
    """As configured; with a configuration of our own that is refused, from what its archives say of themselves."""
    from watchdog.environment import own_programs_first
    from watchdog.holdings import rescue_vault, vault_of

    own_programs_first()
    try:
        return vault_of(_load(options))
    except ConfigError as error:
        from watchdog.cli.places import backups_directory, config_file

        file = config_file(options.config)
        vault = None if file is None else rescue_vault(backups_directory(options.config), file)
        if vault is None:
            raise
        print(f"proxywatch: {error}; going by what the archives say of themselves", file=sys.stderr)
        return vault


def _load(options: argparse.Namespace) -> Any:
    from watchdog.settings import load_config

    return load_config(Path(options.config) if options.config else None)


def _holding(vault: Vault, name: str) -> Holding:
    try:
        return vault.holding(name)
    except BackupError as error:
        raise ConfigError(str(error), hint=error.hint) from None


def _now() -> float:
    from watchdog.clock import SystemClock

    return SystemClock().wall()


class _Progress:
    """What is being done, on a terminal only: a line of standard error that the next one replaces."""

    def __init__(self, doing: str) -> None:
        self._shown = sys.stderr.isatty()
        if doing:
            self(doing)

    def __call__(self, doing: str) -> None:
        if self._shown:
            print(f"\r\x1b[K{text.shortened(doing, text.width())} …", end="", file=sys.stderr, flush=True)

    def __enter__(self) -> Callable[[str], None]:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
