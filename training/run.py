"""One training run, as every step after reading the data looks at it."""

from dataclasses import dataclass
from pathlib import Path

from training.config import Config
from training.data import Picture
from training.provenance import RunRecord
from training.render import Renderer, contract_of


@dataclass(frozen=True)
class Run:
    """What all steps after reading the data look at."""

    config: Config
    folder: Path
    pictures: tuple[Picture, ...]
    parts: dict[str, str]
    record: RunRecord
    root: Path  # of the collections

    def part(self, part: str, collection: str | None = None) -> tuple[Picture, ...]:
        """Pictures of a part, of one collection or of all."""
        ours = (picture for picture in self.pictures if self.parts[picture.image_id] == part)
        return tuple(picture for picture in ours if collection in (None, picture.collection))

    @property
    def natural_validation(self) -> tuple[Picture, ...]:
        """Validation pictures with the natural class mix: everything is chosen on these."""
        return self.part("validation", self.config.data.natural_mix)

    @property
    def renderer(self) -> Renderer:
        """Pictures through the contract that will be published."""
        return Renderer(self.config, contract_of(self.config.input))
