"""Maps the names of the reference vectors to calls of the product; there is no mathematics here.

Run by hand: ``python ../shared/golden/check.py --impl tests.golden.adapter:attribute``.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from tonescope_server import Explainer, Target

RULES = {"gausslegendre": "gauss_legendre", "riemann_trapezoid": "riemann_trapezoid"}
SPELLED = {
    "select": lambda t: Target.element(_index(t["index"]), t["output"]),
    "log_softmax_select": lambda t: Target.log_probability(_index(t["index"]), t["output"]),
    "nll": lambda t: Target.negative_log_likelihood(_index(t["index"]), t["output"]),
    "mean": lambda t: Target.mean(output=t["output"]),
    "sum_indices": lambda t: Target.sum(t["index"], t["output"]),
    "margin": lambda t: Target.difference(
        Target.element(_index(t["index"]), t["output"]), Target.element(_index(t["minus"]), t["output"])
    ),
}


def attribute(model_path: str, method: str, x: Any, target: dict[str, Any] | None, params: dict[str, Any]) -> Any:
    """Answer one entry of the reference vectors, or raise NotImplementedError for a method that is not offered."""
    if method not in CALLS:
        raise NotImplementedError(f"{method}: not offered")
    explainer = _explainer(model_path, params.get("adapter"))
    return CALLS[method](explainer, x, _target(target), params)


def _forward(e: Explainer, x: Any, target: Any, p: dict[str, Any]) -> Any:
    return e.predict(x).outputs[p["output"]]


def _integrated(e: Explainer, x: Any, target: Any, p: dict[str, Any]) -> Any:
    return e.explain(
        x, "integrated_gradients", target, n_steps=p["n_steps"], rule=RULES[p["rule"]], baseline=p["baseline"]
    )


def _activation_map(e: Explainer, method: str, x: Any, target: Any, p: dict[str, Any]) -> Any:
    """Return the map with an axis of one where the layer has its channels."""
    return e.explain(x, method, target, layer=p["tensor"], relu=p["relu"]).maps["cam"][:, None]


def _rollout(e: Explainer, x: Any, p: dict[str, Any], class_token: bool | None) -> Any:
    return e.explain(x, "attention_rollout", layers=p.get("attention_outputs"), class_token=class_token).maps


def _shapley(e: Explainer, method: str, x: Any, target: Any, p: dict[str, Any]) -> Any:
    return e.explain(x, method, target, players=p["groups"], axis=p["axis"], baseline=p["baseline"]).units


CALLS = {
    "forward": _forward,
    "activation": lambda e, x, t, p: e.activation(x, p["tensor"]),
    "score": lambda e, x, t, p: e.score(x, t),
    "gradient": lambda e, x, t, p: e.gradient(x, t),
    "saliency": lambda e, x, t, p: e.explain(x, "saliency", t).cells,
    "input_x_gradient": lambda e, x, t, p: e.explain(x, "input_x_gradient", t).cells,
    "integrated_gradients": lambda e, x, t, p: _integrated(e, x, t, p).cells,
    "integrated_gradients_delta": lambda e, x, t, p: _integrated(e, x, t, p).convergence_delta,
    "smoothgrad": lambda e, x, t, p: e.explain(x, "smoothgrad", t, noise=p["noise"][:, 0]).cells,
    "vargrad": lambda e, x, t, p: e.explain(x, "vargrad", t, noise=p["noise"][:, 0]).cells,
    "guided_backprop": lambda e, x, t, p: e.explain(x, "guided_backprop", t).cells,
    "deconvolution": lambda e, x, t, p: e.explain(x, "deconvnet", t).cells,
    "deeplift": lambda e, x, t, p: e.explain(x, "deep_lift", t, baseline=p["baseline"]).cells,
    "deeplift_delta": lambda e, x, t, p: e.explain(x, "deep_lift", t, baseline=p["baseline"]).convergence_delta,
    "lrp_epsilon": lambda e, x, t, p: (
        e.explain(x, "lrp", t, convolution="epsilon", epsilon=p["epsilon"], fold_batch_normalization=False).cells
    ),
    "gradcam": lambda e, x, t, p: _activation_map(e, "grad_cam", x, t, p),
    "gradcam_pp": lambda e, x, t, p: _activation_map(e, "grad_cam_plus_plus", x, t, p),
    "attention_rollout": lambda e, x, t, p: _rollout(e, x, p, None)["rollout"],
    "attention_rollout_cls": lambda e, x, t, p: _rollout(e, x, p, True)["tokens"],
    "attention_rollout_mean": lambda e, x, t, p: _rollout(e, x, p, False)["tokens"],
    "occlusion_rows": lambda e, x, t, p: e.explain(x, "occlusion", t, along=p["axis"], fill="baseline").units,
    "shapley_exact": lambda e, x, t, p: _shapley(e, "shapley_exact", x, t, p),
    "kernelshap": lambda e, x, t, p: _shapley(e, "kernel_shap", x, t, p),
    "r5_saliency_analytic": lambda e, x, t, p: e.explain(x, "subcarrier_saliency", t).tones.mean(axis=0),
}


def _target(target: dict[str, Any] | None) -> Target | None:
    return None if target is None else SPELLED[target["op"]](target)


def _index(index: Any) -> Any:
    return tuple(index) if isinstance(index, list) else np.asarray(index) if np.ndim(index) else int(index)


@lru_cache(maxsize=4)
def _explainer(model_path: str, adapter: str | None) -> Explainer:
    return Explainer.load(Path(model_path), adapter=adapter)
