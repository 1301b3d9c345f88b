"""What a file says of itself, read from its bytes before an image library sees it, with bounded work.

`describe` reads format and size: a few microseconds, whatever the file. `refuse_bombs` looks for structures that cost a
library far more time or memory than the pixels they show: the limits here are far above what honest files need.
"""

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

from service.errors import InvalidImageError, PayloadTooLargeError, UnsupportedFormatError

ACCEPTED = "JPEG, PNG, WebP, TIFF or BMP"
METADATA_LIMIT_BYTES = 8 * 2**20  # of profiles, comments and the like
EXIF_LIMIT_BYTES = 2**20
_SIDE_LIMIT_PIXELS = 65_535  # JPEG's own; a library may spend memory on each line, however short
_JUNK_LIMIT_BYTES = 2**16  # between the segments of a JPEG: Pillow looks at them one by one
_SEGMENT_LIMIT = 4096  # of a JPEG before its pixels
_EXIF_SEGMENT_LIMIT = 16  # of 64 KiB; Pillow joins them in quadratic time
_SCAN_LIMIT = 100  # of a progressive JPEG: each can touch every pixel
_CHUNK_LIMIT = 2**16  # of a PNG
_COMPRESSED_TEXT_LIMIT = 64  # of a PNG: Pillow inflates each to at most 1 MiB
_TIFF_ENTRY_LIMIT = 1024  # of one directory
_TIFF_NUMBER_LIMIT = 2**17  # in one directory: Pillow makes an object of each

_JPEG_MARKER = re.compile(rb"\xff[^\xff]")  # any number of 0xff may stand before it
_NO_DATA_MARKERS = frozenset((0xC8, *range(0xD0, 0xDA), *range(0xF0, 0xFE)))
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SCAN_MARKER, _APP1_MARKER = 0xDA, 0xE1
_PROGRESSIVE_MARKERS = frozenset((0xC2, 0xC6, 0xCA, 0xCE))
_BMP_HEADERS_BYTES = (12, 16, 40, 52, 56, 64, 108, 124)  # the first is OS/2's, with sizes of 16 bits
_BMP_RUN_LENGTHS = (1, 2)

# TIFF tags, and the two types that a number of the picture's structure may have.
_WIDTH, _LENGTH, _COMPRESSION, _STRIPS, _SAMPLES, _ROWS, _PLANES = 256, 257, 259, 273, 277, 278, 284
_TILE_WIDTH, _TILE_LENGTH, _TILES = 322, 323, 324
_STRUCTURE = frozenset((_WIDTH, _LENGTH, _COMPRESSION, _SAMPLES, _ROWS, _PLANES, _TILE_WIDTH, _TILE_LENGTH))
_SUB_DIRECTORIES = (34665, 34853, 40965)  # EXIF, GPS, interoperability
_SHORT, _LONG = 3, 4
_TYPES_OF_BYTES = (1, 2, 7)
_TIFF_COMPRESSIONS = frozenset((1, 5, 7, 8, 32773, 32946))  # none, LZW, JPEG, Deflate, PackBits, Deflate's old number


class Header(NamedTuple):
    """`image_format` is Pillow's name; `width` and `height` are as stored, in pixels, and not 0."""

    image_format: str
    width: int
    height: int


def describe(body: bytes, pixel_limit: int) -> Header:
    """Format by magic bytes, size by the header.

    Raises UnsupportedFormatError, PayloadTooLargeError (over `pixel_limit`), InvalidImageError.
    """
    image_format = sniff(body)
    try:
        width, height = _SIZES[image_format](body)
    except (struct.error, IndexError):
        raise InvalidImageError(f"the {image_format} file is damaged or cut off") from None
    if width < 1 or height < 1:
        raise InvalidImageError("the picture has no pixels")
    if width * height > pixel_limit:
        raise PayloadTooLargeError(f"the picture has {width} x {height} pixels; at most {pixel_limit} are accepted")
    if max(width, height) > _SIDE_LIMIT_PIXELS:
        raise PayloadTooLargeError(f"a side of the picture has more than {_SIDE_LIMIT_PIXELS} pixels")
    return Header(image_format, width, height)


def sniff(body: bytes) -> str:
    """Pillow's name of the format. Raises UnsupportedFormatError."""
    if body.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if body.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if body.startswith(b"RIFF") and body[8:12] == b"WEBP":
        return "WEBP"
    if body.startswith((b"II*\x00", b"MM\x00*")):
        return "TIFF"
    if body.startswith(b"BM"):
        return "BMP"
    raise UnsupportedFormatError(f"the file is not a {ACCEPTED} picture")


def refuse_bombs(body: bytes, header: Header, pixel_limit: int) -> None:
    """Raises InvalidImageError for a structure that no honest file has. Milliseconds for the largest files."""
    try:
        if header.image_format == "JPEG":
            _check_jpeg(body)
        elif header.image_format == "PNG":
            _check_png(body)
        elif header.image_format == "TIFF":
            _check_tiff(body, header, pixel_limit)
        elif header.image_format == "BMP":
            _check_bmp(body)
    except (struct.error, IndexError):
        raise InvalidImageError(f"the {header.image_format} file is damaged or cut off") from None


# --- JPEG: segments up to the first scan ------------------------------------------------------------------------------


def _jpeg_segments(body: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, where its data begin, their bytes) of each segment with data; the last one is the first scan's."""
    place, junk_bytes = 2, 0
    for _ in range(_SEGMENT_LIMIT):
        found = _JPEG_MARKER.search(body, place, place + _JUNK_LIMIT_BYTES)
        if found is None:
            break
        junk_bytes += found.start() - place
        place, marker = found.end(), body[found.end() - 1]
        if junk_bytes > _JUNK_LIMIT_BYTES:
            break
        if marker == 0 or marker in _NO_DATA_MARKERS:
            continue
        (length,) = struct.unpack_from(">H", body, place)
        yield marker, place + 2, length - 2
        if marker == _SCAN_MARKER:
            return
        place += max(length, 2)
    else:
        raise InvalidImageError("the JPEG file has too many segments")
    raise InvalidImageError("the JPEG file is damaged: no segment where one must be")


def _jpeg_size(body: bytes) -> tuple[int, int]:
    for marker, start, _ in _jpeg_segments(body):
        if marker in _FRAME_MARKERS:
            _, height, width = struct.unpack_from(">BHH", body, start)
            return width, height
    raise InvalidImageError("the JPEG file has no frame")


def _check_jpeg(body: bytes) -> None:
    metadata_bytes = exif_segments = components = 0
    progressive = False
    for marker, start, size in _jpeg_segments(body):
        metadata_bytes += size
        exif_segments += marker == _APP1_MARKER and body.startswith(b"Exif", start)
        if marker in _FRAME_MARKERS:
            progressive, components = marker in _PROGRESSIVE_MARKERS, body[start + 5]
        if marker == _SCAN_MARKER and (progressive or body[start] < components):
            _refuse_more(body.count(b"\xff\xda", start), _SCAN_LIMIT, "the JPEG file has too many scans")
    _refuse_more(metadata_bytes, METADATA_LIMIT_BYTES, "the JPEG file has too much metadata")
    _refuse_more(exif_segments, _EXIF_SEGMENT_LIMIT, "the JPEG file has too much EXIF")


# --- PNG --------------------------------------------------------------------------------------------------------------


def _png_size(body: bytes) -> tuple[int, int]:
    kind, width, height = struct.unpack_from(">4sII", body, 12)
    if kind != b"IHDR":
        raise InvalidImageError("the PNG file does not begin with its header")
    return width, height


def _check_png(body: bytes) -> None:
    place, chunks, metadata_bytes, compressed_texts = 8, 0, 0, 0
    while place + 8 <= len(body):
        size, kind = struct.unpack_from(">I4s", body, place)
        place += 12 + size
        chunks += 1
        metadata_bytes += size if kind not in (b"IDAT", b"fdAT") else 0
        compressed_texts += kind in (b"zTXt", b"iTXt", b"iCCP")
        if kind == b"eXIf":
            _refuse_more(size, EXIF_LIMIT_BYTES, "the PNG file has too much EXIF")
        _refuse_more(chunks, _CHUNK_LIMIT, "the PNG file has too many chunks")
    _refuse_more(metadata_bytes, METADATA_LIMIT_BYTES, "the PNG file has too much metadata")
    _refuse_more(compressed_texts, _COMPRESSED_TEXT_LIMIT, "the PNG file has too many texts")


# --- WebP and BMP -----------------------------------------------------------------------------------------------------


def _webp_size(body: bytes) -> tuple[int, int]:
    """The canvas: libwebp allocates it when it opens the file."""
    kind = body[12:16]
    if kind == b"VP8X":
        (packed,) = struct.unpack_from("<Q", body, 22)  # two unused bytes, then 24 bits each
        return (packed >> 16 & 0xFFFFFF) + 1, (packed >> 40) + 1
    if kind == b"VP8L":
        (packed,) = struct.unpack_from("<I", body, 21)
        return (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", body, 26)
        return width & 0x3FFF, height & 0x3FFF
    raise InvalidImageError("the WebP file does not begin with its header")


def _bmp_size(body: bytes) -> tuple[int, int]:
    (header_bytes,) = struct.unpack_from("<I", body, 14)
    if header_bytes not in _BMP_HEADERS_BYTES:
        raise InvalidImageError("the BMP file is of no known kind")
    if header_bytes == _BMP_HEADERS_BYTES[0]:
        width, height = struct.unpack_from("<HH", body, 18)
        return width, height
    width, height = struct.unpack_from("<Ii", body, 18)
    return width, abs(height)  # negative: stored from top to bottom


def _check_bmp(body: bytes) -> None:
    header_bytes, compression = struct.unpack_from("<I12xI", body, 14)
    if header_bytes != _BMP_HEADERS_BYTES[0] and compression in _BMP_RUN_LENGTHS:
        # Pillow expands these in Python, byte by byte: seconds for a small file, and nobody sends them.
        raise InvalidImageError("run-length coded BMP files are not supported")


# --- TIFF: the first directory, and those of metadata that it names ---------------------------------------------------


class _Entry(NamedTuple):
    """One tag of a directory; `number` is its value when that is one whole number stored in place, else None."""

    values: int
    number: int | None


def _tiff_size(body: bytes) -> tuple[int, int]:
    directory = _tiff_directory(body, _tiff_offset(body, 4))
    return _tiff_number(directory, _WIDTH), _tiff_number(directory, _LENGTH)


def _check_tiff(body: bytes, header: Header, pixel_limit: int) -> None:
    directory = _tiff_directory(body, _tiff_offset(body, 4))
    _check_metadata_directories(body, directory)
    if _tiff_number(directory, _COMPRESSION, 1) not in _TIFF_COMPRESSIONS:
        raise InvalidImageError("the TIFF file's compression is not supported")
    _, width, height = header
    planes = _tiff_number(directory, _SAMPLES, 1) if _tiff_number(directory, _PLANES, 1) == 2 else 1
    if _TILES in directory:
        tile_width, tile_height = (_tiff_number(directory, tag) for tag in (_TILE_WIDTH, _TILE_LENGTH))
        if not tile_width * tile_height:
            raise InvalidImageError("the TIFF file's tiles have no pixels")
        across, down = -(-width // tile_width), -(-height // tile_height)
        # Tiles are decoded whole, however little of them lies inside the picture.
        padded = across * down * tile_width * tile_height
        _refuse_more(padded, 2 * pixel_limit, "the TIFF file's tiles are too large")
        _refuse_more(directory[_TILES].values, across * down * planes, "the TIFF file has too many tiles")
    if _STRIPS in directory:
        strips = -(-height // max(_tiff_number(directory, _ROWS, height), 1)) * planes
        _refuse_more(directory[_STRIPS].values, strips, "the TIFF file has too many strips")


def _check_metadata_directories(body: bytes, directory: dict[int, _Entry]) -> None:
    """EXIF, GPS and interoperability keep the limits too: Pillow reads them all. `_tiff_directory` checks."""
    waiting, seen = [directory], 0
    while waiting:
        entries = waiting.pop()
        for tag in _SUB_DIRECTORIES:
            place = entries[tag].number if tag in entries else None
            if place is not None and place < len(body):
                seen += 1
                _refuse_more(seen, len(_SUB_DIRECTORIES), "the TIFF file has too many directories")
                waiting.append(_tiff_directory(body, place))


def _tiff_directory(body: bytes, place: int) -> dict[int, _Entry]:
    """By tag; the first of equal tags counts, as in Pillow and libtiff. Refuses a directory of too many values."""
    order = _tiff_byte_order(body)
    (count,) = struct.unpack_from(f"{order}H", body, place)
    _refuse_more(count, _TIFF_ENTRY_LIMIT, "the TIFF file has too many tags")
    directory: dict[int, _Entry] = {}
    numbers = 0
    for tag, kind, values, data in struct.iter_unpack(f"{order}HHI4s", body[place + 2 : place + 2 + 12 * count]):
        numbers += values if kind not in _TYPES_OF_BYTES else 0
        if tag in _STRUCTURE and (tag in directory or kind not in (_SHORT, _LONG) or values != 1):
            raise InvalidImageError("the TIFF file contradicts itself")
        number = struct.unpack_from(f"{order}{'H' if kind == _SHORT else 'I'}", data)[0] if values == 1 else None
        directory.setdefault(tag, _Entry(values, number))
    _refuse_more(numbers, _TIFF_NUMBER_LIMIT, "the TIFF file has too much metadata")
    return directory


def _tiff_number(directory: dict[int, _Entry], tag: int, default: int | None = None) -> int:
    entry = directory.get(tag)
    number = default if entry is None else entry.number
    if number is None:
        raise InvalidImageError("the TIFF file lacks a part of its header")
    return number


def _tiff_offset(body: bytes, place: int) -> int:
    offset: int = struct.unpack_from(f"{_tiff_byte_order(body)}I", body, place)[0]
    return offset


def _tiff_byte_order(body: bytes) -> str:
    return "<" if body.startswith(b"II") else ">"


def _refuse_more(found: int, limit: int, message: str) -> None:
    if found > limit:
        raise InvalidImageError(message)


_SIZES = {"JPEG": _jpeg_size, "PNG": _png_size, "WEBP": _webp_size, "TIFF": _tiff_size, "BMP": _bmp_size}
