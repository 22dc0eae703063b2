"""Captum's and shap's methods on a torch CountNet, timed in an interpreter that has them. Run as a script, it imports
nothing of the project.

    python methods_peer.py WEIGHTS.npz

The file holds the network's tensors by their published names, ``x`` (one window), ``baseline``, ``target`` and
``epsilon`` (LRP's). Each line of standard input is ``method times``; each is answered with one line of JSON, the
seconds that each call took. With 0 times the answer is what was attributed, and what it was drawn from where there is
chance in it. The first line written says which versions these are; shap is left out where there is none.

Each library is asked as its documentation asks it, with whatever it offers to evaluate many points at a time. The
network is made of modules, as Captum's hooks need it, and has the count's head alone: that of confidence is no work
that a peer is charged for.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable, Mapping

import captum
import numpy as np
import torch
from captum import attr
from captum.attr._utils.lrp_rules import EpsilonRule
from captum_peer import CountNet

try:
    import shap
except ImportError:
    shap = None

SAMPLES, COALITIONS, AT_ONCE, NOISE_LEVEL = 32, 2048, 256, 0.15


class Mean(torch.nn.Module):
    """The mean over time, as a module, which LRP's rules are given to."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(dim=2)


class Methods:
    """One window, and every method that is compared."""

    def __init__(self, given: Mapping[str, np.ndarray]) -> None:
        whole = CountNet(dict(given))
        self.net = torch.nn.Sequential(*whole.encoder, Mean(), *whole.count).eval()
        self._x, self.baseline = torch.from_numpy(given["x"]), torch.from_numpy(given["baseline"])
        self.target, self.epsilon = int(given["target"]), float(given["epsilon"])
        self.spread = float(self._x.max() - self._x.min())
        self.tones = torch.arange(self._x.shape[1])[None, :, None].expand_as(self._x)

    @property
    def x(self) -> torch.Tensor:
        """The window as a new leaf each time, as new windows are: one that has been seen keeps its gradient."""
        return self._x.detach().clone()

    def integrated_gradients(self) -> torch.Tensor:
        """Gauss-Legendre, all steps in one pass. The convergence delta is not asked for."""
        method = attr.IntegratedGradients(self.net)
        return method.attribute(self.x, self.baseline, self.target, n_steps=SAMPLES, method="gausslegendre")

    def smoothgrad(self) -> torch.Tensor:
        """The signed mean, all draws in one pass."""
        method = attr.NoiseTunnel(attr.Saliency(self.net))
        deviation = NOISE_LEVEL * self.spread
        return method.attribute(self.x, nt_samples=SAMPLES, stdevs=deviation, abs=False, target=self.target)

    def guided_backprop(self) -> torch.Tensor:
        """Hooks on the ReLUs."""
        return attr.GuidedBackprop(self.net).attribute(self.x.requires_grad_(), self.target)

    def deep_lift(self) -> torch.Tensor:
        """The rescale rule. The convergence delta is not asked for."""
        return attr.DeepLift(self.net).attribute(self.x.requires_grad_(), self.baseline, self.target)

    def lrp(self) -> torch.Tensor:
        """ε in every layer. Rules are set each time: Captum takes them away after each call."""
        for layer in self.net:
            if not isinstance(layer, torch.nn.ReLU):
                layer.rule = EpsilonRule(epsilon=self.epsilon)
        return attr.LRP(self.net).attribute(self.x.requires_grad_(), self.target)

    def occlusion(self) -> torch.Tensor:
        """One tone at a time, all in one pass."""
        frames, tones = self._x.shape[2], self._x.shape[1]
        method = attr.Occlusion(self.net)
        with torch.no_grad():
            found = method.attribute(
                self.x, (1, frames), baselines=self.baseline, target=self.target, perturbations_per_eval=tones
            )
        return found[0, :, 0]

    def kernel_shap(self) -> torch.Tensor:
        """Tones as features, many coalitions in one pass."""
        method = attr.KernelShap(self.net)
        with torch.no_grad():
            found = method.attribute(
                self.x,
                self.baseline,
                self.target,
                feature_mask=self.tones,
                n_samples=COALITIONS,
                perturbations_per_eval=AT_ONCE,
            )
        return found[0, :, 0]

    def shap_kernel(self) -> torch.Tensor:
        """shap's KernelExplainer on masks of tones; no features are cut away, and nothing is printed."""

        def scores(masks: np.ndarray) -> np.ndarray:
            with torch.no_grad():
                shown = torch.from_numpy(masks).to(torch.bool)[:, :, None]
                return self.net(torch.where(shown, self._x, self.baseline))[:, self.target].numpy()

        tones = self._x.shape[1]
        explainer = shap.KernelExplainer(scores, np.zeros((1, tones)))
        found = explainer.shap_values(np.ones(tones), nsamples=COALITIONS, l1_reg=False, silent=True)
        return torch.from_numpy(np.asarray(found))

    def drawn(self, name: str) -> torch.Tensor | None:
        """Return the noise that SmoothGrad draws after the same seed, ``(samples, rows, frames)``."""
        if name != "smoothgrad":
            return None
        deviations = torch.full((SAMPLES, *self._x.shape[1:]), NOISE_LEVEL * self.spread)
        torch.manual_seed(0)
        return torch.normal(0, deviations)


def main() -> None:
    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)
    warnings.simplefilter("ignore")  # Captum says at each call that it sets hooks
    with np.load(sys.argv[1]) as given:
        methods = Methods(dict(given))
    versions = {m.__name__: m.__version__ for m in (torch, captum, shap) if m is not None}
    print(json.dumps(versions), flush=True)
    for line in sys.stdin:
        name, times = line.split()
        print(json.dumps(_answer(methods, name, int(times))), flush=True)


def _answer(methods: Methods, name: str, times: int) -> object:
    call: Callable[[], torch.Tensor] = getattr(methods, name)
    if times:
        samples = []
        for _ in range(times):
            start = time.perf_counter()
            call()
            samples.append(time.perf_counter() - start)
        return samples
    torch.manual_seed(0)
    np.random.seed(0)
    found, drawn = call().detach().numpy(), methods.drawn(name)
    return {"found": found.tolist(), "drawn": None if drawn is None else drawn.tolist()}


if __name__ == "__main__":
    main()
