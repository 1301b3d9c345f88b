"""Mutated pictures: each is made from (seed, number) alone, so that any one can be made again.

Some mutations know nothing of formats (bits, runs of bytes, truncation); others take a file apart where its format has
joints (segments, chunks, tags), so that the damage lies behind what a decoder checks first.
"""

import struct
import zlib
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from tests.fuzz.originals import Original, originals

Random = np.random.Generator
_SIDES = (0, 1, 2, 7, 255, 256, 4000, 6324, 16_383, 32_768, 65_500, 65_535, 0x7FFF_FFFF, 0xFFFF_FFFF)
_TELLING = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF)
_TIFF_SIZES = tuple(tag.to_bytes(2, order) for tag in (256, 257, 278, 322, 323) for order in ("little", "big"))
_BODY_LIMIT_BYTES = 2_000_000


class Mutant(NamedTuple):
    """A damaged file; `name` tells the original and what was done to it."""

    name: str
    body: bytes


def mutant(seed: int, number: int) -> Mutant:
    """One to three mutations of one original."""
    random = np.random.default_rng((seed, number))
    original = originals()[random.integers(len(originals()))]
    body, done = original.body, []
    for _ in range(random.integers(1, 4)):
        mutation = _MUTATIONS[random.integers(len(_MUTATIONS))]
        body = mutation(body, original, random)[:_BODY_LIMIT_BYTES]
        done.append(mutation.__name__.strip("_"))
    if original.image_format == "PNG" and random.random() < 0.8:
        body = _with_right_checksums(body)  # or else nothing behind the first damage is ever reached
    return Mutant(f"{original.name}: {', '.join(done)}", body)


# --- mutations that know nothing of formats ---------------------------------------------------------------------------


def _flip_bits(body: bytes, _: Original, random: Random) -> bytes:
    damaged = np.frombuffer(body, np.uint8).copy()
    places = random.integers(0, max(len(body), 1), min(random.integers(1, 30), len(body)))
    np.bitwise_xor.at(damaged, places, (1 << random.integers(0, 8, len(places))).astype(np.uint8))
    return damaged.tobytes()


def _flip_header_bits(body: bytes, original: Original, random: Random) -> bytes:
    end = int(random.integers(16, 400))
    return _flip_bits(body[:end], original, random) + body[end:]


def _telling_number(body: bytes, _: Original, random: Random) -> bytes:
    """A number at the edge of some type, in some width and order, somewhere near the beginning."""
    width, order = random.choice([1, 2, 4]), random.choice(["little", "big"])
    value = int(random.choice(_TELLING)) & ((1 << 8 * int(width)) - 1)
    place = int(random.integers(2, max(min(len(body), 600), 3)))
    return body[:place] + value.to_bytes(int(width), order) + body[place + int(width) :]


def _noise(body: bytes, _: Original, random: Random) -> bytes:
    start, end = _run(body, random)
    return body[:start] + random.bytes(end - start) + body[end:]


def _cut_off(body: bytes, _: Original, random: Random) -> bytes:
    return body[: random.integers(0, len(body) + 1)]


def _take_out(body: bytes, _: Original, random: Random) -> bytes:
    start, end = _run(body, random)
    return body[:start] + body[end:]


def _double(body: bytes, _: Original, random: Random) -> bytes:
    start, end = _run(body, random)
    return body[:end] + body[start:]


def _splice(body: bytes, _: Original, random: Random) -> bytes:
    """The beginning of this file and the end of another, of any format."""
    other = originals()[random.integers(len(originals()))].body
    return body[: random.integers(0, len(body) + 1)] + other[random.integers(0, len(other)) :]


def _append(body: bytes, _: Original, random: Random) -> bytes:
    return body + random.choice([b"\x00", b"\xff", b"\xff\xd9", b"\xff\xda"]) * int(random.integers(1, 100_000))


def _run(body: bytes, random: Random) -> tuple[int, int]:
    start = int(random.integers(0, len(body) + 1))
    return start, min(start + int(random.geometric(0.01)), len(body))


# --- mutations at the joints of a format ------------------------------------------------------------------------------


def _wrong_size(body: bytes, original: Original, random: Random) -> bytes:
    """Width, height or both are not what follows."""
    places = _size_places(body, original.image_format)
    for place, layout in places:
        if random.random() < 0.7:
            side = int(random.choice(_SIDES)) & ((1 << 8 * struct.calcsize(layout)) - 1)
            body = body[:place] + struct.pack(layout, side) + body[place + struct.calcsize(layout) :]
    return body


def _drop_part(body: bytes, original: Original, random: Random) -> bytes:
    parts = parts_of(body, original.image_format)
    del parts[random.integers(len(parts))]
    return b"".join(parts)


def _repeat_part(body: bytes, original: Original, random: Random) -> bytes:
    parts = parts_of(body, original.image_format)
    place = random.integers(len(parts))
    most = _BODY_LIMIT_BYTES // max(len(parts[place]), 1)
    parts[place] *= min(int(random.choice([2, 3, 20, 1000, 100_000])), most)
    return b"".join(parts)


def _swap_parts(body: bytes, original: Original, random: Random) -> bytes:
    parts = parts_of(body, original.image_format)
    one, other = random.integers(len(parts), size=2)
    parts[one], parts[other] = parts[other], parts[one]
    return b"".join(parts)


def _foreign_part(body: bytes, original: Original, random: Random) -> bytes:
    """A part of another file of the same format."""
    kin = [other for other in originals() if other.image_format == original.image_format]
    foreign = parts_of(kin[random.integers(len(kin))].body, original.image_format)
    parts = parts_of(body, original.image_format)
    parts.insert(random.integers(len(parts) + 1), foreign[random.integers(len(foreign))])
    return b"".join(parts)


def _damage_part(body: bytes, original: Original, random: Random) -> bytes:
    """Bits of one part: small parts are hit as often as large ones."""
    parts = parts_of(body, original.image_format)
    place = random.integers(len(parts))
    parts[place] = _flip_bits(parts[place], original, random)
    return b"".join(parts)


def _telling_number_in_part(body: bytes, original: Original, random: Random) -> bytes:
    parts = parts_of(body, original.image_format)
    place = random.integers(len(parts))
    parts[place] = _telling_number(parts[place], original, random)
    return b"".join(parts)


def _other_kind_of_part(body: bytes, original: Original, random: Random) -> bytes:
    """A part gets the name of another: a JPEG's marker, a chunk's kind, a tag's number."""
    parts = parts_of(body, original.image_format)
    place, size = {"JPEG": (1, 1), "PNG": (4, 4), "WEBP": (0, 4), "TIFF": (0, 2), "BMP": (0, 2)}[original.image_format]
    one, other = random.integers(len(parts), size=2)
    parts[one] = parts[one][:place] + parts[other][place : place + size] + parts[one][place + size :]
    return b"".join(parts)


def parts_of(body: bytes, image_format: str) -> list[bytes]:
    """The file in pieces that make it up again; at least one, however damaged it is."""
    try:
        ends = _JOINTS[image_format](body)
    except (struct.error, IndexError):
        ends = []
    joints = sorted({0, len(body), *(end for end in ends if 0 < end < len(body))})
    return [body[start:end] for start, end in pairwise(joints)] or [body]


def _jpeg_joints(body: bytes) -> list[int]:
    found, place = [2], 2
    while body[place : place + 1] == b"\xff" and body[place + 1] != 0xDA:
        place += 2 + struct.unpack_from(">H", body, place + 2)[0]
        found.append(place)
    return found


def _png_joints(body: bytes) -> list[int]:
    found, place = [8], 8
    while place + 12 <= len(body):
        place += 12 + struct.unpack_from(">I", body, place)[0]
        found.append(place)
    return found


def _webp_joints(body: bytes) -> list[int]:
    found, place = [12], 12
    while place + 8 <= len(body):
        size = struct.unpack_from("<I", body, place + 4)[0]
        place += 8 + size + size % 2
        found.append(place)
    return found


def _tiff_joints(body: bytes) -> list[int]:
    order = "<" if body.startswith(b"II") else ">"
    place = struct.unpack_from(f"{order}I", body, 4)[0]
    entries = struct.unpack_from(f"{order}H", body, place)[0]
    return [8, place, *(place + 2 + 12 * entry for entry in range(entries + 1))]


def _bmp_joints(body: bytes) -> list[int]:
    return [14, 14 + struct.unpack_from("<I", body, 14)[0], struct.unpack_from("<I", body, 10)[0]]


_JOINTS: dict[str, Callable[[bytes], list[int]]] = {
    "JPEG": _jpeg_joints,
    "PNG": _png_joints,
    "WEBP": _webp_joints,
    "TIFF": _tiff_joints,
    "BMP": _bmp_joints,
}


def _size_places(body: bytes, image_format: str) -> list[tuple[int, str]]:
    """Where the file names its width and height, with struct's layout of each; nothing if it is too damaged."""
    fixed = {"PNG": [(16, ">I"), (20, ">I")], "BMP": [(18, "<I"), (22, "<I")], "WEBP": [(24, "<H"), (27, "<H")]}
    found = fixed.get(image_format, [])
    place = 0
    for part in parts_of(body, image_format):
        if image_format == "JPEG" and part[:1] == b"\xff" and part[1:2] in (b"\xc0", b"\xc1", b"\xc2"):
            found += [(place + 5, ">H"), (place + 7, ">H")]
        if image_format == "TIFF" and part[:2] in _TIFF_SIZES:
            found.append((place + 8, "<I" if body.startswith(b"II") else ">I"))
        place += len(part)
    return [entry for entry in found if len(body) > entry[0] + 4]


def _with_right_checksums(body: bytes) -> bytes:
    parts = parts_of(body, "PNG")
    whole = [
        part[:-4] + struct.pack(">I", zlib.crc32(part[4:-4])) if len(part) >= 12 and place else part
        for place, part in enumerate(parts)
    ]
    return b"".join(whole)


_MUTATIONS: tuple[Callable[[bytes, Original, Random], bytes], ...] = (
    _flip_bits,
    _flip_header_bits,
    _telling_number,
    _noise,
    _cut_off,
    _take_out,
    _double,
    _splice,
    _append,
    _wrong_size,
    _wrong_size,
    _drop_part,
    _repeat_part,
    _swap_parts,
    _foreign_part,
    _damage_part,
    _telling_number_in_part,
    _other_kind_of_part,
)
