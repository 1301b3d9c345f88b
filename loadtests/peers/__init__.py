"""Side by side: dermserve, the frameworks that others serve networks with, and a loop without any server."""

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m loadtests peers`: measure, print the table, write the report; returns the exit status."""
    # The rivals import this package in environments of their own, where nothing of the load test is installed.
    from loadtests.peers.__main__ import main as run

    return run(arguments)
