"""Captum's InputXGradient on a torch CountNet, timed in an interpreter that has torch. Run as a script, it imports
nothing of the project.

    python captum_peer.py WEIGHTS.npz

The file holds the network's tensors by their published names, ``x`` (one window) and ``target``. Each line of standard
input is a number of calls; each is answered with one line of JSON, the seconds that each call took. The first line
written says which versions these are, and what was attributed, for comparison.
"""

from __future__ import annotations

import json
import sys
import time

import captum
import numpy as np
import torch
from captum.attr import InputXGradient


class CountNet(torch.nn.Module):
    """The encoder (dilations 1, 2, 4) and its two heads."""

    def __init__(self, tensors: dict[str, np.ndarray]) -> None:
        super().__init__()
        self.encoder = torch.nn.Sequential(
            *(layer for n, dilation in ((1, 1), (2, 2), (3, 4)) for layer in _convolution(tensors, n, dilation))
        )
        self.count = _head(tensors, "count_head")
        self.confidence = _head(tensors, "conf_head")

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        pooled = self.encoder(x).mean(dim=2)
        return self.count(pooled), self.confidence(pooled)


def _convolution(tensors: dict[str, np.ndarray], number: int, dilation: int) -> list[torch.nn.Module]:
    weight = tensors[f"enc.c{number}.weight"]
    after, before, kernel = weight.shape
    layer = torch.nn.Conv1d(before, after, kernel, padding=dilation * (kernel // 2), dilation=dilation)
    return [_filled(layer, weight, tensors[f"enc.c{number}.bias"]), torch.nn.ReLU()]


def _head(tensors: dict[str, np.ndarray], name: str) -> torch.nn.Module:
    layers = []
    for part in ("fc1", "fc2"):
        weight = tensors[f"{name}.{part}.weight"]
        layer = torch.nn.Linear(weight.shape[1], weight.shape[0])
        layers.append(_filled(layer, weight, tensors[f"{name}.{part}.bias"]))
    return torch.nn.Sequential(layers[0], torch.nn.ReLU(), layers[1])


def _filled(layer: torch.nn.Module, weight: np.ndarray, bias: np.ndarray) -> torch.nn.Module:
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight))
        layer.bias.copy_(torch.from_numpy(bias))
    return layer


def main() -> None:
    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)
    with np.load(sys.argv[1]) as given:
        tensors = dict(given)
    net = CountNet(tensors).eval()
    x, target = torch.from_numpy(tensors["x"]), int(tensors["target"])
    method = InputXGradient(lambda windows: net(windows)[0])

    def attribute() -> torch.Tensor:
        # A new leaf each time, as new windows are: a leaf that has been seen keeps its gradient, which is cheaper.
        return method.attribute(x.detach().requires_grad_(), target=target)

    found = attribute().detach().numpy()
    said = {"torch": torch.__version__, "captum": captum.__version__, "cells": found.tolist()}
    print(json.dumps(said), flush=True)
    for line in sys.stdin:
        samples = []
        for _ in range(int(line)):
            start = time.perf_counter()
            attribute()
            samples.append(time.perf_counter() - start)
        print(json.dumps(samples), flush=True)


if __name__ == "__main__":
    main()
