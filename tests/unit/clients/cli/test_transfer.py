"""A file that cannot be written is one line with a remedy, and what is given up leaves nothing."""

from pathlib import Path

import pytest

from ramify.cli.exits import CliError
from ramify.cli.transfer import new_file


def test_a_place_that_takes_no_file_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CliError, match="Not a directory") as refused:
        new_file(tmp_path / "file" / "backup").__enter__()
    assert refused.value.remedy == "choose another place"


def test_a_file_that_is_given_up_leaves_nothing_behind(tmp_path: Path) -> None:
    def give_up() -> None:
        with new_file(tmp_path / "backup") as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        give_up()
    assert list(tmp_path.iterdir()) == []
