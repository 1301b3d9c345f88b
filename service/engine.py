"""ONNX Runtime: one verified variant of the graph, run by several threads at once."""

import logging
import queue
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi.onnxruntime_pybind11_state import OrtAllocatorType, OrtMemoryInfo, OrtMemType

from model_store.contract.golden import GoldenAnswers, GoldenVectors, preprocess_encoded, read_golden
from model_store.contract.manifest import Manifest, VariantName
from model_store.store import ModelVersion
from service.log import log

# Another build of libjpeg or Pillow may round a pixel differently; two levels of 255 change no answer.
_TENSOR_TOLERANCE_LEVELS = 2


class SelfTestError(Exception):
    """The version does not answer as its golden vectors say, or its graph is not what the manifest says."""


@dataclass(frozen=True)
class PictureOutput:
    """What the graph says of one picture.

    `probabilities` float32 [classes]; `class_maps` float32 [classes, h, w]: what each cell adds to a class's logit;
    `in_distribution` in [0, 1], higher is more like the lesions of the training data.
    """

    probabilities: NDArray[np.float32]
    class_maps: NDArray[np.float32]
    in_distribution: float


@dataclass(frozen=True)
class NetworkOutput:
    """What the graph says of a batch: as PictureOutput, float32 with a leading N."""

    probabilities: NDArray[np.float32]
    class_maps: NDArray[np.float32]
    in_distribution: NDArray[np.float32]

    def rows(self) -> list[PictureOutput]:
        """One for each picture. Raises ValueError when the outputs are not of one length."""
        together = zip(self.probabilities, self.class_maps, self.in_distribution, strict=True)
        return [PictureOutput(probabilities, maps, float(score)) for probabilities, maps, score in together]

    def equals(self, other: "NetworkOutput") -> bool:
        """Whether every bit of every output is the same."""
        return all(np.array_equal(here, vars(other)[name]) for name, here in vars(self).items())


class Engine:
    """One variant. `infer` may be called from several threads, each of which has `threads_per_session` to compute.

    A caller who knows that there is no other work may say so: then `threads_alone` compute.
    """

    def __init__(
        self, version: ModelVersion, variant: VariantName, threads_per_session: int = 1, workers: int = 1
    ) -> None:
        """Load the graph for `workers` callers at once and replay the golden vectors.

        With one thread a session computes in the thread that calls, so one session serves any number of callers.
        More threads belong to their session: then each worker needs one of its own.
        Raises SelfTestError, DamagedVersionError.
        """
        self.variant, self._manifest = variant, version.manifest
        self._idle: queue.SimpleQueue[onnxruntime.InferenceSession] = queue.SimpleQueue()
        self._shared: onnxruntime.InferenceSession | None = None
        self._alone: onnxruntime.InferenceSession | None = None
        self.threads_per_session = self.threads_alone = threads_per_session
        try:
            golden = _golden(version, variant)
            graph = version.read(version.manifest.variants[variant].file)
            for _ in range(1 if threads_per_session == 1 else workers):
                session = _session(graph, threads_per_session)
                _check_signature(session, version.manifest)
                self._replay(golden, session)  # warm-up and proof in one
                self._idle.put(session)
        except SelfTestError as error:
            raise SelfTestError(f"{version.manifest.name} {version.manifest.version} {variant}: {error}") from error
        self._picture = golden.tensors[:1].copy()  # no view: the others may go
        if threads_per_session == 1:
            self._shared = self._idle.get()

    def infer(self, images: NDArray[np.uint8], *, alone: bool = False) -> NetworkOutput:
        """uint8 [N, H, W, 3] RGB -> what the graph says of the N pictures; `alone`: there is no other work."""
        if alone and self._alone is not None:
            return self._run(self._alone, images)
        with self._free_session() as session:
            return self._run(session, images)

    def shrink(self) -> None:
        """Give back what larger batches have taken, those of engines that are gone as well: all share one place."""
        options = onnxruntime.RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        graph = self._manifest.graph
        with self._free_session() as session:
            session.run([graph.probabilities], {graph.input: self._picture}, options)

    def add_session_alone(self, version: ModelVersion, threads: int) -> None:
        """From now on `threads` compute a lone picture. Nothing that serves waits for it: pictures may be inferred.

        An answer must not depend on how busy the service is: a session that gives other bits is not used.
        Raises SelfTestError, DamagedVersionError.
        """
        if threads == self.threads_alone:
            return
        session = _session(version.read(version.manifest.variants[self.variant].file), threads)
        if self._run(session, self._picture).equals(self.infer(self._picture)):
            self._alone, self.threads_alone = session, threads
        else:
            log(logging.WARNING, "a lone picture gets no more threads: they change its answer", threads=threads)

    @contextmanager
    def _free_session(self) -> Iterator[onnxruntime.InferenceSession]:
        """The shared session, or one that nobody else uses meanwhile; waits while all are in use."""
        if self._shared is not None:
            yield self._shared
            return
        session = self._idle.get()
        try:
            yield session
        finally:
            self._idle.put(session)

    def _run(self, session: onnxruntime.InferenceSession, images: NDArray[np.uint8]) -> NetworkOutput:
        graph = self._manifest.graph
        wanted = [graph.probabilities, graph.class_maps, graph.in_distribution]
        return NetworkOutput(*session.run(wanted, {graph.input: images}))

    def _replay(self, golden: GoldenVectors, session: onnxruntime.InferenceSession) -> None:
        """One by one: all at once they would take more memory than serving does."""
        for image, expected in golden.one_by_one(self.variant):
            _check_answers(self._run(session, image), expected, self._manifest.golden.tolerance[self.variant])


def _golden(version: ModelVersion, variant: VariantName) -> GoldenVectors:
    """The golden vectors, whose pictures become their tensors here too: those of the training machine."""
    manifest = version.manifest
    try:
        golden = read_golden(version.read(manifest.golden.file))
        golden.answers[variant]  # asked for here: a variant without answers proves nothing
    except (ValueError, KeyError, OSError) as error:
        raise SelfTestError("the golden vectors cannot be read") from error
    _check_preprocessing(golden, manifest)
    return golden


@cache
def _share_memory() -> None:
    """One place for what sessions compute in, instead of one each: they work in turn, so most of it would lie idle.

    A fresh session would take its own from the system while callers wait: some 20,000 pages, 80 MB, after every swap.
    """
    memory = OrtMemoryInfo("Cpu", OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, OrtMemType.DEFAULT)
    onnxruntime.create_and_register_allocator(memory, None)


def _session(graph: bytes, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # A thread that spins while it waits takes its core from decoding and from the event loop.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    _share_memory()
    options.add_session_config_entry("session.use_env_allocators", "1")
    # Weights stay apart: they go when their session goes, and would split what the next one computes in.
    options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except (RuntimeError, ValueError) as error:  # ONNX Runtime's exceptions derive from these
        raise SelfTestError("ONNX Runtime refuses the graph") from error


def _check_signature(session: onnxruntime.InferenceSession, manifest: Manifest) -> None:
    """The graph takes and gives what the manifest says."""
    contract, graph, classes = manifest.preprocessing, manifest.graph, len(manifest.classes)
    inputs = [(i.name, i.type, tuple(i.shape[1:])) for i in session.get_inputs()]
    if inputs != [(graph.input, "tensor(uint8)", (contract.height, contract.width, 3))]:
        raise SelfTestError(f"the graph takes {inputs}, the manifest says otherwise")
    outputs = {o.name: (o.type, o.shape[1:]) for o in session.get_outputs()}
    maps_type, maps_shape = outputs.get(graph.class_maps, ("none", []))
    if (
        outputs.get(graph.probabilities) != ("tensor(float)", [classes])
        or outputs.get(graph.in_distribution) != ("tensor(float)", [])
        or (maps_type, len(maps_shape), *maps_shape[:1]) != ("tensor(float)", 3, classes)
    ):
        raise SelfTestError(f"the graph gives {outputs}, the manifest says otherwise")


def _check_preprocessing(golden: GoldenVectors, manifest: Manifest) -> None:
    for number, (picture, expected) in enumerate(zip(golden.pictures, golden.tensors, strict=True)):
        tensor = preprocess_encoded(picture, manifest.preprocessing)
        if tensor.shape != expected.shape:
            raise SelfTestError(f"golden picture {number} has another shape")
        off = int(np.abs(tensor.astype(np.int16) - expected).max())
        if off > _TENSOR_TOLERANCE_LEVELS:
            raise SelfTestError(f"golden picture {number} is preprocessed {off} levels differently")


def _check_answers(found: NetworkOutput, expected: GoldenAnswers, tolerance: float) -> None:
    pairs = {
        "golden probabilities": (found.probabilities, expected.probabilities),
        "golden in-distribution scores": (found.in_distribution, expected.in_distribution),
    }
    for what, (here, there) in pairs.items():
        off_by = float(np.abs(here - there).max())
        if not off_by <= tolerance:  # also true for NaN
            raise SelfTestError(f"{what} differ by {off_by:.2g}, allowed are {tolerance:g}")
