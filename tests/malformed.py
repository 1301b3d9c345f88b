"""Inputs of every kind that a service meets in the wild, each with the answer it must get."""

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from tests.conftest import encoded, lesion_picture

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP")


@dataclass(frozen=True)
class Case:
    """`expected` holds (status, code) pairs, one of which must come; (200, "") is a right answer."""

    name: str
    body: bytes
    expected: tuple[tuple[int, str], ...]


OK = ((200, ""),)
INVALID = ((400, "invalid_image"),)
UNSUPPORTED = ((415, "unsupported_format"),)
TOO_LARGE = ((413, "payload_too_large"),)


def cases() -> list[Case]:
    """All cases; at least 200."""
    return [
        *_no_pictures(),
        *_other_formats(),
        *_cut_off(),
        *_bit_flips(),
        *_bombs(),
        *_unusual_but_valid(),
        *_several(),
    ]


def _no_pictures() -> Iterator[Case]:
    yield Case("empty", b"", UNSUPPORTED)
    yield Case("one byte", b"\xff", UNSUPPORTED)
    yield Case("text called .jpg", b"this is no picture\n" * 100, UNSUPPORTED)
    yield Case("zeros", bytes(10_000), UNSUPPORTED)
    random = np.random.default_rng(1)
    for number in range(20):
        yield Case(f"noise {number}", b"\x00" + random.bytes(1000 * number + 1), UNSUPPORTED)
    for kind in FORMATS:
        magic = encoded(lesion_picture(64, 48), kind)[:12]
        yield Case(f"{kind} signature and nothing else", magic, INVALID)
        yield Case(f"{kind} signature and noise", magic + random.bytes(5000), INVALID)
        yield Case(f"{kind} signature and zeros", magic + bytes(5000), INVALID)


def _other_formats() -> Iterator[Case]:
    picture = lesion_picture(64, 48)
    for kind in ("GIF", "ICO", "PPM", "PCX", "TGA", "JPEG2000", "PDF", "AVIF"):
        try:
            body = encoded(picture, kind)
        except (OSError, KeyError, ValueError):
            continue  # this build of Pillow cannot write it
        yield Case(f"{kind} picture", body, UNSUPPORTED)
    yield Case("SVG", b"<svg xmlns='http://www.w3.org/2000/svg'/>", UNSUPPORTED)
    yield Case("HEIC signature", b"\x00\x00\x00\x18ftypheic" + bytes(500), UNSUPPORTED)
    yield Case("DICOM", bytes(128) + b"DICM" + bytes(500), UNSUPPORTED)
    yield Case("zip", b"PK\x03\x04" + bytes(500), UNSUPPORTED)
    yield Case("GIF bomb", _gif_bomb(), UNSUPPORTED)


def _cut_off() -> Iterator[Case]:
    """Cut at many places. A file may lack trailing bytes that carry no pixels: then it is still valid."""
    for kind in FORMATS:
        whole = encoded(lesion_picture(300, 225), kind)
        for part in range(1, 16):
            yield Case(f"{kind} cut at {part}/16", whole[: 12 + (len(whole) - 12) * part // 16 - 1], INVALID)
    progressive = encoded(lesion_picture(300, 225), "JPEG", progressive=True)
    for part in range(1, 8):
        yield Case(f"progressive JPEG cut at {part}/8", progressive[: len(progressive) * part // 8], INVALID)


def _bit_flips() -> Iterator[Case]:
    """Damage inside: either the decoder notices, or there is a picture left to answer."""
    random = np.random.default_rng(2)
    for kind in FORMATS:
        whole = np.frombuffer(encoded(lesion_picture(200, 150), kind), np.uint8)
        for number in range(8):
            damaged = whole.copy()
            places = random.integers(12, len(whole), 20)
            damaged[places] ^= random.integers(1, 256, 20).astype(np.uint8)
            # A damaged header may also name a giant picture, or several.
            yield Case(f"{kind} damaged {number}", damaged.tobytes(), (*OK, *INVALID, *TOO_LARGE))


def _bombs() -> Iterator[Case]:
    for width, height in ((10_000, 10_000), (60_000, 60_000), (100_000, 1_000)):
        yield Case(f"PNG header of {width} x {height}", _png_header_only(width, height), TOO_LARGE)
    flat = Image.new("L", (20_000, 5_000), 200)
    yield Case("PNG of 100 megapixels", encoded(flat, "PNG"), TOO_LARGE)
    yield Case("JPEG of 100 megapixels", encoded(flat, "JPEG"), TOO_LARGE)
    yield Case("BMP header of 100 megapixels", _bmp_header(10_000, 10_000), (*TOO_LARGE, *INVALID))
    yield Case("PNG of no width", _png_header_only(0, 100), INVALID)
    for width, height in ((4, 100_000), (100_000, 4)):
        yield Case(f"PNG with a side of {max(width, height)}, {width} wide", _png_header_only(width, height), TOO_LARGE)
    text = png_with_chunk(b"zTXt", b"Comment\x00\x00" + zlib.compress(bytes(50_000_000)))
    yield Case("PNG with a text bomb", text, (*OK, *INVALID))
    yield from _bombs_of_structure()


def _bombs_of_structure() -> Iterator[Case]:
    """Small pictures that would cost an image library seconds to hours, or gigabytes."""
    picture = lesion_picture(64, 48)
    jpeg, progressive = encoded(picture), encoded(picture, progressive=True)
    scan = progressive.index(b"\xff\xda")
    yield Case("JPEG with a megabyte between segments", jpeg[:20] + bytes(1_000_000) + jpeg[20:], INVALID)
    yield Case("JPEG with a megabyte of 0xFF", jpeg[:2] + b"\xff" * 1_000_000 + jpeg[2:], INVALID)
    yield Case("JPEG of a million empty segments", jpeg[:2] + b"\xff\xe5\x00\x02" * 1_000_000 + jpeg[2:], INVALID)
    # 6.5 MB in all: as metadata of any kind they would pass.
    exif = b"\xff\xe1\xff\xffExif\x00\x00" + bytes(0xFFFF - 8)
    yield Case("JPEG with 100 segments of EXIF", jpeg[:2] + exif * 100 + jpeg[2:], INVALID)
    comment = b"\xff\xfe\xff\xff" + bytes(0xFFFF - 2)
    yield Case("JPEG with 20 MB of comments", jpeg[:2] + comment * 310 + jpeg[2:], INVALID)
    yield Case("JPEG of 1,000 scans", progressive[:scan] + progressive[scan:-2] * 110 + b"\xff\xd9", INVALID)
    profile = b"name\x00\x00" + zlib.compress(bytes(1_000_000))
    yield Case("PNG of 5,000 profiles", png_with_chunk(b"iCCP", profile, 5_000), INVALID)
    yield Case("PNG of 500,000 chunks", png_with_chunk(b"abCd", b"", 500_000), INVALID)
    yield Case("PNG with 9 MB of private data", png_with_chunk(b"abCd", bytes(9_000_000)), INVALID)
    yield Case("PNG with 2 MB of EXIF", png_with_chunk(b"eXIf", bytes(2_000_000)), INVALID)
    webp = encoded(picture, "WEBP", exif=b"Exif\x00\x00" + bytes(2_000_000))
    yield Case("WebP with 2 MB of EXIF", webp, INVALID)
    yield Case("WebP canvas of 16,383 x 16,383", webp[:24] + b"\xfe\x3f\x00" * 2 + webp[30:], TOO_LARGE)
    yield Case("BMP with run lengths", _bmp_header(64, 48, compression=1), INVALID)
    yield from _tiff_bombs()


def _tiff_bombs() -> Iterator[Case]:
    numbers = b"\x01\x00\x00\x00" * 300_000
    yield Case("TIFF made by hand", tiff({}), OK)
    yield Case("TIFF of 300,000 strips", tiff({273: (4, 300_000, numbers), 278: (3, 1, 1)}), INVALID)
    yield Case("TIFF of more strips than lines", tiff({273: (4, 100, numbers[:400]), 278: (3, 1, 24)}), INVALID)
    tiles = {322: (4, 1, 65_520), 323: (4, 1, 65_520), 324: (4, 1, 8), 325: (4, 1, 100)}
    yield Case("TIFF with a tile of 4 gigapixels", tiff(tiles), INVALID)
    yield Case("TIFF with tiles of no size", tiff(tiles | {322: (4, 1, 0)}), INVALID)
    yield Case("TIFF with 300,000 fractions", tiff({282: (5, 150_000, numbers)}), INVALID)
    end = len(tiff({}))
    chain = b"".join(struct.pack("<HI", 0, end + 6 + 6 * link) for link in range(100_000))
    yield Case("TIFF with 100,000 directories", tiff({}, following=end) + chain, INVALID)
    yield Case("TIFF of facsimile", tiff({259: (3, 1, 4)}), INVALID)
    yield Case("TIFF with width as a fraction", tiff({256: (5, 1, 8)}), INVALID)
    yield Case("TIFF whose directory is its own EXIF", tiff({34665: (4, 1, 8)}), (*OK, *INVALID))


def _unusual_but_valid() -> Iterator[Case]:
    picture = lesion_picture(300, 225)
    yield Case("CMYK JPEG", encoded(picture.convert("CMYK")), OK)
    yield Case("grey JPEG", encoded(picture.convert("L")), OK)
    yield Case("progressive JPEG", encoded(picture, "JPEG", progressive=True), OK)
    yield Case("MPO (two pictures of a phone)", _mpo(picture), OK)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        yield Case(f"EXIF orientation {orientation}", encoded(picture, "JPEG", exif=exif), OK)
    for mode in ("1", "L", "LA", "P", "RGBA", "I;16"):
        yield Case(f"PNG {mode}", encoded(_in_mode(picture, mode), "PNG"), OK)
    yield Case("interlaced 16-bit RGB PNG", _png_rgb16(), OK)
    yield Case("lossless WebP with transparency", encoded(picture.convert("RGBA"), "WEBP", lossless=True), OK)
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg"):
        yield Case(f"TIFF {compression}", encoded(picture, "TIFF", compression=compression), OK)
    yield Case("TIFF CMYK", encoded(picture.convert("CMYK"), "TIFF"), OK)
    yield Case("TIFF 16 bits", encoded(_in_mode(picture, "I;16"), "TIFF"), OK)
    yield Case("TIFF of floating point", encoded(picture.convert("F"), "TIFF"), INVALID)
    yield Case("BMP palette", encoded(picture.convert("P"), "BMP"), OK)
    yield Case("one pixel", encoded(picture.resize((1, 1)), "PNG"), OK)
    yield Case("one line", encoded(picture.resize((2000, 1)), "PNG"), OK)
    yield Case("12 megapixels", encoded(picture.resize((4000, 3000))), OK)
    yield Case("JPEG with bytes behind its end", encoded(picture) + b"trailing", OK)


def _several() -> Iterator[Case]:
    frames = [lesion_picture(64, 48, seed) for seed in range(3)]
    for kind in ("PNG", "WEBP", "TIFF"):
        yield Case(f"animated {kind}", encoded(frames[0], kind, save_all=True, append_images=frames[1:]), INVALID)
    yield Case("animated GIF", encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), UNSUPPORTED)


def _in_mode(picture: Image.Image, mode: str) -> Image.Image:
    if mode == "I;16":
        return Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
    return picture.convert(mode)


def _mpo(picture: Image.Image) -> bytes:
    return encoded(picture, "MPO", save_all=True, append_images=[picture.resize((64, 48))])


def _gif_bomb() -> bytes:
    frames = [Image.new("P", (5_000, 5_000), n) for n in range(3)]
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png_header_only(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")


def png_with_chunk(kind: bytes, data: bytes, times: int = 1) -> bytes:
    whole = encoded(lesion_picture(64, 48), "PNG")
    return whole[:33] + _chunk(kind, data) * times + whole[33:]


def tiff(changed: dict[int, tuple[int, int, int | bytes]], following: int = 0) -> bytes:
    """A grey picture of 64 x 48 with some tags (type, count, value) changed; bytes are put behind the directory."""
    tags: dict[int, tuple[int, int, int | bytes]] = {
        256: (3, 1, 64),
        257: (3, 1, 48),
        258: (3, 1, 8),
        259: (3, 1, 1),
        262: (3, 1, 1),
        273: (4, 1, 1000),
        279: (4, 1, 64 * 48),
    } | changed
    directory, behind = b"", b""
    end = 8 + 2 + 12 * len(tags) + 4
    for tag, (kind, count, value) in sorted(tags.items()):
        stored = end + len(behind) if isinstance(value, bytes) else value
        behind += value if isinstance(value, bytes) else b""
        directory += struct.pack("<HHII", tag, kind, count, stored)
    head = struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + directory + struct.pack("<I", following)
    return (head + behind).ljust(1000, b"\x00") + bytes(64 * 48)


def _png_rgb16() -> bytes:
    header = struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)
    line = b"\x00" + bytes(range(48))
    return (
        b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(line * 8)) + _chunk(b"IEND", b"")
    )


def _bmp_header(width: int, height: int, compression: int = 0) -> bytes:
    body = io.BytesIO()
    body.write(b"BM" + struct.pack("<IHHI", 54, 0, 0, 54))
    body.write(
        struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8 if compression else 24, compression, 0, 2835, 2835, 0, 0)
    )
    body.write(bytes(1000))
    return body.getvalue()
