"""`dermserve-models`: look at, check, sign, promote, roll back, compare and retire the versions of a model store."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from model_store import commands
from model_store.errors import StoreError
from model_store.gate import SHIPPED_GATE
from model_store.store import PRODUCTION, SHIPPED, ModelStore

_FAILED = 1
_Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

_EPILOG = """examples:
  dermserve-models list
  dermserve-models show lesion7 production --plot roc --out roc.png
  dermserve-models compare lesion7 1 2 --pictures FOLDER
  dermserve-models keys new release
  dermserve-models sign lesion7 2 --key release.key
  dermserve-models verify lesion7 2 --trusted release.pub
  dermserve-models promote lesion7 2 --trusted release.pub
  dermserve-models rollback lesion7
  dermserve-models replay picture.jpg --answer answer.json
  dermserve-models --store s3://bucket/prefix list --json

exit codes: 0 done, 1 refused or failed (one line says why), 2 wrong options"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; expected failures print one line and return 1."""
    options = _parser().parse_args(arguments)
    options.ask = _ask
    try:
        command: commands.Command = options.command
        answer = command(ModelStore(options.store), options)
    except StoreError as error:
        print(f"dermserve-models: {' '.join(str(error).split())}", file=sys.stderr)
        return _FAILED
    print(json.dumps(answer.data, indent=2) if options.json else answer.text)
    return 0 if answer.good else _FAILED


def _ask(question: str) -> str:
    """Nobody at the terminal means no."""
    try:
        return input(question)
    except EOFError:
        return ""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dermserve-models",
        description="Versions of a model store: immutable, verified, signed; aliases name the one that serves.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_shared(parser, str(SHIPPED), False)
    adding = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_looking(adding)
    _add_trust(adding)
    _add_moving(adding)
    _add_running(adding)
    return parser


def _add_shared(parser: argparse.ArgumentParser, store: str, as_json: bool | str) -> None:
    """--store and --json stand before or after the command; after it they say nothing unless they are given."""
    parser.add_argument("--store", default=store, help="directory or s3://bucket/prefix (default: the shipped store)")
    parser.add_argument("--json", action="store_true", default=as_json, help="print JSON")


def _command(adding: _Commands, name: str, command: commands.Command, text: str) -> argparse.ArgumentParser:
    parser = adding.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    _add_shared(parser, argparse.SUPPRESS, argparse.SUPPRESS)
    parser.set_defaults(command=command)
    return parser


def _add_version(parser: argparse.ArgumentParser, default: str | None = PRODUCTION) -> None:
    parser.add_argument("model", help="such as lesion7")
    parser.add_argument("version", help="number or alias", nargs="?" if default else None, default=default)


def _add_looking(adding: _Commands) -> None:
    listing = _command(adding, "list", commands.listing, "all versions and the aliases that point at them")
    listing.add_argument("model", nargs="?", help="only this one")
    show = _command(adding, "show", commands.show, "a version's figures and model card, or one of its plots")
    _add_version(show)
    show.add_argument("--plot", metavar="NAME", help="write this plot to --out")
    show.add_argument("--out", type=Path, metavar="FILE", help="where the plot goes (PNG)")
    compare = _command(adding, "compare", commands.compare, "two versions: figures with intervals side by side")
    compare.add_argument("model")
    compare.add_argument("first")
    compare.add_argument("second")
    compare.add_argument("--pictures", type=Path, metavar="FOLDER", help="and which of these change their answer")
    compare.add_argument("--variant", choices=("fp32", "int8"), default="fp32", help="for --pictures (default: fp32)")
    history = _command(adding, "history", commands.history, "how the aliases came to stand where they stand")
    history.add_argument("model")


def _add_trust(adding: _Commands) -> None:
    verify = _command(adding, "verify", commands.verify, "check every file, the graphs and the signatures of a version")
    _add_version(verify)
    verify.add_argument(
        "--trusted", type=Path, metavar="KEYS", help="a .pub file or a folder of them: one must have signed"
    )
    sign = _command(adding, "sign", commands.sign, "vouch for a version: add a signature to it")
    _add_version(sign, None)
    sign.add_argument("--key", type=Path, required=True, metavar="FILE", help="secret key, from `keys new`")
    keys = adding.add_parser("keys", help="make keys").add_subparsers(required=True, metavar="COMMAND")
    new = _command(keys, "new", commands.new_keys, "make NAME.key (secret) and NAME.pub")
    new.add_argument("name", type=Path, metavar="NAME")


def _add_moving(adding: _Commands) -> None:
    gate = _command(adding, "gate", commands.gate, "what `promote` would say of a version, moving nothing")
    promote = _command(adding, "promote", commands.promote, "let an alias point at a version that passes the gate")
    for parser in (gate, promote):
        _add_version(parser, None)
        parser.add_argument("--alias", default=PRODUCTION, help="alias to move (default: production)")
        parser.add_argument("--trusted", type=Path, metavar="KEYS", help="a .pub file or a folder of them")
        parser.add_argument(
            "--shadow", metavar="URL|FILE", help="a service with this candidate, or its /v1/shadow as JSON"
        )
        parser.add_argument(
            "--gate", type=Path, default=SHIPPED_GATE, metavar="FILE", help="limits (default: gate.toml)"
        )
    promote.add_argument("--force", action="store_true", help="past failed lines; needs --reason")
    promote.add_argument("--reason", metavar="TEXT", help="recorded with the failed lines in aliases.json")
    rollback = _command(adding, "rollback", commands.rollback, "swap production and previous")
    rollback.add_argument("model")
    retire = _command(adding, "retire", commands.retire, "remove versions that no alias points at, for ever")
    retire.add_argument("model")
    retire.add_argument("versions", nargs="*", help="which (default: all but the newest and those in use)")
    retire.add_argument("--keep", type=int, default=3, help="how many of the newest stay (default: 3)")
    retire.add_argument("--yes", action="store_true", help="do not ask")
    copy = _command(adding, "copy", commands.copy, "take a version as it is into another store")
    _add_version(copy, None)
    copy.add_argument("--to", required=True, metavar="STORE", help="directory or s3://bucket/prefix")


def _add_running(adding: _Commands) -> None:
    replay = _command(adding, "replay", commands.replay, "repeat an answer of the service, to the last bit")
    replay.add_argument("picture", type=Path)
    replay.add_argument("--answer", type=Path, metavar="FILE", help="the service's answer (JSON): compare with it")
    replay.add_argument("--digest", help="of the version, as answers name it")
    replay.add_argument("--variant", choices=("fp32", "int8"), default="fp32")


if __name__ == "__main__":
    sys.exit(main())
