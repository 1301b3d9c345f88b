"""A virtual environment for each framework, from its pinned requirements; made once, made anew when they change."""

import hashlib
import subprocess
import sys
import venv
from pathlib import Path

REQUIREMENTS = Path(__file__).parent / "requirements"


class NotInstalledError(Exception):
    """An environment could not be made; the text is for the operator."""


def python_of(name: str | None, venvs: Path) -> Path:
    """The interpreter of an environment; None is the project's own."""
    return Path(sys.executable) if name is None else (venvs / name / "bin" / "python").absolute()


def is_installed(name: str | None, venvs: Path) -> bool:
    """Whether the environment is there and made from the present requirements."""
    if name is None:
        return True
    mark = _mark(venvs / name)
    return mark.is_file() and mark.read_text(encoding="ascii") == _digest(name)


def install(name: str, venvs: Path) -> None:
    """Make the environment; raises NotInstalledError with pip's last lines."""
    folder = venvs / name
    venv.create(folder, clear=True, with_pip=False)
    # the project's pip installs into it: the environment holds nothing but the requirements
    requirements = str(REQUIREMENTS / f"{name}.txt")
    pip = [sys.executable, "-m", "pip", "--python", str(python_of(name, venvs)), "install", "--quiet"]
    pip += ["--no-deps", "--no-compile", "--requirement", requirements]  # complete and pinned; imports compile
    finished = subprocess.run(pip, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise NotInstalledError(f"{name}: {' '.join(finished.stderr.split())[-500:]}")
    _mark(folder).write_text(_digest(name), encoding="ascii")


def _mark(folder: Path) -> Path:
    return folder / "installed-requirements.sha256"


def _digest(name: str) -> str:
    return hashlib.sha256((REQUIREMENTS / f"{name}.txt").read_bytes()).hexdigest()
