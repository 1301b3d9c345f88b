"""JSON of unknown origin, read so that two readers cannot understand it differently.

Refused are: too many bytes, other text than UTF-8, a key given twice, NaN and infinities, numbers that no 64-bit
reader holds, nesting deeper than any document of the store.
"""

import json
from typing import Any

_DEPTH_LIMIT = 32
_INTEGER_LIMIT = 2**63


class StrictJSONError(ValueError):
    """The text is not JSON, or not JSON that every reader understands alike; the message is one line."""


def parse_strictly(raw: bytes, limit_bytes: int) -> Any:  # noqa: ANN401 - JSON is anything
    """The document's value. Raises StrictJSONError."""
    if len(raw) > limit_bytes:
        raise StrictJSONError(f"larger than {limit_bytes} bytes")
    try:
        found = json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=_without_repeats,
            parse_int=_integer,
            parse_float=_number,
            parse_constant=_refused_constant,
        )
    except StrictJSONError:
        raise
    except RecursionError as error:
        raise StrictJSONError(f"nested deeper than {_DEPTH_LIMIT} levels") from error
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError derive from it
        raise StrictJSONError("cannot be read") from error
    _check_depth(found, _DEPTH_LIMIT)
    return found


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise StrictJSONError("a key is given twice")
    return found


def _integer(text: str) -> int:
    if len(text) > 20 or not -_INTEGER_LIMIT <= int(text) < _INTEGER_LIMIT:
        raise StrictJSONError("a number is too large")
    return int(text)


def _number(text: str) -> float:
    found = float(text)
    if found in (float("inf"), float("-inf")):
        raise StrictJSONError("a number is too large")
    return found


def _refused_constant(text: str) -> float:
    raise StrictJSONError(f"{text} is no number")


def _check_depth(value: object, left: int) -> None:
    if not left:
        raise StrictJSONError(f"nested deeper than {_DEPTH_LIMIT} levels")
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            _check_depth(inner, left - 1)
