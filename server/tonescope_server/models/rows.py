"""The table of a model's rows: the tones of its layout where its channel puts them, or its features by name.

What the tones of a layout are belongs to ``csi.tones``; how cells map to rows to ``csi.cells``.
"""

from __future__ import annotations

from tonescope_server.csi.cells import FEATURE
from tonescope_server.csi.channels import ABOVE, BELOW, centre_mhz
from tonescope_server.csi.quantities import FrameReader, Phase, Quantity
from tonescope_server.csi.tones import ToneTable, feature_table, tone_layouts, tone_table
from tonescope_server.errors import ManifestError
from tonescope_server.models.manifest import Manifest, TonesSection

Statistics = tuple[tuple[float, ...], tuple[float, ...]] | tuple[None, None]


def row_table(manifest: Manifest, layout: str = "") -> ToneTable:
    """Return the table of a resolved manifest's rows, or of another layout on that manifest's channel.

    Rows are features where the cell order is "feature" and no layout names them as tones: a model may also take one
    value for each tone.

    Raises:
        UnknownToneLayoutError: no layout of that id.
        ManifestError: feature names for rows that are tones, or not one for each; a secondary channel on the other
            side than the manifest's layout has it.
    """
    stated, names = manifest.tones, manifest.input.feature_names
    if layout not in ("", stated.layout):
        table = tone_table(layout)
        return table.at(centre_of(table, stated))
    table = tone_table(_on_its_side(stated.layout, stated.secondary))
    if manifest.input.cell_order == FEATURE and table.is_unknown:
        if names and len(names) != len(table):
            raise ManifestError(f"input.feature_names: expected {len(table)} names, got {len(names)}")
        return feature_table(len(table), names)
    if names:
        raise ManifestError(
            f'input.feature_names: expected none beside cell_order "{manifest.input.cell_order}" and layout '
            f'"{table.id}", whose rows are tones; got {len(names)}'
        )
    return table.at(centre_of(table, stated))


def frame_reader(manifest: Manifest, table: ToneTable) -> FrameReader:
    """Return what reads off frames the values that a model's windows hold."""
    stated = manifest.input
    return FrameReader(table, Quantity(stated.quantity), stated.links, Phase(stated.phase))


def column_statistics(manifest: Manifest, n_columns: int) -> Statistics:
    """Return the manifest's mean and standard deviation for every value of a frame; None where it has none.

    Statistics per tone hold for every link and component.
    """
    stated = manifest.normalisation
    if not stated.mean:
        return None, None
    times = n_columns // len(stated.mean)
    return stated.mean * times, stated.std * times


def centre_of(table: ToneTable, stated: TonesSection) -> float | None:
    """Give the frequency of a table's centre by what a manifest states; None where that does not settle it.

    A channel as wide as stated that the layout's tones do not fit into settles nothing.
    """
    if stated.centre_mhz:
        return stated.centre_mhz
    if not stated.channel or table.is_unknown:
        return None
    if table.width_mhz > 20 and 0 < stated.bandwidth_mhz < table.width_mhz:
        return None
    return centre_mhz(stated.channel, table.width_mhz, _side_of(table.id) or stated.secondary)


def _side_of(layout: str) -> str:
    return next((side for side in (ABOVE, BELOW) if layout.endswith(f"_{side}")), "")


def _on_its_side(layout: str, secondary: str) -> str:
    """Return the layout as it is with the secondary channel on that side, where it makes a difference."""
    named = _side_of(layout)
    if named and secondary and named != secondary:
        raise ManifestError(f'tones.secondary: expected "{named}", as the layout "{layout}" has it, got "{secondary}"')
    return f"{layout}_{secondary}" if f"{layout}_{secondary}" in tone_layouts() else layout
