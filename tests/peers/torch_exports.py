"""Exports networks by both of torch's exporters, with autograd's gradients beside them; needs torch, nothing of ours.

    python torch_exports.py FOLDER

For each network the folder gets ``<network>.npz`` (windows ``x``, and the gradient ``g`` of the second class by them),
``<network>.dynamo.onnx`` and ``<network>.torchscript.onnx``; or, where an exporter fails, a ``.txt`` that says why.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

CLASSES = 4


class Recurrent(nn.Module):
    """A recurrent layer over the frames; the last step classified."""

    def __init__(self, layer: nn.RNNBase, before: nn.Module | None = None) -> None:
        super().__init__()
        self.before, self.layer = before, layer
        self.head = nn.Linear(layer.hidden_size * (2 if layer.bidirectional else 1), CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        if self.before is not None:
            x = self.before(x).transpose(1, 2)
        return self.head(self.layer(x)[0][:, -1])


class Residual(nn.Module):
    """ResNet's block."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.Conv2d(before, after, 3, stride, 1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, 1, 1, bias=False),
            nn.BatchNorm2d(after),
        )
        same = before == after and stride == 1
        self.skip = nn.Identity() if same else nn.Conv2d(before, after, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.inner(x) + self.skip(x))


class Vit(nn.Module):
    """Patches, a class token, an encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, 16, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 16))
        self.position = nn.Parameter(torch.randn(1, 10, 16))
        self.encoder, self.head = _encoder(), nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(tokens.shape[0], -1, -1), tokens], 1) + self.position
        return self.head(self.encoder(x)[:, 0])


class Encoder(nn.Module):
    """An encoder over frames, its mean classified."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.encoder, self.head = nn.Linear(10, 16), _encoder(), nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(x)).mean(1))


class Tcn(nn.Module):
    """Causal dilated convolutions with residual sums."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv1d(8, 8, 3, dilation=2**n) for n in range(3))
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        for n, layer in enumerate(self.layers):
            x = torch.relu(x + torch.relu(layer(nn.functional.pad(x, (2 * 2**n, 0)))))
        return self.head(x[:, :, -1])


class UNet(nn.Module):
    """Down, and up by a transposed convolution and by interpolation, with what was skipped."""

    def __init__(self) -> None:
        super().__init__()
        self.top, self.middle = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1)
        self.bottom, self.up = nn.Conv2d(8, 8, 3, 2, 1), nn.ConvTranspose2d(8, 8, 2, 2)
        self.join, self.out = nn.Conv2d(16, 4, 3, padding=1), nn.Conv2d(8, CLASSES, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        top = torch.relu(self.top(x))
        middle = torch.relu(self.middle(nn.functional.max_pool2d(top, 2)))
        up = self.up(nn.functional.leaky_relu(self.bottom(middle)))
        x = torch.relu(self.join(torch.cat([up, middle], 1)))
        x = nn.functional.interpolate(x, scale_factor=2, mode="bilinear")
        return torch.sigmoid(self.out(torch.cat([x, top], 1))).mean((2, 3))


def _encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(16, 4, 32, 0.0, "gelu", batch_first=True, norm_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


def _pair(before: int, after: int) -> list[nn.Module]:
    return [nn.Conv2d(before, before, 3, 2, 1, groups=before), nn.ReLU6(), nn.Conv2d(before, after, 1), nn.ReLU()]


def networks() -> Mapping[str, tuple[nn.Module, tuple[int, ...]]]:
    """Return each network and the shape of its windows."""
    blocks = [Residual(4, 4, 1), Residual(4, 6, 2), Residual(6, 8, 2)]
    pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    lenet = [nn.Conv2d(1, 4, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3, padding=1), nn.Tanh()]
    stem = [nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    conv = nn.Sequential(nn.Conv1d(10, 8, 3, padding=1), nn.ReLU(), nn.MaxPool1d(2))
    return {
        "mlp": (nn.Sequential(nn.Linear(12, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, CLASSES)), (12,)),
        "lenet": (nn.Sequential(*lenet, nn.AvgPool2d(2), nn.Flatten(), nn.Linear(96, CLASSES)), (1, 16, 16)),
        "resnet": (nn.Sequential(*stem, *blocks, *pooled, nn.Linear(8, CLASSES)), (3, 16, 16)),
        "rnn": (Recurrent(nn.RNN(10, 8, batch_first=True)), (7, 10)),
        "gru": (Recurrent(nn.GRU(10, 8, batch_first=True)), (7, 10)),
        "lstm": (Recurrent(nn.LSTM(10, 8, batch_first=True)), (7, 10)),
        "bilstm": (Recurrent(nn.LSTM(10, 8, 2, batch_first=True, bidirectional=True)), (7, 10)),
        "conv_gru": (Recurrent(nn.GRU(8, 8, batch_first=True), conv), (10, 12)),
        "vit": (Vit(), (1, 12, 12)),
        "transformer": (Encoder(), (6, 10)),
        "depthwise": (nn.Sequential(*_pair(4, 8), *_pair(8, 12), *pooled, nn.Linear(12, CLASSES)), (4, 12, 10)),
        "tcn": (Tcn(), (8, 16)),
        "unet": (UNet(), (2, 8, 8)),
    }


def export(net: nn.Module, x: Tensor, path: Path, *, dynamo: bool) -> None:
    """Write a model with an open batch; or, beside it, why the exporter could not."""
    names = {"input_names": ["x"], "output_names": ["logits"]}
    try:
        if dynamo:
            shapes = ({0: torch.export.Dim("batch")},)
            torch.onnx.export(net, (x,), path, dynamo=True, dynamic_shapes=shapes, external_data=False, **names)
        else:
            axes = {"x": {0: "batch"}, "logits": {0: "batch"}}
            torch.onnx.export(net, (x,), path, dynamo=False, dynamic_axes=axes, opset_version=18, **names)
    except (RuntimeError, torch.onnx.OnnxExporterError) as error:
        path.with_suffix(".txt").write_text(str(error).strip().splitlines()[0])


def main() -> None:
    folder = Path(sys.argv[1])
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    for name, (net, shape) in networks().items():
        x = torch.randn(3, *shape, requires_grad=True)
        net.train()
        with torch.no_grad():
            net(torch.randn(16, *shape))  # gives batch normalisations statistics
        net.eval()
        (gradient,) = torch.autograd.grad(net(x)[:, 1].sum(), x)
        np.savez(folder / f"{name}.npz", x=x.detach().numpy(), g=gradient.numpy())
        for kind in ("dynamo", "torchscript"):
            export(net, x.detach(), folder / f"{name}.{kind}.onnx", dynamo=kind == "dynamo")


if __name__ == "__main__":
    main()
