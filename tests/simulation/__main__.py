"""`python -m tests.simulation --schedules 100000 --seed 1`: random schedules through the batcher, in virtual time.

Exit status 0: no promise was broken. A schedule that fails is printed with its seed; `--replay SEED` tells its story.
"""

import argparse
import sys

from tests.simulation.run import cores, replay, run_schedules

_SHOWN_FAILURES = 10


def main() -> int:
    """Run the command line; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--schedules", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1, help="schedules are named SEED:0, SEED:1, ...")
    parser.add_argument("--processes", type=int, default=cores())
    parser.add_argument("--replay", metavar="SEED:NUMBER", help="tell the story of one schedule")
    options = parser.parse_args()
    if options.replay:
        story = list(replay(options.replay))
        print(*story, sep="\n")
        return int(any("VIOLATION" in line for line in story))
    total = run_schedules(options.schedules, options.seed, options.processes)
    for event, times in sorted(total.events.items()):
        print(f"{times:>10,}  {event}")
    for seed, promises in list(total.failures.items())[:_SHOWN_FAILURES]:
        print(f"BROKEN in {seed}: {'; '.join(sorted(set(promises)))}   (--replay {seed})")
    print(f"{total.schedules:,} schedules, {len(total.failures):,} broke a promise")
    return int(bool(total.failures))


if __name__ == "__main__":
    sys.exit(main())
