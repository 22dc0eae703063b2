"""What ``tonescope evaluate --json`` writes. What it means is in docs/evaluation.md."""

from __future__ import annotations

from typing import Any

from tonescope_server.cli.console import plain
from tonescope_server.reports.evaluation.evaluation import Evaluation, OfMethod
from tonescope_server.reports.evaluation.judging import Curve, Judgement


def as_json(found: Evaluation, source: str) -> dict[str, Any]:
    """Return everything that was found as plain values."""
    plan = found.plan
    return {
        "model": found.model.name,
        "model_digest": found.model.digest,
        "recording": source,
        "windows": found.n_windows,
        "over": str(plan.over),
        "features": found.n_features,
        "planted_rows": None if plan.planted is None else list(plan.planted),
        "random_draws": plan.draws,
        "seed": plan.seed,
        "methods": [_method(each) for each in found.methods],
        "refused": dict(found.refused),
    }


def _method(found: OfMethod) -> dict[str, Any]:
    return {
        "method": found.method,
        "parameters": plain(found.parameters),
        "evaluations": found.evaluations,
        "metrics": {name: _judgement(each) for name, each in found.judgements.items()},
        "failed": dict(found.failed),
        "warnings": list(found.warnings),
    }


def _judgement(found: Judgement) -> dict[str, Any]:
    return {
        "mean": found.mean,
        "spread_over_windows": found.spread,
        "values": found.values.tolist(),
        "higher_is_better": found.metric.higher_is_better,
        "unit": found.metric.unit,
        "random": {
            "kind": str(found.metric.chance),
            "mean": float(found.chance.mean()),
            "spread": float(found.chance.std()),
            "draws": found.chance.tolist(),
        },
        "p_value": found.p_value,
        "p_worse": found.p_worse,
        "parameters": plain(found.parameters),
        "curves": {each.name: _curve(each) for each in found.curves},
    }


def _curve(found: Curve) -> dict[str, Any]:
    return {
        "at": None if found.at is None else found.at.tolist(),
        "steps": list(found.steps),
        "mean": found.mean.tolist(),
        "random_mean": found.chance.mean(axis=0).tolist(),
        "random_spread": found.chance.std(axis=0).tolist(),
    }
