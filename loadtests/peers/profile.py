"""`python -m loadtests profile`: where each millisecond of a request goes, by the service's own clocks."""

import argparse
import dataclasses
import json
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtests.peers.candidates import dermserve
from loadtests.peers.pictures import peer_pictures
from loadtests.peers.running import HOST, CandidateFailedError, RunningServer, running
from loadtests.server_metrics import Sample, parse_samples
from loadtests.wrk import ClosedLoop, WrkMissingError, load, require_wrk, write_requests

STAGE, TOTAL = "dermserve_stage_duration_seconds", "dermserve_prediction_duration_seconds"
PICTURES = 32
WARM_UP_SECONDS = 2
SHOWN_FUNCTIONS = 25


@dataclass(frozen=True, slots=True)
class Profile:
    """Mean seconds of one answer under `clients` callers at once."""

    clients: int
    answers_per_second: float
    stages_seconds: Mapping[str, float]
    service_seconds: float  # from the request's head to its answer, by the service's clock
    caller_seconds: float  # from the request to its answer, by the caller's clock
    functions: Mapping[str, float]  # share of the processor samples by function, empty without py-spy

    @property
    def outside_seconds(self) -> float:
        """What only the caller sees: sockets, the HTTP server, waiting for the event loop."""
        return self.caller_seconds - self.service_seconds


def main(arguments: Sequence[str] | None = None) -> int:
    """Start the service, load it, print the tables; returns the exit status."""
    options = argument_parser().parse_args(arguments)
    try:
        require_wrk()
        with tempfile.TemporaryDirectory(prefix="dermserve-profile-") as folder:
            found = profile(Path(folder), options.clients, options.seconds, options.variant)
    except (WrkMissingError, CandidateFailedError, RuntimeError, OSError) as error:
        tell(f"dermserve-loadtest profile: {error}", error=True)
        return 2
    tell(markdown(found))
    options.report.mkdir(parents=True, exist_ok=True)
    (options.report / "profile.md").write_text(markdown(found), encoding="utf-8")
    plain = [dataclasses.asdict(one) | {"outside_seconds": one.outside_seconds} for one in found]
    (options.report / "profile.json").write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")
    return 0


def profile(folder: Path, clients: Sequence[int], seconds: int, variant: str) -> list[Profile]:
    """One service, loaded by each number of clients in turn."""
    candidate = dermserve(variant)
    way = candidate.ways[0]
    pictures = peer_pictures(folder / "pictures", PICTURES, seed=1, megapixels=None)
    requests = write_requests(folder / "requests", way.path, [way.encode(picture) for picture in pictures])
    with running(candidate, way, Path(sys.executable), pictures[0], folder / "service.log") as server:
        load(server.url, requests, clients=max(clients), seconds=WARM_UP_SECONDS)
        return [_profile_under(server, requests, number, seconds, folder) for number in clients]


def _profile_under(
    server: RunningServer, requests: Sequence[Path], clients: int, seconds: int, folder: Path
) -> Profile:
    before = read_samples(server.port)
    loop = load(server.url, requests, clients=clients, seconds=seconds)
    after = read_samples(server.port)
    # sampled in a run of its own: py-spy needs processor time too
    functions = sampled_functions(server.process_id, folder / "stacks.txt", seconds, server.url, requests, clients)
    return summarise(clients, loop, before, after, functions)


def summarise(
    clients: int,
    loop: ClosedLoop,
    before: Sequence[Sample],
    after: Sequence[Sample],
    functions: Mapping[str, float],
) -> Profile:
    """Means from what the histograms' sums and counts grew by."""
    stages = {sample.labels["stage"] for sample in after if sample.name == f"{STAGE}_sum"}
    answers = _growth(before, after, f"{TOTAL}_count")
    return Profile(
        clients=clients,
        answers_per_second=loop.answers_per_second,
        stages_seconds={s: _growth(before, after, f"{STAGE}_sum", s) / max(answers, 1) for s in sorted(stages)},
        service_seconds=_growth(before, after, f"{TOTAL}_sum") / max(answers, 1),
        # each caller is always waiting for one answer (Little's law)
        caller_seconds=clients / loop.answers_per_second if loop.answers_per_second else 0.0,
        functions=functions,
    )


def _growth(before: Sequence[Sample], after: Sequence[Sample], name: str, stage: str | None = None) -> float:
    def value(samples: Sequence[Sample]) -> float:
        return sum(s.value for s in samples if s.name == name and s.labels.get("stage") == stage)

    return value(after) - value(before)


def read_samples(port: int) -> list[Sample]:
    """The service's metrics; raises OSError."""
    with urllib.request.urlopen(f"http://{HOST}:{port}/metrics", timeout=10) as answer:
        return parse_samples(answer.read().decode())


def sampled_functions(
    process_id: int, stacks: Path, seconds: int, url: str, requests: Sequence[Path], clients: int
) -> dict[str, float]:
    """Shares of processor samples by the innermost Python function, under load; empty where py-spy cannot look."""
    if shutil.which("py-spy") is None:
        return {}
    command = ["py-spy", "record", "--pid", str(process_id), "--format", "raw", "--output", str(stacks)]
    with subprocess.Popen([*command, "--duration", str(seconds)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
        load(url, requests, clients=clients, seconds=seconds + 1)
    return shares(stacks.read_text(encoding="utf-8")) if stacks.is_file() else {}


def shares(stacks: str) -> dict[str, float]:
    """py-spy's lines "outer;inner 42" -> share of each innermost function, largest first."""
    counts: Counter[str] = Counter()
    for line in stacks.splitlines():
        frames, _, number = line.rpartition(" ")
        counts[frames.rpartition(";")[2]] += int(number)
    return {name: number / counts.total() for name, number in counts.most_common()}


def markdown(found: Sequence[Profile]) -> str:
    """The tables for the documentation."""
    head = "".join(f" {one.clients} client{'s' if one.clients > 1 else ''}, ms | share |" for one in found)
    lines = [f"| part of a request |{head}", "|---|" + "---|---|" * len(found)]
    stages = sorted(
        {stage for one in found for stage in one.stages_seconds}, key=lambda s: -found[0].stages_seconds.get(s, 0)
    )
    parts = {stage: [one.stages_seconds.get(stage, 0.0) for one in found] for stage in stages}
    parts["between the stages"] = [one.service_seconds - sum(one.stages_seconds.values()) for one in found]
    parts["outside the service's clock"] = [one.outside_seconds for one in found]
    parts["**all, as the caller sees it**"] = [one.caller_seconds for one in found]
    for name, seconds in parts.items():
        cells = [
            f" {s * 1000:.2f} | {s / (one.caller_seconds or 1):.1%} |" for s, one in zip(seconds, found, strict=True)
        ]
        lines.append(f"| {name} |{''.join(cells)}")
    lines += ["", *(f"{one.clients} clients: {one.answers_per_second:.1f} answers/s" for one in found)]
    for one in found:
        if one.functions:
            lines += ["", f"| function, under {one.clients} clients | share of processor samples |", "|---|---|"]
            lines += [f"| `{name}` | {share:.1%} |" for name, share in list(one.functions.items())[:SHOWN_FUNCTIONS]]
    return "\n".join(lines) + "\n"


def tell(text: str, *, error: bool = False) -> None:
    """To the terminal."""
    (sys.stderr if error else sys.stdout).write(f"{text}\n")


def argument_parser() -> argparse.ArgumentParser:
    """Every option of the profile."""
    parser = argparse.ArgumentParser(
        prog="dermserve-loadtest profile",
        description="Where each millisecond of a request goes: the stages by the service's own clocks and, where "
        "py-spy is installed (pip install py-spy; needs the right to trace), the functions by samples.",
    )
    parser.add_argument("--seconds", type=int, default=10, help="for each number of clients (default %(default)s)")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8], help="at once, in turn (default 1 8)")
    parser.add_argument("--variant", choices=("auto", "fp32", "int8"), default="auto", help="default %(default)s")
    parser.add_argument(
        "--report", type=Path, default=Path("loadtest-report/profile"), metavar="FOLDER", help="default %(default)s"
    )
    return parser
