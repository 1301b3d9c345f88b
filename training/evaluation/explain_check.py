"""Are the class maps about what the network knows, and do they fall on the lesion? Two checks, both able to fail.

A map that stays the same when the weights are shuffled shows edges, not what was learnt (Adebayo et al.,
arXiv:1810.03292). A map that falls on the lesion no more than a blob in the middle of the picture says no more than
that photographers centre lesions.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from PIL import Image
from scipy import ndimage
from scipy.stats import spearmanr

from training.evaluation.tables import Interval, Predictions, Resampling, with_interval
from training.export import CLASS_MAPS, OnnxClassifier
from training.metrics import Bools, Floats, mean
from training.render import in_batches

_SHUFFLES = 4
_HALF_AXES = 0.95  # of the ellipse in which a lesion is looked for: the corners may be dark
_LESION_SHARES = (0.02, 0.6)  # of the ellipse: a mask outside these found something else
_LARGEST_RIM_SHARE = 0.1  # of the ellipse's rim: a mask that follows it is a shadow or a tube's edge


def explanation_report(
    graph: bytes, part: Predictions, images: NDArray[np.uint8], class_maps: NDArray[np.float32], resample: Resampling
) -> dict[str, Any]:
    """Both checks on the maps of the first diagnosis. JSON-ready.

    `images` uint8 [N, H, W, 3] and `class_maps` [N, classes, h, w] are those of `part`, from the `graph`.
    """
    rows, first = np.arange(len(images)), part.probabilities.argmax(axis=1)
    maps = class_maps[rows, first]
    correlations = {}
    for name, everywhere in (("last layer", False), ("all layers", True)):
        shuffled = (shuffled_weights(graph, everywhere, resample.seed + number) for number in range(_SHUFFLES))
        others = [_class_maps(OnnxClassifier(weights), images)[rows, first] for weights in shuffled]
        correlations[name] = _correlations(maps, others)
    return {
        "pictures": len(images),
        "grid": f"{maps.shape[1]} x {maps.shape[2]}",
        "shuffles": _SHUFFLES,
        "rank_correlation_with_shuffled_weights": correlations,
        "on_the_lesion": _localisation(part, images, maps, resample),
    }


def shuffled_weights(graph: bytes, everywhere: bool, seed: int) -> bytes:
    """The graph with the weights of the class maps' layer, or of every layer, in random order and with random signs: of
    the same size, and nothing of what was learnt. (With their own signs, a mean below zero would invert every map.)
    """
    model, random = onnx.load_from_string(graph), np.random.default_rng(seed)
    weights = {i.name: i for i in model.graph.initializer if len(i.dims) >= 2 and i.data_type == onnx.TensorProto.FLOAT}
    last = _last_layer(model.graph)
    for name, tensor in weights.items():
        if everywhere or name == last:
            values = numpy_helper.to_array(tensor)
            signs = random.choice(np.array([-1, 1], values.dtype), values.shape)
            mixed = random.permutation(values.ravel()).reshape(values.shape) * signs
            tensor.CopyFrom(numpy_helper.from_array(mixed, name))
    return bytes(model.SerializeToString())


def _last_layer(graph: onnx.GraphProto) -> str:
    """Name of the weights that turn features into class maps: those of the nearest convolution above."""
    producer = {output: node for node in graph.node for output in node.output}
    waiting = [CLASS_MAPS]
    while producer[waiting[0]].op_type != "Conv":
        waiting += (name for name in producer[waiting.pop(0)].input if name in producer)
    return str(producer[waiting[0]].input[1])


def lesion_mask(image: NDArray[np.uint8]) -> Bools | None:
    """Where the lesion probably is, [H, W]: the largest central patch that is darker, or more saturated, than the rest
    (Otsu's threshold on whichever of the two parts the picture better). None when that is no plausible lesion.
    """
    height, width = image.shape[:2]
    inside = _ellipse(height, width)
    pixels = ndimage.gaussian_filter(image.astype(np.float64), (2, 2, 0))
    darkness, saturation = 255 - pixels @ np.array([0.299, 0.587, 0.114]), pixels.max(axis=2) - pixels.min(axis=2)
    found = [(channel, *otsu(channel[inside])) for channel in (darkness, saturation)]
    channel, threshold, _ = max(found, key=lambda candidate: candidate[2])
    labels, patches = ndimage.label(ndimage.binary_opening((channel > threshold) & inside, iterations=2))
    if not patches:
        return None
    central = _gaussian(height, width, 0.3)
    weights = ndimage.sum_labels(central, labels, np.arange(1, patches + 1))
    mask = np.asarray(ndimage.binary_fill_holes(labels == 1 + int(np.argmax(weights))))
    rim = inside & ~_ellipse(height, width, _HALF_AXES - 0.03)
    low, high = _LESION_SHARES
    plausible = low <= mask.sum() / inside.sum() <= high and mask[rim].mean() <= _LARGEST_RIM_SHARE
    return mask if plausible else None


def otsu(values: Floats) -> tuple[float, float]:
    """The threshold that parts `values` best into two, and the share of the variance that lies between the two."""
    counts, edges = np.histogram(values, 128)
    middles = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1].astype(np.float64)
    above = len(values) - below
    sums = np.cumsum(counts * middles)
    mean_below, mean_above = sums[:-1] / np.maximum(below, 1), (sums[-1] - sums[:-1]) / np.maximum(above, 1)
    between = below * above * (mean_below - mean_above) ** 2 / len(values) ** 2
    best = int(np.argmax(between))
    return float(edges[best + 1]), float(between[best] / max(values.var(), 1e-9))


def _class_maps(classifier: OnnxClassifier, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.concatenate([classifier.outputs(batch)[CLASS_MAPS] for batch in in_batches(images)])


def _correlations(maps: NDArray[np.float32], others: Sequence[NDArray[np.float32]]) -> dict[str, float]:
    """Spearman's rank correlation over the cells of each picture's map with the same class's of a shuffled graph."""
    pairs = [(a.ravel(), b.ravel()) for of_graph in others for a, b in zip(maps, of_graph, strict=True)]
    found = [float(spearmanr(a, b).statistic) for a, b in pairs if np.ptp(a) and np.ptp(b)]
    low, median, high = np.percentile(found, [5, 50, 95]) if found else (0.0, 0.0, 0.0)
    return {"median": round(float(median), 4), "p5": round(float(low), 4), "p95": round(float(high), 4)}


def _localisation(
    part: Predictions, images: NDArray[np.uint8], maps: NDArray[np.float32], resample: Resampling
) -> dict[str, Any]:
    """Share of the positive evidence that falls on the lesion: of the map, of a centred Gaussian blob that is spread
    as widely as the map, and of an even map (the lesion's share of the picture).
    """
    shares, kept = [], []
    for index, (image, cells) in enumerate(zip(images, maps, strict=True)):
        mask, (height, width) = lesion_mask(image), image.shape[:2]
        evidence = _enlarged(np.maximum(cells, 0), height, width)
        if mask is None or not evidence.any():
            continue
        blob = _gaussian(height, width, _spread(evidence))
        shares.append([float(heat[mask].sum() / heat.sum()) for heat in (evidence, blob, np.ones_like(blob))])
        kept.append(part.pictures[index])
    if not kept:
        return {"pictures": 0}
    of_map, of_blob, of_even = np.array(shares).T
    once, drawn = np.ones((1, len(kept))), resample.weights(kept)

    def interval_of(values: Floats) -> Interval:
        return with_interval(mean(values, once), mean(values, drawn))

    return {
        "pictures": len(kept),
        "map": interval_of(of_map),
        "centred_blob": interval_of(of_blob),
        "even": interval_of(of_even),
        "map_less_blob": interval_of(of_map - of_blob),
        "map_beats_blob": interval_of((of_map > of_blob).astype(np.float64)),
    }


def _enlarged(cells: NDArray[np.float32], height: int, width: int) -> Floats:
    return np.asarray(Image.fromarray(cells).resize((width, height), Image.Resampling.BILINEAR), np.float64)


def _spread(heat: Floats) -> float:
    """Standard deviation, in sides of the picture, of the Gaussian that covers the same effective area as `heat`.

    The effective area is (sum h)^2 / sum h^2, which for a Gaussian is 4 pi sigma^2.
    """
    return float(np.sqrt(heat.sum() ** 2 / (heat**2).sum() / heat.size / (4 * np.pi)))


def _gaussian(height: int, width: int, sigma: float) -> Floats:
    y, x = (np.arange(height) + 0.5) / height - 0.5, (np.arange(width) + 0.5) / width - 0.5
    return np.asarray(np.exp(-(y[:, None] ** 2 + x[None, :] ** 2) / (2 * sigma**2)))


def _ellipse(height: int, width: int, half_axes: float = _HALF_AXES) -> Bools:
    y, x = (np.arange(height) + 0.5) / height * 2 - 1, (np.arange(width) + 0.5) / width * 2 - 1
    return np.asarray(y[:, None] ** 2 + x[None, :] ** 2 <= half_axes**2)
