"""Differentiation of ONNX graphs under any backward rule set. Knows nothing of CSI, of sessions or of methods."""

from tonescope_server.gradients.differentiate import differentiable, differentiate, missing_rules, refused_operators
from tonescope_server.gradients.rule_set import Rule, RuleSet
from tonescope_server.gradients.rule_sets.standard import STANDARD
from tonescope_server.gradients.walk import pull_back, pull_back_each

__all__ = [
    "STANDARD",
    "Rule",
    "RuleSet",
    "differentiable",
    "differentiate",
    "missing_rules",
    "pull_back",
    "pull_back_each",
    "refused_operators",
]
