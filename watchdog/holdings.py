"""What is archived of which program, from the configuration: the agent's own files, and each service's `recovery`."""

from __future__ import annotations

import sys
from pathlib import Path

from watchdog.backups.archive import read_manifest
from watchdog.backups.holding import OWN, Holding
from watchdog.backups.shelf import Shelf
from watchdog.backups.vault import Vault
from watchdog.errors import BackupError
from watchdog.settings import Config, Loaded
from watchdog.system.services.recovery import Recovery

OWN_CHECK = (sys.executable, "-m", "watchdog.cli.main", "config", "check", "{file}")


def vault_of(loaded: Loaded) -> Vault:
    """Shelf and holdings of a configuration."""
    return Vault(Shelf(shelf_directory(loaded.config)), holdings_of(loaded))


def rescue_vault(directory: Path, file: Path) -> Vault | None:
    """What can be put back of the agent's own although its configuration cannot be read: by the newest archive whose
    main file that is, and only beside it and below. None if there is none."""
    shelf = Shelf(directory)
    for each in shelf.archives(OWN):
        try:
            manifest = read_manifest(each.path)
        except BackupError:
            continue
        base = file.absolute().parent
        if manifest.main == str(file.absolute()) and all(Path(p).is_relative_to(base) for p in manifest.patterns):
            databases = tuple(map(Path, manifest.databases))
            return Vault(shelf, {OWN: Holding(OWN, manifest.patterns, databases, OWN_CHECK)})
    return None


def shelf_directory(config: Config) -> Path:
    """Where archives are: as configured, else below the state directory."""
    return config.backups.directory or config.state_dir / "backups"


def holdings_of(loaded: Loaded) -> dict[str, Holding]:
    """By name, the agent's own first."""
    config, base = loaded.config, loaded.file.absolute().parent
    named = (*config.rules, *config.playbooks, config.routes)
    own = Holding(
        OWN,
        (str(loaded.file.absolute()), str(base / "conf.d/*.yaml"), *(str(base / pattern) for pattern in named)),
        (config.state_dir.absolute() / "proxywatch.db",),
        OWN_CHECK,
    )
    services = {
        name: holding_of(name, service.recovery)
        for name, service in config.services.items()
        if service.recovery is not None
    }
    return {OWN: own, **services}


def holding_of(name: str, recovery: Recovery) -> Holding:
    """A service's."""
    return Holding(
        name,
        tuple(str(Path(pattern).absolute()) for pattern in recovery.files),
        tuple(database.absolute() for database in recovery.databases),
        recovery.check,
        recovery,
    )
