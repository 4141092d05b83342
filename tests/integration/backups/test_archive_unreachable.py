"""Archives of a program whose database belongs to somebody else."""

from __future__ import annotations

from dataclasses import replace

from conftest import Program

from watchdog.backups.making import create
from watchdog.backups.shelf import Shelf


async def test_a_database_that_may_not_be_looked_at_is_left_out_with_the_reason(shelf: Shelf, program: Program) -> None:
    """The configuration is archived all the same. (The name is too long: permissions would not keep root out.)"""
    beyond = program.root / ("x" * 300)
    holding = replace(program.holding, databases=(beyond, program.database))
    verdict = await create(shelf, holding, now=1_795_000_000.0, reason="a test")
    assert verdict.bad == ""
    assert verdict.manifest is not None
    assert verdict.manifest.left_out == {str(beyond): "cannot be read: File name too long"}
    assert [member.path for member in verdict.manifest.members][-1] == str(program.database)
