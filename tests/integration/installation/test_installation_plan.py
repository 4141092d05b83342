"""Plans are made from a release and a record, without a host."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from watchdog.installation.layout import brought_environment, own_environment
from watchdog.installation.plan import Plan, installation, removal
from watchdog.installation.release import Release
from watchdog.installation.world import Record

REPOSITORY = Path(__file__).resolve().parents[3]
RELEASE = Release(
    "1.0",
    "1.0-aaaa",
    {
        f"{folder}/{path.relative_to(REPOSITORY / folder)}": path.read_bytes()
        for folder in ("config", "systemd")
        for path in sorted((REPOSITORY / folder).rglob("*"))
        if path.is_file()
    },
)
OWN = own_environment(RELEASE.identity)


def said(plan: Plan) -> list[str]:
    return [step.says for step in plan.steps]


def position(plan: Plan, says: str) -> int:
    return next(number for number, text in enumerate(said(plan)) if text.startswith(says))


def test_programs_and_judged_configuration_come_before_anything_is_started() -> None:
    """Environment, users, directories, configuration, its judgement, units known, enabled, started; then the gate."""
    plan = installation(RELEASE, OWN, "key", live=True)
    order = [
        *("build /opt/proxywatch/releases/1.0-aaaa", "make the users", "make /etc/llm-proxy", "make the admin key"),
        *("write /etc/llm-proxy/llm-proxy.yaml", "have /etc/llm-proxy", "link /opt/proxywatch/current"),
        *("have systemd", "enable", "start llm-proxy.socket", "start llm-proxy.service", "start proxywatch.service"),
        "see within 60 s",
    ]
    found = [position(plan, says) for says in order]
    assert found == sorted(found)
    assert not any(text.startswith("archive") for text in said(plan))


def test_an_image_is_never_started() -> None:
    """Below another root nothing is asked of the running systemd."""
    plan = installation(RELEASE, OWN, "key", live=False)
    assert not any(text.startswith(("start", "make the users", "see within", "have systemd")) for text in said(plan))
    assert said(plan)[-1].startswith("enable")


def test_an_environment_that_was_brought_is_not_built_or_linked() -> None:
    """With --venv the units name that environment, and nothing is put into /opt."""
    plan = installation(RELEASE, brought_environment("/srv/venv"), "key", live=True)
    assert not any("/opt/" in text for text in said(plan))


def test_an_upgrade_archives_first_and_removes_what_is_no_more() -> None:
    """Files of the release before that this one lacks go; of old environments only the last one stays."""
    before = Record(
        release="0.9-bbbb",
        home="/opt/proxywatch",
        environment="/opt/proxywatch/releases/0.9-bbbb",
        files={
            "/etc/proxywatch/rules/gone.yaml": "0",
            "/etc/proxywatch/rules/proxy.yaml": "0",
            "/etc/proxywatch/credentials/llm-proxy-admin.key": "0",
            "/etc/proxywatch/routes.yaml.new": "0",
        },
        trees=["/opt/proxywatch/releases/0.8-cccc", "/opt/proxywatch/releases/0.9-bbbb"],
    )
    plan = installation(RELEASE, OWN, "key", live=True, record=before)
    assert said(plan)[0].startswith("archive the configuration")
    removed = [text for text in said(plan) if text.startswith("remove")]
    assert removed == [
        "remove /etc/proxywatch/rules/gone.yaml",
        "remove /etc/llm-proxy/credentials with all that is in it",
        "remove /etc/proxywatch/credentials with all that is in it",
        "remove /opt/proxywatch/releases/0.8-cccc with all that is in it",
    ]
    assert position(plan, removed[1]) > position(plan, "see within")
    same = installation(RELEASE, OWN, "key", live=True, record=replace(before, release=RELEASE.identity))
    assert not any(text.startswith(("archive", "remove")) for text in said(same))


def test_a_removal_stops_first_and_keeps_what_people_wrote() -> None:
    """Configuration stays unless it is purged; the programs that do it go after the units."""
    record = Record(
        release="1.0-aaaa",
        files={"/etc/proxywatch/routes.yaml": "0", "/usr/local/lib/systemd/system/proxywatch.service": "0"},
        links={"/opt/proxywatch/bin": "current/bin"},
        directories=["/opt/proxywatch", "/opt/proxywatch/releases", "/etc/proxywatch/rules"],
        trees=["/opt/proxywatch/releases/1.0-aaaa"],
    )
    plan = removal(record, purge=False, live=True)
    assert said(plan)[0] == "stop proxywatch.service, llm-proxy.service, llm-proxy.socket"
    assert not any("/etc/proxywatch" in text or "/var/" in text for text in said(plan))
    assert said(plan)[-2:] == ["remove the directory /opt/proxywatch/releases", "remove the directory /opt/proxywatch"]
    purged = said(removal(record, purge=True, live=True))
    assert "remove /etc/proxywatch with all that is in it" in purged
    assert "remove /var/lib/proxywatch with all that is in it" in purged
    assert not any(text.startswith(("stop", "have systemd")) for text in said(removal(record, purge=False, live=False)))
