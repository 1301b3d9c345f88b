"""`python -m tests.fuzz`: mutated pictures through the decoder or a running service. Exit status 1 on any fault.

Any picture can be tried again by its number: `--first NUMBER --pictures 1`, with `--write FILE` to look at it.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from tqdm import tqdm

from tests.conftest import running_service
from tests.fuzz.mutations import mutant
from tests.fuzz.trial import Findings, Trial, run


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0: every picture ended in a prediction or a documented refusal, in time and within memory."""
    asked = _parser().parse_args(arguments)
    if asked.write:
        picture = mutant(asked.seed, asked.first)
        asked.write.write_bytes(picture.body)
        print(f"{asked.write}: {len(picture.body)} bytes, {picture.name}")
        return 0
    with ExitStack() as stack:
        url, pid = asked.url, 0
        if asked.start_service:
            log = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "log"
            service = stack.enter_context(running_service(log))
            url, pid = service.url, service.process.pid
        numbers = range(asked.first, asked.first + asked.pictures)
        trial = Trial(asked.seed, numbers, asked.threads, asked.wall_limit_seconds, url, pid)
        findings = _watched(trial)
        if asked.start_service and service.process.poll() is not None:
            findings.faults.append(f"the service ended with {service.process.returncode}")
    _print_summary(trial, findings)
    return 1 if findings.faults or findings.pictures != asked.pictures else 0


def _watched(trial: Trial) -> Findings:
    findings = Findings()
    with tqdm(total=len(trial.numbers), unit="picture", disable=None) as bar:
        for findings in run(trial):
            bar.update(findings.pictures - bar.n)
            bar.set_postfix_str(f"{findings.peak_bytes >> 20} MiB, {len(findings.faults)} faults")
    return findings


def _print_summary(trial: Trial, findings: Findings) -> None:
    print(f"seed {trial.seed}: {findings.pictures} of {len(trial.numbers)} pictures ended")
    for result, count in findings.results.most_common():
        print(f"  {count:7d}  {result}")
    seconds, number = findings.slowest
    print(f"slowest {seconds:.2f} s (picture {number}; limit {trial.wall_limit_seconds:g} s)")
    print(f"peak memory {findings.peak_bytes >> 20} MiB (limit {trial.memory_limit_bytes >> 20} MiB)")
    for fault in findings.faults[:50]:
        print(f"FAULT {fault}")
    print("PASS" if not findings.faults and findings.pictures == len(trial.numbers) else "FAIL")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--pictures", type=int, default=50_000, help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="another seed, other pictures (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, help="number of the first picture (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="at the same time (default: %(default)s)")
    parser.add_argument("--wall-limit-seconds", type=float, default=20.0, help="for one picture (default: %(default)s)")
    target = parser.add_mutually_exclusive_group()
    target.add_argument("--url", help="of a running service; without it, the decoder alone is tried")
    target.add_argument("--start-service", action="store_true", help="start a service and try that")
    target.add_argument("--write", type=Path, help="write the picture --first to this file, and do nothing else")
    return parser


if __name__ == "__main__":
    sys.exit(main())
