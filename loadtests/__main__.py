"""Command line of the load tests: python -m loadtests [COMMAND], dermserve-loadtest [COMMAND]."""

import importlib
import sys
from collections.abc import Sequence

# Imported when asked for: the peers need nothing of the scenarios, and the other way round.
COMMANDS = {
    "run": "loadtests.commands.run",
    "scenario": "loadtests.commands.scenario",
    "capacity": "loadtests.commands.capacity",
    "peers": "loadtests.peers",
    "profile": "loadtests.peers.profile",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, "run" where none is named; returns the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    name = words.pop(0) if words and words[0] in COMMANDS else "run"
    status: int = importlib.import_module(COMMANDS[name]).main(words)
    return status


if __name__ == "__main__":
    sys.exit(main())
