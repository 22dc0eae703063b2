"""Compiling requests into plans and running them on ONNX Runtime. Knows no wire format and no stream."""
