"""`python -m training CONFIG.toml --data DIR --store DIR`: train, calibrate, evaluate, export, publish."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from model_store.contract.manifest import ModelName
from model_store.errors import StoreError
from model_store.store import PREVIOUS
from training.errors import TrainingError

_EXAMPLES = """\
examples:
  the whole chain on drawn pictures, in under a minute:
    python -m training training/configs/smoke.toml --store /tmp/smoke-store --promote production
  the shipped network:
    python -m training training/configs/baseline.toml --data ../shared/data --store model_store/models
  go on after a kill or Ctrl-C, from the last finished epoch:
    python -m training training/configs/baseline.toml --data ../shared/data --store model_store/models --resume
"""

EXPECTED_FAILURE = 2
INTERRUPTED = 130  # what a shell reports for Ctrl-C


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job. Returns the exit code: 0, 2 for an expected failure, 130 for Ctrl-C."""
    words = tuple(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(words)
    # Imported here: --help and a mistyped option answer at once, without loading PyTorch.
    from training.job import Order, train_and_publish

    order = Order(
        config_file=options.config,
        data=options.data,
        store=options.store,
        run=options.run or Path("runs") / options.config.stem,
        resume=options.resume,
        promote=tuple(options.promote),
        arguments=words,
    )
    try:
        version = train_and_publish(order)
    except (TrainingError, StoreError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXPECTED_FAILURE
    except KeyboardInterrupt:
        print(f"\ninterrupted; finished epochs are kept in {order.run}, --resume goes on", file=sys.stderr)
        return INTERRUPTED
    manifest = version.manifest
    print(f"published {manifest.name} version {manifest.version} ({version.digest}) in {version.folder}")
    for alias in order.promote:
        print(f"{alias} -> {manifest.version}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training",
        description="Train a network on dermatoscopic pictures and publish it to a model store.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", type=Path, metavar="CONFIG.toml", help="see training/configs")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of the collections that CONFIG names")
    parser.add_argument("--store", type=Path, metavar="DIR", required=True, help="model store to publish to")
    parser.add_argument("--run", type=Path, metavar="DIR", help="checkpoints, log and plots (default: runs/<CONFIG>)")
    parser.add_argument("--resume", action="store_true", help="continue the run in --run from its last finished epoch")
    parser.add_argument(
        "--promote",
        action="append",
        type=_alias,
        default=[],
        metavar="ALIAS",
        help="point ALIAS at the new version (repeatable)",
    )
    return parser


def _alias(text: str) -> str:
    """Refuse here, not after hours of training, what the store would refuse."""
    if text == PREVIOUS or text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} cannot be set by hand")
    try:
        return TypeAdapter(ModelName).validate_python(text)
    except ValidationError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a valid alias") from error


if __name__ == "__main__":
    sys.exit(main())
