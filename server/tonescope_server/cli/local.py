"""Working in this process: a model loaded by the rules of the command line, windows explained under a progress bar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import typer

from tonescope.results import Explanation
from tonescope_server import Explainer
from tonescope_server.cli.console import progress
from tonescope_server.cli.usage import only
from tonescope_server.demo import store_path
from tonescope_server.engine.targets import TargetLike
from tonescope_server.engine.windows import checked
from tonescope_server.live.intake import Intake
from tonescope_server.live.messages import Job, Options, ReceivedWindow, Wanted
from tonescope_server.live.protocol import negotiate
from tonescope_server.services.in_process import InProcess
from tonescope_server.types import Target

BATCH = 32


def load(
    context: typer.Context,
    model: str,
    store: Path | None,
    manifest: Path | None,
    adapter: Path | None,
    weights: Path | None,
) -> Explainer:
    """Load a model file, or a model of the store; of the bundled store where none is given.

    Raises:
        ParameterError: a store on the command line beside a model that is a file.
        TonescopeError: the model cannot be found or loaded.
    """
    folder = store_path() if store is None else store
    if Path(model).exists():
        only(context, ("store",), "with the name of a model in it", f"{model}, which is here")
    return Explainer.load(model, store=folder, manifest=manifest, adapter=adapter, weights=weights)


def jobs_of(windows: npt.NDArray[Any], explainer: Explainer, normalise: str = "") -> list[Job]:
    """Turn an array of windows into jobs: as they are, or normalised as the daemon would normalise them.

    Raises:
        InvalidInputError: of a kind that says what is wrong with them.
    """
    model = explainer.model
    cells = checked(model, windows)
    asked = Options(normalisation=normalise or None)
    intake = Intake(asked, negotiate(asked, model, len(cells)), model, explainer.host.normalisers)
    return intake.take([ReceivedWindow(each) for each in cells], 0.0)


def explain_here(
    explainer: Explainer,
    jobs: Sequence[Job],
    method: str,
    target: TargetLike,
    parameters: Mapping[str, Any],
    want: Wanted = Wanted(8),  # noqa: B008  it is frozen
) -> list[Explanation]:
    """Explain windows, with a progress bar; a target that has a label for each window goes along with them.

    Raises:
        TonescopeError: what is wrong with the request or with a window.
    """
    labelled = target if isinstance(target, Target) and isinstance(target.index, np.ndarray) else None
    request = InProcess(explainer, method, target, parameters, want)
    explained: list[Explanation] = []
    with progress(f"{method} on {explainer.model.name}", len(jobs)) as bar:
        for start in range(0, len(jobs), BATCH):
            batch = jobs[start : start + BATCH]
            if labelled is not None:
                own = replace(labelled, index=np.asarray(labelled.index)[start : start + BATCH])
                request = InProcess(explainer, method, own, parameters, want)
            explained.extend(request.explain(batch))
            bar.advance(len(batch))
    return explained
