"""Versions that must never be served: damaged, cut, forged, swapped, oversized, of the wrong shape, dangerous.

    python -m tests.model_store.forgeries --count 1000 --seed 1

Each is made from one good, signed version, and each must be refused with the reason that belongs to it. Those who
forge the contents of a graph are given what a real forger would have: a manifest with the right sums. A signature by a
trusted key is asked for only of those forgeries that are about signatures and manifests, so that every other one is
caught by its own check.
"""

import argparse
import hashlib
import io
import json
import random
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from onnx import TensorProto, helper, numpy_helper

from model_store.errors import StoreError
from model_store.gate import read_gate
from model_store.promotion import Evidence, judged
from model_store.signatures import TrustPolicy, key_id, with_signature
from model_store.store import ModelStore
from tests.model_store.builders import runnable_fields, runnable_files

Files = dict[str, bytes]
_SECRET = Ed25519PrivateKey.from_private_bytes(b"only a key of the tests, no more")
_STRANGER = Ed25519PrivateKey.from_private_bytes(b"a key that nobody has ever heard")
POLICY = TrustPolicy(True, {key_id(_SECRET.public_key()): _SECRET.public_key()})


@dataclass(frozen=True)
class Forgery:
    """All files of a version folder; `signed` asks for the policy; `reason` is what the refusal must match."""

    kind: str
    files: Files
    reason: str
    signed: bool = False


class Forger:
    """Makes forgeries of one good version, the same ones for the same seed."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        with tempfile.TemporaryDirectory() as folder:
            store = ModelStore(Path(folder))
            version = store.publish(runnable_files(), runnable_fields())
            store.sign("lesion7", "1", _SECRET)
            self.good: Files = {
                f.relative_to(version.folder).as_posix(): f.read_bytes()
                for f in version.folder.rglob("*")
                if f.is_file()
            }

    def forgeries(self, count: int) -> Iterator[Forgery]:
        """Every kind in turn, with other details each time."""
        kinds = [*_FILES.items(), *_MANIFESTS.items(), *_SIGNATURES.items(), *_GOLDEN.items(), *_GRAPHS.items()]
        for number in range(count):
            kind, (make, reason) = kinds[number % len(kinds)]
            files = dict(self.good)
            if kind in _GRAPHS:
                model = onnx.load_from_string(files["model.onnx"])
                forged = make(model, self.chance)
                files["model.onnx"] = forged if isinstance(forged, bytes) else model.SerializeToString()
            else:
                make(files, self.chance)
            if kind in _GRAPHS or kind in _GOLDEN:
                files = _summed_again(files)
            yield Forgery(kind, files, reason, kind in _MANIFESTS or kind in _SIGNATURES)


def refusal(forgery: Forgery, root: Path) -> str | None:
    """Why the store, the graph check or the golden vectors refuse it; None where they do not."""
    folder = root / "lesion7" / "1"
    shutil.rmtree(folder, ignore_errors=True)
    for name, data in forgery.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    store = ModelStore(root)
    policy = POLICY if forgery.signed else TrustPolicy()
    try:
        store.verify("lesion7", "1", policy)
        lines = judged(store, "lesion7", "1", "candidate", read_gate(), Evidence(policy))
    except StoreError as error:
        return str(error)
    return next((f"{line.name}: {line.found}" for line in lines if line.passed is False), None)


def wrong_refusals(seed: int, count: int) -> tuple[Counter[str], list[str]]:
    """(how many of each kind, one line for each forgery that was not refused, or for another reason)."""
    kinds: Counter[str] = Counter()
    wrong = []
    with tempfile.TemporaryDirectory() as folder:
        for forgery in Forger(seed).forgeries(count):
            kinds[forgery.kind] += 1
            told = refusal(forgery, Path(folder))
            if told is None or not re.search(forgery.reason, told) or "\n" in told or len(told) > 2000:
                wrong.append(f"{forgery.kind}: expected {forgery.reason!r}, got {told!r}")
    return kinds, wrong


def _summed_again(files: Files) -> Files:
    """The manifest with the sums of the files as they are now."""
    manifest = json.loads(files["manifest.json"])
    for name in manifest["files"]:
        data = files[name]
        manifest["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
    return {**files, "manifest.json": json.dumps(manifest).encode()}


# Files ---------------------------------------------------------------------------------------------------------------


def _listed(files: Files, chance: random.Random) -> str:
    return chance.choice([name for name in files if not name.startswith("manifest.")])


def _flip(files: Files, chance: random.Random) -> None:
    name = _listed(files, chance)
    at = chance.randrange(len(files[name]))
    changed = files[name][at] ^ (1 << chance.randrange(8))
    files[name] = files[name][:at] + bytes([changed]) + files[name][at + 1 :]


def _cut(files: Files, chance: random.Random) -> None:
    name = _listed(files, chance)
    files[name] = files[name][: chance.randrange(len(files[name]))]


def _grow(files: Files, chance: random.Random) -> None:
    files[_listed(files, chance)] += chance.randbytes(chance.randint(1, 5000))


def _lose(files: Files, chance: random.Random) -> None:
    del files[_listed(files, chance)]


def _swap(files: Files, chance: random.Random) -> None:
    files["model.onnx"], files["reference.json"] = files["reference.json"], files["model.onnx"]


def _add(files: Files, chance: random.Random) -> None:
    files[chance.choice(["plots/x.png", "model.onnx.data", ".hidden", "Manifest.sig", "manifest.json.bak"])] = b"?"


_FILES: dict[str, tuple[Callable[[Files, random.Random], None], str]] = {
    "flipped bit": (_flip, "does not match the manifest's sha256"),
    "cut file": (_cut, "does not match the manifest's sha256"),
    "grown file": (_grow, "larger than the"),
    "lost file": (_lose, "No such file"),
    "swapped files": (_swap, "larger than the|does not match"),
    "unlisted file": (_add, "files that the manifest does not list"),
}


# Manifests -----------------------------------------------------------------------------------------------------------


def _editing(edit: Callable[[dict[str, Any], random.Random], None]) -> Callable[[Files, random.Random], None]:
    """A manifest that was edited; a trusted signature would not fit, but it is refused before."""

    def make(files: Files, chance: random.Random) -> None:
        manifest = json.loads(files["manifest.json"])
        edit(manifest, chance)
        files["manifest.json"] = json.dumps(manifest).encode()

    return make


def _writing(write: Callable[[bytes, random.Random], bytes]) -> Callable[[Files, random.Random], None]:
    def make(files: Files, chance: random.Random) -> None:
        files["manifest.json"] = write(files["manifest.json"], chance)

    return make


def _rename(name: str) -> Callable[[Files, random.Random], None]:
    return _editing(lambda m, _: m["files"].update({name: m["files"].pop("plots/roc.png")}))


def _mistype(manifest: dict[str, Any], chance: random.Random) -> None:
    key = chance.choice(["classes", "graph", "variants", "files", "provenance", "calibration", "created_at", "golden"])
    manifest[key] = chance.choice([None, 7, True, "text", [], [[]]])


def _miss(manifest: dict[str, Any], chance: random.Random) -> None:
    del manifest[chance.choice([key for key in manifest if key not in ("schema_version", "name", "version")])]


def _nested(raw: bytes, chance: random.Random) -> bytes:
    depth = chance.choice([40, 400, 200_000])
    return raw.rstrip()[:-1] + b', "more": ' + b"[" * depth + b"]" * depth + b"}"


_JSON = "not acceptable JSON: "
_MANIFESTS: dict[str, tuple[Callable[[Files, random.Random], None], str]] = {
    "cut manifest": (_writing(lambda raw, c: raw[: c.randrange(len(raw) - 3)]), _JSON + "cannot be read"),
    "manifest of noise": (_writing(lambda raw, c: b"\xff" + c.randbytes(500)), _JSON + "cannot be read"),
    "oversized manifest": (_writing(lambda raw, c: raw + b" " * 1_000_000), "larger than the 1000000 bytes"),
    "key given twice": (
        _writing(lambda raw, _: raw.replace(b'"name"', b'"version": "1", "name"', 1)),
        _JSON + "a key is given twice",
    ),
    "nested manifest": (_writing(_nested), _JSON + "nested deeper"),
    "huge number": (
        _writing(lambda raw, c: raw.replace(b'"seed": 1', b'"seed": 1' + b"0" * c.choice([30, 5000]))),
        _JSON + "a number is too large",
    ),
    "infinite number": (
        _writing(lambda raw, _: raw.replace(b'"temperature": 1.0', b'"temperature": 1e999')),
        _JSON + "a number is too large",
    ),
    "NaN in the manifest": (
        _writing(lambda raw, _: raw.replace(b'"temperature": 1.0', b'"temperature": NaN')),
        _JSON + "NaN is no number",
    ),
    "mistyped field": (_editing(_mistype), "the manifest is not valid: "),
    "missing field": (_editing(_miss), "the manifest is not valid: .*Field required"),
    "unknown field": (_editing(lambda m, _: m.update(hook="run me")), "hook: Extra inputs"),
    "other version": (
        _editing(lambda m, c: m.update(version=str(c.randint(2, 99)))),
        "the manifest is of lesion7 version",
    ),
    "other model": (_editing(lambda m, _: m.update(name="other")), "the manifest is of other"),
    "older schema": (_editing(lambda m, c: m.update(schema_version=c.randint(-5, 1))), "publish it anew"),
    "newer schema": (_editing(lambda m, c: m.update(schema_version=c.randint(3, 99))), "install a newer release"),
    "file above": (_rename("../../../etc/passwd"), "does not stay inside"),
    "absolute file": (_rename("/etc/passwd"), "does not stay inside"),
    "backslash": (_rename("..\\..\\boot.ini"), "does not stay inside"),
    "device": (_rename("plots/NUL.png"), "does not stay inside"),
    "case trick": (_rename("MODEL.onnx"), "where case does not count"),
    "file as folder": (_rename("model.onnx/roc.png"), "where case does not count"),
    "lists itself": (_rename("Manifest.json"), "cannot list itself"),
    "oversized file": (
        _editing(lambda m, _: m["files"]["model.onnx"].update(size_bytes=2**40)),
        "size_bytes: .*less than or equal",
    ),
}


# Signatures ----------------------------------------------------------------------------------------------------------


def _signing(make: Callable[[Files, random.Random], bytes | None]) -> Callable[[Files, random.Random], None]:
    def change(files: Files, chance: random.Random) -> None:
        made = make(files, chance)
        if made is None:
            del files["manifest.sig"]
        else:
            files["manifest.sig"] = made

    return change


def _re_signed(files: Files, change: Callable[[dict[str, Any]], None]) -> bytes:
    content = json.loads(files["manifest.sig"])
    change(content["signatures"][0])
    return json.dumps(content).encode()


def _edit_signed(files: Files, chance: random.Random) -> None:
    """A manifest that is valid and not the one that was signed."""
    manifest = json.loads(files["manifest.json"])
    manifest["malignancy"]["threshold"] = chance.uniform(0.3, 0.9)
    files["manifest.json"] = json.dumps(manifest).encode()


_SIGNATURES: dict[str, tuple[Callable[[Files, random.Random], None], str]] = {
    "threshold moved": (_edit_signed, "is of another text"),
    "no signature": (_signing(lambda f, c: None), "not signed"),
    "stranger's signature": (
        _signing(lambda f, c: with_signature(f["manifest.json"], _STRANGER, ())),
        "signed by no trusted key",
    ),
    "signature of another text": (
        _signing(lambda f, c: with_signature(c.randbytes(50), _SECRET, ())),
        "of another text",
    ),
    "stranger under a trusted name": (
        _signing(
            lambda f, c: with_signature(f["manifest.json"], _STRANGER, ()).replace(
                key_id(_STRANGER.public_key()).encode(), key_id(_SECRET.public_key()).encode()
            )
        ),
        "of another text",
    ),
    "cut signature": (_signing(lambda f, c: f["manifest.sig"][: c.randint(0, 100)]), "not acceptable JSON"),
    "oversized signature": (_signing(lambda f, c: f["manifest.sig"] + b" " * 70_000), "larger than 64000 bytes"),
    "other algorithm": (
        _signing(lambda f, c: _re_signed(f, lambda s: s.update(algorithm="none"))),
        "signature file is not valid: .*algorithm",
    ),
    "short signature": (
        _signing(lambda f, c: _re_signed(f, lambda s: s.update(signature=s["signature"][:40]))),
        "signature file is not valid: .*signature",
    ),
}


# Golden vectors ------------------------------------------------------------------------------------------------------


def _archive(change: Callable[[dict[str, Any], random.Random], None]) -> Callable[[Files, random.Random], None]:
    def make(files: Files, chance: random.Random) -> None:
        with np.load(io.BytesIO(files["golden.npz"])) as archive:
            arrays = dict(archive)
        change(arrays, chance)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        files["golden.npz"] = buffer.getvalue()

    return make


def _noise(files: Files, chance: random.Random) -> None:
    files["golden.npz"] = chance.choice([b"", b"PK\x03\x04", b"PK\x05\x06" + bytes(18)]) + chance.randbytes(200)


def _pickle(arrays: dict[str, Any], chance: random.Random) -> None:
    arrays["tensors"] = np.array([{"run": "me"}], dtype=object)


def _scrambled(files: Files, chance: random.Random) -> None:
    at = chance.randrange(100, len(files["golden.npz"]) - 3000)
    files["golden.npz"] = files["golden.npz"][:at] + chance.randbytes(900) + files["golden.npz"][at + 900 :]


_GOLDEN: dict[str, tuple[Callable[[Files, random.Random], None], str]] = {
    "golden noise": (_noise, "golden vectors cannot be read"),
    "golden scrambled": (_scrambled, "golden vectors cannot be read"),
    "golden bomb": (
        _archive(lambda a, c: a.update(jpeg_9=np.zeros(300_000_000, np.uint8))),
        "golden vectors cannot be read",
    ),
    "golden pickle": (_archive(_pickle), "golden vectors cannot be read"),
    "golden without answers": (_archive(lambda a, c: a.pop("probabilities_fp32")), "golden vectors cannot be read"),
    "golden too short": (
        _archive(lambda a, c: a.update(probabilities_fp32=a["probabilities_fp32"][:1])),
        "golden vectors cannot be read",
    ),
    "golden NaN": (
        _archive(lambda a, c: a.update(probabilities_fp32=a["probabilities_fp32"] * np.nan)),
        "golden answers, fp32: nan",
    ),
    "other golden answers": (
        _archive(lambda a, c: a.update(probabilities_fp32=a["probabilities_fp32"] + c.uniform(0.01, 1))),
        "golden answers, fp32: ",
    ),
    "other golden tensors": (
        _archive(lambda a, c: a.update(tensors=255 - a["tensors"])),
        "golden answers, fp32: ",
    ),
}


# Graphs --------------------------------------------------------------------------------------------------------------

Model = onnx.ModelProto


def _last(model: Model) -> onnx.NodeProto:
    return model.graph.node[-1]


def _weights(model: Model) -> onnx.TensorProto:
    return next(t for t in model.graph.initializer if t.name == "weights")


def _spoiled(value: float) -> Callable[[Model, random.Random], None]:
    def make(model: Model, chance: random.Random) -> None:
        array = numpy_helper.to_array(_weights(model)).copy()
        array.flat[chance.randrange(array.size)] = value
        _weights(model).CopyFrom(numpy_helper.from_array(array, "weights"))

    return make


def _branch(model: Model, chance: random.Random) -> None:
    """A branch whose inside is an operator of a domain that hides there."""
    inside = helper.make_graph(
        [helper.make_node("Evil", ["x"], ["y"], domain="com.evil")],
        "inside",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N"])],
    )
    model.graph.node.append(helper.make_node("If", ["scale"], ["z"], then_branch=inside, else_branch=inside))


def _function(model: Model, chance: random.Random) -> None:
    made = helper.make_function("", "Helper", ["x"], ["y"], [helper.make_node("Identity", ["x"], ["y"])], [])
    model.functions.append(made)


def _external(model: Model, chance: random.Random) -> None:
    tensor = _weights(model)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", chance.choice(["weights.bin", "/etc/passwd", "../x"])), ("offset", "0")):
        tensor.external_data.add(key=key, value=value)


def _external_attribute(model: Model, chance: random.Random) -> None:
    tensor = numpy_helper.from_array(np.zeros(3, np.float32), "inner")
    tensor.external_data.add(key="location", value="/etc/passwd")
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))


def _resize_claim(model: Model, chance: random.Random) -> None:
    _weights(model).dims[chance.randrange(4)] += chance.randint(1, 1000)


def _huge_claim(model: Model, chance: random.Random) -> None:
    del _weights(model).dims[:]
    _weights(model).dims.extend([2 ** chance.randint(31, 62)] * chance.randint(1, 16))


def _dimension(model: Model, side: str, name: str, axis: int, size: int) -> None:
    values = model.graph.input if side == "input" else model.graph.output
    shape = next(v for v in values if v.name == name).type.tensor_type.shape
    shape.dim[axis].Clear()
    shape.dim[axis].dim_value = size


def _typed(model: Model, name: str) -> None:
    values = [*model.graph.input, *model.graph.output]
    next(v for v in values if v.name == name).type.tensor_type.elem_type = TensorProto.DOUBLE


def _nan_giving(model: Model, chance: random.Random) -> None:
    """Every constant is finite, and yet the answer is not a number: the logarithm of less than nothing."""
    spoiler = numpy_helper.from_array(np.array([-chance.uniform(1, 9)], np.float32), "below")
    model.graph.initializer.append(spoiler)
    softmax = next(n for n in model.graph.node if n.op_type == "Softmax")
    softmax.output[0] = "plain"
    model.graph.node.append(helper.make_node("Log", ["below"], ["spoiled"]))
    model.graph.node.append(helper.make_node("Add", ["plain", "spoiled"], ["probabilities"]))


def _other_weights(model: Model, chance: random.Random) -> None:
    array = numpy_helper.to_array(_weights(model)) * chance.uniform(-3, -1)
    _weights(model).CopyFrom(numpy_helper.from_array(array.astype(np.float32), "weights"))


def _unknown_field(model: Model, chance: random.Random) -> bytes:
    """Field 26 (a device configuration), or one that no release knows; length-delimited, holding noise."""
    key = (chance.choice([26, 99]) << 3) | 2
    noise = chance.randbytes(chance.randint(1, 50))
    encoded_key = bytes([key & 0x7F | 0x80, key >> 7])
    return bytes(model.SerializeToString()) + encoded_key + bytes([len(noise)]) + noise


def _second_graph(model: Model, chance: random.Random) -> bytes:
    """protobuf merges a second `graph`: what one reader checks is not what another runs."""
    return bytes(model.SerializeToString()) + onnx.ModelProto(graph=model.graph).SerializeToString()


_GRAPHS: dict[str, tuple[Callable[[Any, random.Random], Any], str]] = {
    "cut graph": (lambda m, c: m.SerializeToString()[: c.randint(1, 300)], "cannot be read|no graph|gives|takes"),
    "graph of noise": (lambda m, c: b"\x07" + c.randbytes(c.randint(0, 3000)), "cannot be read"),
    "empty graph": (lambda m, c: b"", "no graph"),
    "unknown field of a graph": (_unknown_field, "is not one that this release knows"),
    "second graph": (_second_graph, "graph of a Model is given twice"),
    "custom operator": (
        lambda m, c: setattr(
            _last(m), "domain", c.choice(["com.evil", "com.microsoft", "ai.onnx.training", "AI.ONNX"])
        ),
        "operators of the domain",
    ),
    "custom import": (lambda m, c: m.opset_import.append(helper.make_opsetid("com.evil", 1)) or None, "of the domain"),
    "hidden in a branch": (_branch, "the operator If holds a graph"),
    "function": (_function, "the graph has functions"),
    "external data": (_external, "'weights' lies outside the file"),
    "external data in an attribute": (_external_attribute, "'inner' lies outside the file"),
    "NaN weight": (_spoiled(float("nan")), "holds NaN or infinite"),
    "infinite weight": (_spoiled(float("-inf")), "holds NaN or infinite"),
    "NaN attribute": (
        lambda m, c: m.graph.node.append(helper.make_node("Elu", ["unit"], ["e"], alpha=float("nan"))) or None,
        "attribute of the operator Elu is NaN",
    ),
    "NaN-giving": (_nan_giving, "golden answers, fp32: nan"),
    "other weights": (_other_weights, "golden answers, fp32: "),
    "random operator": (
        lambda m, c: m.graph.node.append(helper.make_node("RandomNormal", [], ["r"], shape=[2])) or None,
        "another answer each time",
    ),
    "shape beyond the data": (_resize_claim, "its shape says"),
    "huge shape": (_huge_claim, "makes more than"),
    "other input size": (lambda m, c: _dimension(m, "input", "image", 1, c.choice([16, 64, 4096])), "the graph takes"),
    "fixed batch": (lambda m, c: _dimension(m, "input", "image", 0, 1), "the graph takes"),
    "input of another type": (lambda m, c: _typed(m, "image"), "the graph takes"),
    "too few classes": (lambda m, c: _dimension(m, "output", "probabilities", 1, c.randint(1, 6)), "the graph gives"),
    "output of another type": (lambda m, c: _typed(m, "probabilities"), "the graph gives"),
    "missing output": (lambda m, c: m.graph.output.pop(c.randrange(4)) and None, "the graph gives"),
    "further output": (
        lambda m, c: m.graph.output.append(helper.make_tensor_value_info("unit", TensorProto.FLOAT, ["N"])) or None,
        "the graph gives",
    ),
    "further input": (
        lambda m, c: m.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, ["N"])) or None,
        "the graph takes",
    ),
}


def main() -> int:
    """Print how many of each kind were refused; exit code 1 when one was not, or for another reason."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    kinds, wrong = wrong_refusals(options.seed, options.count)
    lines = [f"{count:5} {kind}" for kind, count in sorted(kinds.items())] + wrong
    print("\n".join([*lines, f"{options.count - len(wrong)} of {options.count} refused with their reason"]))  # noqa: T201
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
