"""One comparison: check every candidate's answers, find its best set-up, then measure all in rounds, one at a time."""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path

import numpy as np

from loadtests.peers.candidates import OURS, Candidate, Loop, Way
from loadtests.peers.environments import python_of
from loadtests.peers.figures import Reached, Round, order
from loadtests.peers.network import Network
from loadtests.peers.running import CandidateFailedError, RunningServer, last_lines, run_to_the_end, running
from loadtests.wrk import ClosedLoop, load, write_requests

WARM_UP_SECONDS = 1
PROBABILITY_TOLERANCE = 0.02  # another build of libjpeg may round a pixel differently
Reference = dict[tuple[str, str], list[list[float]]]  # (variant, decoder) -> probabilities of each picture


@dataclass(frozen=True, slots=True)
class Bench:
    """What all candidates are measured with."""

    network: Network
    pictures: Sequence[bytes]
    venvs: Path
    folder: Path  # for pictures, requests and logs
    clients: int
    seconds: int
    one_client_seconds: int
    tuning_seconds: int


@dataclass(slots=True)
class Comparison:
    """The state of a comparison; `notes` are failures and choices in words, by candidate."""

    bench: Bench
    candidates: Sequence[Candidate | Loop]
    reference: Reference = field(default_factory=dict)
    chosen: dict[str, Way] = field(default_factory=dict)
    tried: dict[str, dict[str, float]] = field(default_factory=dict)  # answers a second of each set-up
    variants: dict[str, str] = field(default_factory=dict)  # what a server with a choice serves
    rounds: list[Round] = field(default_factory=list)
    notes: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def choose_ways(self) -> Iterator[str]:
        """Check each server's answers and find its best set-up; yields a line when each is done."""
        for candidate in self.candidates:
            if isinstance(candidate, Candidate):
                yield self._choose_way(candidate)

    def run_round(self, number: int, rounds: int) -> Iterator[str]:
        """Measure every candidate that works, once; yields a line when each is done."""
        working = {c.name: c for c in self.candidates if isinstance(c, Loop) or c.name in self.chosen}
        reached: dict[str, Reached] = {}
        self.rounds.append(reached)
        for name in order(list(working), number, rounds):
            candidate = working[name]
            try:
                reached[name] = self._measure(candidate)
            except CandidateFailedError as error:
                self.notes[name].append(f"round {number + 1}: {error}")
                yield f"{name}: {error}"
            else:
                yield f"{name}: {reached[name].answers_per_second:.1f}/s"

    def _choose_way(self, candidate: Candidate) -> str:
        rates: dict[str, float] = {}
        for way in candidate.ways:
            try:
                with self._running(candidate, way) as server:
                    self._check_answers(server)
                    found = self._load(server, self.bench.clients, self.bench.tuning_seconds)
            except CandidateFailedError as error:
                self.notes[candidate.name].append(f"{way.label}: {error}")
                continue
            rates[way.label] = found.answers_per_second
            if found.answers_per_second == max(rates.values()):
                self.chosen[candidate.name] = way
        self.tried[candidate.name] = rates
        if not rates:
            return f"{candidate.name}: left out: {'; '.join(self.notes[candidate.name])}"
        tried = ", ".join(f"{label} {rate:.1f}/s" for label, rate in rates.items())
        return f"{candidate.name}: {self.chosen[candidate.name].label} (tried: {tried})"

    @contextmanager
    def _running(self, candidate: Candidate, way: Way) -> Iterator[RunningServer]:
        python = python_of(candidate.environment, self.bench.venvs)
        log = self.bench.folder / f"{candidate.name}.log"
        with running(candidate, way, python, self.bench.pictures[0], log) as server:
            try:
                yield server
            except (OSError, HTTPException, ValueError, KeyError, RuntimeError) as error:
                raise CandidateFailedError(f"{type(error).__name__}: {error}; log: {last_lines(log)}") from error

    def _check_answers(self, server: RunningServer) -> None:
        """Every picture's probabilities are those of the bare loop."""
        candidate, classes = server.candidate, self.bench.network.classes
        answers = [server.ask(picture) for picture in self.bench.pictures]
        if statuses := {answer.status for answer in answers} - {200}:
            raise CandidateFailedError(f"answers with status {', '.join(map(str, statuses))}")
        variant = candidate.variant
        if variant == "auto":
            variant = str(json.loads(answers[0].body)["model"]["variant"])
        self.variants[candidate.name] = variant
        found = [server.way.read(answer.body, classes) for answer in answers]
        off = float(np.abs(np.subtract(found, self._expected(variant, candidate.decoder))).max())
        if not off <= PROBABILITY_TOLERANCE:  # written so that NaN is a fault too
            raise CandidateFailedError(f"its probabilities are off by {off:.3f}")

    def _expected(self, variant: str, decoder: str) -> list[list[float]]:
        if (variant, decoder) not in self.reference:
            answers: list[dict[str, float]] = json.loads(self._bare_loop("answers", variant, decoder, 1))
            self.reference[variant, decoder] = [[a[code] for code in self.bench.network.classes] for a in answers]
        return self.reference[variant, decoder]

    def _load(self, server: RunningServer, clients: int, seconds: int) -> ClosedLoop:
        bodies = [server.way.encode(picture) for picture in self.bench.pictures]
        requests = write_requests(self.bench.folder / "requests", server.way.path, bodies)
        load(server.url, requests, clients=clients, seconds=WARM_UP_SECONDS)
        found = load(server.url, requests, clients=clients, seconds=seconds)
        if found.answers_per_second == 0:  # no figure, rather than latencies of 0
            raise CandidateFailedError(f"no answer within {seconds} s ({found.refused} refused, {found.failed} failed)")
        return found

    def _measure(self, candidate: Candidate | Loop) -> Reached:
        return self._measure_server(candidate) if isinstance(candidate, Candidate) else self._measure_loop(candidate)

    def _measure_server(self, candidate: Candidate) -> Reached:
        with self._running(candidate, self.chosen[candidate.name]) as server:
            several = self._load(server, self.bench.clients, self.bench.seconds)
            one = self._load(server, 1, self.bench.one_client_seconds)
        return Reached(
            answers_per_second=several.answers_per_second,
            p50_seconds=several.p50_seconds,
            p99_seconds=several.p99_seconds,
            one_client_p50_seconds=one.p50_seconds,
            refused=several.refused + one.refused,
            failed=several.failed + one.failed,
        )

    def _measure_loop(self, candidate: Loop) -> Reached:
        found = {
            f"{workers} {mode}": json.loads(self._bare_loop(mode, candidate.variant, OURS, workers))
            for mode, workers in candidate.modes
        }
        alone = json.loads(self._bare_loop("threads", candidate.variant, OURS, 1))
        best = max(found, key=lambda mode: float(found[mode]["pictures_per_second"]))
        return Reached(
            answers_per_second=found[best]["pictures_per_second"],
            p50_seconds=found[best]["picture_p50_seconds"],
            p99_seconds=found[best]["picture_p99_seconds"],
            one_client_p50_seconds=alone["picture_p50_seconds"],
            refused=0,
            failed=0,
            mode=best,
        )

    def _bare_loop(self, mode: str, variant: str, decoder: str, workers: int) -> str:
        seconds = self.bench.seconds if workers > 1 else self.bench.one_client_seconds
        command = [str(python_of(None, self.bench.venvs)), "-m", "loadtests.peers.servers.bare_loop"]
        command += [str(self.bench.folder / "pictures"), str(seconds), mode, str(workers)]
        return run_to_the_end(command, {"PEERS_VARIANT": variant, "PEERS_DECODER": decoder})
