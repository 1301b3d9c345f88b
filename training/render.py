"""Pictures as the service will see them: files read afresh and put through the contract's own preprocessing."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from model_store.contract.preprocessing import REDUCED_DECODE_FACTOR, Preprocessing, load_rgb, to_input
from training.config import Config, Input
from training.data import Picture

_BATCH = 32
_ASPECT_SLACK = 0.01  # a picture this close to its true width / height is left as it is

Reshape = Callable[[Image.Image], Image.Image]


def contract_of(wanted: Input) -> Preprocessing:
    """The preprocessing that the configuration asks for, as the manifest states it."""
    return Preprocessing(
        height=wanted.pixels,
        width=wanted.pixels,
        resize=wanted.resize,
        reduced_decode_factor=REDUCED_DECODE_FACTOR,
    )


class Renderer:
    """Pictures -> the graph's input under one contract; squashed copies are first given their true aspect back."""

    def __init__(self, config: Config, contract: Preprocessing) -> None:
        self.contract = contract
        self.aspects = {collection.name: collection.aspect for collection in config.data.collections}

    def batches(
        self, pictures: Sequence[Picture], progress: str | None = None, reshape: Reshape | None = None
    ) -> Iterator[NDArray[np.uint8]]:
        """Batches uint8 [n, H, W, 3] in the order given; `reshape` changes the upright picture before it is resized."""
        bar = tqdm(total=len(pictures), desc=progress, unit=" pictures", mininterval=1, disable=progress is None)
        with ThreadPoolExecutor(2) as threads, bar:  # decoding leaves the interpreter lock
            for start in range(0, len(pictures), _BATCH):
                part = pictures[start : start + _BATCH]
                yield np.stack(list(threads.map(lambda picture: self.render(picture, reshape), part)))
                bar.update(len(part))

    def render(self, picture: Picture, reshape: Reshape | None = None) -> NDArray[np.uint8]:
        """One picture as uint8 [H, W, 3]."""
        with Image.open(picture.file) as image:
            rgb = load_rgb(image, self.contract)
        if reshape is not None or self.contract.resize != "squash":  # squashing forgets the aspect anyway
            rgb = at_aspect(rgb, self.aspects[picture.collection])
        return to_input(reshape(rgb) if reshape else rgb, self.contract)


def in_batches(images: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """Images [N, H, W, 3] that are in memory already, in batches of the size that `Renderer.batches` gives."""
    for start in range(0, len(images), _BATCH):
        yield images[start : start + _BATCH]


def at_aspect(rgb: Image.Image, aspect: float | None) -> Image.Image:
    """Stretch the shorter-than-true side, so that width / height is `aspect`; None leaves the picture alone."""
    if aspect is None or abs(rgb.width / rgb.height / aspect - 1) < _ASPECT_SLACK:
        return rgb
    if rgb.width / rgb.height < aspect:
        return rgb.resize((round(rgb.height * aspect), rgb.height), Image.Resampling.BICUBIC)
    return rgb.resize((rgb.width, round(rgb.width / aspect)), Image.Resampling.BICUBIC)
