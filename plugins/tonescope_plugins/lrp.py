"""Layer-wise relevance propagation: the target's value, handed back layer by layer to the cells."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from tonescope_server import plugin
from tonescope_server.gradients.rule_sets.lrp import LayerRule, LrpSettings, lrp
from tonescope_server.gradients.tape import Tape

Preset = Literal[
    "epsilon_gamma",
    "epsilon",
    "epsilon_plus",
    "epsilon_plus_flat",
    "epsilon_gamma_flat",
    "epsilon_alpha2_beta1",
    "epsilon_alpha2_beta1_flat",
    "z_plus",
    "alpha2_beta1",
    "flat",
    "w2_flat",
    "attn_lrp",
]
PRESETS: dict[str, dict[str, Any]] = {
    "epsilon_gamma": {"dense": "epsilon", "convolution": "gamma"},
    "epsilon": {"dense": "epsilon", "convolution": "epsilon"},
    "epsilon_plus": {"dense": "epsilon", "convolution": "z_plus"},
    "epsilon_plus_flat": {"dense": "epsilon", "convolution": "z_plus", "first": "flat"},
    "epsilon_gamma_flat": {"dense": "epsilon", "convolution": "gamma", "first": "flat"},
    "epsilon_alpha2_beta1": {"dense": "epsilon", "convolution": "alpha_beta", "alpha": 2.0},
    "epsilon_alpha2_beta1_flat": {"dense": "epsilon", "convolution": "alpha_beta", "alpha": 2.0, "first": "flat"},
    "z_plus": {"dense": "z_plus", "convolution": "z_plus"},
    "alpha2_beta1": {"dense": "alpha_beta", "convolution": "alpha_beta", "alpha": 2.0},
    "flat": {"dense": "flat", "convolution": "flat"},
    "w2_flat": {"dense": "flat", "convolution": "flat", "first": "w_square"},
    "attn_lrp": {"dense": "epsilon", "convolution": "epsilon"},
}


class LrpParameters(plugin.Parameters):
    """Parameters of LRP."""

    preset: Preset = Field(
        "epsilon_gamma",
        description="Rules by kind of layer, as the literature combines them: in dense layers, in convolutions, and, "
        "with _flat, in layers that read the input. What is stated beside it wins. attn_lrp is for transformers.",
    )
    dense: LayerRule = Field("epsilon", description="The rule of dense layers.")
    convolution: LayerRule = Field("gamma", description="The rule of convolutions.")
    first: LayerRule | Literal[""] = Field("", description="The rule of layers that read the input; '': their kind's.")
    layers: dict[str, LayerRule] = Field(
        default_factory=dict, description="The rule of single layers, by node name or by the name of their result."
    )
    epsilon: float = Field(1e-6, ge=0, description="Stabilises denominators, times their sign.")
    gamma: float = Field(0.25, ge=0, description="How much more contributions of the result's own sign count.")
    alpha: float = Field(2.0, ge=1, description="The share of positive contributions under alpha_beta.")
    zero_bias: bool = Field(
        False, description="Leave out biases, and constants that are added, so that they absorb no relevance."
    )
    fold_batch_normalization: bool = Field(
        True, description="Fold batch normalisations into the layers before them first."
    )

    @model_validator(mode="before")
    @classmethod
    def _filled_in_from_the_preset(cls, given: Any) -> Any:
        """Fill in what the preset says, so that the parameters of a result state it in full."""
        if not isinstance(given, dict):
            return given
        return PRESETS.get(str(given.get("preset", "epsilon_gamma")), {}) | given


class Lrp(plugin.GraphMethod):
    """Relevance per cell. Its convergence delta, Σ relevance − f(x), is the negative of what was absorbed on the way.

    ``maps["bias"]``, ``(batch,)``, is what biases absorbed of that: f(x) is Σ relevance, this, and a rest, which ε,
    softmax and recurrent layers keep, and biases of layers in which windows cannot be told apart by their axes.

    With ``zero_bias`` nothing is absorbed in networks of convolutions, products, pools and ReLUs, but for units that
    nothing but their bias makes active.

    Presets: ``epsilon_gamma`` (the default), ``epsilon``, ``epsilon_plus`` and ``epsilon_alpha2_beta1`` have ε in dense
    layers and γ, ε, z⁺ or α = 2, β = 1 in convolutions; with ``_flat`` the layers that read the input share evenly.
    ``z_plus``, ``alpha2_beta1`` and ``flat`` have one rule everywhere; ``w2_flat`` shares evenly, and by squared
    weights where the input is read. ``attn_lrp`` is what Achtibat et al. (2024) propose for transformers: ε in all
    layers, and the rules that every preset has for products, softmax and norms.

    Source: Bach et al. (2015); the composites of Montavon et al. (2019), section 10.3, and Kohlbrenner et al. (2020).
    Departure: γ is the generalised rule, for operands of either sign.
    """

    name = "lrp"
    summary = "The target's value, handed back layer by layer in proportion to what each cell gave."
    source = "Bach et al. 2015, doi:10.1371/journal.pone.0130140"
    rule_set = "lrp"
    Parameters = LrpParameters

    def describe(self, tape: Tape, parameters: Any) -> None:
        """Propagate relevance under the rule set that the parameters make."""
        if parameters.fold_batch_normalization:
            tape.fold_batch_normalization()
        chosen = parameters.model_dump(exclude={"preset", "fold_batch_normalization"})
        settings = LrpSettings(**{**chosen, "first": parameters.first or None})
        tape.check_layers(settings.layers)
        cells = tape.evaluate(lrp(settings)).gradient
        tape.result("bias", tape.absorbed())
        tape.result("cells", cells)
        tape.result("tones", tape.sum_over_tones(cells))

    def graph_key(self, parameters: Any) -> tuple[Any, ...]:
        """Say that every parameter shapes the graph."""
        return (parameters.model_dump_json(),)

    def finish(self, totals: plugin.Totals, windows: plugin.Windows, parameters: Any) -> plugin.Estimate:
        """Report what was absorbed on the way."""
        cells = totals["cells"]
        delta = cells.reshape(len(cells), -1).sum(axis=1, dtype=np.float64) - totals["score"]
        return plugin.Estimate(cells, totals["tones"], delta.astype(np.float32), maps={"bias": totals["bias"]})


@plugin.hookimpl
def tonescope_methods() -> list[plugin.Method]:
    """Offer LRP."""
    return [Lrp()]
