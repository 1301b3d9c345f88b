"""What the gate is fitted on and what it is measured on never share a source."""

from collections import Counter
from pathlib import Path

import numpy as np

from tests.training.builders import data_of, hospital_folder, save_picture
from training.config import Collection
from training.outliers import outliers


def test_halves_share_no_source_and_all_pictures_open(tmp_path: Path) -> None:
    """Drawn pictures, the packages' photographs, and the collection's own: each source stands on one side."""
    rows = [{"image_id": f"p{n}", "lesion_id": f"l{n // 2}", "dx": "other" if n < 40 else "nv"} for n in range(60)]
    folder = hospital_folder(tmp_path / "clinic", rows)
    (folder / "close_up_photos").mkdir()
    for number in range(20):
        save_picture(folder / "close_up_photos" / f"c{number}.jpg")
    clinic = Collection(name="clinic", path="clinic", ignore_dx=("other",), close_ups="close_up_photos")
    found = list(outliers(data_of(clinic), tmp_path, seed=1))

    sides: dict[str, set[str]] = {}
    for outlier in found:
        sides.setdefault(outlier.source, set()).add(outlier.half)
        assert outlier.open().mode == "RGB"
    assert {len(halves) for halves in sides.values()} == {1}
    counts = Counter((outlier.kind, outlier.half) for outlier in found)
    assert counts["close_up", "fit"] + counts["close_up", "test"] == 20
    assert counts["other_diagnosis", "fit"] + counts["other_diagnosis", "test"] == 40
    assert min(counts.values()) >= 5


def test_pictures_of_one_lesion_stay_together(tmp_path: Path) -> None:
    """Two pictures of a lesion with another diagnosis are either both learnt from or both measured."""
    rows = [{"image_id": f"p{n}", "lesion_id": f"l{n // 2}", "dx": "other"} for n in range(40)]
    hospital_folder(tmp_path / "clinic", [*rows, {"image_id": "n", "lesion_id": "n", "dx": "nv"}])
    clinic = Collection(name="clinic", path="clinic", ignore_dx=("other",))
    half = {o.source: o.half for o in outliers(data_of(clinic), tmp_path, 1) if o.kind == "other_diagnosis"}
    assert all(half[f"p{n}"] == half[f"p{n + 1}"] for n in range(0, 40, 2))
    assert set(half.values()) == {"fit", "test"}


def test_drawings_follow_from_the_seed(tmp_path: Path) -> None:
    """The same seed draws the same pictures, another one others."""
    clinic = Collection(name="clinic", path="clinic")

    def drawn(seed: int) -> list[bytes]:
        found = outliers(data_of(clinic), tmp_path, seed)
        return [np.asarray(o.open()).tobytes() for o in found if o.source.startswith("drawn/")]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
