"""Streams of ``faults`` as the doctor gets them: a data set, and the bundled model under the stream's manifest."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tests.faults import Stream
from tonescope_server import Explainer
from tonescope_server.csi.cells import cell_map
from tonescope_server.csi.frames import Frame
from tonescope_server.reports.dataset import Dataset, Kind


def dataset_of(stream: Stream) -> Dataset:
    """Turn a stream of the simulator into what would have been read from a file."""
    if stream.windows is not None:
        nodes = np.zeros(len(stream.windows), np.int64)
        return Dataset("stream", Kind.WINDOWS, cells=stream.windows.astype(np.float32), node_ids=nodes)
    frames = [
        Frame(row, series.node_id, sequence=i, capture_time_ns=int(series.time_s[i] * 1e9))
        for series in stream.series
        for i, row in enumerate(series.amplitude)
    ]
    return Dataset("stream", Kind.RECORDING, tuple(frames))


def model_of(demo_model: Explainer, stream: Stream) -> Explainer:
    """The bundled model, declaring what the stream's manifest declares."""
    manifest, told = demo_model.model.manifest, stream.declared
    known = {} if told.mean is None else {"mean": tuple(told.mean), "std": tuple(told.std)}
    normalisation = manifest.normalisation.filled(**known)
    if told.mean is None:
        normalisation = normalisation.model_copy(update={"kind": "recording", "mean": None, "std": None})
    sampling = manifest.sampling.filled(nodes=told.nodes)
    declared = demo_model.model.cells
    table = told.cells.table
    model = replace(
        demo_model.model,
        manifest=manifest.model_copy(update={"normalisation": normalisation, "sampling": sampling}),
        table=table,
        cells=cell_map(declared.shape, table, declared.cell_order, declared.n_frames),
    )
    return Explainer(model, demo_model.host)
