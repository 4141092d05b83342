"""`proxywatch playbook list|show|run|cancel|check|schema`: what can be repaired and how; begin or end a repair."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from watchdog.cli import text
from watchdog.cli.control import Control, control_of, part

Shape = dict[str, Any]

WAIT_SECONDS = 20.0
"""How long one question for a run's end may stay open."""
_GOOD_ENDS = frozenset({"verified", "mitigated"})


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Adds the actions."""
    playbook = commands.add_parser(
        "playbook", aliases=["playbooks"], parents=[common], help="list, show or run repairs"
    )
    actions = playbook.add_subparsers(metavar="ACTION", required=True)
    listing = actions.add_parser("list", parents=[common], help="every playbook in force")
    listing.set_defaults(do=_list)
    show = actions.add_parser("show", parents=[common], help="one playbook, rung by rung")
    show.add_argument("name", metavar="NAME")
    show.set_defaults(do=_show)
    run = actions.add_parser("run", parents=[common], help="repair a target now, as the person who asks for it")
    run.add_argument("name", metavar="NAME")
    target = run.add_mutually_exclusive_group(required=True)
    target.add_argument("target", nargs="?", metavar="TARGET", help="such as worker:llm-proxy/0, as `alerts` shows it")
    target.add_argument("--target", dest="target", metavar="TARGET", default=argparse.SUPPRESS, help="the same")
    run.add_argument("--dry-run", action="store_true", help="print exactly what would happen; do nothing")
    run.add_argument("--wait", action="store_true", help="until the run has ended; exit 1 unless it verified")
    run.set_defaults(do=_run)
    schema = actions.add_parser("schema", parents=[common], help="the JSON schema of playbook files; needs no daemon")
    schema.set_defaults(do=_schema)
    check = actions.add_parser("check", parents=[common], help="judge playbook files; needs no daemon")
    check.add_argument("files", nargs="*", type=Path, metavar="FILE", help="default: those of the configuration")
    check.set_defaults(do=_check)
    cancel = actions.add_parser("cancel", parents=[common], help="end a run after what it is doing now")
    cancel.add_argument("run", type=int, metavar="RUN")
    cancel.set_defaults(do=_cancel)


def _list(options: argparse.Namespace) -> int:
    shape = control_of(options).get("/v1/playbooks")
    if options.json:
        text.say_json(shape)
    elif not shape["playbooks"]:
        text.say("there is no playbook")
    else:
        rows = [[p["name"], p["autonomy"], ",".join(p["targets"]), " → ".join(p["rungs"])] for p in shape["playbooks"]]
        text.say(text.columns(rows))
    return 0


def _show(options: argparse.Namespace) -> int:
    shape = control_of(options).get(f"/v1/playbooks/{part(options.name)}")
    if options.json:
        text.say_json(shape)
    else:
        text.say(_described(shape))
    return 0


def _described(shape: Shape) -> Iterator[str]:
    yield f"{text.heading(shape['name'])}  {shape['description']}"
    budget = ", ".join(f"{w['allowed']} in {text.span(w['window_seconds'])}" for w in shape["budget"])
    rows = [["answers", answer] for answer in shape["answers"]]
    rows += [["begins", _trigger(trigger)] for trigger in shape["triggers"]]
    rows += [
        ["targets", ", ".join(shape["targets"])],
        [
            "autonomy",
            shape["autonomy"]
            + (", mitigates a fault that is not ours to end" if shape["mitigates"] else "")
            + (
                ", once, when the ladder of another is exhausted on a critical incident" if shape["last_resort"] else ""
            ),
        ],
        ["budget", budget],
        ["evidence", ", ".join(shape["evidence"]) or "none"],
    ]
    yield from text.columns(rows, indent=2)
    for index, rung in enumerate(shape["ladder"], start=1):
        times = f", up to {rung['attempts']} times" if rung["attempts"] > 1 else ""
        yield f"  {index}. {text.heading(rung['rung'])}{times}  {rung['description']}".rstrip()
        if rung["when"]:
            yield from _labelled("when", rung["when"])
        if rung["autonomy"]:
            yield from _labelled("asks", "a person before it acts")
        for label, steps in (("do", rung["steps"]), ("undo", rung["roll_back"])):
            for step in steps:
                rest = ", ".join(f"{k} {v}" for k, v in step.items() if k != "kind" and v not in (None, False, "", 0))
                yield from _labelled(label, f"{step['kind']}: {rest}")
        if not rung["steps"]:
            yield from _labelled("do", "nothing: give it time to recover by itself")
        yield from _labelled("verify", _verification(rung["verify"]))
    for need in shape["needs_person"]:
        yield from _labelled("person", need["text"])


def _trigger(trigger: Shape) -> str:
    on = f"on {', '.join(trigger['targets'])}"
    if trigger["kind"] == "webhook":
        return f"by POST /hooks/{trigger['name']} {on}"
    when = f"at {trigger['cron']} (cron, local time)" if trigger["cron"] else f"every {text.span(trigger['every'])}"
    return f"{when} {on}"


def _verification(verify: Shape) -> str:
    what = verify["expr"] or "no alert of the incident fires"
    return f"{what}, for {text.span(verify['hold_seconds'])}, within {text.span(verify['within_seconds'])}"


def _labelled(label: str, words: str) -> Iterator[str]:
    for index, line in enumerate(text.folded(words, text.width() - 15)):
        yield f"     {label if not index else '':8}{line}"


def _run(options: argparse.Namespace) -> int:
    control = control_of(options)
    body: dict[str, object] = {"target": options.target, "dry_run": options.dry_run}
    shape = control.post(f"/v1/playbooks/{part(options.name)}/run", body)
    if options.dry_run:
        if options.json:
            text.say_json(shape)
        else:
            text.say(planned(shape))
        return 0
    if options.wait:
        return _await_end(control, shape, options)
    if options.json:
        text.say_json(shape)
    else:
        where = f"proxywatch incident show {shape['incident']}" if shape["incident"] else "proxywatch status"
        text.say(
            f"run {shape['id']} of {shape['playbook']} on {shape['target']} has begun; `{where}` shows how it goes"
        )
    return 0


def _await_end(control: Control, shape: Shape, options: argparse.Namespace) -> int:
    told = ""
    while shape["ended_at"] is None:
        shape = control.get(f"/v1/runs/{shape['id']}", wait=WAIT_SECONDS, timeout=WAIT_SECONDS + 10)
        now = shape["running"]
        words = f"rung {now['rung']}: {now['doing']}" if now else ""
        if words and words != told and not options.json:
            told = words
            print(words, file=sys.stderr)
    if options.json:
        text.say_json(shape)
    else:
        rows = [[attempt["rung"], attempt["outcome"], attempt["note"]] for attempt in shape["attempts"]]
        text.say([*text.columns(rows, indent=2), f"run {shape['id']}: {shape['state']}"])
    return 0 if shape["state"] in _GOOD_ENDS else 1


def _schema(_options: argparse.Namespace) -> int:
    from watchdog.playbooks.json_schema import playbook_schema

    text.say_json(playbook_schema())
    return 0


def _check(options: argparse.Namespace) -> int:
    from watchdog.cli.judge import budget_in_force, judge_playbooks, playbook_files

    files = options.files or playbook_files(options.config)
    problems, warnings, count = judge_playbooks(files, budget_in_force(options.config))
    if options.json:
        shape = {"playbooks": count, "problems": problems, "warnings": warnings}
        text.say_json({"files": [str(file) for file in files], **shape})
    else:
        text.say(f"warning: {warning}" for warning in warnings)
        text.say(problems or f"OK: {text.count(count, 'playbook')} in {text.count(len(files), 'file')}")
    return 2 if problems else 0


def _answered(label: str, answer: Shape, now: Shape) -> Iterator[str]:
    """What the guards say: to the person who asks, or (`alone`) to the same rung begun by an alert."""
    if answer["allowed"]:
        yield from _labelled(label, "allow it now")
    for denial in answer["denials"]:
        end = text.until(denial["until"], now)
        yield from _labelled(label, f"refuse: {denial['text']}" + (f" (ends {end})" if end else ""))


def _cancel(options: argparse.Namespace) -> int:
    shape = control_of(options).post(f"/v1/runs/{options.run}/cancel")
    if options.json:
        text.say_json(shape)
        return 0
    text.say_sentence(f"run {shape['id']} of {shape['playbook']} on {shape['target']} ends after what it is doing now")
    if shape["incident"]:
        text.say(f"incident {shape['incident']} is left to people until it is over")
    return 0


def planned(shape: Shape) -> Iterator[str]:
    """A dry run: each rung with what it would do, whether it applies, and what the guards say now."""
    yield text.heading(f"{shape['playbook']} on {shape['target']}: dry run, nothing is done")
    if shape["evidence"] and shape["incident"]:
        yield f"  first, evidence is taken: {', '.join(shape['evidence'])}"
    for index, rung in enumerate(shape["ladder"], start=1):
        yield f"  {index}. {text.heading(rung['rung'])}  {rung['description']}".rstrip()
        if rung["when"]:
            yield from _labelled(
                "when", ("holds now: " if rung["applies"] else "skipped, for now this fails: ") + rung["when"]
            )
        yield from _steps(rung)
        if not rung["steps"]:
            yield from _labelled("do", "nothing: give it time to recover by itself")
        yield from _labelled("verify", _verification(rung["verify"]) + (" (holds already)" if rung["holds"] else ""))
        yield from _answered("guards", rung["guards"], shape["now"])
        if rung["by_itself"] != rung["guards"]:
            yield from _answered("alone", rung["by_itself"], shape["now"])
        for step in rung["roll_back"]:
            yield from _labelled("undo", f"{step['does']} (if a step fails, or the rung does not verify)")
        if rung["autonomy"] == "approve":
            wait = text.span(shape["approval_expires_seconds"])
            yield from _labelled("alone", f"it asks a person first, and takes no answer within {wait} for a no")
    yield "  after the last rung that does not verify, a person is told"


_ON_FAILURE = {
    "stop": "; if it fails, a person is told at once",
    "continue": "; if it fails, the next is done all the same",
}


def _steps(rung: dict[str, Any]) -> Iterator[str]:
    for step in rung["steps"]:
        gravity = "disruptive" if step["disruptive"] else "gentle"
        limits = f"{gravity}, at most {text.span(step['timeout_seconds'])}"
        if step["retries"]:
            again = "once more" if step["retries"] == 1 else f"{step['retries']} more times"
            limits += f", {again} if it did not happen"
        yield from _labelled("do", f"{step['does']} ({limits}){_ON_FAILURE.get(step['on_failure'], '')}")
