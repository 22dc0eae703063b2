"""What a daemon refuses: whole requests with their reason, and single windows."""

from __future__ import annotations

from typing import Any

import numpy as np

from tonescope.v1 import attribution_pb2, csi_pb2, tensor_pb2

from .messages import BATCH, options, window


def _asked(**fields: Any) -> attribution_pb2.ExplainOptions:
    asked = options(fields.pop("model", "tiny"), fields.pop("method", ""), **fields.pop("parameters", {}))
    if "version" in fields:
        asked.model.version = fields["version"]
    if "target" in fields:
        asked.target.CopyFrom(fields["target"])
    return asked


def _integrated(**parameters: Any) -> attribution_pb2.ExplainOptions:
    return _asked(method="integrated_gradients", parameters=parameters)


Target = attribution_pb2.Target
REFUSED = [
    (_asked(model="nobody"), "NOT_FOUND", "UNKNOWN_MODEL", "tiny"),
    (_asked(version="9"), "NOT_FOUND", "UNKNOWN_MODEL", "9"),
    (_asked(model="../tiny"), "INVALID_ARGUMENT", "PATH_LEAVES_STORE", "../tiny"),
    (_asked(model=""), "INVALID_ARGUMENT", "INVALID_PARAMETER", "model name"),
    (_asked(model="/etc/passwd"), "INVALID_ARGUMENT", "PATH_LEAVES_STORE", "/etc/passwd"),
    (_asked(version=".."), "INVALID_ARGUMENT", "PATH_LEAVES_STORE", ".."),
    (_asked(model="broken"), "FAILED_PRECONDITION", "NOT_ONNX", "model.onnx"),
    (_asked(model="ruleless"), "UNIMPLEMENTED", "UNSUPPORTED_OPERATOR", "occlusion"),
    (_asked(method="magic"), "NOT_FOUND", "UNKNOWN_METHOD", "saliency"),
    (_integrated(steps=3), "INVALID_ARGUMENT", "INVALID_PARAMETER", "steps"),
    (_integrated(n_steps=0), "INVALID_ARGUMENT", "INVALID_PARAMETER", "n_steps"),
    (_integrated(n_steps="x"), "INVALID_ARGUMENT", "INVALID_PARAMETER", "n_steps"),
    (_integrated(baseline=np.nan), "INVALID_ARGUMENT", "INVALID_PARAMETER", "'baseline': expected finite numbers"),
    (_integrated(baseline=-np.inf), "INVALID_ARGUMENT", "INVALID_PARAMETER", "'baseline': expected finite numbers"),
    (_integrated(baseline=[[np.nan] * 4] * 56), "INVALID_ARGUMENT", "INVALID_PARAMETER", "finite numbers"),
    (_integrated(n_steps={"of": [1, None, {}]}), "INVALID_ARGUMENT", "INVALID_PARAMETER", "n_steps"),
    (_integrated(n_steps=None), "INVALID_ARGUMENT", "INVALID_PARAMETER", "n_steps"),
    (_integrated(baseline=True), "INVALID_ARGUMENT", "INVALID_PARAMETER", "expected a name, a number or an array"),
    (_integrated(baseline=[0.5] * 300_000), "INVALID_ARGUMENT", "INVALID_PARAMETER", "at most 262144 values"),
    (_integrated(baseline=[0.5] * 500_000), "INVALID_ARGUMENT", "INVALID_PARAMETER", "at most 4194304 bytes"),
    (_integrated(n_steps=1e308), "INVALID_ARGUMENT", "INVALID_PARAMETER", "n_steps"),
    (_asked(target=Target(index=3)), "INVALID_ARGUMENT", "INVALID_TARGET", "0 to 2"),
    (_asked(target=Target(index=-1)), "INVALID_ARGUMENT", "INVALID_TARGET", "-1"),
    (_asked(target=Target(class_name="three")), "INVALID_ARGUMENT", "INVALID_TARGET", "empty, one, two"),
    (_asked(target=Target(output="nope")), "INVALID_ARGUMENT", "INVALID_TARGET", "logits"),
    (_asked(target=Target(position=Target.Position(indices=[0, 0]))), "INVALID_ARGUMENT", "INVALID_TARGET", ""),
    (_asked(target=Target(difference=Target.Difference())), "INVALID_ARGUMENT", "INVALID_TARGET", "plus"),
]


def bad_windows() -> list[tuple[csi_pb2.Window, str]]:
    nan, inf = BATCH[0].copy(), BATCH[0].copy()
    nan[3, 2], inf[0, 0] = np.nan, -np.inf
    short, mute = window(BATCH[0]), window(BATCH[0])
    short.values.data = short.values.data[:-1]
    mute.values.dtype = tensor_pb2.DATA_TYPE_UNSPECIFIED
    return [
        (window(nan), "NON_FINITE"),
        (window(inf), "NON_FINITE"),
        (window(BATCH[0].T), "WRONG_SHAPE"),
        (window(np.zeros((1, 114))), "WRONG_SHAPE"),
        (short, "WRONG_BYTE_LENGTH"),
        (mute, "WRONG_DTYPE"),
        (csi_pb2.Window(), "WRONG_DTYPE"),
    ]
