"""onnx-ad, in an interpreter that has it: ``python onnx_ad_peer.py MODEL.onnx RESULT.onnx``."""

from __future__ import annotations

import sys

import onnx
from onnx_ad import reverse

onnx.save(reverse(onnx.load(sys.argv[1]), layout="onnx"), sys.argv[2])
