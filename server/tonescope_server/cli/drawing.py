"""Pictures of the command line: what was explained, made into answers that ``pictures`` draws, and written to files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tonescope.results import Explanation
from tonescope_server.cli.band import prediction_text
from tonescope_server.cli.console import remark
from tonescope_server.cli.identity import parts_of
from tonescope_server.csi.cells import CellMap
from tonescope_server.errors import ParameterError
from tonescope_server.pictures.answer import Answer, title_of


def answer_of(each: Explanation, layout: CellMap, values: Any, source: str) -> Answer:
    """Return what pictures show of an explanation.

    Args:
        each: the explanation.
        layout: how its window's cells lie.
        values: the window itself; None where it is not at hand.
        source: what it is a window of.
    """
    return Answer(
        title=title_of(prediction_text(each), each.tone_table.rows_are, layout),
        subtitle=f"{source} · {each.method} · target {_target_text(each)} = {each.score:.4g}",
        method=each.method,
        table=each.tone_table,
        layout=layout,
        tones=each.tones,
        error=each.standard_error,
        cells=None if each.cells is None else np.asarray(each.cells).reshape(layout.shape),
        window=None if values is None else np.asarray(values).reshape(layout.shape),
        maps={name: np.asarray(values) for name, values in each.maps.items()},
        alarms=each.null_tone_share is not None,
        parts=parts_of(each) if each.parts is not None and layout.has_parts else (),
    )


def window_of(found: Sequence[Explanation], window: int) -> Explanation:
    """Return the explanation of one window.

    Raises:
        ParameterError: there is none such.
    """
    if window >= len(found):
        raise ParameterError(f"--window: expected at most {len(found) - 1}, got {window}")
    return found[window]


def write_picture(answer: Answer, kind: str, path: Path) -> None:
    """Draw an answer in one way, and say that it was written.

    Raises:
        ParameterError: it has nothing to draw of that kind.
    """
    from tonescope_server.pictures.drawing import answer_figure  # matplotlib takes its time to import
    from tonescope_server.pictures.files import save

    save(answer_figure(answer, kind), path)
    remark(f"wrote {path}")


def write_answer_page(answer: Answer, warnings: Sequence[str], path: Path) -> None:
    """Draw an answer in every way that suits it, on one page, under what a reader should know of it."""
    from tonescope_server.pictures.drawing import all_figures  # matplotlib takes its time to import
    from tonescope_server.pictures.files import write_page

    write_page(path, answer.title, all_figures(answer), [answer.subtitle], warnings)
    remark(f"wrote {path}")


def _target_text(each: Explanation) -> str:
    said = {name: value for name, value in each.target.items() if name != "output"}
    name, value = next(iter(said.items()), ("predicted", ""))
    return f"{name} {value}" if value not in ("", {}) else name
