"""Write ``docs/operators.md`` from the rule tables: run by ``make generate``, checked by a test."""

from __future__ import annotations

import inspect
from pathlib import Path

import onnx.defs

from tonescope_server.gradients.rule_set import ZERO_DERIVATIVE, Rule, RuleSet
from tonescope_server.gradients.rule_sets.standard import STANDARD
from tonescope_server.plugin.host import PluginHost

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "operators.md"
# Those of ONNX's own cases that have these operators are differentiated by the tests, which is what puts them here.
BY_FUNCTION = (
    "Attention", "CausalConvWithState", "CenterCropPad", "LinearAttention", "NegativeLogLikelihoodLoss", "ReduceLogSum",
    "ReduceSumSquare", "RotaryEmbedding", "SwiGLU", "Swish",
)  # fmt: skip
REFUSED = "Refused: "
HEAD = """# Operators that can be differentiated

Generated from the code by `make generate`; a test keeps it current. An operator that is not here is refused by name
before anything runs, unless ONNX's specification defines it by a function of operators that are: then it is spelled out
first, as those are of which the table says so. Methods that need predictions only work on every model.

Files of opset 7 and newer are taken, up to what the installed onnx knows: those below 18 are converted up, those that
ONNX Runtime does not know yet down; what the converter cannot take is refused by name. float16, bfloat16 and float64
graphs are computed in float32, with their own weights, and a warning of the model says so.

"Since" is the opset of the newest version of the operator. "Other rules" names the rule sets that treat it in a way of
their own; a rule set in parentheses refuses it. "Refused" names forms of an operator that are refused by name, too;
"refused by" a rule set those that only this one refuses.

| operator | since | gradient | other rules |
|---|---|---|---|
"""


def table(host: PluginHost) -> str:
    """Return the whole document."""
    others = [rules for name, rules in sorted(host.rule_sets.items()) if name != STANDARD.name]
    rows = [
        _row_by_function(name) if name not in STANDARD.rules else _row(name, others)
        for name in sorted({*STANDARD.rules, *BY_FUNCTION})
    ]
    zero = ", ".join(sorted(ZERO_DERIVATIVE))
    rest = f"Nothing flows back through {zero}, nor through whatever is not floating point."
    return f"{HEAD}{''.join(rows)}\n{rest}\n{''.join(_followed(r) for r in others if r.reference)}"


def _followed(rules: RuleSet) -> str:
    """Say what a rule set that compares two ends follows beyond derivatives."""
    more = sorted({*rules.rules} - {*STANDARD.rules})
    notes = [f"- {name}: {_first_part(rules.rules[name])}\n" for name in more]
    return (
        f"\nBut `{rules.name}`, which splits changes and not derivatives, follows these, and what is counted or is "
        f"true or false, as a number; it refuses by name where an integer that depends on the input chooses or "
        f"divides.\n\n"
        f"{''.join(notes)}"
    )


def _first_part(rule: Rule) -> str:
    return (inspect.getdoc(rule) or "").split("\n\n")[0].replace("\n", " ").replace("``", "`")


def _row(name: str, others: list[RuleSet]) -> str:
    rule = STANDARD.rules[name]
    schema = onnx.defs.get_schema(name)
    first, *_ = (inspect.getdoc(rule) or "").split("\n\n")
    own = {r.name: r.rules[name] for r in others if r.rules.get(name) not in (None, rule)}
    said = " ".join([first, *_refused(rule), *_refused_by(own)])
    note = said.replace("\n", " ").replace("|", "\\|").replace("``", "`")
    refused = [f"({r.name})" for r in others if name not in r.rules]
    return f"| {name} | {schema.since_version} | {note} | {', '.join([*own, *refused])} |\n"


def _refused(rule: Rule) -> list[str]:
    return [part for part in (inspect.getdoc(rule) or "").split("\n\n") if part.startswith(REFUSED)]


def _refused_by(own: dict[str, Rule]) -> list[str]:
    """Say what rules of other sets refuse beyond that, those that refuse alike together."""
    alike: dict[str, list[str]] = {}
    for name, rule in own.items():
        for part in _refused(rule):
            alike.setdefault(part.removeprefix(REFUSED), []).append(f"`{name}`")
    return [f"Refused by {' and '.join(names)}: {what}" for what, names in alike.items()]


def _row_by_function(name: str) -> str:
    schema = onnx.defs.get_schema(name)
    assert schema.has_function or schema.has_context_dependent_function, name
    return f"| {name} | {schema.since_version} | Spelled out by its function in ONNX's specification. | |\n"


if __name__ == "__main__":
    DOCUMENT.write_text(table(PluginHost.load()), encoding="utf-8")
    print(DOCUMENT.name)
