"""The windows that an exported graph is made with: not known yet, as are the inputs that are left open."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from tonescope_server.engine.prepared import Prepared
from tonescope_server.errors import ParameterError
from tonescope_server.gradients.arrays import TracedArray, Tracer
from tonescope_server.plugin.api import Windows

Known = npt.NDArray[Any]


@dataclass(frozen=True)
class OpenWindows(Windows):
    """Windows that are not known yet."""

    opened: Callable[[str, Known, int, bool], Any] = field(kw_only=True)

    def input(self, name: str, values: Known, start: int = 0, *, drawn: bool = False) -> Any:
        """Leave values open, where that is asked for."""
        return self.opened(name, values, start, drawn)


class Inputs:
    """The inputs of a graph in the making.

    Attributes:
        said: what each is, by name, in one line.
    """

    def __init__(self, tracer: Tracer, x: ir.Value, asked: Collection[str] | None) -> None:
        """Start with the windows.

        Args:
            tracer: writes the graph.
            x: the graph's first input: windows.
            asked: what is left open, by name; None means what is drawn at random.
        """
        shape = tuple(d if isinstance(d, int) else tracer.batch for d in x.shape or ())
        self._shape = (tracer.batch, *shape[1:])
        self._dtype = np.dtype(x.dtype.numpy()) if x.dtype is not None else np.dtype(np.float32)
        self._tracer, self._x, self._asked = tracer, x, asked
        self._parts: dict[str, dict[int, tuple[tuple[int, ...], ir.Value]]] = {}
        self._whole: dict[str, ir.Value] = {}
        self._could_be: set[str] = set()
        self.said = {str(x.name): f"windows as the model takes them, (batch, {written(shape[1:])})"}

    def windows(self, prepared: Prepared) -> Windows:
        """Return the windows: what is known of them, and what is not."""
        known = prepared.windows(np.zeros((1, *self._shape[1:]), self._dtype))
        same = {each.name: getattr(known, each.name) for each in fields(Windows)}
        same["x"] = self._tracer.array(self._x, self._shape, self._dtype)
        same["rows"] = np.arange(self._tracer.batch, dtype=np.int64)
        if prepared.uses_previous and getattr(prepared.checked, "previous", None) is None:
            value = self._added("previous")
            value.shape = self._x.shape
            self.said[str(value.name)] = "the window before each, of the input's shape; NaN where there is none"
            same["previous"] = self._tracer.array(value, self._shape, self._dtype)
        return OpenWindows(**same, opened=self._opened)

    def close(self, method: str) -> None:
        """Give each input that was left open its shape.

        Raises:
            ParameterError: one was asked for that the method does not have.
        """
        if missing := set(self._asked or ()) - self._could_be:
            known = ", ".join(sorted(self._could_be)) or "none"
            raise ParameterError(f"method '{method}' has no input '{min(missing)}' to leave open; it has {known}")
        for name, parts in self._parts.items():
            shapes = [shape for shape, _ in parts.values()]
            shape = (sum(each[0] for each in shapes), *shapes[0][1:])
            self._whole[name].shape = ir.Shape(shape)
            self.said[str(self._whole[name].name)] = f"({written(shape)}), as the method is fed it"
            if len(parts) == 1:  # all of it is read in one piece
                ((_, piece),) = parts.values()
                piece.replace_all_uses_with(self._whole[name])

    def _opened(self, name: str, values: Known | TracedArray, start: int, drawn: bool) -> Known | TracedArray:
        """Make values an input, where that is asked for; a later run takes what stands further on in it."""
        if isinstance(values, TracedArray):
            return values  # made of the windows
        self._could_be.add(name)
        if name not in self._asked if self._asked is not None else not drawn:
            return values
        parts = self._parts.setdefault(name, {})
        if start not in parts:
            if not parts:
                self._whole[name] = self._added(name)
            context = self._tracer.context
            ends = (context.ints([n]) for n in (start, start + len(values), 0))
            parts[start] = np.shape(values), context.op("Slice", self._whole[name], *ends)
        shape, value = parts[start]
        return self._tracer.array(value, shape, self._dtype)

    def _added(self, name: str) -> ir.Value:
        """Add an input; one that goes by the name of the model's own is told apart."""
        value = ir.Value(name=f"method:{name}" if name == self._x.name else name, type=self._x.type)
        self._tracer.context.graph.inputs.append(value)
        return value


def written(shape: tuple[int, ...]) -> str:
    """Write sizes as a message has them."""
    return ", ".join(map(str, shape))
