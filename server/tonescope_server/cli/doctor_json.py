"""The doctor's report as JSON: findings, figures, the readings that were tried, and the identity of every tone."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from tonescope_server.models.rows import row_table
from tonescope_server.reports.doctor import Report
from tonescope_server.reports.readings import Explained, Tried


def as_json(report: Report, verdict: str, exit_code: int) -> dict[str, Any]:
    """Return everything that was found out."""
    model = report.model
    return {
        "verdict": verdict,
        "worst": report.worst if report.entries else "",
        "exit_code": exit_code,
        "model": {"name": model.name, "version": model.version, "digest": model.digest, "tone_layout": model.table.id}
        | {"cell_order": model.cells.cell_order, "input_shape": model.cells.shape},
        "data": {
            "name": report.data.name,
            "kind": report.data.kind,
            "frames": len(report.data.frames),
            "windows": len(report.windows),
            "nodes": np.unique(report.windows.node_ids),
            "normalisation": report.windows.normalisation,
            "skipped": report.data.skipped + report.windows.skipped,
        },
        "findings": [
            {"area": entry.area, "code": entry.finding.code, "severity": entry.finding.severity}
            | {"message": entry.finding.message, "remedy": entry.finding.remedy, "manifest": entry.manifest}
            | {"figures": entry.finding.figures, "node_id": entry.finding.node_id}
            for entry in report.entries
        ],
        "readings": [
            _reading_json(tried, tried is report.best) for tried in (report.trial.tried if report.trial else ())
        ],
        "tones": _tones_json(report),
        "predictions": _predictions_json(report),
        "weights": None if report.weights is None else {"layer": report.weights.layer, "rms": report.weights.rms},
    }


def _predictions_json(report: Report) -> dict[str, Any] | None:
    prediction = report.prediction
    if prediction is None or prediction.class_index is None:
        return None
    counts = Counter(prediction.class_index.tolist())
    return {
        "classes": {str(index): count for index, count in sorted(counts.items())},
        "class_names": prediction.class_names,
        "largest_score": float(prediction.scores.max()),
    }


def _reading_json(tried: Tried, is_best: bool) -> dict[str, Any]:
    reading = tried.reading
    return {
        "cell_order": reading.cell_order,
        "layout": reading.layout,
        "rolled": reading.rolled,
        "header_rows": reading.header_rows,
        "is_declared": tried.is_declared,
        "is_best": is_best,
        "fits_zeros": tried.fits_zeros,
        "nulls_alive": tried.nulls_alive,
        "tones_dead": tried.tones_dead,
        "null_share_now": tried.share_now,
        "null_share_if_declared": tried.share_if_declared,
        "gradient_share": tried.gradient_share,
        "null_cells": tried.null_cells,
        "is_sensible": tried.is_sensible,
    }


def _tones_json(report: Report) -> list[dict[str, Any]]:
    """List the tones by the best reading, each with its mean |attribution| were that reading declared."""
    made = report.as_declared_best()
    layout = report.best.reading.layout if report.best is not None else ""
    table = row_table(report.model.manifest, layout)
    tones = [
        {"row": tone.row, "subcarrier_index": tone.subcarrier_index, "offset_hz": tone.offset_hz}
        | {"frequency_mhz": table.frequency_mhz(tone)}
        | {"kind": tone.kind, "training_field": tone.training_field}
        for tone in table
    ]
    if made is None or not len(made.windows):
        return tones
    mean = _mean_by_tone(made, report)
    return [tone | {"mean_abs_attribution": float(value)} for tone, value in zip(tones, mean, strict=True)]


def _mean_by_tone(made: Explained, report: Report) -> np.ndarray[Any, Any]:
    by_cell = np.abs(made.attribution).mean(axis=0, dtype=np.float64)
    if report.best is None:
        return np.bincount(report.model.cells.tone_of_cell, by_cell, report.model.cells.n_tones)
    reading = report.best.reading
    by_row = reading.frames(by_cell[None].astype(np.float32))[0].sum(axis=0)
    known = reading.tone_of_row >= 0
    return np.bincount(reading.tone_of_row[known], by_row[known], reading.n_tones)
