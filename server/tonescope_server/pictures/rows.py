"""What a picture has to know of the rows it draws. The server's tone tables have it, and so have the client's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Row(Protocol):
    """One row: a tone, or a feature; attributes as in ``csi.tones.Tone``."""

    @property
    def row(self) -> int: ...  # noqa: D102

    @property
    def subcarrier_index(self) -> int | None: ...  # noqa: D102

    @property
    def offset_hz(self) -> float | None: ...  # noqa: D102

    @property
    def kind(self) -> str: ...  # noqa: D102

    @property
    def training_field(self) -> str: ...  # noqa: D102

    @property
    def name(self) -> str: ...  # noqa: D102


class Rows(Protocol):
    """All rows of a result; attributes as in ``csi.tones.ToneTable``."""

    @property
    def tones(self) -> Sequence[Row]: ...  # noqa: D102

    @property
    def rows_are(self) -> str: ...  # noqa: D102

    @property
    def centre_mhz(self) -> float | None: ...  # noqa: D102

    def __len__(self) -> int: ...
