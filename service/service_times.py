"""What the stages cost on this machine: measured at start, then followed while serving.

All figures are wall seconds inside a worker thread, while every worker is busy; those of the start are as if nothing
else ran. Pure: no clock, no lock; for one event loop.
"""

from collections.abc import Mapping
from dataclasses import dataclass

# Weight of the newest observation in a moving average: half of a change is followed within seven pictures.
_NEWEST = 0.1
# An observation counts for at most this many times the average: a process that stood still for a second says nothing of
# the next picture. A lasting change is followed all the same, within some ten pictures more.
_BELIEVED = 3.0
# Guesses that the first observations correct; what decoders of these formats need on a core of this decade.
_SECONDS_PER_PIXEL: Mapping[str, float] = {"JPEG": 12e-9, "PNG": 30e-9, "WEBP": 30e-9, "TIFF": 20e-9, "BMP": 10e-9}
_SECONDS_PER_BYTE = 15e-9
_SECONDS_PER_EXPLANATION = 0.01
# A batch size is as good as the best when a picture takes at most this many times as long in it. Larger batches cost
# more than the network's figures say: whoever comes together answers together, and the workers run dry meanwhile.
_AS_GOOD = 1.1
# Only a decoder that needs longer than this is worth a lane of its own: the network itself takes some milliseconds.
SLOW_DECODE_SECONDS = 0.05


@dataclass(frozen=True)
class Cost:
    """Expected seconds of one picture: in the common line, and before it in the slow lane (0 if it needs none)."""

    line_seconds: float
    slow_seconds: float = 0.0


class ServiceTimes:
    """Estimates of decoding (by format and size), of the network (by batch size) and of drawing an explanation."""

    def __init__(self, inference_seconds: Mapping[int, float]) -> None:
        """`inference_seconds` by batch size, as the engine measured them; size 1 at least."""
        self._inference_seconds = dict(inference_seconds)
        self._seconds_per_pixel: dict[tuple[str, int], float] = {}
        self._seconds_per_byte = _SECONDS_PER_BYTE
        self._explanation_seconds = _SECONDS_PER_EXPLANATION

    def cost(self, image_format: str, pixels: int, *, explained: bool) -> Cost:
        """Of one picture whose header has been read."""
        decode = self.decode_seconds(image_format, pixels)
        line = self.seconds_per_picture() + (self._explanation_seconds if explained else 0.0)
        return Cost(line, decode) if decode > SLOW_DECODE_SECONDS else Cost(line + decode)

    def cost_of_bytes(self, body_bytes: int) -> Cost:
        """Of one picture of which only the file's length is known.

        Never more than a picture may cost in the line: a few small files of large, flat pictures say nothing of others.
        """
        decode = min(body_bytes * self._seconds_per_byte, SLOW_DECODE_SECONDS)
        return Cost(self.seconds_per_picture() + decode)

    def decode_seconds(self, image_format: str, pixels: int) -> float:
        """Decoding and preprocessing of a picture of `pixels`, of one of the five formats (Pillow's names)."""
        guess = _SECONDS_PER_PIXEL[image_format]
        return pixels * self._seconds_per_pixel.get(_kind(image_format, pixels), guess)

    def inference_seconds(self, batch_size: int) -> float:
        """One batch; between and beyond the measured sizes at the pace of the nearest one."""
        nearest = min(self._inference_seconds, key=lambda size: abs(size - batch_size))
        return self._inference_seconds[nearest] * batch_size / nearest

    def seconds_per_picture(self) -> float:
        """One picture's share of a batch, at the best measured size."""
        return min(seconds / size for size, seconds in self._inference_seconds.items())

    def best_batch_size(self, limit: int) -> int:
        """The smallest measured size, up to `limit`, at which a picture takes at most 10 % longer than at the best."""
        paces = {size: self._inference_seconds[size] / size for size in sorted(self._inference_seconds)}
        allowed = {size: pace for size, pace in paces.items() if size <= limit}
        best = min(allowed.values())
        return next(size for size, pace in allowed.items() if pace <= best * _AS_GOOD)

    def observe_decode(self, image_format: str, pixels: int, body_bytes: int, seconds: float) -> None:
        """A picture was decoded and preprocessed in `seconds`."""
        known = self._seconds_per_pixel.get(_kind(image_format, pixels), _SECONDS_PER_PIXEL[image_format])
        self._seconds_per_pixel[_kind(image_format, pixels)] = _moved(known, seconds / pixels)
        self._seconds_per_byte = _moved(self._seconds_per_byte, seconds / body_bytes)

    def observe_inference(self, batch_size: int, seconds: float) -> None:
        """A batch went through the network in `seconds`. Tell only of moments in which every worker was busy."""
        known = self.inference_seconds(batch_size)
        self._inference_seconds[batch_size] = _moved(known, seconds)

    def observe_explanation(self, seconds: float) -> None:
        """An overlay was drawn in `seconds`."""
        self._explanation_seconds = _moved(self._explanation_seconds, seconds)


def _kind(image_format: str, pixels: int) -> tuple[str, int]:
    """Pictures whose decoding takes about the same time a pixel: one format, sizes within a factor of two.

    Reduced-scale decoding makes a large JPEG cheaper by the pixel than a small one.
    """
    return image_format, pixels.bit_length()


def _moved(average: float, observed: float) -> float:
    return average + _NEWEST * (min(observed, _BELIEVED * average) - average)
