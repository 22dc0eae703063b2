"""The files of ``tonescope tones``: everything as JSON, the ranking and the curve as CSV, masks for devices."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tonescope_server.cli.console import write_json, writing
from tonescope_server.reports.tones.choice import Choice
from tonescope_server.reports.tones.masking import Curve
from tonescope_server.reports.tones.masks import c_header

IDENTITY = ("row", "subcarrier_index", "offset_hz", "frequency_mhz", "kind", "training_field", "name")


def as_json(found: Choice) -> dict[str, Any]:
    """Return everything that was found."""
    ranking = found.ranking
    return {
        "model": {"name": found.model.name, "version": found.model.version, "digest": found.model.digest},
        "tone_layout": found.table.id,
        "rows_are": found.table.rows_are,
        "centre_mhz": found.table.centre_mhz,
        "data": {
            "recordings": found.names,
            "windows": np.bincount(found.sources.recordings, minlength=len(found.names)),
            "nodes": np.unique(found.sources.nodes),
        },
        "method": found.plan.method,
        "parameters": found.plan.parameters,
        "seed": found.plan.seed,
        "ranking": {
            "over": ranking.over,
            "effective_windows": ranking.effective_windows,
            "block_windows": ranking.blocks,
            "rows_high_to_low": ranking.order,
            "tones": list(_tones(found)),
        },
        "stability": [
            {"over": each.over, "jaccard_by_chance": each.by_chance, "pairs": each.pairs} for each in found.stability
        ],
        "masks": [mask.as_json() for mask in found.masks],
        "accuracy": {
            "measure": found.curve.measure,
            "fill": found.curve.fill,
            "windows": found.curve.windows,
            "intact": found.curve.intact,
            "random_sets": len(found.curve.random),
            "by_k": list(_by_k(found.curve)),
        },
    }


def write_ranking(found: Choice, path: Path) -> None:
    """Write one line for each row of the tone table, from the most important one down, those never chosen last.

    Raises:
        ConfigurationError: the file cannot be written.
    """
    tones = sorted(_tones(found), key=lambda tone: (tone["rank"] is None, tone["rank"], tone["row"]))
    for tone in tones:
        tone |= {f"p_top_{k}": value for k, value in tone.pop("p_top").items()}
    _write_csv(tones, path)


def write_accuracy(curve: Curve, path: Path) -> None:
    """Write one line for each K.

    Raises:
        ConfigurationError: the file cannot be written.
    """
    _write_csv([{"measure": curve.measure.value, **line} for line in _by_k(curve)], path)


def write_masks(found: Choice, folder: Path) -> list[Path]:
    """Write ``mask-K.json`` for each K, and return the files.

    Raises:
        ConfigurationError: a file cannot be written.
    """
    made_of = {
        "model": found.model.name,
        "model_digest": found.model.digest,
        "method": found.plan.method,
        "recordings": found.names,
    }
    paths = []
    for mask in found.masks:
        paths.append(folder / f"mask-{mask.k}.json")
        write_json(mask.as_json() | made_of, paths[-1])
    return paths


def write_header(found: Choice, path: Path) -> None:
    """Write the masks as a header for C.

    Raises:
        ConfigurationError: the file cannot be written.
    """
    remark = f"Tones that {found.model.name} needs most, by {found.plan.method}; written by tonescope tones."
    with writing(path):
        path.write_text(c_header(found.masks, remark))


def _tones(found: Choice) -> Iterable[dict[str, Any]]:
    ranking = found.ranking
    rank_of = {row: rank for rank, row in enumerate(ranking.order.tolist(), start=1)}
    across = ranking.standard_error_recordings
    for tone in found.table:
        row, left = tone.row, found.left_out.get(tone.row)
        identity = (row, tone.subcarrier_index, tone.offset_hz, found.table.frequency_mhz(tone), tone.kind.value)
        yield {
            **dict(zip(IDENTITY, (*identity, tone.training_field, tone.name), strict=True)),
            "left_out": "" if left is None else left.value,
            "rank": rank_of.get(row),
            "rank_low": int(ranking.rank_low[row]) or None,
            "rank_high": int(ranking.rank_high[row]) or None,
            "mean": float(ranking.mean[row]),
            "standard_error": float(ranking.standard_error[row]),
            "standard_error_recordings": None if across is None else float(across[row]),
            "p_top": {str(k): float(values[row]) for k, values in ranking.in_top.items()},
        }


def _by_k(curve: Curve) -> Iterable[dict[str, Any]]:
    low, high = curve.random_band()
    for i, k in enumerate(curve.ks):
        yield {
            "k": k,
            "chosen": float(curve.chosen[i]),
            "chosen_low": float(curve.chosen_low[i]),
            "chosen_high": float(curve.chosen_high[i]),
            "random_mean": float(curve.random[:, i].mean()),
            "random_low": float(low[i]),
            "random_high": float(high[i]),
            "lowest": float(curve.lowest[i]),
            "p_value": float(curve.p_value[i]),
        }


def _write_csv(lines: Sequence[dict[str, Any]], path: Path) -> None:
    with writing(path), path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
