"""Class activation maps: where in a layer's grid the evidence for the target lies.

All of them weigh a layer's channels by the gradient of the target, sum over the channels, and are brought to the size
of the input by linear interpolation. They differ in the weights alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from tonescope_server import plugin
from tonescope_server.errors import MethodNotApplicableError
from tonescope_server.gradients.axes import Axes
from tonescope_server.gradients.grids import along_of, onto_input
from tonescope_server.gradients.tape import Tape
from tonescope_server.gradients.variables import Evaluation, Var
from tonescope_server.types import ResultWarning

BLANK = (
    "nothing in the layer speaks for the target, so that its map is zero everywhere; relu=false shows what speaks "
    "against it, and the parameter 'layer' names another layer"
)


class ClassActivationParameters(plugin.Parameters):
    """Parameters of class activation maps."""

    layer: str | None = Field(
        None,
        description="The layer whose grid is mapped, by the name of its value, node or module; by default the last "
        "convolution, which the answer's parameters then name.",
    )
    relu: bool = Field(True, description="Keep what speaks for the target only; false keeps the sign.")


class ClassActivation(plugin.GraphMethod):
    """What the maps have in common; ``weighted`` is what they differ in.

    The map itself, before it is brought to the input's size, is ``maps["cam"]``: ``(batch, *grid)``. Every cell gets
    the value of its place, whatever its channel, and tones are the sums of their cells. Values are raw, not scaled.

    The default layer is the last convolution: the one with the most convolutions before it, so that a residual block's
    shortcut is not taken for it, and whose grid has more than one place. Of an activation layer, give the name.
    """

    requirement = plugin.Requirement.LAYER
    resolves_tones = False
    Parameters = ClassActivationParameters

    def taps(self, layers: Sequence[plugin.Layer], parameters: Any) -> Sequence[str]:
        """Choose the layer that is named, else the last convolution."""
        return [parameters.layer or last_convolution(layers, self.name)]

    def describe(self, tape: Tape, parameters: Any) -> None:
        """Weigh, sum over channels, and interpolate."""
        found = tape.evaluate_at(tape.taps)[0]
        cam, axes = self.activation_map(tape, found, parameters)
        if not tape.tells_tones_apart(along_of(axes)):
            tape.warn(
                "NO_TONE_RESOLUTION",
                f"layer '{tape.taps[0]}' has no axis along the tones: its map tells frames apart, and every tone of a "
                "frame was given the same",
            )
        cells = onto_input(tape, cam, axes)
        tape.result("cells", cells)
        tape.result("tones", tape.sum_over_tones(cells))

    def activation_map(self, tape: Tape, found: Evaluation, parameters: Any) -> tuple[Var, Axes]:
        """Return the map of a layer, ``(batch, *grid)``, and what its axes lie along."""
        layer = tape.taps[0]
        if parameters.layer is None:
            tape.settle("layer", layer)
        if not tape.influences(found.at):
            raise MethodNotApplicableError(
                f"method '{self.name}', parameter 'layer': the target does not depend on '{layer}'"
            )
        at, gradient, axes = channels_first(tape, found, layer, self.name)
        cam = _summed(tape, self.weighted(tape, at, gradient))
        if parameters.relu:
            cam = _relu(cam)
        tape.result("cam", cam)
        return cam, axes

    def weighted(self, tape: Tape, at: Var, gradient: Var) -> Var:
        """Return the layer's values, weighed: ``(batch, channels, *grid)``."""
        raise TypeError(f"method '{self.name}' does not say how it weighs: it needs weighted()")

    def graph_key(self, parameters: Any) -> tuple[Any, ...]:
        """Say that the sign's treatment is part of the graph; and whether the layer was left open, which is stated."""
        return (parameters.relu, parameters.layer is None)

    def finish(self, totals: plugin.Totals, windows: plugin.Windows, parameters: Any) -> plugin.Estimate:
        """Show the map beside the cells, and say of which windows it is blank."""
        cam = totals["cam"]
        blank = plugin.windows_where(~cam.any(axis=tuple(range(1, cam.ndim))))
        return plugin.Estimate(
            totals["cells"],
            totals["tones"],
            maps={"cam": cam},
            warnings=tuple(ResultWarning("BLANK_MAP", BLANK, window) for window in blank),
        )


class GradCam(ClassActivation):
    """``relu(Σ_k w_k A_k)``, ``w_k`` the mean over the grid of ``∂f/∂A_k``.

    Source: Selvaraju et al., "Grad-CAM" (2017), equations 1 and 2. Interpolated raw: no scaling to 1.
    """

    name = "grad_cam"
    summary = "Where a layer's channels, weighed by their mean gradient, speak for the target."
    source = "Selvaraju et al. 2017, arXiv:1610.02391"

    def weighted(self, tape: Tape, at: Var, gradient: Var) -> Var:
        """Weigh each channel by the mean of its gradient."""
        return _over_grid("ReduceMean", gradient) * at


class GradCamPlusPlus(ClassActivation):
    """``relu(Σ_k w_k A_k)``, ``w_k = Σ α·relu(g)``, ``α = g² / (2g² + ΣA_k·g³)``, ``g = ∂f/∂A_k``.

    α is 0 where the denominator is 0. It is worked out as ``1 / (2 + ΣA_k·g)``, which is the same and does not
    underflow where gradients are small; where g is 0, nothing is weighed by it.

    Source: Chattopadhay et al., "Grad-CAM++" (2018), equations 5 and 19, with g the gradient of the target itself: the
    paper's positive factor ``exp(f)``, which is the same everywhere in a map, is left out.
    """

    name = "grad_cam_plus_plus"
    summary = "As Grad-CAM, with weights that count each place of a grid by how it drives the target."
    source = "Chattopadhay et al. 2018, arXiv:1710.11063"

    def weighted(self, tape: Tape, at: Var, gradient: Var) -> Var:
        """Weigh each channel by its positive gradients, weighed by α."""
        context = tape.context
        zero, one = (context.scalar(v, gradient.value) for v in (0.0, 1.0))
        denominator = _over_grid("ReduceSum", at) * gradient + 2.0
        none = context.op("Equal", denominator.value, zero)
        safe = context.op("Where", none, one, denominator.value)
        alpha = Var(tape, context.op("Where", none, zero, context.op("Div", one, safe)), gradient.shape)
        return _over_grid("ReduceSum", alpha * _relu(gradient)) * at


class LayerCam(ClassActivation):
    """``relu(Σ_k relu(g_k)·A_k)``: every place is weighed by its own positive gradient.

    Source: Jiang et al., "LayerCAM" (2021), equations 5 and 6; without their scaling of early layers by tanh.
    """

    name = "layer_cam"
    summary = "Where a layer's values, each weighed by its own positive gradient, speak for the target."
    source = "Jiang et al. 2021, doi:10.1109/TIP.2021.3089943"

    def weighted(self, tape: Tape, at: Var, gradient: Var) -> Var:
        """Weigh each value by its own gradient, where that is positive."""
        return _relu(gradient) * at


class HiResCam(ClassActivation):
    """``relu(Σ_k g_k·A_k)``: every place is weighed by its own gradient.

    Where only a mean over the grid and an affine layer follow, it is Grad-CAM.

    Source: Draelos & Carin, "Use HiResCAM instead of Grad-CAM" (2020), equation 4. The paper's map is that of
    ``relu=false``.
    """

    name = "hires_cam"
    summary = "Where a layer's values, each weighed by its own gradient, speak for the target."
    source = "Draelos & Carin 2020, arXiv:2011.08891"

    def weighted(self, tape: Tape, at: Var, gradient: Var) -> Var:
        """Weigh each value by its own gradient."""
        return gradient * at


class GuidedGradCam(GradCam):
    """Guided backprop of every cell, times Grad-CAM at its place.

    Source: Selvaraju et al. 2017, section 3.2. Grad-CAM's weights are of the plain gradient.
    """

    name = "guided_grad_cam"
    summary = "Guided backprop of every cell, where Grad-CAM speaks for the target."
    resolves_tones = True
    rule_set = "guided_backprop"

    def describe(self, tape: Tape, parameters: Any) -> None:
        """Differentiate by the input under the guided rules and by the layer under the plain ones; multiply."""
        x, layer = str(tape.x.value.name), tape.taps[0]
        if layer == x:
            raise MethodNotApplicableError(f"method '{self.name}', parameter 'layer': expected a layer, got the input")
        guided, found = tape.evaluate_at([x, layer], "guided_backprop", under={layer: "standard"})
        cam, axes = self.activation_map(tape, found, parameters)
        cells = guided.gradient * onto_input(tape, cam, axes)
        tape.result("cells", cells)
        tape.result("tones", tape.sum_over_tones(cells))


def last_convolution(layers: Sequence[plugin.Layer], method: str) -> str:
    """Return the convolution that has the most others before it; of several, the last.

    Raises:
        MethodNotApplicableError: there is none in one or two dimensions.
    """
    depth: dict[str, int] = {}
    best, deepest = "", 0
    for layer in layers:
        is_convolution = layer.op_type == "Conv" and len(layer.shape) in (3, 4) and set(layer.shape[2:]) != {1}
        depth[layer.name] = max((depth.get(name, 0) for name in layer.reads), default=0) + is_convolution
        if is_convolution and depth[layer.name] >= deepest:
            best, deepest = layer.name, depth[layer.name]
    if not best:
        raise MethodNotApplicableError(
            f"method '{method}': the model has no convolution with a grid in one or two dimensions; name another layer "
            "with the parameter 'layer'"
        )
    return best


def channels_first(tape: Tape, found: Evaluation, layer: str, method: str) -> tuple[Var, Var, Axes]:
    """Return a layer's values and gradients, ``(batch, channels, *grid)``, and what the grid's axes lie along.

    Raises:
        MethodNotApplicableError: the layer has no such axes.
    """
    axes = tape.axes(found.at)
    others = [i for i, axis in enumerate(axes) if i and not axis.grid]
    channels = 1 if 1 in others or not others else others[0]
    flat = [i for i in others if i != channels and axes[i].size == 1]  # an axis that a kernel as long has used up
    grid = [i for i in range(1, len(axes)) if i != channels and i not in flat]
    along = along_of([axes[i] for i in grid])
    if (
        len(others) - len(flat) > 1
        or not 1 <= len(along) <= 2
        or len(set(along)) != len(along)
        or axes[0].parts[0].axis != 0
    ):
        raise MethodNotApplicableError(
            f"method '{method}', layer '{layer}': expected (batch, channels, *grid), with a grid along one or two "
            f"axes of the input, got (batch, {', '.join(map(str, found.at.shape))}) along axes {along or 'none'}; "
            "name another layer with the parameter 'layer'"
        )
    order = [0, channels, *grid]
    at, gradient = (_turned(_without(var, flat), _without_places(order, flat)) for var in (found.at, found.gradient))
    return at, gradient, tuple(axes[i] for i in grid)


def _without(var: Var, flat: Sequence[int]) -> Var:
    if not flat:
        return var
    squeezed = var.tape.context.op("Squeeze", var.value, var.tape.context.ints(flat))
    squeezed.type = var.value.type
    return Var(var.tape, squeezed, tuple(size for i, size in enumerate(var.shape, start=1) if i not in flat))


def _without_places(order: Sequence[int], flat: Sequence[int]) -> list[int]:
    return [i - sum(gone < i for gone in flat) for i in order]


def _turned(var: Var, order: Sequence[int]) -> Var:
    if list(order) == sorted(order):
        return var
    shape = tuple(var.shape[i - 1] for i in order[1:])
    turned = var.tape.context.op("Transpose", var.value, perm=order)
    turned.type = var.value.type
    return Var(var.tape, turned, shape)


def _over_grid(op_type: str, var: Var) -> Var:
    context = var.tape.context
    axes = context.ints(range(2, len(var.shape) + 1))
    return Var(var.tape, context.op(op_type, var.value, axes, keepdims=1), (var.shape[0], *[1] * (len(var.shape) - 1)))


def _summed(tape: Tape, weighted: Var) -> Var:
    context = tape.context
    return Var(tape, context.op("ReduceSum", weighted.value, context.ints([1]), keepdims=0), weighted.shape[1:])


def _relu(var: Var) -> Var:
    return Var(var.tape, var.tape.context.op("Relu", var.value), var.shape)


@plugin.hookimpl
def tonescope_methods() -> list[plugin.Method]:
    """Offer the class activation maps."""
    return [GradCam(), GradCamPlusPlus(), LayerCam(), HiResCam(), GuidedGradCam()]
