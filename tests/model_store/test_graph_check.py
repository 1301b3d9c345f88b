"""A graph is looked at, strictly, before it is run."""

from contextlib import suppress

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from model_store.contract.manifest import Manifest
from model_store.errors import UnsafeGraphError
from model_store.graph_check import check_graph, check_graphs
from model_store.onnx_reader import UnreadableGraphError, read_model
from model_store.store import SHIPPED, ModelStore
from tests.model_store.builders import runnable_fields, tiny_model

TINY = tiny_model().SerializeToString()


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    files = {name: {"sha256": "0" * 64, "size_bytes": 1} for name in ("model.onnx", "model.int8.onnx")}
    files |= {name: {"sha256": "0" * 64, "size_bytes": 1} for name in ("golden.npz", "reference.json")}
    return Manifest.model_validate({**runnable_fields(), "schema_version": 2, "version": "1", "files": files})


def test_the_shipped_graphs_pass() -> None:
    """Both variants of every released version are safe."""
    store = ModelStore(SHIPPED)
    for version in store.versions("lesion7"):
        check_graphs(store.open("lesion7", version))


def test_the_reader_sees_what_onnx_sees() -> None:
    """Operators, tensors and names are those that the package onnx reads from the same bytes."""
    version = ModelStore(SHIPPED).open("lesion7", "production")
    data = version.read(version.manifest.variants["fp32"].file)
    theirs, ours = onnx.load_from_string(data).graph, read_model(data).message("graph")
    assert [node.text("op_type") for node in ours.messages("node")] == [node.op_type for node in theirs.node]
    assert [n.texts("input") for n in ours.messages("node")] == [list(n.input) for n in theirs.node]
    tensors = {t.text("name"): (t.integers("dims"), bytes(t.data("raw_data"))) for t in ours.messages("initializer")}
    assert tensors == {t.name: (list(t.dims), t.raw_data) for t in theirs.initializer}


def test_numbers_in_any_of_their_forms_are_read(manifest: Manifest) -> None:
    """Raw bytes and packed lists are both ONNX; a NaN is found in either."""
    model = onnx.load_from_string(TINY)
    weights = next(t for t in model.graph.initializer if t.name == "weights")
    array = numpy_helper.to_array(weights)
    weights.CopyFrom(onnx.helper.make_tensor("weights", onnx.TensorProto.FLOAT, array.shape, array.ravel()))
    check_graph(model.SerializeToString(), manifest)
    weights.float_data[3] = float("nan")
    with pytest.raises(UnsafeGraphError, match="'weights' holds NaN"):
        check_graph(model.SerializeToString(), manifest)


@given(st.binary(max_size=300))
def test_noise_is_an_error_and_nothing_else(data: bytes) -> None:
    """Whatever the bytes are, reading ends with a model or with UnreadableGraphError."""
    with suppress(UnreadableGraphError):
        read_model(data)


@given(st.integers(0, len(TINY) - 1), st.integers(0, 255))
def test_a_changed_byte_never_breaks_the_check(manifest: Manifest, at: int, byte: int) -> None:
    """A byte changed anywhere gives a graph that passes, or UnsafeGraphError; never anything else."""
    changed = TINY[:at] + bytes([byte]) + TINY[at + 1 :]
    try:
        check_graph(changed, manifest)
    except UnsafeGraphError as error:
        assert "\n" not in str(error)  # noqa: PT017 - it need not be raised


def test_a_small_file_cannot_become_a_large_structure() -> None:
    """A megabyte of nothing but empty nodes is refused before it has filled the memory."""
    nodes = b"\x0a\x00" * 500_000
    data = b"\x3a" + _varint(len(nodes)) + nodes
    with pytest.raises(UnreadableGraphError, match="more than 300000 parts"):
        read_model(data)


def _varint(number: int) -> bytes:
    out = b""
    while number > 0x7F:
        out, number = out + bytes([number & 0x7F | 0x80]), number >> 7
    return out + bytes([number])
