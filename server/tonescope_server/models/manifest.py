"""The manifest of a model, ``model.toml``: what its file cannot say about its input, tones and outputs.

Here are the fields, reading them, and filling in what a manifest leaves out: each guess becomes a warning.
Comparing a manifest with weights and graphs belongs to ``loading``.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tonescope_server.csi.cells import check_order
from tonescope_server.csi.quantities import COMPONENTS, Quantity
from tonescope_server.csi.tones import tone_table
from tonescope_server.errors import ManifestError, ParameterError

Name = Annotated[str, Field(pattern=r"^[^/\\\x00]*$")]
FiniteFloat = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[int, Field(ge=1)]
Index = Annotated[int, Field(ge=0)]
Sha256 = Annotated[str, Field(pattern=r"^([0-9a-fA-F]{64})?$")]
OutputKind = Literal["logits", "probabilities", "regression"]
NORMALISATION_GUESS = 'normalisation.kind is taken to be "none": nothing says how the training data was normalised'
S = TypeVar("S", bound="Section")


class Section(BaseModel):
    """One table of the manifest. Unknown keys are refused: a misspelt key would be a silent guess."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def states(self, key: str) -> bool:
        """Say whether the manifest itself states ``key``, rather than leaving it to its default."""
        return key in self.model_fields_set

    def filled(self: S, **values: object) -> S:
        """Return a copy with these values filled in; :meth:`states` still tells what the file itself states."""
        return self.model_construct(_fields_set=set(self.model_fields_set), **(dict(self) | values))


class ModelSection(Section):
    """``[model]``: which files make up the model.

    Attributes:
        name: the model's name; "" means the name of its folder or file.
        version: its version; "" means the name of its folder, or "1".
        architecture: how safetensors weights become a graph; "" means the one architecture that matches.
        weights: the weights file, relative to the manifest; "" means the only one beside it.
        adapter: a safetensors adapter, relative to the manifest; "" means none.
        sha256: of the weights file; "" means it is not checked.
        description: one line for a list of models.
    """

    name: Name = ""
    version: Name = ""
    architecture: str = ""
    weights: str = ""
    adapter: str = ""
    sha256: Sha256 = ""
    description: str = ""


class InputSection(Section):
    """``[input]``: the explained input.

    Attributes:
        name: the graph input; "" means the only one of a float type.
        shape: its shape without the batch axis; empty means the graph's own.
        axes: names of those axes, for people.
        cell_order: how the flat cells of a window map to (frame, tone): "tone_frame" (all frames of the
            first tone, then of the next), "frame_tone" (all tones of the first frame, then of the next), or
            "feature" (no frames); with "component" and "link" among the axes where a window has several.
        quantity: what a cell holds; "complex" has two components, the real and the imaginary part, and
            "amplitude_phase" two likewise.
        phase: what was done to the phase.
        links: names of the antenna links that one window holds; empty means that each antenna makes its own.
        gain: whether amplitudes had the receiver's gain taken out ("agc") in training.
        feature_names: names of engineered features, for the cell order "feature"; empty means they have none.
    """

    name: str = ""
    shape: tuple[Positive, ...] = ()
    axes: tuple[str, ...] = ()
    cell_order: str = "tone_frame"
    quantity: Literal["amplitude", "phase", "complex", "amplitude_phase"] = "amplitude"
    phase: Literal["wrapped", "unwrapped", "sanitised"] = "sanitised"
    links: tuple[str, ...] = ()
    gain: Literal["", "none", "agc"] = ""
    feature_names: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _order_names_the_axes(self) -> InputSection:
        try:
            check_order(self.cell_order, bool(self.links), bool(self.components))
        except ParameterError as error:
            raise ValueError(str(error)) from error
        return self

    @property
    def components(self) -> tuple[str, ...]:
        """The components that a tone has in each frame; empty where it has but one value."""
        return COMPONENTS[Quantity(self.quantity)]

    @property
    def parts(self) -> int:
        """How many cells a tone has in each frame."""
        return max(len(self.links), 1) * max(len(self.components), 1)


class TonesSection(Section):
    """``[tones]``: which subcarriers the rows are.

    Attributes:
        layout: id of a tone layout; "" means it is not known, and rows stay unnamed.
        chip: the radio, such as "esp32-s3".
        training_field: the field the channel was estimated from, such as "lltf".
        channel: the WiFi channel, of 40 MHz the primary one; 0 means not known.
        bandwidth_mhz: the channel width; 0 means not known.
        secondary: the side of the primary channel that the secondary one of 40 MHz lies on; "" means not known.
        centre_mhz: the frequency that the layout's offsets are from, whatever the channel; 0 means not stated.
    """

    layout: str = ""
    chip: str = ""
    training_field: str = ""
    channel: Index = 0
    bandwidth_mhz: Annotated[FiniteFloat, Field(ge=0)] = 0.0
    secondary: Literal["", "above", "below"] = ""
    centre_mhz: Annotated[FiniteFloat, Field(ge=0)] = 0.0


class NormalisationSection(Section):
    """``[normalisation]``: what amplitudes become before the model sees them: ``(a − mean) / (std + eps)``.

    Attributes:
        kind: name of a normaliser: "none", "manifest" (the statistics below), "recording", "running", or a
            plugin's.
        mean: the training mean of each tone; or of each value of a frame, by link, then component, then tone.
        std: the training standard deviation, likewise.
        eps: added to the standard deviation.
    """

    kind: str = "none"
    mean: tuple[FiniteFloat, ...] = ()
    std: tuple[Annotated[FiniteFloat, Field(ge=0)], ...] = ()
    eps: Annotated[FiniteFloat, Field(gt=0)] = 1e-6

    @model_validator(mode="after")
    def _statistics_are_complete(self) -> NormalisationSection:
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean and std: expected equal lengths, got {len(self.mean)} and {len(self.std)}")
        if self.kind == "manifest" and not self.mean:
            raise ValueError('kind "manifest": expected mean and std beside it, got neither')
        return self


class SamplingSection(Section):
    """``[sampling]``: the frame rate the model was trained at.

    Attributes:
        rate_hz: frames per second; 0 means not known.
        tolerance: the relative deviation that is still fine.
        nodes: the nodes that ought to send; empty means not known.
    """

    rate_hz: Annotated[FiniteFloat, Field(ge=0)] = 0.0
    tolerance: Annotated[FiniteFloat, Field(ge=0)] = 0.2
    nodes: tuple[Index, ...] = ()


class WindowSection(Section):
    """``[window]``: how frames become windows.

    Attributes:
        frames: frames in a window; 0 means as many as the input has room for.
        hop: frames between the starts of two windows; 0 means ``frames``.
        frame_lengths: tones a frame may have to be used, longer ones being cut where the tone layout says
            so; empty means whatever the tone layout takes. Other frames are skipped and counted.
    """

    frames: Index = 0
    hop: Index = 0
    frame_lengths: tuple[Positive, ...] = ()


class OutputSection(Section):
    """``[[outputs]]``: what one output means.

    Attributes:
        name: the graph output.
        kind: "logits", "probabilities" or "regression".
        class_names: by class index; empty means classes go by their index.
        trained_classes: the classes that occurred in training, by index; empty means not known.
        temperature: logits are divided by it before the softmax.
    """

    name: str
    kind: OutputKind = "logits"
    class_names: tuple[str, ...] = ()
    trained_classes: tuple[Index, ...] = ()
    temperature: Annotated[FiniteFloat, Field(gt=0)] = 1.0


class BaselineSection(Section):
    """``[baseline]``: the window that stands for "no information", as the model sees it, after normalisation.

    Attributes:
        value: the value of every cell.
        tones: a value per tone, which then holds in every frame; empty means ``value`` everywhere.
        dataset_mean: the mean of the training windows, a value per tone; empty means that of ``background``, if any.
        empty_room: the mean of windows of the empty room, a value per tone; empty means not known.
        background: a file of windows to compare with, relative to the manifest; "" means none.
    """

    value: FiniteFloat = 0.0
    tones: tuple[FiniteFloat, ...] = ()
    dataset_mean: tuple[FiniteFloat, ...] = ()
    empty_room: tuple[FiniteFloat, ...] = ()
    background: str = ""


class ReferenceSection(Section):
    """``[reference]``: where the attribution lay on the training data, for the check of drift.

    Attributes:
        method: the attribution method that it was measured with; "" means that there is none.
        attribution: the share that each tone had in the sum of |attribution| over windows.
    """

    method: str = ""
    attribution: tuple[Annotated[FiniteFloat, Field(ge=0)], ...] = ()

    @model_validator(mode="after")
    def _is_complete(self) -> ReferenceSection:
        if bool(self.method) != bool(self.attribution):
            raise ValueError("method and attribution: expected both or neither, got one")
        if self.attribution and not sum(self.attribution) > 0:
            raise ValueError("attribution: expected shares with a sum above 0, got zeros")
        return self


class TrainingSection(Section):
    """``[training]``: where the weights come from.

    Attributes:
        data_sha256: hash of the training data; "" means not known.
        source: one line for people.
    """

    data_sha256: Sha256 = ""
    source: str = ""


class Manifest(Section):
    """A whole manifest. Every table may be left out; :meth:`infer` fills in what must be known."""

    # The table is called [model], and a Pydantic field may not begin with "model_" but may well be "model".
    model: ModelSection = ModelSection()
    input: InputSection = InputSection()
    tones: TonesSection = TonesSection()
    normalisation: NormalisationSection = NormalisationSection()
    sampling: SamplingSection = SamplingSection()
    window: WindowSection = WindowSection()
    outputs: tuple[OutputSection, ...] = ()
    baseline: BaselineSection = BaselineSection()
    reference: ReferenceSection = ReferenceSection()
    training: TrainingSection = TrainingSection()

    @classmethod
    def load(cls, path: Path) -> Manifest:
        """Read a manifest.

        Raises:
            ManifestError: it is not there, is not TOML, or has a key or value that is not allowed.
        """
        try:
            data = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ManifestError(f"{path}: cannot be read: {error.strerror or error}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ManifestError(f"{path}: not TOML: {' '.join(str(error).split())}") from error
        return cls.parse(data, str(path))

    @classmethod
    def parse(cls, data: Mapping[str, object], where: str = "manifest") -> Manifest:
        """Check tables that are already read.

        Raises:
            ManifestError: a key or value is not allowed; the message names the first such key, and ``where``.
        """
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise ManifestError(f"{where}: {_first_fault(error)}") from error

    def output(self, name: str) -> OutputSection:
        """Return what is stated of one output; an empty statement where there is none."""
        return next((output for output in self.outputs if output.name == name), OutputSection(name=name))

    def infer(
        self,
        *,
        shape: Sequence[int],
        outputs: Mapping[str, str],
        layouts: Mapping[int, str] | None = None,
    ) -> tuple[Manifest, tuple[str, ...]]:
        """Fill in what the manifest leaves out, and say so: a bare file has ``Manifest().infer(…)``.

        Args:
            shape: the shape of the explained input, without its batch axis.
            outputs: the operator that produces each output, by the output's name, in order.
            layouts: the usual tone layout by number of rows, where the architecture knows one.

        Returns:
            The manifest with input shape, cell order, window length, tone layout and one entry per output
            (in the graph's order), and a line for each guess.
        """
        warnings: list[str] = []
        window_input = self._infer_input(tuple(shape), warnings)
        frames = self._infer_frames(window_input, layouts or {}, warnings)
        tones = self._infer_tones(math.prod(shape) // (frames * self.input.parts), layouts or {}, warnings)
        if not self.normalisation.states("kind"):
            warnings.append(NORMALISATION_GUESS)
        resolved = self.filled(
            input=window_input,
            tones=tones,
            window=self.window.filled(frames=frames, hop=self.window.hop or frames),
            outputs=tuple(self._infer_output(name, op_type, warnings) for name, op_type in outputs.items()),
        )
        return resolved, tuple(warnings)

    def _infer_input(self, shape: tuple[int, ...], warnings: list[str]) -> InputSection:
        if "phase" in (self.input.quantity, *self.input.components) and not self.input.states("phase"):
            warnings.append(
                f'input.phase is taken to be "{self.input.phase}": nothing says what was done to the phase in training'
            )
        if self.input.states("cell_order"):
            return self.input.filled(shape=shape)
        order = "tone_frame" if len(shape) > 1 or self.window.frames > 1 else "feature"
        warnings.append(
            f'input.cell_order is taken to be "{order}": nothing says how cells of a {shape} input map to '
            'frames and tones, and windows written frame by frame need "frame_tone"'
        )
        return self.input.filled(shape=shape, cell_order=order)

    def _infer_frames(self, window_input: InputSection, layouts: Mapping[int, str], warnings: list[str]) -> int:
        shape, order = window_input.shape, window_input.cell_order
        cells, lost = divmod(math.prod(shape), window_input.parts)
        if lost:
            raise ManifestError(
                f"input.shape: expected a multiple of {window_input.parts} cells (links x components), got {shape}"
            )
        if self.window.frames:
            if cells % self.window.frames or (order == "feature" and self.window.frames > 1):
                raise ManifestError(
                    f"window.frames: expected a number of frames that fits the input's shape {shape} in cell "
                    f'order "{order}", got {self.window.frames}'
                )
            return self.window.frames
        if order == "feature":
            return 1
        # A known tone count decides: windows written frame by frame may be declared (tones, frames) too.
        rows = self._known_rows() or next((size for size in shape if size in layouts), 0)
        if rows and cells % rows == 0:
            return cells // rows
        if window_input.parts > 1:
            axes = order.split("_")
            if len(axes) != len(shape):
                raise ManifestError(
                    f"window.frames: expected, as the input's shape {shape} has not one axis for each of {order!r}; "
                    "got none"
                )
            return shape[axes.index("frame")]
        frames = shape[-1] if order == "tone_frame" else math.prod(shape[:-1])
        if len(shape) > 2:
            warnings.append(f"window.frames is taken to be {frames}, from the input's shape {shape}")
        return frames

    def _known_rows(self) -> int:
        return len(tone_table(self.tones.layout)) if self.tones.layout else 0

    def _infer_tones(self, rows: int, layouts: Mapping[int, str], warnings: list[str]) -> TonesSection:
        if self.tones.layout:
            return self.tones
        if rows in layouts:
            warnings.append(
                f'tones.layout is taken to be "{layouts[rows]}", as is usual for {rows} rows here: '
                "if the windows come from another radio or recorder, every tone named in a result is wrong"
            )
            return self.tones.filled(layout=layouts[rows])
        if self.input.states("cell_order") and self.input.cell_order == "feature":
            return self.tones.filled(layout=f"unknown_{rows}")  # features are no tones: there is nothing to guess
        warnings.append(
            f'tones.layout is taken to be "unknown_{rows}": nothing says which subcarriers the rows are, so '
            "results name rows only and null tones cannot be told"
        )
        return self.tones.filled(layout=f"unknown_{rows}")

    def _infer_output(self, name: str, op_type: str, warnings: list[str]) -> OutputSection:
        stated = self.output(name)
        if stated.states("kind"):
            return stated
        kind = _KINDS.get(op_type, "logits")
        if op_type not in _KINDS and not name.lower().endswith(("logit", "logits")):
            warnings.append(
                f'outputs.kind of "{name}" is taken to be "{kind}": neither its name nor its operator tells'
            )
        return stated.filled(kind=kind)


_KINDS: dict[str, OutputKind] = {"Softmax": "probabilities", "Sigmoid": "regression", "Tanh": "regression"}


def _first_fault(error: ValidationError) -> str:
    faults = error.errors(include_url=False, include_context=False)
    first = faults[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = ", ".join(_keys(first["loc"][:-1]))
        text = f"unknown key {where} (known here: {known})"
    else:
        text = f"{where}: {first['msg'].removeprefix('Value error, ')}, got {_short(first['input'])}"
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return " ".join(text.split()) + more


def _keys(location: tuple[int | str, ...]) -> list[str]:
    section: type[BaseModel] = Manifest
    for part in location:
        if part == "outputs":
            section = OutputSection
        elif isinstance(part, str):
            found = section.model_fields[part].annotation
            section = found if isinstance(found, type) and issubclass(found, BaseModel) else section
    return list(section.model_fields)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
