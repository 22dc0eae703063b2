"""The explainer: one model, ready to answer. What the daemon uses, and what notebooks use without one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from os import PathLike, environ
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from pydantic import ValidationError

from tonescope_server.csi.images import is_image
from tonescope_server.engine.access import Check, chunks, never
from tonescope_server.engine.applicability import why_not
from tonescope_server.engine.attribution import Attribution
from tonescope_server.engine.export import Exported, exported, write
from tonescope_server.engine.jacobian import jacobian
from tonescope_server.engine.null_sums import NullSums
from tonescope_server.engine.plan import Plan, PlanCache
from tonescope_server.engine.prediction import PredictionReader
from tonescope_server.engine.prepared import Prepared
from tonescope_server.engine.progress import Stop, Update, in_turns
from tonescope_server.engine.session import Session
from tonescope_server.engine.taps import layers_to_tap, made_by, values_to_tap
from tonescope_server.engine.targets import Resolved, TargetLike, as_target, resolve
from tonescope_server.engine.visualisation import (
    Climb,
    Visualisation,
    class_in_words,
    layer_target,
    visualise,
    with_output,
)
from tonescope_server.engine.windows import checked
from tonescope_server.errors import (
    ModelError,
    ParameterError,
    StorePathError,
    TargetError,
    UnknownModelError,
    UnknownTensorError,
    UnsupportedOperatorError,
)
from tonescope_server.gradients import differentiable, refused_operators
from tonescope_server.gradients.activity import is_float
from tonescope_server.gradients.differentiate import named, values_by_name
from tonescope_server.gradients.prepass import infer_shapes
from tonescope_server.gradients.rule_set import operator_name
from tonescope_server.gradients.rules.quantization import rounds
from tonescope_server.gradients.seed import Seed
from tonescope_server.gradients.tape import Tape
from tonescope_server.models.loading import MANIFEST, SUFFIXES, load_model
from tonescope_server.models.model import Model, TensorSpec
from tonescope_server.models.store import ModelStore
from tonescope_server.plugin.api import GraphMethod, Layer, Method, Parameters
from tonescope_server.plugin.host import PluginHost
from tonescope_server.plugin.watch import in_plugin
from tonescope_server.types import FloatArray, Prediction

STORE_VARIABLE = "TONESCOPE_STORE"
BOTH = "visualise: expected a target or a layer, got both"


class Explainer:
    """Predicts and explains with one model.

    Arrays ``x`` have a batch axis and then the model input's shape. Answers do not depend on what else is in a batch.

    Attributes:
        model: the model.
        host: methods and rule sets.
    """

    def __init__(
        self, model: Model, host: PluginHost | None = None, *, threads: int = 1, cache: PlanCache | None = None
    ) -> None:
        """Make an explainer.

        Args:
            model: the model.
            host: methods and rule sets; None for those that are installed.
            threads: of ONNX Runtime, within one run. Two help large graphs and hurt small ones.
            cache: where compiled plans are kept; several explainers may share one.
        """
        self.model = model
        self.host = installed_plugins() if host is None else host
        self._threads = threads
        self._cache = PlanCache() if cache is None else cache
        self._known_reasons: dict[Seed, dict[str, str]] = {}

    @classmethod
    def load(
        cls,
        path_or_name: str | Path,
        *,
        store: str | Path | None = None,
        manifest: str | Path | None = None,
        adapter: str | Path | None = None,
        weights: str | Path | None = None,
        threads: int = 1,
    ) -> Explainer:
        """Load a model file, or a model of a store, for use in this process.

        Args:
            path_or_name: a file or folder; or a name in the store, ``name`` or ``name/version``.
            store: the store's folder; by default the environment's ``TONESCOPE_STORE``.
            manifest: a ``model.toml`` for a bare file.
            adapter: a safetensors adapter.
            weights: safetensors weights for an ONNX file whose external data is missing.
            threads: of ONNX Runtime.

        Raises:
            UnknownModelError, StorePathError: neither a file nor a name in the store.
            ParameterError: a manifest, adapter or weights beside a name in the store, which has its own; or what is
                neither a path nor a name.
            ModelError: the model cannot be loaded.
        """
        if not isinstance(path_or_name, str | PathLike) or not str(path_or_name):
            raise ParameterError(f"model: expected a file, a folder or a name in the store, got {path_or_name!r}")
        host = installed_plugins()
        path = Path(path_or_name)
        if path.exists():
            model = load_model(
                path, manifest=manifest, adapter=adapter, weights=weights, architectures=host.architectures
            )
            return cls(model, host, threads=threads)
        folder = environ.get(STORE_VARIABLE) if store is None else store
        if folder is None:
            raise UnknownModelError(
                f"model '{path_or_name}': expected a file, or a name in a store; no such file, and no store was given "
                f"(argument store, or environment variable {STORE_VARIABLE})"
            )
        for option, given in {"manifest": manifest, "adapter": adapter, "weights": weights}.items():
            if given is not None:
                raise ParameterError(
                    f"{option}: expected only with a model file, got model '{path_or_name}', of which there is no file"
                )
        return cls(_from_store(ModelStore(folder, host.architectures), str(path_or_name)), host, threads=threads)

    # -- answers ------------------------------------------------------------------------------------------------

    def predict(self, x: npt.ArrayLike) -> Prediction:
        """Return what the model says of windows.

        Shapes:
            ``x`` (batch, *input shape) → outputs (batch, …).

        Raises:
            ShapeError, DtypeError, NonFiniteError: what is wrong with ``x``.
        """
        windows = checked(self.model, x)
        parts = [self._forward.session.run({self.model.input.name: windows[rows]}) for rows in self._rows(len(windows))]
        whole = parts[0] if len(parts) == 1 else {k: np.concatenate([part[k] for part in parts]) for k in parts[0]}
        return self.read_prediction(whole)

    def explain(
        self,
        x: npt.ArrayLike,
        method: str = "input_x_gradient",
        target: TargetLike = None,
        *,
        parameters: Mapping[str, Any] | None = None,
        **named: Any,
    ) -> Attribution:
        """Explain windows.

        Args:
            x: (batch, *input shape).
            method: an attribution method, by name.
            target: the scalar that is explained: a class index or name, one index per window, or a ``Target``; None
                means the predicted class, and for a regression the mean of the output.
            parameters: the method's own, by name.
            **named: the same, as keywords.

        Raises:
            InvalidInputError: what is wrong with ``x``, the target or a parameter.
            UnknownMethodError: no such method.
            UnsupportedOperatorError: the model has an operator that the method cannot differentiate.
        """
        return self.prepare(method, target, _merged(parameters, named)).run(checked(self.model, x))

    def explain_progressively(
        self,
        x: npt.ArrayLike,
        method: str = "input_x_gradient",
        target: TargetLike = None,
        *,
        stop: Stop | None = None,
        parameters: Mapping[str, Any] | None = None,
        **named: Any,
    ) -> Iterator[Update]:
        """Explain windows by a method that gets better with time, and yield what is found as it does.

        Windows take turns, and none depends on the others; the last update of each has a ``reason``. Who has seen
        enough stops asking. A method that has one estimate only gives that, and is then exhausted.

        Args:
            x: (batch, *input shape).
            method: as for ``explain``.
            target: as for ``explain``.
            stop: when a window is good enough, or has cost enough; None leaves it to the method's own parameters.
            parameters: the method's own, by name.
            **named: the same, as keywords.

        Raises:
            TonescopeError: as ``explain``, before the first update.
        """
        windows, prepared = checked(self.model, x), self.prepare(method, target, _merged(parameters, named))
        return in_turns(prepared, windows, stop or Stop())

    def export(
        self,
        path: str | Path,
        method: str = "input_x_gradient",
        target: TargetLike = None,
        *,
        inputs: Collection[str] | None = None,
        plain: bool = False,
        parameters: Mapping[str, Any] | None = None,
        **named: Any,
    ) -> Exported:
        """Write an explanation as one ONNX graph that needs nothing of this project; a file that is there is replaced.

        Its outputs are the model's own, the target's score, and what an ``Attribution`` has: cells, tones, maps.
        ``docs/export.md`` has the details.

        Args:
            path: the file.
            method: as for ``explain``.
            target: as for ``explain``, but one for all windows. A predicted class is found in the graph.
            inputs: what the method is fed that is left to whoever runs the graph, by name: ``noise``, ``baseline``.
                None means what it would draw at random; () means nothing. The rest is constant.
            plain: emit operators in their plainest forms, in place of those that ONNX Runtime's kernels are fastest at.
            parameters: the method's own, by name.
            **named: the same, as keywords.

        Raises:
            TonescopeError: as ``explain``.
            MethodNotApplicableError: the method is no graph, or does what a graph cannot say.
            ConfigurationError: the file cannot be written.
        """
        prepared = self.prepare(method, target, _merged(parameters, named))
        made = exported(self, prepared, inputs=inputs, plain=plain)
        write(made, path)
        return made

    @overload
    def gradient(
        self, x: npt.ArrayLike, target: TargetLike = ..., *, at: str = ..., rule_set: str = ...
    ) -> FloatArray: ...
    @overload
    def gradient(
        self, x: npt.ArrayLike, target: TargetLike = ..., *, at: list[str] | tuple[str, ...], rule_set: str = ...
    ) -> dict[str, FloatArray]: ...
    def gradient(
        self,
        x: npt.ArrayLike,
        target: TargetLike = None,
        *,
        at: str | list[str] | tuple[str, ...] = "input",
        rule_set: str = "standard",
    ) -> FloatArray | dict[str, FloatArray]:
        """Return the gradient of the target by the input, by an internal value, or by several in one backward pass.

        Args:
            x: (batch, *input shape).
            target: as for ``explain``.
            at: ``"input"``; or a layer, by the name of its value in the graph, of its node, or by the path of its
                module where the exporter recorded one: the first of its outputs. Or a list of such names.
            rule_set: backward rules by name.

        Returns:
            The shape of the value, in which most have the batch in front; by the names in ``at`` where it is a list.

        Raises:
            UnknownTensorError: no such value; the message lists some.
        """
        windows, resolved = checked(self.model, x), self.resolve(target)
        values = {name: self._value(name) for name in (at if isinstance(at, list | tuple) else [at])}
        names = tuple(dict.fromkeys(values.values()))
        if not names:
            raise UnknownTensorError("at: expected at least one name, got an empty list")

        def describe(tape: Tape) -> None:
            for number, found in enumerate(tape.evaluate_at(names, rule_set)):
                tape.result(f"gradient:{number}", found.gradient)

        plan = self.compiled(("gradients", names, rule_set), resolved, describe, keep=names)
        feeds = {self.model.input.name: windows, **resolved.feeds(slice(None), len(windows))}
        results = plan.session.run(feeds)
        found = {name: results[f"gradient:{names.index(value)}"] for name, value in values.items()}
        return found[at] if isinstance(at, str) else found

    @overload
    def jacobian(
        self, x: npt.ArrayLike, targets: Sequence[TargetLike] | None = ..., *, at: str = ..., rule_set: str = ...
    ) -> FloatArray: ...
    @overload
    def jacobian(
        self,
        x: npt.ArrayLike,
        targets: Sequence[TargetLike] | None = ...,
        *,
        at: list[str] | tuple[str, ...],
        rule_set: str = ...,
    ) -> dict[str, FloatArray]: ...
    def jacobian(
        self,
        x: npt.ArrayLike,
        targets: Sequence[TargetLike] | None = None,
        *,
        at: str | list[str] | tuple[str, ...] = "input",
        rule_set: str = "standard",
    ) -> FloatArray | dict[str, FloatArray]:
        """Return the gradients of several targets: the forward pass is shared, and memory at work stays bounded.

        Args:
            x: (batch, *input shape).
            targets: each as for ``explain``; None means every element of the model's first output.
            at: as for ``gradient``; or several of them.
            rule_set: backward rules by name.

        Returns:
            (targets, batch, *shape of the value); by the names in ``at`` where it is not one name.

        Raises:
            TargetError: no target, or one that the model does not have.
            UnknownTensorError: no such value; the message lists some.
        """
        windows, several = checked(self.model, x), [at] if isinstance(at, str) else list(at)
        if not several:
            raise UnknownTensorError("at: expected at least one name, got an empty list")
        found = jacobian(self, windows, targets, [self._value(name) for name in several], rule_set)
        return found[0] if isinstance(at, str) else dict(zip(several, found, strict=True))

    def activation(self, x: npt.ArrayLike, at: str) -> FloatArray:
        """Return an internal value: (batch, *shape of the value)."""
        windows, name = checked(self.model, x), self._value(at)

        def describe(tape: Tape) -> None:
            tape.result("activation", tape.activations([name])[0])

        plan = self.compiled(("activation", name), self.resolve(None), describe, keep=(name,))
        return plan.session.run({self.model.input.name: windows})["activation"]

    def score(self, x: npt.ArrayLike, target: TargetLike = None, *, check: Check = never) -> FloatArray:
        """Return the target's value: (batch,)."""
        windows = checked(self.model, x)
        resolved = self.resolve(target)
        plan, found = self.scoring(resolved), []
        for rows in self._rows(len(windows)):
            check()
            feeds = {self.model.input.name: windows[rows], **resolved.feeds(rows, len(windows))}
            found.append(plan.session.run(feeds)["score"])
        return np.concatenate(found)

    def visualise(
        self,
        target: TargetLike = None,
        *,
        layer: str | None = None,
        channel: int | None = None,
        unit: tuple[int, ...] | None = None,
        channel_axis: int = 1,
        reference: npt.ArrayLike | None = None,
        **climb: Any,
    ) -> Visualisation:
        """Return the windows that a class, a channel or a unit answers most to.

        Args:
            target: a class, or whatever else has no need of a prediction; or else a layer.
            layer: as ``at`` of ``gradient``: its mean is maximised, or that of one channel, or one unit.
            channel: which channel.
            unit: a position in the layer, without the batch.
            channel_axis: the layer's axis of channels, the batch's being 0.
            reference: windows whose mean and covariance over subcarriers are taken, ``(n, *input shape)``; None takes
                the manifest's background where it has one. For windows of tones only.
            **climb: see ``engine.visualisation.Climb``.

        Raises:
            TargetError: neither a target nor a layer, or both; or the predicted class.
            UnknownTensorError: no such layer, channel or unit.
            MethodNotApplicableError: the input is flat, or the layer has no fixed shape.
            ParameterError: a parameter that there is not, or out of its range.
        """
        if (target is None) == (layer is None):
            raise TargetError("visualise: expected a target or a layer, got neither" if layer is None else BOTH)
        unknown = set(climb) - set(Climb.__dataclass_fields__)
        if unknown:
            raise ParameterError(f"visualise has no parameter '{min(unknown)}'")
        windows = self.model.background if reference is None else checked(self.model, reference)
        if is_image(self.model.cells) and reference is None:
            windows = None
        if layer is None:
            resolved = self.resolve(target)
            said = class_in_words(target, resolved.target, self.model)
            return visualise(self, resolved, said, windows, Climb(**climb))
        model = with_output(self.model, self._value(layer))
        inner = self if model is self.model else Explainer(model, self.host, threads=self._threads, cache=self._cache)
        chosen, said = layer_target(model, self._value(layer), channel, unit, channel_axis)
        return visualise(inner, inner.resolve(chosen), said, windows, Climb(**climb))

    # -- what is compiled ---------------------------------------------------------------------------------------

    def resolve(self, target: TargetLike) -> Resolved:
        """Resolve a target against this model, or say what is wrong with it."""
        return resolve(as_target(target, self.model), self.model)

    def prepare(self, method: str, target: TargetLike = None, parameters: Mapping[str, Any] | None = None) -> Prepared:
        """Check a request and compile what it needs, without running it on anything yet."""
        chosen = self.host.method(method)
        try:
            with in_plugin(method):
                checked_parameters = chosen.Parameters.model_validate(dict(parameters or {}))
        except ValidationError as error:
            raise ParameterError(_first_line(method, error)) from error
        except (Exception, SystemExit) as error:
            raise self.host.blame(chosen, error) from error
        return Prepared(self, chosen, self.resolve(target), checked_parameters)

    def compiled(
        self,
        key: tuple[Any, ...],
        resolved: Resolved,
        describe: Callable[[Tape], object],
        *,
        keep: Sequence[str] = (),
    ) -> Plan:
        """Return the plan that ``describe`` describes, compiled once for its key and the target's seed.

        Internal values that it differentiates by must be named in ``keep``.

        Raises:
            UnsupportedOperatorError: an operator has no rule; the message names the methods that still work.
        """

        def make() -> Plan:
            return self._compile(resolved, describe, keep)

        # The same weights under another manifest may have another order of cells, which shapes the fold.
        return self._cache.get((self.model.digest, self.model.cells.key, self._threads, key, resolved.seed), make)

    def described(
        self,
        resolved: Resolved,
        describe: Callable[[Tape], object],
        *,
        keep: Sequence[str] = (),
        portable: bool = False,
    ) -> ir.Model:
        """Return the graph that ``describe`` describes, not compiled; ``portable`` as for ``Tape``."""
        tape = self._tape(resolved.seed, keep, portable=portable)
        describe(tape)
        return tape.finish()

    def scoring(self, resolved: Resolved) -> Plan:
        """Return the plan that computes the target without differentiating it."""
        return self.compiled(("score",), resolved, Tape.score)

    def differentiated(self, resolved: Resolved) -> Plan:
        """Return the plan that computes the target and its gradient by the input."""
        return self.compiled(("gradient",), resolved, lambda tape: tape.result("gradient", tape.evaluate().gradient))

    # -- what is known ------------------------------------------------------------------------------------------

    def applicability(self) -> dict[str, str]:
        """Return for each method "" where it can explain the model's first output, else why it cannot."""
        if self.why_it_cannot_run:
            return dict.fromkeys(sorted(self.host.methods), self.why_it_cannot_run)
        return self._reasons(self.resolve(None).seed)

    def _reasons(self, seed: Seed) -> dict[str, str]:
        """Return for each method why it cannot explain what a seed differentiates; "" where it can."""
        if seed not in self._known_reasons:
            methods = sorted(self.host.methods.items())
            self._known_reasons[seed] = {name: self._why_not(method, seed) for name, method in methods}
        return dict(self._known_reasons[seed])

    def _why_not(self, method: Method, seed: Seed) -> str:
        def tape() -> Tape:
            keep = self.tapped(method, method.Parameters()) if isinstance(method, GraphMethod) else ()
            return self._tape(seed, keep)

        return self.host.conduct.quarantined.get(method.name) or why_not(method, tape)

    @cached_property
    def why_it_cannot_run(self) -> str:
        """Why the model itself cannot be run, and so nothing be said of it; "" where it can."""
        try:
            _ = self._forward
        except ModelError as error:
            return str(error)
        return ""

    def layers(self) -> tuple[TensorSpec, ...]:
        """Return the internal values that a gradient can be taken by: those that are computed from the input.

        Not all have the batch in front: a recurrent layer's results have steps and directions before it.
        """
        return tuple(TensorSpec.of(v) for v in values_to_tap(self.model.graph.graph))

    def tapped(self, method: GraphMethod, parameters: Parameters) -> list[str]:
        """Return the values that a method reads inside the model.

        Raises:
            MethodNotApplicableError: the model has no such layer.
            UnknownTensorError: a name that no layer has.
        """
        if type(method).taps is GraphMethod.taps:
            return []
        spelled_out = values_by_name(self._graph.graph)
        asked = method.taps(self._to_tap, parameters)
        return [name if name in spelled_out else self._value(name) for name in asked]

    @cached_property
    def _to_tap(self) -> tuple[Layer, ...]:
        """The layers that methods choose among: those of the operators too that are spelled out by their functions."""
        return layers_to_tap(self._graph.graph)

    def operators(self) -> list[tuple[str, int, bool]]:
        """Return each operator, how often it occurs, and whether the standard rule set can differentiate it."""
        names = [operator_name(n) for n in self.model.graph.graph]
        lacking = self._refused
        counts = sorted(((names.count(n), n) for n in set(names)), key=lambda pair: (-pair[0], pair[1]))
        return [(name, count, name not in lacking) for count, name in counts]

    @cached_property
    def read_prediction(self) -> PredictionReader:
        """What reads the model's predictions from a plan's results."""
        return PredictionReader(self.model)

    @cached_property
    def null_sums(self) -> NullSums | None:
        """What sums attributions on tones that carry no signal; None where the tone table knows of none."""
        return NullSums.of(self.model) if self.model.table.knows_nulls else None

    # -- inside -------------------------------------------------------------------------------------------------

    def _rows(self, count: int) -> Iterator[slice]:
        """Cut windows into batches: one, or each window alone where the model would not answer each for itself."""
        return chunks(count, 1 if self.model.wants_windows_alone else count)

    @cached_property
    def _forward(self) -> Plan:
        return self.compiled(("predict",), self.resolve(None), Tape.predict)

    @cached_property
    def _graph(self) -> ir.Model:
        """The model's graph, with operators that have no rule spelled out by their functions."""
        return differentiable(infer_shapes(self.model.graph.clone(deep_copy=False)), self.host.rule_set("standard"))

    @cached_property
    def is_quantised(self) -> bool:
        """Whether the model quantises what it computes with, in inner graphs too, so that gradients are estimates."""
        return any(rounds(n) for n in self._graph.graph.all_nodes())

    @cached_property
    def _refused(self) -> set[str]:
        """The operators on the way to the first output of which the standard rule set refuses at least one."""
        first = str(self._graph.graph.outputs[0].name)
        return refused_operators(self._graph, self.model.input.name, first, self.host.rule_set("standard"))

    def _value(self, at: str) -> str:
        """Return the name of a value; asked of the model's own graph, for a plan's has lifted layers in it.

        Raises:
            UnknownTensorError: no value of floating point goes by that name.
        """
        if not isinstance(at, str):
            raise UnknownTensorError(f"at: expected a name, got {at!r}")
        if not at:
            raise UnknownTensorError("at: expected 'input', or the name of a value, a node or a module; got ''")
        if at == "input":
            return self.model.input.name
        values = values_by_name(self.model.graph.graph)
        name = at if at in values else made_by(self.model.graph.graph, at)
        if not is_float(named(values, name)):
            raise UnknownTensorError(f"value '{at}': expected floating point, got {values[name].dtype}")
        return name

    def _compile(self, resolved: Resolved, describe: Callable[[Tape], object], keep: Sequence[str]) -> Plan:
        tape = self._tape(resolved.seed, keep)
        try:
            describe(tape)
        except UnsupportedOperatorError as error:
            if self.why_it_cannot_run:
                raise ModelError(self.why_it_cannot_run) from error
            raise _still_work(error, self._reasons(resolved.seed)) from error
        graph = tape.finish()
        session = Session(graph, threads=self._threads)
        return Plan(graph, session, tape.rule_set_used, dict(tape.settled), tuple(tape.warnings))

    def _tape(self, seed: Seed, keep: Sequence[str] = (), *, portable: bool = False) -> Tape:
        cells = self.model.cells
        return Tape(
            self._graph,
            self.model.input.name,
            seed,
            self.host.rule_set,
            cells.tone_of_cell,
            cells.n_tones,
            frame_of_cell=cells.frame_of_cell,
            keep=keep,
            portable=portable,
            is_coupled=self.model.is_coupled,
        )


def _from_store(store: ModelStore, asked: str) -> Model:
    """Return the model of a name; where it can be no name, say that it is no file either."""
    name, _, version = asked.partition("/")
    # What is plainly a path is not looked up, so that nothing is said of names.
    if not name or Path(asked).suffix in (*SUFFIXES, Path(MANIFEST).suffix):
        raise UnknownModelError(f"model '{asked}': no such file or folder")
    try:
        return store.get(name, version)
    except StorePathError as error:
        raise StorePathError(f"model '{asked}': no such file or folder, and as a name in the store: {error}") from error


@lru_cache(maxsize=1)
def installed_plugins() -> PluginHost:
    """Return the plugins of this environment, loaded once."""
    return PluginHost.load()


def _still_work(error: UnsupportedOperatorError, reasons: Mapping[str, str]) -> UnsupportedOperatorError:
    """Add, to an operator that cannot be differentiated, the methods that explain the same target without that."""
    names = sorted(name for name, why in reasons.items() if not why)
    return type(error)(f"{error}; these methods still work: {', '.join(names) or 'none'}")


def _merged(given: Mapping[str, Any] | None, named: Mapping[str, Any]) -> dict[str, Any]:
    """Put the parameters that were given as a mapping and as keywords together."""
    for name in given or ():
        if name in named:
            raise ParameterError(f"parameter '{name}': expected once, got it in parameters and as a keyword")
    return {**(given or {}), **named}


def _first_line(method: str, error: ValidationError) -> str:
    """Say in one line which parameter is wrong, what was expected and what was got."""
    first = error.errors(include_url=False)[0]
    name = ".".join(str(part) for part in first["loc"][:1]) or "parameters"
    if first["type"] == "extra_forbidden":
        return f"method '{method}' has no parameter '{name}'"
    got = repr(first.get("input"))
    return f"method '{method}', parameter '{name}': {first['msg']}, got {got if len(got) < 80 else got[:77] + '...'}"
