"""`dermserve-models`: list, show, verify, promote, roll back the versions of a model store."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from model_store.errors import StoreError
from model_store.store import PRODUCTION, SHIPPED, ModelStore

_FAILED = 1
_EVALUATION = "evaluation.json"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; expected failures print one line and return 1."""
    options = _parser().parse_args(arguments)
    try:
        command: Callable[[ModelStore, argparse.Namespace], None] = options.command
        command(ModelStore(options.store), options)
    except StoreError as error:
        print(f"dermserve-models: {error}", file=sys.stderr)
        return _FAILED
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dermserve-models",
        description="Versions of a model store: immutable, verified by sha256; aliases name the one that serves.",
        epilog="examples: dermserve-models list; dermserve-models verify lesion7 production; "
        "dermserve-models promote lesion7 2; dermserve-models rollback lesion7",
    )
    parser.add_argument("--store", type=Path, default=SHIPPED, help="store directory (default: the shipped store)")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    listing = commands.add_parser("list", help="all versions and the aliases that point at them")
    listing.add_argument("--json", action="store_true", help="print JSON")
    listing.set_defaults(command=_list)
    for name, command, text in (
        ("show", _show, "a version's model card, or with --json its manifest"),
        ("verify", _verify, "check every file of a version against its sha256"),
        ("promote", _promote, "let an alias point at a version"),
    ):
        sub = commands.add_parser(name, help=text)
        sub.add_argument("model")
        sub.add_argument(
            "version", help="version number or alias", nargs=None if name == "promote" else "?", default=PRODUCTION
        )
        sub.set_defaults(command=command)
        if name == "show":
            sub.add_argument("--json", action="store_true", help="print the manifest")
        if name == "promote":
            sub.add_argument("--alias", default=PRODUCTION, help="alias to move (default: production)")
    rollback = commands.add_parser("rollback", help="swap production and previous")
    rollback.add_argument("model")
    rollback.set_defaults(command=_rollback)
    return parser


def _list(store: ModelStore, options: argparse.Namespace) -> None:
    rows = [_row(store, name, version) for name in store.names() for version in store.versions(name)]
    if options.json:
        print(json.dumps(rows, indent=2))
        return
    headings = ("model", "version", "aliases", "created", "variants", "balanced accuracy", "MB")
    table = [headings, *(tuple(str(row[h]) for h in headings) for row in rows)]
    widths = [max(len(line[i]) for line in table) for i in range(len(headings))]
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _row(store: ModelStore, name: str, version: str) -> dict[str, Any]:
    aliases = ", ".join(sorted(alias for alias, target in store.aliases(name).items() if target == version))
    opened = store.open(name, version)
    size = sum(file.size_bytes for file in opened.manifest.files.values())
    accuracy = "-"
    if _EVALUATION in opened.manifest.files:
        test = json.loads(opened.read(_EVALUATION))["test"]
        figure = test["collections"][test["natural_mix"]]["balanced_accuracy"]
        accuracy = f"{figure['value']:.3f} ({figure['low']:.3f}-{figure['high']:.3f})"
    return {
        "model": name,
        "version": version,
        "aliases": aliases or "-",
        "created": f"{opened.manifest.created_at:%Y-%m-%d}",
        "variants": ", ".join(opened.manifest.variants),
        "balanced accuracy": accuracy,
        "MB": round(size / 1e6, 1),
    }


def _show(store: ModelStore, options: argparse.Namespace) -> None:
    opened = store.open(options.model, options.version)
    if options.json:
        print(opened.manifest.model_dump_json(indent=2))
        return
    print(f"{opened.manifest.name} version {opened.manifest.version}, {opened.digest}\n{opened.folder}\n")
    print(opened.read("MODEL_CARD.md").decode())


def _verify(store: ModelStore, options: argparse.Namespace) -> None:
    opened = store.verify(options.model, options.version)
    files = len(opened.manifest.files)
    print(f"{options.model} version {opened.manifest.version}: all {files} files are as published, {opened.digest}")


def _promote(store: ModelStore, options: argparse.Namespace) -> None:
    _print_aliases(options.model, store.promote(options.model, options.version, options.alias))


def _rollback(store: ModelStore, options: argparse.Namespace) -> None:
    _print_aliases(options.model, store.rollback(options.model))


def _print_aliases(model: str, aliases: dict[str, str]) -> None:
    print(f"{model}: " + ", ".join(f"{alias} -> {version}" for alias, version in sorted(aliases.items())))


if __name__ == "__main__":
    sys.exit(main())
