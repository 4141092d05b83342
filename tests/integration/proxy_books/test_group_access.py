"""What a directory's mode says of the group, and what is done about it."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from proxy.group_access import share_directory, share_file


@pytest.mark.parametrize(("mode", "shared"), [(0o2770, True), (0o700, False), (0o770, False), (0o2750, False)])
def test_only_in_a_directory_that_is_shared_is_anything_for_the_group(tmp_path: Path, mode: int, shared: bool) -> None:
    """In 2770 the group gets the file and the directory below; in any other mode they stay their owner's."""
    file, below = tmp_path / "ledger.sqlite", tmp_path / "shared"
    file.touch(0o600)
    below.mkdir(0o700)
    tmp_path.chmod(mode)
    share_file(file)
    share_directory(below)
    share_file(tmp_path / "ledger.sqlite-wal")  # which need not be there
    modes = [stat.S_IMODE(path.stat().st_mode) & 0o777 for path in (file, below)]
    assert modes == ([0o660, 0o770] if shared else [0o600, 0o700])
