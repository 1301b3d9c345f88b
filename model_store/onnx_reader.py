"""A strict reader of ONNX files: the structure of a graph, without the package `onnx` and without running anything.

The package (60 MB with what it needs) keeps unknown fields and merges repeated ones, as every protobuf library does;
this reader refuses both, so that nothing in a file is unseen: what it does not know is not run. Tensors stay views
into the file's bytes. Field numbers are those of onnx.proto; the wire format is protobuf's.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Union

Value = Union[int, str, memoryview, "Message"]

MESSAGE_LIMIT = 300_000  # nodes, attributes, tensors: a network of 5,000 layers has some 100,000
_TEXT_LIMIT_BYTES = 100_000
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class UnreadableGraphError(ValueError):
    """Not an ONNX file, or more than this reader knows; the message is one line."""


@dataclass(frozen=True)
class Field:
    """A field of a message, once or repeatedly.

    `holds` is a message's name, or: integer, integers and numbers (of a list; packed or not), float, text, bytes.
    """

    name: str
    holds: str
    repeated: bool = False


class Message(dict[str, list[Value]]):
    """The values of each field that is there, in their order."""

    def texts(self, field: str) -> list[str]:
        """All values of a field of texts."""
        return [value for value in self.get(field, []) if isinstance(value, str)]

    def text(self, field: str) -> str:
        """The text, or an empty one."""
        return "".join(self.texts(field)[:1])

    def integers(self, field: str) -> list[int]:
        """All values of a field of integers."""
        return [value for value in self.get(field, []) if isinstance(value, int)]

    def integer(self, field: str) -> int:
        """The number, or 0."""
        return sum(self.integers(field)[:1])

    def messages(self, field: str) -> list["Message"]:
        """All values of a field of messages."""
        return [value for value in self.get(field, []) if isinstance(value, Message)]

    def message(self, field: str) -> "Message":
        """The message, or an empty one."""
        return next(iter(self.messages(field)), Message())

    def data(self, field: str) -> memoryview:
        """The bytes of a field of packed numbers, or none."""
        return next((value for value in self.get(field, []) if isinstance(value, memoryview)), memoryview(b""))


_DOC = Field("doc_string", "text")
_NAME = Field("name", "text")
_PROPERTIES = Field("metadata_props", "Property", True)
SCHEMA: Final[dict[str, dict[int, Field]]] = {
    "Model": {
        1: Field("ir_version", "integer"),
        2: Field("producer_name", "text"),
        3: Field("producer_version", "text"),
        4: Field("domain", "text"),
        5: Field("model_version", "integer"),
        6: _DOC,
        7: Field("graph", "Graph"),
        8: Field("opset_import", "OperatorSet", True),
        14: _PROPERTIES,
        20: Field("training_info", "bytes", True),
        25: Field("functions", "bytes", True),
    },
    "OperatorSet": {1: Field("domain", "text"), 2: Field("version", "integer")},
    "Property": {1: Field("key", "text"), 2: Field("value", "text")},
    "Graph": {
        1: Field("node", "Node", True),
        2: _NAME,
        5: Field("initializer", "Tensor", True),
        10: _DOC,
        11: Field("input", "ValueInfo", True),
        12: Field("output", "ValueInfo", True),
        13: Field("value_info", "ValueInfo", True),
        15: Field("sparse_initializer", "bytes", True),
        16: _PROPERTIES,
    },
    "Node": {
        1: Field("input", "text", True),
        2: Field("output", "text", True),
        3: _NAME,
        4: Field("op_type", "text"),
        5: Field("attribute", "Attribute", True),
        6: _DOC,
        7: Field("domain", "text"),
        8: Field("overload", "text"),
        9: _PROPERTIES,
    },
    "Attribute": {
        1: _NAME,
        2: Field("f", "float"),
        3: Field("i", "integer"),
        4: Field("s", "bytes"),
        5: Field("t", "Tensor"),
        6: Field("g", "bytes"),
        7: Field("floats", "numbers", True),
        8: Field("ints", "integers", True),
        9: Field("strings", "bytes", True),
        10: Field("tensors", "Tensor", True),
        11: Field("graphs", "bytes", True),
        13: _DOC,
        20: Field("type", "integer"),
        21: Field("ref_attr_name", "text"),
        22: Field("sparse_tensor", "bytes"),
        23: Field("sparse_tensors", "bytes", True),
    },
    "Tensor": {
        1: Field("dims", "integers", True),
        2: Field("data_type", "integer"),
        4: Field("float_data", "bytes"),
        5: Field("int32_data", "bytes"),
        7: Field("int64_data", "bytes"),
        8: _NAME,
        9: Field("raw_data", "bytes"),
        10: Field("double_data", "bytes"),
        11: Field("uint64_data", "bytes"),
        12: _DOC,
        13: Field("external_data", "Property", True),
        14: Field("data_location", "integer"),
        16: _PROPERTIES,
    },
    "ValueInfo": {1: _NAME, 2: Field("type", "Type"), 3: _DOC, 4: _PROPERTIES},
    "Type": {1: Field("tensor_type", "TensorType"), 6: Field("denotation", "text")},
    "TensorType": {1: Field("elem_type", "integer"), 2: Field("shape", "Shape")},
    "Shape": {1: Field("dim", "Dimension", True)},
    "Dimension": {1: Field("dim_value", "integer"), 2: Field("dim_param", "text"), 3: Field("denotation", "text")},
}


def read_model(data: bytes) -> Message:
    """The bytes of an ONNX file -> its `Model`. Raises UnreadableGraphError."""
    return _Reader().message("Model", memoryview(data))


class _Reader:
    """Counts what it reads, so that a small file cannot become a large structure."""

    def __init__(self) -> None:
        self._left = MESSAGE_LIMIT

    def message(self, kind: str, data: memoryview) -> Message:
        """Nesting is as deep as the schema, which names no message inside itself."""
        self._left -= 1
        found = Message()
        for number, wire, value in _fields(data):
            field = SCHEMA[kind].get(number)
            if field is None:
                raise UnreadableGraphError(f"field {number} of a {kind} is not one that this release knows")
            values = found.setdefault(field.name, [])
            if values and not field.repeated:
                raise UnreadableGraphError(f"{field.name} of a {kind} is given twice")
            values.extend(self._values(field, wire, value))
            self._left -= 1
            if self._left < 0:
                raise UnreadableGraphError(f"more than {MESSAGE_LIMIT} parts")
        return found

    def _values(self, field: Field, wire: int, value: int | memoryview) -> Iterator[Value]:
        expected = {"integer": _VARINT, "float": _FIXED32}.get(field.holds, _BYTES)
        if (field.holds == "integers" and wire == _VARINT) or (field.holds == "numbers" and wire == _FIXED32):
            expected = wire
        if wire != expected:
            raise UnreadableGraphError(f"{field.name} is of another type")
        if isinstance(value, int):
            yield value
        elif field.holds == "integers":
            yield from self._packed(value)
        elif field.holds == "text":
            yield _text(field.name, value)
        elif field.holds in SCHEMA:
            yield self.message(field.holds, value)
        else:
            yield value

    def _packed(self, data: memoryview) -> Iterator[int]:
        position = 0
        while position < len(data):
            number, position = _varint(data, position)
            self._left -= 1
            yield number


def _fields(data: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    """Field number, wire type, value of each field in turn."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, position = _varint(data, position)
            yield number, wire, value
            continue
        if wire == _BYTES:
            size, position = _varint(data, position)
        elif wire in (_FIXED32, _FIXED64):
            size = 4 if wire == _FIXED32 else 8
        else:
            raise UnreadableGraphError("not an ONNX file")
        if not 0 <= size <= len(data) - position:
            raise UnreadableGraphError("cut off, or not an ONNX file")
        yield number, wire, data[position : position + size]
        position += size


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    """A signed 64-bit number in protobuf's variable length, and where the next byte is."""
    found = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise UnreadableGraphError("cut off, or not an ONNX file")
        byte = data[position]
        position += 1
        found |= (byte & 0x7F) << shift
        if byte < 0x80:
            found &= 2**64 - 1
            return found - 2**64 if found >> 63 else found, position
    raise UnreadableGraphError("a number longer than 64 bits")


def _text(name: str, value: memoryview) -> str:
    if len(value) > _TEXT_LIMIT_BYTES:
        raise UnreadableGraphError(f"{name} is longer than {_TEXT_LIMIT_BYTES} bytes")
    try:
        return str(value, "utf-8")
    except UnicodeDecodeError as error:
        raise UnreadableGraphError(f"{name} is not UTF-8") from error
