"""Rule sets: which backward rule each operator has. A rule set is a frozen value, made by overriding another.

What a rule does is in ``rules/``; how rules are applied is in ``differentiate``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

if TYPE_CHECKING:
    from tonescope_server.gradients.context import Context

Cotangents = Sequence["ir.Value | None"]
"""One cotangent per node output; None where nothing flows back into that output."""

Rule = Callable[["Context", ir.Node, Cotangents], Sequence["ir.Value | None"]]
"""``rule(ctx, node, cotangents)`` → one cotangent, or None, per node input (trailing ones may be left out)."""

# Operators whose result does not depend on the elements of any input, but for their being numbers.
UNCHANGING = frozenset({"Shape", "Size", "ConstantOfShape", "Constant", "RandomNormalLike", "IsNaN", "IsInf"})
# Operators whose derivative is zero almost everywhere; a rule set that follows changes has rules for them.
STEPS = frozenset({"Floor", "Ceil", "Round", "Sign"})
# Values that are not floating point never carry a gradient either, whatever made them.
ZERO_DERIVATIVE = UNCHANGING | STEPS


@dataclass(frozen=True)
class RuleSet:
    """A named table of backward rules.

    Attributes:
        name: what requests call it.
        rules: rule by operator: ``"Relu"`` for the default ONNX domain, ``"com.microsoft::Gelu"`` for others.
        summary: one line.
        source: the paper, or "".
        reference: whether its rules compare with a second forward pass, at a baseline: what flows back is of changes
            then, and follows steps, and what is not floating point, too.
        relevance: whether what flows back is relevance, which starts as the target's own value, and not a cotangent.
    """

    name: str
    rules: Mapping[str, Rule] = field(repr=False)
    summary: str = ""
    source: str = ""
    reference: bool = False
    relevance: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "rules", MappingProxyType(dict(self.rules)))

    def override(self, name: str, rules: Mapping[str, Rule], **about: Any) -> RuleSet:
        """Return a new rule set that differs in the given operators, and in what ``about`` says, only."""
        return replace(self, name=name, rules={**self.rules, **rules}, **about)

    def without(self, *operators: str) -> RuleSet:
        """Return this rule set without the rules of some operators: they are refused then, not done wrongly."""
        return replace(self, rules={k: v for k, v in self.rules.items() if k not in operators})

    def rule_for(self, node: ir.Node) -> Rule | None:
        """Return the rule of ``node``'s operator, or None where there is none."""
        return self.rules.get(operator_name(node))


def operator_name(node: ir.Node) -> str:
    """Name ``node``'s operator: bare in the default domain, ``domain::op`` elsewhere."""
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"


def accepts_unexpanded(rule: Rule) -> Rule:
    """Mark a rule that works on cotangents merely broadcastable to the output's shape.

    The gradient of a mean stays ``(batch, channels, 1, 1)`` until something needs it whole: left unexpanded into the
    mask of the activation before it, it saves 6 % of a CountNet gradient.
    """
    rule.accepts_unexpanded = True  # type: ignore[attr-defined]
    return rule
