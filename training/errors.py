"""Errors of the training job; each ends it with its message and exit code 2.

TrainingError
├── ConfigError       config: the TOML file is wrong
├── DataError         data: pictures or metadata are wrong; lists every problem
├── ResumeError       train: the checkpoint is of another run
├── ExportError       export: the graph does not answer as the network does
├── CompareError      compare, gallery: the versions or pictures asked for cannot be looked at together
└── GalleryError      gallery: patient pictures must not be written there
"""


class TrainingError(Exception):
    """Base of all expected failures."""


class ConfigError(TrainingError):
    """The configuration file cannot be read or is wrong."""


class DataError(TrainingError):
    """The collections cannot be used; `problems` holds one line each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__(f"{len(problems)} problem(s) in the data:\n" + "\n".join(f"  {line}" for line in problems))
        self.problems = problems


class ResumeError(TrainingError):
    """The checkpoint does not belong to this configuration and data."""


class ExportError(TrainingError):
    """The exported graph and the PyTorch network disagree."""


class CompareError(TrainingError):
    """There is no such variant, or no picture that is unseen by all versions."""


class GalleryError(TrainingError):
    """The folder belongs to a repository, or holds something else."""
