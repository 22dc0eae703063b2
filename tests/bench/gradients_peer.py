"""Gradients by torch's autograd, timed in an interpreter that has torch. Run as a script, it imports nothing of ours.

    python gradients_peer.py FOLDER

The folder holds ``<network>.npz`` for each network: its tensors by name, and the windows ``x``. Each line of standard
input is ``network batch times``; each is answered with one line of JSON, the seconds that each call took. With 0 times
the answer is the gradient of the second class by one batch. The first line written is torch's version.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as f

Tensors = Mapping[str, Tensor]
HEADS = 4


def linear(t: Tensors, name: str, x: Tensor) -> Tensor:
    return f.linear(x, t[f"{name}.weight.T"], t[f"{name}.bias"])


def normalized(t: Tensors, name: str, x: Tensor) -> Tensor:
    """Layer normalisation."""
    return f.layer_norm(x, x.shape[-1:], t[f"{name}.scale"], t[f"{name}.bias"])


def batch_normalized(t: Tensors, name: str, x: Tensor) -> Tensor:
    scale, bias, mean, variance = (t[f"{name}.{part}"] for part in ("scale", "bias", "mean", "variance"))
    return f.batch_norm(x, mean, variance, scale, bias)


def conv(t: Tensors, name: str, x: Tensor, stride: int = 1, dilation: int = 1) -> Tensor:
    weight = t[f"{name}.weight"]
    run = f.conv1d if weight.dim() == 3 else f.conv2d
    padding, groups = dilation * (weight.shape[-1] // 2), x.shape[1] // weight.shape[1]
    return run(x, weight, t[f"{name}.bias"], stride=stride, padding=padding, dilation=dilation, groups=groups)


def count_net(t: Tensors) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        for number in range(3):
            x = f.relu(conv(t, f"c{number}", x, dilation=2**number))
        return linear(t, "head", f.relu(linear(t, "fc1", x.mean(2))))

    return forward


def resnet(t: Tensors) -> Callable[[Tensor], Tensor]:
    def block(x: Tensor, name: str, stride: int) -> Tensor:
        inner = f.relu(batch_normalized(t, f"{name}.bn1", conv(t, f"{name}.c1", x, stride)))
        inner = batch_normalized(t, f"{name}.bn2", conv(t, f"{name}.c2", inner))
        if f"{name}.skip.weight" in t:
            x = batch_normalized(t, f"{name}.bns", conv(t, f"{name}.skip", x, stride))
        return f.relu(inner + x)

    def forward(x: Tensor) -> Tensor:
        x = f.relu(batch_normalized(t, "stem.bn", conv(t, "stem", x, 2)))
        x = f.max_pool2d(x, 3, 2, 1)
        for stage in range(4):
            for number in range(2):
                x = block(x, f"s{stage}b{number}", 2 if stage and not number else 1)
        return linear(t, "head", x.mean((2, 3)))

    return forward


def transformer(t: Tensors) -> Callable[[Tensor], Tensor]:
    def heads(x: Tensor) -> Tensor:
        return x.unflatten(2, (HEADS, -1)).transpose(1, 2)

    def layer(x: Tensor, name: str) -> Tensor:
        normal = normalized(t, f"{name}.norm1", x)
        q, k, v = (heads(linear(t, f"{name}.{part}", normal)) for part in "qkv")
        mixed = f.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + linear(t, f"{name}.out", mixed)
        inner = f.gelu(linear(t, f"{name}.fc1", normalized(t, f"{name}.norm2", x)))
        return x + linear(t, f"{name}.fc2", inner)

    def forward(x: Tensor) -> Tensor:
        x = linear(t, "embed", x) + t["position"]
        for number in range(2):
            x = layer(x, f"l{number}")
        return linear(t, "head", normalized(t, "norm", x).mean(1))

    return forward


def mlp(t: Tensors) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        for name in ("fc1", "fc2"):
            x = f.gelu(normalized(t, f"{name}.norm", linear(t, name, x)))
        return linear(t, "head", x)

    return forward


def depthwise(t: Tensors) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        for number in range(sum(name.startswith("keep") and name.endswith("depth.weight") for name in t)):
            for kind, stride in (("down", 2), ("keep", 1)):
                x = f.relu6(conv(t, f"{kind}{number}.depth", x, stride))
                x = f.relu(conv(t, f"{kind}{number}.point", x))
        return linear(t, "head", x.mean((2, 3)))

    return forward


# Where ONNX puts each of torch's gates: torch has i, f, g, o and r, z, n; ONNX i, o, f, c and z, r, h.
GATES = {"lstm": [0, 2, 3, 1], "gru": [1, 0, 2]}


def recurrent(t: Tensors, kind: str) -> Callable[[Tensor], Tensor]:
    order = GATES[kind]
    layers, (directions, rows, inputs) = sum(name.endswith(".w") for name in t), t["l0.w"].shape
    make = torch.nn.LSTM if kind == "lstm" else torch.nn.GRU
    net = make(inputs, rows // len(order), layers, batch_first=True, bidirectional=directions == 2)
    for number in range(layers):
        for d, suffix in enumerate(["", "_reverse"][:directions]):
            input_bias, hidden_bias = t[f"l{number}.b"][d].chunk(2)
            parts = {"weight_ih": t[f"l{number}.w"][d], "weight_hh": t[f"l{number}.r"][d]}
            parts |= {"bias_ih": input_bias, "bias_hh": hidden_bias}
            for name, value in parts.items():
                gates = value.chunk(len(order))
                torch.nn.Module.get_parameter(net, f"{name}_l{number}{suffix}").data = torch.cat(
                    [gates[k] for k in order]
                )
    net.requires_grad_(False)
    return lambda x: linear(t, "head", net(x)[0][:, -1])


NETWORKS: Mapping[str, Callable[[Tensors], Callable[[Tensor], Tensor]]] = {
    "CountNet": count_net,
    "ResNet": resnet,
    "Transformer": transformer,
    "MLP": mlp,
    "depthwise": depthwise,
    "LSTM": lambda t: recurrent(t, "lstm"),
    "GRU": lambda t: recurrent(t, "gru"),
    "BiLSTM": lambda t: recurrent(t, "lstm"),
}


class Network:
    """One network and windows for it."""

    def __init__(self, path: Path) -> None:
        with np.load(path) as given:
            tensors = {name: torch.from_numpy(value) for name, value in given.items()}
        # As torch keeps them.
        turned = {f"{name}.T": v.T.contiguous() for name, v in tensors.items() if v.dim() == 2}
        self.x = tensors.pop("x")
        self._forward = NETWORKS[path.stem](tensors | turned)

    def gradient(self, x: Tensor) -> Tensor:
        """Differentiate by the windows alone, which is the least that autograd can be asked for."""
        leaf = x.detach().requires_grad_()
        return torch.autograd.grad(self._forward(leaf)[:, 1].sum(), leaf)[0]


def main() -> None:
    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)
    networks = {path.stem: Network(path) for path in Path(sys.argv[1]).glob("*.npz")}
    print(json.dumps(torch.__version__), flush=True)
    for line in sys.stdin:
        name, batch, times = line.split()
        network = networks[name]
        x = network.x[: int(batch)]
        samples = []
        for _ in range(int(times)):
            start = time.perf_counter()
            network.gradient(x)
            samples.append(time.perf_counter() - start)
        print(json.dumps(samples or network.gradient(x).tolist()), flush=True)


if __name__ == "__main__":
    main()
