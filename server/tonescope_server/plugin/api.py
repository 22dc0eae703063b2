"""What an attribution method is. This is all that a plugin author needs, with ``gradients``, ``types`` and ``errors``.

A graph method describes its arithmetic on a tape: it is compiled once into one graph, runs in one call and can be
exported. A procedural method asks for predictions as it goes. Both are plain objects; see ``docs/plugins.md``.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from tonescope_server.gradients.tape import Tape
from tonescope_server.models.model import TensorSpec
from tonescope_server.types import FloatArray, IntArray, ResultWarning


class Requirement(StrEnum):
    """What a method needs of a model."""

    PREDICTIONS = "predictions"
    GRADIENTS = "gradients"
    LAYER = "layer"
    ATTENTION = "attention"


class Parameters(BaseModel):
    """The base of a method's parameters: unknown names are refused, and values do not change once checked.

    Every field needs a description: it becomes JSON Schema for clients and help for the command line.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class Layer(TensorSpec):
    """An internal value of a model, as a method chooses among them.

    Attributes:
        reads: names of the values that it is computed from, weights among them.
        attention: what attention weights may be asked for by, beside their own name; () for anything else.
    """

    reads: tuple[str, ...] = ()
    attention: tuple[str, ...] = ()


@dataclass(frozen=True)
class Estimate:
    """What a method found for a batch of windows.

    Attributes:
        cells: attribution per input cell, ``(batch, *input shape)``; None for a method defined per tone only.
        tones: attribution per tone, ``(batch, n_tones)``; None means the sum of the cells of each tone.
        convergence_delta: ``Σ cells − (f(x) − f(baseline))``, ``(batch,)``, or for relevance ``Σ cells − f(x)``; None
            where the method has none.
        units: attribution per group of cells, ``(batch, n_units)``, for a method that attributes groups.
        standard_error: of the per-tone attribution, ``(batch, n_tones)``, for a sampled estimate; None until it is
            known.
        batches: how many independent batches (or single draws) of samples the standard error was worked out from: its
            95 % interval is that of Student's t with one degree of freedom less. A sampled method gives it with every
            estimate, from the first on, so that none is taken for exact; None for a method that does not sample.
        maps: what else the method has to show, by name, each with the batch in front: a class activation map before it
            is brought to the input's size, say, or attention per layer and head.
        warnings: what a user should know; ``ResultWarning.window`` counts the windows that the method was given.
    """

    cells: FloatArray | None
    tones: FloatArray | None = None
    convergence_delta: FloatArray | None = None
    units: FloatArray | None = None
    standard_error: FloatArray | None = None
    batches: int | None = None
    maps: Mapping[str, FloatArray] = field(default_factory=dict)
    warnings: tuple[ResultWarning, ...] = ()


@dataclass(frozen=True)
class Windows:
    """The windows that a method is asked about.

    Attributes:
        x: ``(batch, *input shape)``.
        tone_of_cell: the tone row of each flat input cell, ``(cells,)``.
        frame_of_cell: the frame of each flat input cell, ``(cells,)``.
        n_tones: rows of the tone table.
        baseline: the manifest's baseline, ``(1, *input shape)``; zeros where it names none.
        rows: which windows of the request these are, ``(batch,)``: long requests come in several parts.
        tone_groups: rows of the tone table that lie side by side in frequency, in its order: a group for each training
            field, and null tones apart from those that carry signal.
        named_baselines: what else the manifest states to compare with, by name, each ``(1, *input shape)``:
            ``dataset_mean`` and ``empty_room``, where it does.
        background: the manifest's windows of the training data, ``(n, *input shape)``; None where it has none.
        previous: the window before each, of the same node, ``(batch, *input shape)``: NaN where there is none yet; None
            outside of live streams.
        link_of_cell: the antenna link of each flat input cell, ``(cells,)``; None or zeros where a window has one.
        component_of_cell: which component of a complex value each flat input cell is, ``(cells,)``; None or zeros where
            it has one.
    """

    x: FloatArray
    tone_of_cell: IntArray
    frame_of_cell: IntArray
    n_tones: int
    baseline: FloatArray
    rows: IntArray
    tone_groups: tuple[IntArray, ...]
    named_baselines: Mapping[str, FloatArray] = field(default_factory=dict)
    background: FloatArray | None = None
    previous: FloatArray | None = None
    link_of_cell: IntArray | None = None
    component_of_cell: IntArray | None = None

    def input(self, name: str, values: npt.NDArray[Any], start: int = 0, *, drawn: bool = False) -> npt.NDArray[Any]:
        """Return values that a run is to be fed; an exported graph may have them as an input, in place of constants.

        Args:
            name: of the input.
            values: known whatever the windows hold; what is made of the windows is not an input of its own.
            start: how many entries along the first axis other runs have before these.
            drawn: whether they are drawn at random: then an exported graph leaves them open if not told otherwise.
        """
        return values


@runtime_checkable
class Method(Protocol):
    """What every method states about itself."""

    @property
    def name(self) -> str:
        """What requests call it."""

    @property
    def summary(self) -> str:
        """One line."""

    @property
    def source(self) -> str:
        """The paper."""

    @property
    def requirement(self) -> Requirement:
        """What it needs of a model."""

    @property
    def complete(self) -> bool:
        """Whether its cells sum to ``f(x) − f(baseline)``, so that it reports a convergence delta."""

    @property
    def resolves_tones(self) -> bool:
        """Whether what it gives a tone is meant for that tone alone, so that null tones should have next to nothing.

        A map of an internal layer is coarser than the input: it spreads over null tones whatever the layout.
        """

    @property
    def sums_to_one(self) -> bool:
        """Whether its values are shares of one by the method's definition, as attention is; others are never scaled."""

    @property
    def Parameters(self) -> type[Parameters]:  # noqa: N802  it names a class
        """Its parameters."""


Totals = Mapping[str, npt.NDArray[np.float32]]
"""The results of a graph by name, summed over the runs that a method asked for."""
Feeds = Generator[Mapping[str, npt.NDArray[Any]], Totals, None]
"""The run-time inputs of one run after another; what comes back from each ``yield`` are the results of its run."""


class GraphMethod:
    """A method whose arithmetic is one graph. Subclass it, state the attributes of ``Method``, write ``describe``.

    ``rule_set`` names the backward rules that it describes itself with, so that models they cannot take are told.
    ``uses_previous`` asks live streams for the window before each (``Windows.previous``).
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str] = ""
    requirement: ClassVar[Requirement] = Requirement.GRADIENTS
    complete: ClassVar[bool] = False
    resolves_tones: ClassVar[bool] = True
    sums_to_one: ClassVar[bool] = False
    Parameters: ClassVar[type[Parameters]] = Parameters
    rule_set: ClassVar[str] = "standard"
    uses_previous: ClassVar[bool] = False

    def taps(self, layers: Sequence[Layer], parameters: Any) -> Sequence[str]:
        """Return the layers that ``describe`` evaluates at, by any names they have; ``tape.taps`` holds their values.

        Args:
            layers: the model's internal values, from the input onwards.
            parameters: the method's.

        Raises:
            MethodNotApplicableError: the model has no layer of the kind that the method reads.
        """
        return ()

    def describe(self, tape: Tape, parameters: Any) -> None:
        """Describe the attribution on the tape; name at least the result ``cells`` or ``tones``."""
        raise TypeError(f"method '{self.name}' does not say how it attributes: it needs describe()")

    def feeds(self, windows: Windows, parameters: Any) -> Feeds:
        """Yield the run-time inputs of each run; results are summed over the runs. One run without any by default.

        Each ``yield`` returns the results of its run, for a method that goes by them.
        """
        yield {}

    def points(self, parameters: Any) -> int:
        """Say how many model evaluations one run costs per window, at most."""
        return 1

    def points_of_run(self, fed: Mapping[str, npt.NDArray[Any]], parameters: Any) -> int:
        """Say how many model evaluations this one run costs per window: ``points``, where runs are alike."""
        return self.points(parameters)

    def is_bounded(self, parameters: Any) -> bool:
        """Say whether the cost is the same whatever the windows hold: only then may it run beside an event loop."""
        return True

    def graph_key(self, parameters: Any) -> tuple[Any, ...]:
        """Return the parameters that shape the graph, hashable; those that are only fed are left out."""
        return ()

    def finish(self, totals: Totals, windows: Windows, parameters: Any) -> Estimate:
        """Turn the summed results into the estimate."""
        return Estimate(cells=totals.get("cells"), tones=totals.get("tones"))

    def progress(self, totals: Totals, windows: Windows, parameters: Any) -> Estimate | None:
        """Return the estimate as it stands after some of the runs; None where these runs have not added to it yet."""
        return None


class ModelAccess(Protocol):
    """What a procedural method may ask of the model. Between calls the host honours deadlines and cancellation."""

    def score(self, points: FloatArray, window: IntArray) -> FloatArray:
        """Return the target's value at points.

        Args:
            points: ``(n, *input shape)``.
            window: the window each point belongs to, as its place in ``windows.x``, ``(n,)``; a predicted target is the
                class of that window.

        Returns:
            ``(n,)``.
        """
        ...

    def gradient(self, points: FloatArray, window: IntArray) -> FloatArray:
        """Return the gradient of the target at points, ``(n, *input shape)``; arguments as for ``score``."""
        ...


class ProceduralMethod:
    """A method that asks for predictions as it goes. Subclass it and write ``attribute``.

    ``uses_previous`` asks live streams for the window before each (``Windows.previous``).
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str] = ""
    requirement: ClassVar[Requirement] = Requirement.PREDICTIONS
    complete: ClassVar[bool] = False
    resolves_tones: ClassVar[bool] = True
    sums_to_one: ClassVar[bool] = False
    Parameters: ClassVar[type[Parameters]] = Parameters
    uses_previous: ClassVar[bool] = False

    def attribute(self, model: ModelAccess, windows: Windows, parameters: Any) -> Estimate:
        """Return the attribution of a batch of windows."""
        raise TypeError(f"method '{self.name}' does not say how it attributes: it needs attribute()")

    def refine(self, model: ModelAccess, windows: Windows, parameters: Any) -> Iterator[Estimate]:
        """Yield the attribution as it gets better, from the first that is of use to the last; one by default."""
        yield self.attribute(model, windows, parameters)

    def evaluations(self, windows: Windows, parameters: Any) -> int:
        """Say how many model evaluations one window costs."""
        return 1
