"""Install, upgrade and uninstall below a directory, as one makes an image: real files, no systemd."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from watchdog.errors import InstallationError
from watchdog.installation.executor import Line
from watchdog.installation.layout import RECORD
from watchdog.installation.operations import Wanted, install, left, uninstall, upgrade
from watchdog.installation.release import running
from watchdog.installation.world import Done, World, open_world, run_command
from watchdog.release import __version__

ROUTES = "/etc/proxywatch/routes.yaml"
UNIT = "/usr/local/lib/systemd/system/proxywatch.service"
KEY = "/etc/credstore/proxywatch/llm-proxy-admin.key"
VENV = Path("/srv/venv")


def commands(root: Path, *, fails: Sequence[str], judging: bool) -> Callable[[Sequence[str], float], Done]:
    """Commands of a host whose `systemctl --root` makes and removes links; `fails`: words of commands that do not work.
    With `judging` our own programs are really run to judge the configuration, else they find it good."""

    def command(argv: Sequence[str], seconds: float) -> Done:
        wants = root / "etc/systemd/system/multi-user.target.wants"
        if any(word in argv for word in fails):
            return Done(1, "it does not work\n")
        if argv[0].endswith("/bin/proxywatch"):
            return Done(0, json.dumps({"version": __version__}))
        if "check" in argv:
            return run_command(argv, seconds) if judging else Done(0, "")
        assert argv[0] == "systemctl"
        wants.mkdir(parents=True, exist_ok=True)
        for unit in argv[4:]:
            (wants / unit).unlink(missing_ok=True)
            if argv[2] == "enable":
                (wants / unit).symlink_to(f"/usr/local/lib/systemd/system/{unit}")
        return Done(0, "")

    return command


class Image:
    """One image and what was said of each step in the last operation."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("llm-proxy", "proxywatch"):
            program = self.at(f"{VENV}/bin/{name}")
            program.parent.mkdir(parents=True, exist_ok=True)
            program.touch()
        self.lines: list[Line] = []
        self.release = running()

    def at(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def world(self, fails: Sequence[str] = (), *, judging: bool = False) -> World:
        return open_world(self.root, commands(self.root, fails=fails, judging=judging))

    def install(self, *, fails: Sequence[str] = (), rehearsal: bool = False, judging: bool = False) -> bool:
        self.lines = []
        wanted = Wanted(venv=VENV, rehearsal=rehearsal)
        return install(self.world(fails, judging=judging), self.release, wanted, self.lines.append)

    def upgrade(self, *, fails: Sequence[str] = (), rehearsal: bool = False) -> bool:
        self.lines = []
        return upgrade(self.world(fails), self.release, self.lines.append, rehearsal=rehearsal)

    def refused_upgrade(self) -> str:
        """Why an upgrade that is refused says that it is."""
        with pytest.raises(InstallationError) as failure:
            self.upgrade()
        return str(failure.value.__cause__ or failure.value)

    def uninstall(self, *, purge: bool = False) -> bool:
        self.lines = []
        return uninstall(self.world(), self.lines.append, purge=purge)

    def became(self) -> dict[str, str]:
        return {line.says: line.became for line in self.lines}

    def files(self) -> dict[str, bytes]:
        return {str(p.relative_to(self.root)): p.read_bytes() for p in self.root.rglob("*") if p.is_file()}

    def record_as(self, release: str, files: Mapping[str, str]) -> None:
        """As if another release had been installed, whose content of `files` was this."""
        record = json.loads(self.at(RECORD).read_text())
        record["release"] = release
        self.at(RECORD).write_text(json.dumps(record))
        for path, text in files.items():
            world = self.world()
            world.write(path, text.encode(), 0o640)
            world.save()


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return Image(tmp_path)


def test_an_installation_is_done_once(image: Image) -> None:
    """The first says what it did, the second says of every step that there is nothing to do, and touches nothing."""
    assert image.install()
    assert {"did", "ok"} == set(image.became().values())
    before = image.files()
    assert not image.install()
    assert set(image.became().values()) == {"ok"}
    assert image.files() == before


def test_a_rehearsal_says_what_will_be_done_and_does_nothing(image: Image) -> None:
    """--dry-run names exactly the steps that the installation then does."""
    before = image.files()
    assert image.install(rehearsal=True)
    would = [says for says, became in image.became().items() if became == "would"]
    assert image.files() == before
    image.install()
    did = [says for says, became in image.became().items() if became == "did"]
    # A judgement that is good has nothing to do, which nobody knows before there is something to judge.
    assert [says for says in would if "judged" not in says] == did


def test_both_programs_accept_what_was_installed(image: Image) -> None:
    """The judging step is good in the end, for the real programs; it is what fails if the configuration is broken."""
    image.install(judging=True)
    image.at("/etc/llm-proxy/llm-proxy.yaml").write_text("workers: many\n")
    with pytest.raises(InstallationError, match="judged: failed"):
        image.install(judging=True)
    assert "workers" in image.lines[-1].note


def test_only_root_reads_the_key_and_it_stands_nowhere_else(image: Image) -> None:
    """Mode 0600, made anew on each host, in no other file and no message; a second installation keeps it."""
    image.install()
    place = image.at(KEY)
    key = place.read_bytes().strip()
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    assert len(key) >= 40
    assert [path for path, content in image.files().items() if key in content] == [KEY.lstrip("/")]
    assert key.decode() not in " ".join(f"{line.says} {line.note}" for line in image.lines)
    image.install()
    assert place.read_bytes().strip() == key


def test_a_file_that_was_changed_is_never_overwritten(image: Image) -> None:
    """An upgrade puts its own text beside it as FILE.new, says so once, and leaves it alone the next time."""
    image.install()
    packaged = image.at(ROUTES).read_bytes()
    image.record_as("0.0-old", {ROUTES: "the old release's text\n", UNIT: "[Unit]\n"})
    image.at(ROUTES).write_text("my routes\n")
    assert image.upgrade()
    (line,) = [line for line in image.lines if line.says == f"write {ROUTES}"]
    assert (line.became, "stays" in line.note) == ("did", True)
    assert image.at(ROUTES).read_text() == "my routes\n"
    assert image.at(f"{ROUTES}.new").read_bytes() == packaged
    assert image.at(UNIT).read_text().startswith("# proxywatch")
    assert not image.upgrade()
    assert image.became()[f"write {ROUTES}"] == "kept"


def test_an_upgrade_that_fails_leaves_everything_as_it_was(image: Image) -> None:
    """A judgement that refuses it takes back what the upgrade had changed: units, configuration, files beside."""
    image.install()
    image.record_as("0.0-old", {UNIT: "[Unit]\nDescription=old\n", "/etc/proxywatch/rules/gone.yaml": "groups: []\n"})
    before, written = image.files(), image.at(UNIT).stat().st_mtime_ns
    with pytest.raises(InstallationError, match="all is as it was before"):
        image.upgrade(fails=["check"])
    assert image.files() == before
    assert image.at(UNIT).stat().st_mtime_ns == written
    assert image.became()[f"write {UNIT}"] == "back"
    assert image.upgrade()
    assert not image.at("/etc/proxywatch/rules/gone.yaml").exists()


def test_an_installation_that_fails_says_what_stands_and_goes_on(image: Image) -> None:
    """The first failure stops it; the same command continues from there."""
    with pytest.raises(InstallationError, match="enable") as failure:
        image.install(fails=["systemctl"])
    assert "steps before it stand" in failure.value.hint
    assert image.lines[-1] == Line("failed", image.lines[-1].says, image.lines[-1].note)
    assert image.install()
    assert [says for says, became in image.became().items() if became == "did"] == [image.lines[-1].says]


def test_another_release_is_no_installation(image: Image) -> None:
    """install refuses to mix two releases and names upgrade; upgrade without anything installed names install."""
    with pytest.raises(InstallationError) as failure:
        image.upgrade()
    assert failure.value.hint == "proxywatch install"
    image.install()
    image.record_as("0.0-old", {})
    with pytest.raises(InstallationError, match=r"0\.0-old is installed") as failure:
        image.install()
    assert failure.value.hint == "proxywatch upgrade"


def test_a_unit_that_would_hide_ours_is_refused(image: Image) -> None:
    """One of the same name in /etc/systemd/system, or a mask there, is named with what to do about it."""
    image.install()
    place = image.at("/etc/systemd/system/proxywatch.service")
    place.symlink_to("/dev/null")
    with pytest.raises(InstallationError, match="masked") as failure:
        image.install()
    assert failure.value.hint == "systemctl unmask proxywatch.service"
    place.unlink()
    place.write_text("[Service]\n")
    with pytest.raises(InstallationError, match="would be used instead of ours"):
        image.install()


def test_a_program_of_somebody_else_is_not_replaced(image: Image) -> None:
    """Where /usr/local/bin has a program of that name already, the installation stops; its own link it may turn."""
    program = image.at("/usr/local/bin/proxywatch")
    program.parent.mkdir(parents=True)
    program.symlink_to("/opt/somebody/else")
    with pytest.raises(InstallationError, match="link /usr/local/bin/proxywatch"):
        image.install()
    assert program.readlink() == Path("/opt/somebody/else")
    program.unlink()
    image.install()
    assert program.readlink() == VENV / "bin/proxywatch"


def test_what_is_removed_is_what_was_installed(image: Image) -> None:
    """Uninstall leaves configuration and what was changed, and says so; twice is nothing to do; purge takes more."""
    before = set(image.files())
    image.install()
    rule = "/etc/polkit-1/rules.d/50-proxywatch.rules"
    with image.at(rule).open("a") as file:
        file.write("// one more unit\n")
    assert image.uninstall()
    assert image.became()[f"remove {rule}"] == "kept"
    remaining = {
        path for path in set(image.files()) - before if not path.startswith(("etc/proxywatch/", "etc/credstore/"))
    }
    assert remaining == {rule.lstrip("/"), "etc/llm-proxy/llm-proxy.yaml"}
    assert not image.at(RECORD).exists()
    assert not image.uninstall()
    assert [line.partition(":")[0] for line in left(image.world())] == [
        "/etc/llm-proxy",
        "/etc/proxywatch",
        "/etc/credstore/proxywatch",
    ]
    assert image.uninstall(purge=True)
    assert set(image.files()) - before == {rule.lstrip("/")}
    assert left(image.world()) == []


def test_nothing_is_written_through_a_link_of_somebody_else(image: Image) -> None:
    """Where a service's user has put a symbolic link in the way, root writes nothing behind it."""
    if os.geteuid() != 0:
        pytest.skip("making a link of another user needs root")
    image.install()
    rules, elsewhere = image.at("/etc/proxywatch/rules"), image.at("/srv/elsewhere")
    rules.rename(elsewhere)
    rules.symlink_to("/srv/elsewhere")
    os.lchown(rules, 65534, 65534)
    with pytest.raises(InstallationError, match="symbolic link of user 65534"):
        image.world().write("/etc/proxywatch/rules/new.yaml", b"", 0o644)
    assert not (elsewhere / "new.yaml").exists()


def test_what_a_link_leads_to_is_never_read(image: Image) -> None:
    """A link that a service's user has put beside a changed file is refused: its content could be left in its place."""
    if os.geteuid() != 0:
        pytest.skip("making a link of another user needs root")
    image.install()
    image.record_as("0.0-old", {ROUTES: "the old release's text\n"})
    image.at(ROUTES).write_text("my routes\n")
    secret, beside = image.at("/etc/secret"), image.at(f"{ROUTES}.new")
    secret.write_text("of root alone")
    beside.symlink_to("/etc/secret")
    os.lchown(beside, 65534, 65534)
    assert image.refused_upgrade().startswith(f"{ROUTES}.new is a symbolic link of user 65534")
    os.lchown(beside, 0, 0)
    os.chown(beside.parent, 65534, 65534)
    assert image.refused_upgrade().startswith(f"{ROUTES}.new is a symbolic link of user 65534")
    assert beside.is_symlink()


OLD, NEW = "/etc/proxywatch/credentials", "/etc/credstore/proxywatch"


def as_it_was(image: Image) -> str:
    """As an older release left it, with its secrets below the configuration, and one that somebody has added. Returns
    the admin key."""
    image.install()
    key = image.at(KEY).read_text()
    image.record_as("0.0-old", {f"{OLD}/{Path(KEY).name}": key, UNIT: "[Service]\n"})
    image.at(f"{OLD}/mail").write_text("of a person\n")
    world = image.world()
    world.remove(KEY)
    world.save()
    return key


def test_an_upgrade_moves_the_secrets_of_older_releases(image: Image) -> None:
    """The key stays the same one, a secret of a person's goes along, for root only, and nothing is left behind; what a
    person put there is not removed with the programs."""
    key = as_it_was(image)
    assert image.upgrade()
    assert image.at(KEY).read_text() == key
    moved = image.at(f"{NEW}/mail")
    assert (moved.read_text(), stat.S_IMODE(moved.stat().st_mode)) == ("of a person\n", 0o600)
    assert not image.at(OLD).exists()
    assert not image.upgrade()
    assert image.uninstall()
    assert moved.exists()


def test_an_upgrade_that_fails_leaves_the_secrets_where_they_were(image: Image) -> None:
    """The release before, to which it goes back, reads them there."""
    as_it_was(image)
    before = image.files()
    with pytest.raises(InstallationError, match="all is as it was before"):
        image.upgrade(fails=["check"])
    assert image.files() == before


def test_secrets_that_somebody_else_put_there_are_not_taken_over(image: Image) -> None:
    """The directory was below one of the agent's: what is not root's own may lead anywhere."""
    if os.geteuid() != 0:
        pytest.skip("giving a file away needs root")
    as_it_was(image)
    place = image.at(f"{OLD}/mail")
    place.unlink()
    place.symlink_to("/etc/shadow")
    assert "no secret that root left" in image.refused_upgrade()
    place.unlink()
    os.chown(image.at(OLD), 65534, 65534)
    assert "by user 65534" in image.refused_upgrade()


def test_a_damaged_record_is_no_licence_to_remove(image: Image) -> None:
    """A record that cannot be understood is an error that names it."""
    image.install()
    image.at(RECORD).write_text("{")
    with pytest.raises(InstallationError, match=RECORD):
        image.world()


def test_the_release_is_known_by_its_content() -> None:
    """The running programs are one release, however often they are read; it names the version and a digest."""
    first = running()
    assert first.identity == running().identity
    assert first.identity.startswith(f"{__version__}-")
    assert {name.partition("/")[0] for name in first.files} == {"config", "systemd"}
