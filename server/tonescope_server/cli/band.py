"""The band plot in the terminal: one column a tone, in the order of the spectrum, null tones hatched, pilots marked.

Text only; files are drawn by ``pictures``. What is plotted, and when, is the command's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from rich.text import Text

from tonescope.results import Explanation, Tone, ToneTable
from tonescope_server.checks.attribution import LARGEST_SHARE
from tonescope_server.cli.identity import megahertz_text
from tonescope_server.pictures.answer import said_of

BLOCKS = " ▁▂▃▄▅▆▇█"
NULL, PILOT = "░", "╵"
POSITIVE, NEGATIVE, FAINT, ALARM = "green", "red", "bright_black", "bold white on red"
WIDTH = 76


@dataclass(frozen=True)
class Column:
    """One column: the rows of the table that it shows (several where there are more tones than columns)."""

    rows: tuple[int, ...]
    kind: str
    index: int | None


def columns_of(table: ToneTable, width: int = WIDTH) -> list[Column]:
    """Arrange the tones: by frequency within each training field, neighbours together where they are too many."""
    fields = list(dict.fromkeys(tone.training_field for tone in table.tones))
    arranged = [tone for name in fields for tone in _by_frequency(table, name)]
    together = -(-len(arranged) // width)
    groups = [arranged[i : i + together] for i in range(0, len(arranged), together)]
    return [_column(group) for group in groups]


def _by_frequency(table: ToneTable, name: str) -> list[Tone]:
    tones = [tone for tone in table.tones if tone.training_field == name]
    return sorted(tones, key=lambda tone: tone.row if tone.subcarrier_index is None else tone.subcarrier_index)


def _column(tones: Sequence[Tone]) -> Column:
    kinds = {tone.kind for tone in tones}
    kind = "pilot" if "pilot" in kinds else "null" if kinds == {"null"} else "data"
    return Column(tuple(tone.row for tone in tones), kind, tones[0].subcarrier_index)


def values_of(columns: Sequence[Column], tones: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Give each column the value of largest magnitude among its tones."""
    groups = [tones[list(column.rows)].astype(np.float64) for column in columns]
    return np.array([group[np.abs(group).argmax()] for group in groups])


def bars(columns: Sequence[Column], values: npt.NDArray[np.float64], height: int = 6) -> list[Text]:
    """Draw bars of |value|, coloured by sign, over a line of signs and marks. Each line has one character a column."""
    scale = float(np.abs(values).max()) or 1.0
    eighths = np.round(np.abs(values) / scale * height * 8).astype(int)
    lines = []
    for level in reversed(range(height)):
        line = Text()
        for column, value, size in zip(columns, values, eighths, strict=True):
            filled = int(np.clip(size - 8 * level, 0, 8))
            if filled:
                line.append(BLOCKS[filled], NEGATIVE if value < 0 else POSITIVE)
            else:
                line.append(NULL if column.kind == "null" else " ", FAINT)
        lines.append(line)
    return [*lines, _signs(columns, values)]


def _signs(columns: Sequence[Column], values: npt.NDArray[np.float64]) -> Text:
    """Mark each column: its sign, so that colour is not needed, or what it is."""
    line = Text()
    for column, value in zip(columns, values, strict=True):
        mark = NULL if column.kind == "null" else PILOT if column.kind == "pilot" else "−" if value < 0 else "·"
        line.append(mark, NEGATIVE if value < 0 else FAINT)
    return line


def sparkline(columns: Sequence[Column], values: npt.NDArray[np.float64]) -> Text:
    """Draw the same in one line."""
    return bars(columns, values, height=1)[0]


def axis(columns: Sequence[Column]) -> str:
    """Label the columns: the first and the last, DC, and what fits between."""
    line = [" "] * len(columns)
    ends = [0, len(columns) - 1]
    zero = [i for i, column in enumerate(columns) if column.index == 0]
    between = [i for i, column in enumerate(columns) if column.index is not None and column.index % 16 == 0]
    for at in dict.fromkeys([*ends, *zero, *between]):
        index = columns[at].index
        label = str(columns[at].rows[0]) if index is None else f"{index:+d}" if index else "0"
        start = min(max(0, at - len(label) // 2), len(columns) - len(label))
        if all(each == " " for each in line[max(0, start - 1) : start + len(label) + 1]):
            line[start : start + len(label)] = label
    return "".join(line)


def frequency_axis(columns: Sequence[Column], table: ToneTable) -> str:
    """Say under the ends and the middle how many MHz they are, or are from the centre; "" where that is not known."""
    line = [" "] * len(columns)
    for at in dict.fromkeys((0, len(columns) - 1, len(columns) // 2)):
        label = megahertz_text(table.tones[columns[at].rows[0]])
        start = min(max(0, at - len(label) // 2), len(columns) - len(label))
        if label and start >= 0 and all(each == " " for each in line[max(0, start - 1) : start + len(label) + 1]):
            line[start : start + len(label)] = label
    text = "".join(line)
    return f"{text}  MHz" if text.strip() else ""


def prediction_text(explanation: Explanation) -> str:
    """Say in a few words what the model said."""
    said = explanation.prediction
    mean = float(np.mean(said.scores)) if said.scores.size else None
    return said_of(said.class_index, said.class_name, said.probability, mean, bool(said.class_never_trained))


def null_share_text(share: float | None, heading: str = "null share ") -> Text:
    """Say the null-tone share, loudly where it should alarm."""
    if share is None:
        return Text(f"{heading}—", FAINT)
    text = f"{heading}{share:.1%}"
    return Text(f"{text} ALARM", ALARM) if share > LARGEST_SHARE else Text(text)
