"""The record of a run names no machine's folders."""

import pytest

from training.provenance import command_line


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("c.toml", "--data", "../shared/data"), "python -m training c.toml --data ../shared/data"),
        (("/home/ann/c.toml", "--store", "/srv/store"), "python -m training c.toml --store store"),
        (("c.toml", "--store=/srv/store", "--resume"), "python -m training c.toml --store=store"),
    ],
)
def test_command_can_be_repeated_elsewhere(words: tuple[str, ...], expected: str) -> None:
    """Absolute paths are shortened to their last part; --resume is left out, as a repetition starts anew."""
    assert command_line(words) == expected
