"""One explained window, with all that a picture may show of it; and which pictures suit it. Nothing is drawn here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from tonescope_server.csi.cells import FEATURE, CellMap
from tonescope_server.csi.images import as_image, channel_axis, is_image
from tonescope_server.csi.quantities import COMPONENTS, Quantity
from tonescope_server.errors import ParameterError
from tonescope_server.pictures.rows import Rows


class Kind(StrEnum):
    """What a picture shows of a window."""

    BAND = "band"
    MAP = "map"
    PARTS = "parts"
    IMAGE = "image"
    MAPS = "maps"


CAPTIONS = {
    Kind.BAND: "The attribution of every tone",
    Kind.MAP: "The attribution of every tone and frame, over the window",
    Kind.PARTS: "What each antenna link and component has of it",
    Kind.IMAGE: "The attribution of every pixel, over the input",
    Kind.MAPS: "What else the method has to show",
}


@dataclass(frozen=True)
class Answer:
    """One explained window.

    Attributes:
        title: what the model said.
        subtitle: method, target, source: what one needs to read the picture.
        method: the method's name.
        table: the tones.
        layout: how the window's cells lie.
        tones: attribution per row of the table.
        error: its standard error; None draws none.
        cells: attribution per cell, in the input's shape; None where the method gives none.
        window: the window itself, in the input's shape; None where it is not at hand.
        maps: what else the method has to show, by name, without the batch axis.
        parts: the attribution of each antenna link and component, by name, ``(n_tones,)`` each.
        unit: what values are called.
        alarms: whether what lies on null tones should alarm: it need not where the method tells no tones apart.
    """

    title: str
    subtitle: str
    method: str
    table: Rows
    layout: CellMap
    tones: npt.NDArray[Any]
    error: npt.NDArray[Any] | None = None
    cells: npt.NDArray[Any] | None = None
    window: npt.NDArray[Any] | None = None
    maps: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    parts: Sequence[tuple[str, npt.NDArray[Any]]] = ()
    unit: str = "attribution"
    alarms: bool = True

    @cached_property
    def kinds(self) -> tuple[Kind, ...]:
        """What can be drawn of it; the first suits it best."""
        has_grid = self.cells is not None and self.layout.cell_order != FEATURE
        found = [Kind.MAP] * has_grid + [Kind.BAND]
        if self.parts:
            found.insert(0, Kind.PARTS)
        if has_grid and channel_axis(self.layout.shape) is not None:
            found.insert(0 if is_image(self.layout) else len(found), Kind.IMAGE)
        return (*found, *([Kind.MAPS] if any(np.squeeze(m).ndim in (1, 2, 3) for m in self.maps.values()) else []))

    def kind(self, asked: str | None) -> Kind:
        """Return the kind that was asked for, or the one that suits best.

        Raises:
            ParameterError: this answer has nothing to draw of that kind.
        """
        if not asked:
            return self.kinds[0]
        if asked not in list(self.kinds):
            raise ParameterError(f"picture of '{self.method}': expected one of {', '.join(self.kinds)}, got '{asked}'")
        return Kind(asked)

    @property
    def frames(self) -> npt.NDArray[Any]:
        """The attribution by frame and tone, ``(n_frames, n_tones)``."""
        return np.asarray(self.layout.fold_frames(np.asarray(self.cells)[None])[0])

    @property
    def waterfall(self) -> npt.NDArray[Any] | None:
        """One value a tone and frame to lay attribution over: of I and Q their magnitude, of links the mean."""
        if self.window is None:
            return None
        layout = self.layout
        shape = (layout.n_frames, layout.n_links, layout.n_components, layout.n_tones)
        by_part = layout.frames(np.asarray(self.window).reshape(1, *layout.shape))[0].reshape(shape)
        is_complex = layout.components == COMPONENTS[Quantity.COMPLEX]
        shown = np.hypot(by_part[:, :, 0], by_part[:, :, 1]) if is_complex else by_part[:, :, 0]
        return np.asarray(shown.mean(axis=1))

    @property
    def image(self) -> npt.NDArray[Any] | None:
        """The window as an image, ``(rows, columns, channels)``."""
        return None if self.window is None else as_image(np.asarray(self.window))

    @property
    def pixels(self) -> npt.NDArray[Any]:
        """The attribution of every pixel, summed over channels: ``(rows, columns)``."""
        return np.asarray(as_image(np.asarray(self.cells)).sum(axis=2))


def said_of(
    class_index: int | None,
    class_name: str,
    probability: float | None,
    mean: float | None,
    is_never_trained: bool = False,
) -> str:
    """Say in a few words what a model said."""
    if class_index is None:
        return "—" if mean is None else f"mean output {mean:.3g}"
    name = class_name or f"class {class_index}"
    sure = f" {probability:.0%}" if probability is not None else ""
    return f"{name}{sure}{' (never trained)' if is_never_trained else ''}"


def title_of(said: str, rows_are: str, layout: CellMap) -> str:
    """Put what was said and what is asked of it into a headline."""
    what = "pixels" if is_image(layout) else rows_are
    return f"{said}: which {what} made the model say that"
