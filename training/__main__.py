"""`python -m training CONFIG.toml --data DIR --store DIR`: train, calibrate, evaluate, export, publish.

`python -m training compare` and `python -m training gallery` look at what was published; `python -m training again`
releases it anew without training.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from model_store.contract.manifest import ModelName
from model_store.errors import StoreError
from model_store.store import PREVIOUS, ModelStore
from training.errors import TrainingError
from training.memory import keep_freed_memory

_EXAMPLES = """\
examples:
  the whole chain on drawn pictures, in a minute or two:
    python -m training training/configs/smoke.toml --store /tmp/smoke-store --promote production
  the shipped network:
    python -m training training/configs/baseline.toml --data ../shared/data --store model_store/models
  go on after a kill or Ctrl-C, from the last finished epoch:
    python -m training training/configs/baseline.toml --data ../shared/data --store model_store/models --resume
  two versions (or variants of one) on the test pictures of both, with paired intervals:
    python -m training compare --store model_store/models 2:fp32 2:int8 --data ../shared/data
  the network of a version through today's calibration, int8 and evaluation, as the next version:
    python -m training again --store model_store/models production --data ../shared/data
  the worst errors of a version as contact sheets, outside the repository:
    python -m training gallery --store model_store/models 2 --data ../shared/data --out /tmp/gallery
"""

EXPECTED_FAILURE = 2
INTERRUPTED = 130  # what a shell reports for Ctrl-C


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job. Returns the exit code: 0, 2 for an expected failure, 130 for Ctrl-C."""
    keep_freed_memory()
    words = tuple(sys.argv[1:] if arguments is None else arguments)
    if words and words[0] in _COMMANDS:
        return _look(*words)
    options = _parser().parse_args(words)
    # Imported here: --help and a mistyped option answer at once, without loading PyTorch.
    from training.job import Order, train_and_publish

    order = Order(
        config_file=options.config,
        data=options.data,
        store=options.store,
        run=options.run or Path("runs") / options.config.stem,
        resume=options.resume,
        train_only=options.train_only,
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
    if version is None:
        print(f"trained; nothing published, the weights are in {order.run}")
        return 0
    manifest = version.manifest
    print(f"published {manifest.name} version {manifest.version} ({version.digest}) in {version.place}")
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
    parser.add_argument("--store", metavar="STORE", required=True, help="directory or s3://bucket/prefix to publish to")
    parser.add_argument("--run", type=Path, metavar="DIR", help="checkpoints, log and plots (default: runs/<CONFIG>)")
    parser.add_argument("--resume", action="store_true", help="continue the run in --run from its last finished epoch")
    parser.add_argument(
        "--train-only", action="store_true", help="stop after the training: for a run that others start or learn from"
    )
    parser.add_argument(
        "--promote",
        action="append",
        type=_alias,
        default=[],
        metavar="ALIAS",
        help="point ALIAS at the new version (repeatable)",
    )
    return parser


def _look(command: str, *words: str) -> int:
    """Run a sub-command; exit codes as in `main`."""
    parser, run = _COMMANDS[command]
    options = parser().parse_args(words)
    options.arguments = (command, *words)
    try:
        run(options)
    except (TrainingError, StoreError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXPECTED_FAILURE
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def _compare(options: argparse.Namespace) -> None:
    from training.evaluation.compare import as_table, compare_versions

    found = compare_versions(ModelStore(options.store), options.model, options.versions, options.data)
    print(json.dumps(found, indent=1, allow_nan=False) if options.json else as_table(found))


def _gallery(options: argparse.Namespace) -> None:
    from training.evaluation.gallery import WARNING, write_gallery

    store = ModelStore(options.store)
    index = write_gallery(store, options.model, options.version, options.data, options.out, options.most)
    print(f"{index}\n{WARNING}")


def _again(options: argparse.Namespace) -> None:
    from training.again import release_again

    store = ModelStore(options.store)
    version = release_again(store, options.model, options.version, options.data, options.arguments)
    print(f"published {options.model} version {version.manifest.version} ({version.digest}) in {version.place}")


def _compare_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training compare",
        description="Compare two published versions on the pictures in the test parts of both; `*` marks a difference "
        "whose paired 95 %% interval (bootstrap by lesion) leaves zero out.",
    )
    what = "version or alias, with :fp32 (default) or :int8"
    parser.add_argument("versions", nargs=2, metavar="VERSION[:VARIANT]", help=what)
    _add_places(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    return parser


def _gallery_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training gallery",
        description="Contact sheets of a published version's worst errors on its test part, missed malignant lesions "
        "first. They show patients' pictures: --out must not be inside a repository.",
    )
    parser.add_argument("version", metavar="VERSION[:VARIANT]", help="version or alias, with :fp32 (default) or :int8")
    _add_places(parser)
    parser.add_argument("--out", type=Path, metavar="DIR", required=True, help="new folder for sheets and index.html")
    parser.add_argument("--most", type=int, default=60, metavar="N", help="pictures of each kind (default: 60)")
    return parser


def _again_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training again",
        description="Release the network of a published version again, as the next version: calibration, gate, export, "
        "int8 and evaluation as the code does them now, without training. Needs the pictures it was trained on.",
    )
    parser.add_argument("version", metavar="VERSION", help="version or alias")
    _add_places(parser)
    return parser


def _add_places(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--store", metavar="STORE", required=True, help="directory or s3://bucket/prefix")
    parser.add_argument("--model", default="lesion7", metavar="NAME", help="model in the store (default: lesion7)")
    parser.add_argument("--data", type=Path, metavar="DIR", required=True, help="folder of the collections")


_COMMANDS: dict[str, tuple[Callable[[], argparse.ArgumentParser], Callable[[argparse.Namespace], None]]] = {
    "compare": (_compare_parser, _compare),
    "gallery": (_gallery_parser, _gallery),
    "again": (_again_parser, _again),
}


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
