"""The tape on which a method describes its attribution: one graph from windows to attributions.

A method says what it wants in terms of ``x``, gradients and arithmetic; the tape emits the model, its backward pass and
the method's own arithmetic into one graph, which ONNX Runtime runs in one call and which can be exported. What methods
are is in ``plugin.api``; how graphs are run is in ``engine``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from tonescope_server.errors import MethodNotApplicableError, ParameterError, UnsupportedOperatorError
from tonescope_server.gradients.activity import branching_on
from tonescope_server.gradients.axes import Axes, along_input
from tonescope_server.gradients.context import Context
from tonescope_server.gradients.differentiate import named, values_by_name
from tonescope_server.gradients.folded import can_fold, pull_back_folded
from tonescope_server.gradients.prepass import fold_batch_normalization, lift_1d, remove_unused
from tonescope_server.gradients.results import state_types
from tonescope_server.gradients.rule_set import RuleSet, operator_name
from tonescope_server.gradients.scoring import flat_output, one_hot, stacked_cotangents
from tonescope_server.gradients.seed import Seed, Term, weights_name
from tonescope_server.gradients.subgraphs import operands, replace_operand
from tonescope_server.gradients.variables import Evaluation, Var, broadcast
from tonescope_server.gradients.walk import pull_back, pull_back_each
from tonescope_server.types import ResultWarning

NO_REFERENCE = "this rule set compares with a reference input, and none was given"


class Tape:
    """Builds one graph.

    Attributes:
        x: the windows, ``(batch, *input shape)``.
        context: emits nodes; for what arithmetic on ``Var`` does not cover.
        results: what was named a result so far.
        taps: the internal values that it was told to keep, in the order given.
        settled: what parameters that were left open came to on this model, by name; answers state them.
        warnings: what a user should know of every answer that the graph will give.
    """

    def __init__(
        self,
        model: ir.Model,
        input_name: str,
        seed: Seed,
        rule_sets: Callable[[str], RuleSet],
        tone_of_cell: Sequence[int] | npt.NDArray[np.int64],
        n_tones: int,
        *,
        frame_of_cell: Sequence[int] | npt.NDArray[np.int64] | None = None,
        keep: Sequence[str] = (),
        portable: bool = False,
        is_coupled: bool = False,
    ) -> None:
        """Start with the model's own graph, copied; the caller's stays as it is.

        Args:
            model: shapes inferred, batch first.
            input_name: the input that is explained.
            seed: what is differentiated.
            rule_sets: finds a rule set by name.
            tone_of_cell: for each flat input cell the row of its tone.
            n_tones: rows of the tone table.
            frame_of_cell: for each flat input cell its frame; None means that all are of one.
            keep: internal values that gradients will be taken by: they stay as the model has them.
            portable: emit only plain forms of operators.
            is_coupled: whether the model's windows depend on the others in their batch, and so would points of a path.
        """
        self._is_coupled = is_coupled
        self._model = model.clone(deep_copy=False)
        self._graph = self._model.graph
        self._seed = seed
        self._rule_sets = rule_sets
        self._tone_of_cell = np.asarray(tone_of_cell, np.int64)
        self._n_tones = n_tones
        self._frame_of_cell = np.zeros_like(self._tone_of_cell)
        if frame_of_cell is not None:
            self._frame_of_cell = np.asarray(frame_of_cell, np.int64)
        self.taps = tuple(keep)
        if not portable:
            lift_1d(self._graph, keep)
        self._forward = list(self._graph)
        values = values_by_name(self._graph)
        self._input = named(values, input_name)
        self._kept = {name: named(values, name) for name in keep}
        self._model_outputs = list(self._graph.outputs)
        self._graph.outputs.clear()
        self.rule_set_used = ""
        self.results: dict[str, Var] = {}
        self.settled: dict[str, Any] = {}
        self.warnings: list[ResultWarning] = []
        self.context = Context(self._graph, portable=portable)
        self._dtype = self.context.dtype(self._input)
        shape = tuple(d if isinstance(d, int) else -1 for d in self.context.dims(self._input)[1:])
        self.x = Var(self, self._input, shape)
        self._weights: set[ir.Value] = set()
        self._targeted: set[ir.Value] = set()
        self._evaluated = False
        self._shapes: dict[ir.Value, list[int | None]] = {}

    # -- inputs and results -------------------------------------------------------------------------------------

    def feed(self, name: str, shape: Sequence[int | str]) -> ir.Value:
        """Add a run-time input of the windows' element type; a name stands for a size known at run time only."""
        sizes = [None if isinstance(d, int) and d < 0 else d for d in shape]  # no checker takes −1 for a size
        value = ir.Value(name=name, shape=ir.Shape(sizes), type=ir.TensorType(self._dtype))
        self._graph.inputs.append(value)
        return value

    def feed_var(self, name: str, shape: Sequence[int]) -> Var:
        """Add a run-time input with a batch axis of its own: one entry, or one per window."""
        return Var(self, self.feed(name, [f"{name}_batch", *shape]), tuple(shape))

    def result(self, name: str, var: Var) -> None:
        """Name a result of the graph. ``cells`` and ``tones`` are what the engine reads; see ``plugin.api``."""
        self._named(name, var.value, [None, *var.shape])
        self.results[name] = var

    def settle(self, parameter: str, value: Any) -> None:
        """Say what a parameter that was left open came to on this model."""
        self.settled[parameter] = value

    def warn(self, code: str, message: str) -> None:
        """Say what a user should know of every answer that the graph will give: a stable word, and one line."""
        self.warnings.append(ResultWarning(code, message))

    # -- before the model is evaluated ----------------------------------------------------------------------------

    def fold_batch_normalization(self) -> None:
        """Fold batch normalisations into the layers before them."""
        self._graph.outputs.extend(self._model_outputs)
        fold_batch_normalization(self._graph)
        self._model_outputs = list(self._graph.outputs)
        self._graph.outputs.clear()
        self._forward = list(self._graph)

    def check_layers(self, names: Collection[str]) -> None:
        """Check that each name is a node's, or that of a node's result.

        Raises:
            ParameterError: a name that nothing goes by.
        """
        known = {name for node in self._graph for name in (node.name, *(v.name for v in node.outputs))}
        for name in names:
            if name not in known:
                raise ParameterError(f"parameter 'layers': no node of the graph, and no value, is named '{name}'")

    # -- the model ----------------------------------------------------------------------------------------------

    def evaluate(self, rule_set: str | RuleSet = "standard", *, reference: Var | None = None) -> Evaluation:
        """Evaluate and differentiate the model at ``x``.

        Args:
            rule_set: the backward rules, or their name.
            reference: the input that a rule set with a reference compares with, ``(1 or batch, *input shape)``.
        """
        return self.evaluate_at([str(self._input.name)], rule_set, reference=reference)[0]

    def evaluate_at(
        self,
        names: Sequence[str],
        rule_set: str | RuleSet = "standard",
        *,
        reference: Var | None = None,
        under: Mapping[str, str] | None = None,
    ) -> list[Evaluation]:
        """Evaluate the model at ``x`` and differentiate it by values of the graph.

        Args:
            names: the input, or internal values that the tape was told to keep. Nodes upstream of all of them cost
                nothing in the backward pass.
            rule_set: the backward rules, or their name.
            reference: as for ``evaluate``.
            under: names that are differentiated by in a backward pass of their own, by other rules: those of a plain
                gradient, without a reference and not of relevance.

        Returns:
            One evaluation per name, with the gradient and the value itself, all in the value's own shape.
        """
        self._once()
        values = values_by_name(self._graph)
        by = [named(values, name) for name in names]
        rules = rule_set if isinstance(rule_set, RuleSet) else self._rule_sets(rule_set)
        score, cotangents = self._scored(self._model_outputs, plain=not rules.reference)
        at_reference = self._add_reference(reference, score) if rules.reference else None
        if rules.relevance:
            cotangents = {v: self.context.typed(self.context.op("Mul", v, w), v) for v, w in cotangents.items()}
        own = dict(under or {})
        gradients = {
            v: self._pulled(cotangents, [v], self._rule_sets(own[n]))[0]
            for n, v in zip(names, by, strict=True)
            if n in own
        }
        others = [value for value in by if value not in gradients]
        gradients.update(zip(others, self._pulled(cotangents, others, rules), strict=True))
        self._named("score", score, [None])
        self._name_outputs(self._model_outputs)
        total = Var(self, score, ())
        base = None if at_reference is None else Var(self, at_reference, ())
        return [Evaluation(self._var(gradients[value], value), total, self._var(value, value), base) for value in by]

    def jacobian(self, names: Sequence[str], count: int, rule_set: str = "standard", *, fold: bool = False) -> None:
        """Evaluate the model at ``x`` once and differentiate several targets by values of the graph.

        The targets are made of the terms of the seed; what they weigh them with is fed, with targets as a first axis.
        The results are ``jacobian:<number>``, one per name, ``(targets, batch, *shape of the value)``.

        Args:
            names: as for ``evaluate_at``.
            count: how many targets there are.
            rule_set: the backward rules, by name.
            fold: put the targets into the batch of one backward pass, where that can be done, rather than go through
                one backward pass for each.
        """
        self._once()
        values = values_by_name(self._graph)
        by = [named(values, name) for name in names]
        rules = self._rule_sets(rule_set)
        if rules.reference:
            raise MethodNotApplicableError(NO_REFERENCE)
        context, self.rule_set_used = self.context, rules.name
        seeds = stacked_cotangents(context, self._seed, self._model_outputs, count, self.feed)
        if rules.relevance:
            seeds = {v: context.op("Mul", v, w) for v, w in seeds.items()}
        # Rules of relevance may be chosen by the name of a layer's result, which a copied node does not have.
        forward = list(self._graph)
        if fold and not rules.relevance and can_fold(context, forward, self._input, by):
            found = pull_back_folded(context, forward, self._input, count, seeds, by, rules)
        else:
            found = pull_back_each(context, count, seeds, by, rules)
        for number, (value, gradient) in enumerate(zip(by, found, strict=True)):
            gradient.type = value.type
            self._named(f"jacobian:{number}", gradient, [count, *self._sizes(value)])

    def score(self, *, outputs: bool = False) -> Var:
        """Evaluate the model and the target at ``x``, without a backward pass.

        Args:
            outputs: name the model's outputs too, as a method's plan must.
        """
        self._once()
        score, _ = self._scored(self._model_outputs)
        self._named("score", score, [None])
        if outputs:
            self._name_outputs(self._model_outputs)
        return Var(self, score, ())

    def predict(self) -> None:
        """Evaluate the model at ``x``, and nothing else."""
        self._once()
        self._name_outputs(self._model_outputs)

    def activations(self, names: Sequence[str]) -> list[Var]:
        """Return internal values at ``x``, without a backward pass; the tape must have been told to keep them."""
        self._once()
        return self.values(names)

    def values(self, names: Sequence[str]) -> list[Var]:
        """Return internal values at ``x``, beside whatever the model is evaluated for; names as for ``activations``."""
        values = {**values_by_name(self._graph), **self._kept}  # results are renamed; what is kept goes by its own name
        return [self._var(v, v) for v in (named(values, name) for name in names)]

    def axes(self, var: Var) -> Axes:
        """Return what each axis of an internal value lies along: axes of ``x``, the batch axis first."""
        return along_input(self._forward, self._input)[var.value]

    def evaluate_path(self, points: Var, *, anchor: int, rule_set: str = "standard") -> Evaluation:
        """Evaluate and differentiate the model at K points per window, in one pass.

        Args:
            points: ``(batch, K, *input shape)``.
            anchor: the point that is ``x`` itself: predictions, and a predicted target's class, are read there.
            rule_set: the backward rules.

        Returns:
            The gradient ``(batch, K, *input shape)`` and the score ``(batch, K)``.

        Raises:
            UnsupportedOperatorError: an If chooses by the input, and would choose once for all points.
            MethodNotApplicableError: the model couples the windows of a batch, or takes one at a time.
        """
        self._once()
        for node in branching_on(self._forward, [self._input]):
            raise UnsupportedOperatorError(
                f"operator {operator_name(node)} at node '{node.name}': its condition depends on the input, and "
                "would be one for all points of a path"
            )
        context = self.context
        if self._is_coupled or context.dims(self._input)[0] == 1:
            why = "windows of a batch depend on each other" if self._is_coupled else "it takes one window at a time"
            raise MethodNotApplicableError(f"points of a path would be one batch of the model, and {why}")
        flat = context.op("Reshape", points.value, context.ints([-1, *self.x.shape]))
        batch = context.dims(self._input)[0]  # by the name that the model's values have it by, which it now is for
        flat.shape = ir.Shape([batch if isinstance(batch, str) else "points", *self.x.shape])
        flat.type = ir.TensorType(self._dtype)
        self._feed_model_with(flat)
        per_window = context.op("Shape", points.value, start=0, end=2)
        outputs = [self._unflattened(v, per_window) for v in self._model_outputs]
        at_anchor = [context.op("Gather", v, context.constant(np.int64(anchor)), axis=1) for v in outputs]
        for value, original in zip(at_anchor, self._model_outputs, strict=True):
            context.typed(value, original)
        score, cotangents = self._scored(self._model_outputs, at_anchor, per_window)
        gradient = self._unflattened(self._pulled(cotangents, [flat], self._rule_sets(rule_set))[0], per_window)
        score = context.op("Reshape", score, per_window)
        anchored = context.op("Gather", score, context.constant(np.int64(anchor)), axis=1)
        self._named("score", anchored, [None])
        self._name_outputs(at_anchor)
        return Evaluation(Var(self, gradient, points.shape), Var(self, score, points.shape[:1]), points)

    def absorbed(self) -> Var:
        """Return what biases kept of relevance, ``(batch)``, once the model has been evaluated by rules of relevance.

        Left out is what cannot be told apart by window: of layers whose axes cannot be followed to the input's, and of
        what runs step by step.
        """
        context = self.context
        axes = along_input(self._forward, self._input)
        total = context.op("Expand", context.scalar(0.0, self._input), context.op("Shape", self._input, start=0, end=1))
        for group in context.absorbed:
            places = [_batch_axis(axes.get(like, ())) for like, _ in group]
            if None not in places:
                for place, (like, value) in zip(places, group, strict=True):
                    total = context.op("Add", total, self._by_window(value, int(place or 0), len(axes[like])))
        return Var(self, total, ())

    def _by_window(self, value: ir.Value, axis: int, rank: int) -> ir.Value:
        """Sum a value over all but the windows, which run along one of its axes, outermost."""
        context = self.context
        first = context.op("Transpose", value, perm=[axis, *(a for a in range(rank) if a != axis)]) if axis else value
        batch = context.op("Shape", self._input, start=0, end=1)
        rows = context.op("Reshape", first, context.op("Concat", batch, context.ints([-1]), axis=0))
        return context.op("ReduceSum", rows, context.ints([1]), keepdims=0)

    def influences(self, var: Var) -> bool:
        """Say whether the target, once evaluated, is computed from an internal value."""
        reached = {var.value}
        for node in self._forward:
            if any(v in reached for v in operands(node)):
                reached.update(node.outputs)
        return bool(reached & self._targeted)

    # -- tones --------------------------------------------------------------------------------------------------

    def sum_over_tones(self, cells: Var) -> Var:
        """Sum the cells of each tone: ``(batch, *input shape)`` → ``(batch, n_tones)``."""
        return self._folded(cells, np.ones(self._n_tones))

    def mean_over_tones(self, cells: Var) -> Var:
        """Average the cells of each tone: ``(batch, *input shape)`` → ``(batch, n_tones)``."""
        count = np.bincount(self._tone_of_cell, minlength=self._n_tones)
        return self._folded(cells, 1.0 / np.maximum(count, 1))

    def cells_of_tones(self, tones: Var) -> Var:
        """Give every cell the value of its tone: ``(batch, n_tones)`` → ``(batch, *input shape)``."""
        return self._spread(tones, self._tone_of_cell)

    def cells_of_frames(self, frames: Var) -> Var:
        """Give every cell the value of its frame: ``(batch, n_frames)`` → ``(batch, *input shape)``."""
        return self._spread(frames, self._frame_of_cell)

    def tells_tones_apart(self, along: Collection[int]) -> bool:
        """Say whether cells of different tones are apart along any of the input's axes, the batch's being 0."""
        tones = self._tone_of_cell.reshape(self.x.shape)
        return self._n_tones < 2 or any(np.diff(tones, axis=axis - 1).any() for axis in along)

    @property
    def n_tones(self) -> int:
        """How many tones a window has."""
        return self._n_tones

    @property
    def n_frames(self) -> int:
        """How many frames a window has."""
        return int(self._frame_of_cell.max(initial=0)) + 1

    def _spread(self, values: Var, place: npt.NDArray[np.int64]) -> Var:
        context = self.context
        flat = context.op("Gather", values.value, context.constant(place), axis=1)
        return Var(self, context.op("Reshape", flat, context.ints([-1, *self.x.shape])), self.x.shape)

    def _folded(self, cells: Var, factor: npt.NDArray[np.float64]) -> Var:
        context, n_cells = self.context, self._tone_of_cell.size
        if prod(cells.shape) != n_cells:
            raise MethodNotApplicableError(f"fold to tones: expected {n_cells} cells, got shape {cells.shape}")
        per_tone = n_cells // self._n_tones
        if np.array_equal(self._tone_of_cell, np.repeat(np.arange(self._n_tones), per_tone)):
            rows = cells.value
            if cells.shape != (self._n_tones, per_tone):
                rows = context.op("Reshape", rows, context.ints([-1, self._n_tones, per_tone]))
            reduction = "ReduceSum" if np.all(factor == 1.0) else "ReduceMean"
            return Var(self, context.op(reduction, rows, context.ints([2]), keepdims=0), (self._n_tones,))
        matrix = np.zeros((n_cells, self._n_tones))
        matrix[np.arange(n_cells), self._tone_of_cell] = factor[self._tone_of_cell]
        flat = context.op("Reshape", cells.value, context.ints([-1, n_cells]))
        folded = context.op("MatMul", flat, context.constant(matrix, self._dtype.numpy()))
        return Var(self, folded, (self._n_tones,))

    # -- finishing ----------------------------------------------------------------------------------------------

    def finish(self) -> ir.Model:
        """Return the finished model: every result named, nothing unused left in it."""
        remove_unused(self._graph)
        self._name_apart()
        state_types(self._model, self._shapes)
        for value in list(self._graph.inputs):
            if value is not self._input and not value.uses() and not value.is_graph_output():
                self._graph.inputs.remove(value)
        return self._model

    def binary(self, op_type: str, a: Var, b: Var | float) -> Var:
        """Emit an operator of two operands that broadcast against each other; what arithmetic on ``Var`` comes to."""
        other = b.value if isinstance(b, Var) else self.context.constant(b, self._dtype.numpy())
        shape = broadcast(a.shape, b.shape) if isinstance(b, Var) else a.shape
        return Var(self, self.context.op(op_type, a.value, other), shape)

    # -- inside -------------------------------------------------------------------------------------------------

    def _once(self) -> None:
        if self._evaluated:
            raise MethodNotApplicableError("a tape evaluates its model once; put every point into one path")
        self._evaluated = True

    def _feed_model_with(self, value: ir.Value) -> None:
        """Let the model's nodes read ``value`` instead of the input, and stand after it in the graph."""
        for node in self._forward:
            replace_operand(node, self._input, value)
        tail = self._forward
        self._graph.remove(tail)
        self._graph.extend(tail)

    def _scored(
        self,
        outputs: Sequence[ir.Value],
        at_anchor: Sequence[ir.Value] | None = None,
        per_window: ir.Value | None = None,
        *,
        plain: bool = False,
    ) -> tuple[ir.Value, dict[ir.Value, ir.Value]]:
        """Emit the score, flat over all points, and the cotangent of each output that the seed names.

        ``plain`` says that the score is wanted at ``x`` only, where that of a predicted class is the largest.
        """
        context = self.context
        by_name = {str(v.name): i for i, v in enumerate(outputs)}
        self._targeted.update(outputs[by_name[term.output]] for term in self._seed)
        total: ir.Value | None = None
        cotangents: dict[ir.Value, ir.Value] = {}
        for number, term in enumerate(self._seed):
            i = by_name[term.output]
            flat = flat_output(context, outputs[i])
            if term.predicted:
                weights = one_hot(context, flat if at_anchor is None else flat_output(context, at_anchor[i]))
            else:
                weights = self.feed(weights_name(number), ["batch", context.dims(flat)[1] or "elements"])
            if term.scale != 1.0:
                weights = context.op("Mul", weights, context.scalar(term.scale, flat))
            if per_window is not None:
                weights = self._repeated(weights, per_window, flat)
            self._weights.add(context.typed(weights, flat))
            transformed = context.typed(context.op("LogSoftmax", flat, axis=1), flat) if term.log_softmax else flat
            if plain and term == Term(term.output, predicted=True):
                part = context.op("ReduceMax", flat, context.ints([1]), keepdims=0)  # one node fewer, and the same
            else:
                part = context.op("ReduceSum", context.op("Mul", transformed, weights), context.ints([1]), keepdims=0)
            total = part if total is None else context.op("Add", total, part)
            have = cotangents.get(transformed)
            cotangents[transformed] = weights if have is None else context.op("Add", have, weights)
            context.typed(cotangents[transformed], flat)
        assert total is not None  # a seed has at least one term
        return total, cotangents

    def _repeated(self, weights: ir.Value, per_window: ir.Value, flat: ir.Value) -> ir.Value:
        context = self.context
        one = context.op("Unsqueeze", weights, context.ints([1]))
        whole = context.op("Expand", one, context.op("Concat", per_window, context.ints([1]), axis=0))
        return context.op("Flatten", whole, axis=2)

    def _pulled(
        self, cotangents: dict[ir.Value, ir.Value], by: Sequence[ir.Value], rule_set: RuleSet
    ) -> list[ir.Value]:
        self.rule_set_used = rule_set.name
        return pull_back(self.context, cotangents, by, rule_set)

    def _add_reference(self, reference: Var | None, score: ir.Value) -> ir.Value:
        """Evaluate the model and the target at the reference too, in the same graph; return the score there."""
        if reference is None:
            raise MethodNotApplicableError(NO_REFERENCE)
        context = self.context
        whole = context.op("Expand", reference.value, context.op("Shape", self._input))
        twins = {self._input: context.typed(whole, self._input)}
        for node in list(self._graph):
            # The weights of a predicted target are those of the window, at the reference too.
            read = operands(node)
            if node.outputs[0] in self._weights or not any(v in twins for v in read if v is not None):
                continue
            on = [None if v is None else twins.get(v, v) for v in read]
            for old, new in zip(node.outputs, context.again(node, on), strict=True):
                twins[old] = context.typed(new, old)
        context.set_references(twins)
        return twins[score]

    def _var(self, value: ir.Value, like: ir.Value) -> Var:
        return Var(self, value, tuple(d if isinstance(d, int) else -1 for d in self.context.dims(like)[1:]))

    def _unflattened(self, value: ir.Value, per_window: ir.Value) -> ir.Value:
        context = self.context
        rest = context.op("Shape", value, start=1)
        return context.op("Reshape", value, context.op("Concat", per_window, rest, axis=0))

    def _name_apart(self) -> None:
        """Rename values of the model that go by the name of a result, or of what is fed."""
        ours = {*self._graph.inputs, *self._graph.outputs}
        taken = {v.name for v in ours}
        theirs = [*self._graph.initializers.values(), *(v for node in self._graph for v in node.outputs)]
        for value in theirs:
            if value.name in taken and value not in ours:
                value.name = f"model:{value.name}"

    def _name_outputs(self, values: Sequence[ir.Value]) -> None:
        names = [str(v.name) for v in self._model_outputs]
        for name, value in zip(names, values, strict=True):
            self._named(f"output:{name}", value, self._sizes(value))

    def _sizes(self, value: ir.Value) -> list[int | None]:
        """Return the sizes of a typed value, those of no fixed number unnamed."""
        return [d if isinstance(d, int) else None for d in self.context.dims(value)]

    def _named(self, name: str, value: ir.Value, sizes: Sequence[int | None]) -> None:
        """Make a value a result of that name. One that is a result already, or an input, is named by an Identity."""
        result = value
        if value.is_graph_output() or value.producer() is None:
            result = self.context.op("Identity", value)
            self.context.typed(result, value) if value.shape is not None else None
        result.name = name
        self._shapes[result] = [None if d is None or d < 0 else d for d in sizes]
        self._graph.outputs.append(result)


def _batch_axis(axes: Axes) -> int | None:
    """Return which axis runs along the batch, perhaps with other axes merged into it after that; None if none does."""
    found = [i for i, axis in enumerate(axes) if axis.parts[0].axis == 0 and axis.before == 0 == axis.after]
    return found[0] if len(found) == 1 else None
