"""Command line of the comparison: python -m loadtests peers."""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from PIL import __version__ as pillow_version

from loadtests.peers import report as reports
from loadtests.peers.candidates import Candidate, Loop, candidates
from loadtests.peers.comparison import Bench, Comparison
from loadtests.peers.environments import NotInstalledError, install, is_installed
from loadtests.peers.figures import judge, row, targets
from loadtests.peers.network import ROOT, read_network
from loadtests.peers.pictures import peer_pictures
from loadtests.peers.report import Report
from loadtests.peers.running import CandidateFailedError
from loadtests.wrk import WrkMissingError, require_wrk

OURS = ("dermserve-fp32", "dermserve-auto")
EXAMPLES = """\
examples:
  python -m loadtests peers                               everybody, five rounds (about half an hour)
  python -m loadtests peers --only dermserve bare litserve --rounds 1 --seconds 2
  python -m loadtests peers --only dermserve fastapi-tuned --megapixels 12

exit status: 0 every target met, 1 a target missed or a candidate failed, 2 wrong usage or something missing
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Install what is missing, measure, print the table, write the report; returns the exit status."""
    options = argument_parser().parse_args(arguments)
    try:
        if options.install:
            install_missing(candidates(options.variant, options.only, [options.variant]), options.venvs)
            return 0
        require_wrk()
        network = read_network()
        if options.variant not in network.files:
            raise ValueError(f"version {network.version} has no variant {options.variant}")
        rows = candidates(options.variant, options.only, list(network.files))
        install_missing(rows, options.venvs)
        with tempfile.TemporaryDirectory(prefix="dermserve-peers-") as folder:
            bench = Bench(
                network=network,
                pictures=peer_pictures(Path(folder) / "pictures", options.pictures, options.seed, options.megapixels),
                venvs=options.venvs,
                folder=Path(folder),
                clients=options.clients,
                seconds=options.seconds,
                one_client_seconds=max(options.seconds // 2, 1),
                tuning_seconds=options.tuning_seconds,
            )
            found = compare(Comparison(bench, rows), options.rounds)
    except (WrkMissingError, NotInstalledError, CandidateFailedError, ValueError, OSError, KeyError) as error:
        print(f"dermserve-loadtest peers: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("dermserve-loadtest peers: interrupted, no report", file=sys.stderr)
        return 130
    print(reports.text(found))
    print("Report:", ", ".join(str(path) for path in reports.write(found, options.report)))
    return 0 if found.met else 1


def install_missing(rows: Sequence[Candidate | Loop], venvs: Path) -> None:
    """Make the virtual environments that are not there yet."""
    names = {row.environment for row in rows if isinstance(row, Candidate) and row.environment}
    for name in sorted(names):
        if not is_installed(name, venvs):
            tell(f"installing {name} into {venvs / name} ...")
            install(name, venvs)


def compare(comparison: Comparison, rounds: int) -> Report:
    """The whole comparison, told on standard error as it goes on."""
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    for line in comparison.choose_ways():
        tell(line)
    for number in range(rounds):
        for line in comparison.run_round(number, rounds):
            tell(f"round {number + 1}/{rounds}: {line}")
    measured = comparison.rounds
    settings = {name: way.label for name, way in comparison.chosen.items()}
    rows = [row(measured, c.name, c.title, settings.get(c.name, ""), OURS) for c in comparison.candidates]
    names = [found.name for found in rows if found]
    promised = targets(names, comparison.variants.get("dermserve-auto", "fp32"))
    return Report(
        started_at=started_at,
        circumstances=circumstances(comparison),
        rows=[found for found in rows if found],
        judged=judge(measured, promised),
        tried=comparison.tried,
        notes=dict(comparison.notes),
        rounds=measured,
    )


def circumstances(comparison: Comparison) -> dict[str, str]:
    """What the figures depend on."""
    bench = comparison.bench
    mean_bytes = sum(map(len, bench.pictures)) / len(bench.pictures)
    told = {
        "machine": f"{os.cpu_count()} cores, {processor()}, {platform.system()} {platform.release()}",
        "python": f"{platform.python_version()}, Pillow {pillow_version}",
        "network": f"lesion7 version {bench.network.version}",
        "pictures": f"{len(bench.pictures)} JPEG, {mean_bytes / 1000:.0f} kB each on average",
        "load": f"wrk, {bench.clients} clients for {bench.seconds} s, then 1 for {bench.one_client_seconds} s, "
        f"{len(comparison.rounds)} rounds in turn",
        "commit": commit(),
    }
    if variant := comparison.variants.get("dermserve-auto"):
        told["dermserve's own choice"] = variant
    return told


def processor() -> str:
    """The processor's name where Linux tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def commit() -> str:
    """Of the checkout; unknown outside one."""
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    finished = subprocess.run(git, capture_output=True, text=True, check=False)
    return finished.stdout.strip() or "unknown"


def tell(line: str) -> None:
    """Progress, apart from the table."""
    print(line, file=sys.stderr, flush=True)


def argument_parser() -> argparse.ArgumentParser:
    """Every option of the comparison."""
    parser = argparse.ArgumentParser(
        prog="dermserve-loadtest peers",
        description="The same network behind dermserve, FastAPI, LitServe, BentoML and MLServer, and in a bare loop.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    numbers = {"rounds": 5, "seconds": 8, "tuning-seconds": 3, "clients": 8, "pictures": 32}
    for name, standard in numbers.items():
        parser.add_argument(f"--{name}", type=whole_number, default=standard, help="default %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="of the pictures (default %(default)s)")
    parser.add_argument(
        "--megapixels", type=float, help="enlarge the pictures to this size (default: 600 x 450 pixels)"
    )
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", help="candidates or families, such as litserve"
    )
    parser.add_argument("--variant", default="fp32", help="what the rivals serve (default %(default)s)")
    parser.add_argument(
        "--venvs", type=Path, default=ROOT / "build" / "peers", metavar="FOLDER", help="default build/peers"
    )
    parser.add_argument(
        "--install", action="store_true", help="make the rivals' virtual environments and measure nothing"
    )
    parser.add_argument(
        "--report", type=Path, default=Path("loadtest-report/peers"), metavar="FOLDER", help="default %(default)s"
    )
    return parser


def whole_number(text: str) -> int:
    """A whole number above 0 (wrk takes no parts of seconds)."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


if __name__ == "__main__":
    sys.exit(main())
