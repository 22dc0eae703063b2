"""Rewrites of a forward graph before it is differentiated, one family a file.

A prepass changes no result. It may only be applied to a copy of a model, never to the caller's.
"""

from tonescope_server.gradients.prepass._graph import remove_unused as remove_unused
from tonescope_server.gradients.prepass.folding import fold_batch_normalization as fold_batch_normalization
from tonescope_server.gradients.prepass.inlining import inline_functions as inline_functions
from tonescope_server.gradients.prepass.inlining import state_defaults as state_defaults
from tonescope_server.gradients.prepass.lift import lift_1d as lift_1d
from tonescope_server.gradients.prepass.opset import OLDEST_OPSET as OLDEST_OPSET
from tonescope_server.gradients.prepass.opset import check_opset as check_opset
from tonescope_server.gradients.prepass.shapes import infer_shapes as infer_shapes
