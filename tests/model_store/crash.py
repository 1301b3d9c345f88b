"""Publishers killed at random moments, and readers that look what is left, in a directory and on S3.

python -m tests.model_store.crash --runs 200 --seed 1
"""

import argparse
import random
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.model_store.processes import Target, kill_at_random
from tests.model_store.s3_server import BUCKET, running_s3_server


def main() -> int:
    """Both storages; the counts are printed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        with running_s3_server(folder / "server") as server:
            stores: dict[str, Mapping[str, str]] = {
                str(folder / "store"): {},
                f"s3://{BUCKET}/crash": server.environment,
            }
            for location, environment in stores.items():
                target = Target(location, folder / "cache", environment)
                killed, finished = kill_at_random(target, options.runs, random.Random(options.seed))
                print(f"{location}: {killed} killed, {finished} finished before; readers saw whole versions only")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
