"""Ask a tonescope daemon which subcarriers made a WiFi-sensing model say what it said.

    import tonescope

    with tonescope.connect("localhost:50551") as client:
        for explanation in client.live(model="count", frames=frames):
            print(explanation.prediction.class_name, explanation.top[0])

Only the client lives here, and it needs gRPC and NumPy alone. The daemon is ``tonescope_server``.
"""

from __future__ import annotations

from tonescope import aio, errors
from tonescope.client import Client, connect
from tonescope.connection import ConnectionEvent, Disconnected, Reconnected
from tonescope.errors import TonescopeError
from tonescope.live import LiveStream
from tonescope.progressive import Stop, Update
from tonescope.request import Frame, Target, Window
from tonescope.results import Explanation, Explanations, Tone, ToneTable
from tonescope.resume import LiveCounts, Retry

__all__ = [
    "Client",
    "ConnectionEvent",
    "Disconnected",
    "Explanation",
    "Explanations",
    "Frame",
    "LiveCounts",
    "LiveStream",
    "Reconnected",
    "Retry",
    "Stop",
    "Target",
    "Tone",
    "ToneTable",
    "TonescopeError",
    "Update",
    "Window",
    "aio",
    "connect",
    "errors",
]
