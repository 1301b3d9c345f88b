"""May this graph be run? Looked at before ONNX Runtime sees a byte of it.

A graph that passes is one flat list of standard operators with all its numbers in the file and finite, and takes and
gives what the manifest says. There are no loops and no branches, so it always ends; nothing random, so it always
answers alike. What it computes is the golden vectors' matter, and whether to believe its maker the signature's: a
graph of standard operators can still ask for more memory than there is.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_store.contract.manifest import Manifest
from model_store.errors import UnsafeGraphError
from model_store.onnx_reader import Message, UnreadableGraphError, read_model
from model_store.store import ModelVersion

GRAPH_LIMIT_BYTES = 500_000_000
NUMBERS_LIMIT = 200_000_000  # in all constants together
_RANK_LIMIT = 16
_DOMAINS = {"", "ai.onnx", "ai.onnx.ml"}
_RANDOM = {
    "Bernoulli",
    "Dropout",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
}
_FLOAT, _UINT8 = 1, 2
_RAW_TYPES: dict[int, "np.dtype[Any]"] = {
    _FLOAT: np.dtype("<f4"),
    _UINT8: np.dtype("u1"),
    3: np.dtype("i1"),
    4: np.dtype("<u2"),
    5: np.dtype("<i2"),
    6: np.dtype("<i4"),
    7: np.dtype("<i8"),
    9: np.dtype("?"),
    10: np.dtype("<f2"),
    11: np.dtype("<f8"),
    12: np.dtype("<u4"),
    13: np.dtype("<u8"),
}
_PACKED_FLOATS: dict[str, "np.dtype[Any]"] = {"float_data": np.dtype("<f4"), "double_data": np.dtype("<f8")}
_PACKED_INTEGERS = ("int32_data", "int64_data", "uint64_data")


def check_graphs(version: ModelVersion) -> None:
    """Check every variant of a version. Raises UnsafeGraphError; DamagedVersionError as `read` does."""
    manifest = version.manifest
    for variant, described in manifest.variants.items():
        size = manifest.files[described.file].size_bytes
        where = f"{manifest.name} {manifest.version} {variant}"
        if size > GRAPH_LIMIT_BYTES:
            raise UnsafeGraphError(f"{where}: the graph has {size} bytes, allowed are {GRAPH_LIMIT_BYTES}")
        try:
            check_graph(version.read(described.file), manifest)
        except UnsafeGraphError as error:
            raise UnsafeGraphError(f"{where}: {error}") from error


def check_graph(data: bytes, manifest: Manifest) -> None:
    """Check one graph's bytes against the manifest. Raises UnsafeGraphError with the reason."""
    if len(data) > GRAPH_LIMIT_BYTES:
        raise UnsafeGraphError(f"the graph has {len(data)} bytes, allowed are {GRAPH_LIMIT_BYTES}")
    try:
        model = read_model(data)
    except UnreadableGraphError as error:
        raise UnsafeGraphError(f"the graph cannot be read: {error}") from error
    graph = model.message("graph")
    _check_kinds(model, graph)
    _check_domains(model)
    _check_nodes(graph.messages("node"))
    _check_tensors(graph.messages("initializer") + _attribute_tensors(graph))
    _check_inputs(graph, manifest)
    _check_outputs(graph, manifest)


def _check_kinds(model: Message, graph: Message) -> None:
    if not graph.messages("node"):
        raise UnsafeGraphError("the file has no graph")
    for part, of in (("functions", model), ("training_info", model), ("sparse_initializer", graph)):
        if part in of:
            raise UnsafeGraphError(f"the graph has {part}, which no version needs")


def _check_domains(model: Message) -> None:
    domains = [opset.text("domain") for opset in model.messages("opset_import")]
    unknown = sorted({*domains, *(node.text("domain") for node in model.message("graph").messages("node"))} - _DOMAINS)
    if unknown:
        raise UnsafeGraphError(f"operators of the domain {unknown[0][:100]!r}: only standard ones are run")
    if len(set(domains)) != len(domains):
        raise UnsafeGraphError("an operator domain is imported twice")


def _check_nodes(nodes: Sequence[Message]) -> None:
    for node in nodes:
        operator = node.text("op_type")[:100]
        if operator in _RANDOM:
            raise UnsafeGraphError(f"the operator {operator} gives another answer each time")
        for attribute in node.messages("attribute"):
            held = attribute.keys() & {"g", "graphs", "ref_attr_name", "sparse_tensor", "sparse_tensors"}
            if held:
                raise UnsafeGraphError(f"the operator {operator} holds a graph or another part of its own: {min(held)}")
            values = b"".join(
                bytes(v) for f in ("f", "floats") for v in attribute.get(f, []) if isinstance(v, memoryview)
            )
            if len(values) % 4 or not np.isfinite(np.frombuffer(values, "<f4")).all():
                raise UnsafeGraphError(f"an attribute of the operator {operator} is NaN or infinite")


def _attribute_tensors(graph: Message) -> list[Message]:
    attributes = [attribute for node in graph.messages("node") for attribute in node.messages("attribute")]
    return [tensor for attribute in attributes for tensor in attribute.messages("t") + attribute.messages("tensors")]


def _check_tensors(tensors: Sequence[Message]) -> None:
    total = 0
    for tensor in tensors:
        name = tensor.text("name")[:100]
        if "external_data" in tensor or tensor.integer("data_location"):
            raise UnsafeGraphError(f"the tensor {name!r} lies outside the file")
        sizes = tensor.integers("dims")
        if len(sizes) > _RANK_LIMIT or min(sizes, default=0) < 0 or math.prod(sizes) + total > NUMBERS_LIMIT:
            raise UnsafeGraphError(f"the tensor {name!r} makes more than {NUMBERS_LIMIT} numbers, or fewer than none")
        total += math.prod(sizes)
        _check_content(tensor, name, math.prod(sizes))


def _check_content(tensor: Message, name: str, expected: int) -> None:
    """As many numbers as the shape says, in one of the forms ONNX has for them, all finite."""
    code = tensor.integer("data_type")
    if code not in _RAW_TYPES:
        raise UnsafeGraphError(f"the tensor {name!r} has numbers of the type {code}, which no version needs")
    forms = tensor.keys() & {"raw_data", *_PACKED_FLOATS, *_PACKED_INTEGERS}
    form = min(forms, default="raw_data")
    data = tensor.data(form)
    if len(forms) > 1:
        raise UnsafeGraphError(f"the tensor {name!r} holds its numbers twice")
    if form in _PACKED_INTEGERS:
        # One byte of each has its highest bit clear: the last.
        found, finite = int((np.frombuffer(data, np.uint8) < 0x80).sum()), _RAW_TYPES[code].kind in "iub"
    else:
        numbers = _numbers(data, _PACKED_FLOATS.get(form, _RAW_TYPES[code]), name)
        found, finite = len(numbers), numbers.dtype.kind != "f" or bool(np.isfinite(numbers).all())
    if found != expected:
        raise UnsafeGraphError(f"the tensor {name!r} holds {found} numbers, its shape says {expected}")
    if not finite:
        raise UnsafeGraphError(f"the tensor {name!r} holds NaN or infinite numbers")


def _numbers(data: memoryview, kind: "np.dtype[Any]", name: str) -> NDArray[Any]:
    if len(data) % kind.itemsize:
        raise UnsafeGraphError(f"the tensor {name!r} holds part of a number")
    return np.frombuffer(data, kind)


def _check_inputs(graph: Message, manifest: Manifest) -> None:
    contract = manifest.preprocessing
    wanted = {manifest.graph.input: (_UINT8, (None, contract.height, contract.width, 3))}
    found = _signature(graph, "input")
    if found != wanted:
        raise UnsafeGraphError(f"the graph takes {_shown(found)}, the manifest says {_shown(wanted)}")


def _check_outputs(graph: Message, manifest: Manifest) -> None:
    names, classes = manifest.graph, len(manifest.classes)
    found = _signature(graph, "output")
    begins = {
        names.probabilities: (2, (None, classes)),
        names.class_maps: (4, (None, classes)),
        names.embedding: (2, (None,)),
        names.in_distribution: (1, (None,)),
    }
    if set(found) != set(begins) or len(begins) != 4:
        raise UnsafeGraphError(f"the graph gives {sorted(n[:100] for n in found)}, the manifest says {sorted(begins)}")
    for name, (rank, first) in begins.items():
        kind, shape = found[name]
        known = all(size is not None and size > 0 for size in shape[1:])
        if kind != _FLOAT or len(shape) != rank or shape[: len(first)] != first or not known:
            raise UnsafeGraphError(f"the graph gives {_shown({name: found[name]})}, the manifest says otherwise")


def _signature(graph: Message, side: str) -> dict[str, tuple[int, tuple[int | None, ...]]]:
    """Name -> element type and shape; None is a size that is left open, as that of the batch must be."""
    found = {}
    for value in graph.messages(side):
        tensor = value.message("type").message("tensor_type")
        dimensions = tensor.message("shape").messages("dim")
        shape = tuple(d.integer("dim_value") if "dim_value" in d else None for d in dimensions)
        found[value.text("name")] = (tensor.integer("elem_type"), shape)
    if len(found) != len(graph.messages(side)):
        raise UnsafeGraphError(f"the graph names an {side} twice")
    return found


def _shown(signature: Mapping[str, tuple[int, tuple[int | None, ...]]]) -> str:
    parts = []
    for name, (code, shape) in list(signature.items())[:5]:
        kind = _RAW_TYPES[code].name if code in _RAW_TYPES else f"type {code}"
        parts.append(f"{name[:50]!r} {kind} [{', '.join('N' if size is None else str(size) for size in shape[:8])}]")
    return "; ".join(parts) or "nothing"
