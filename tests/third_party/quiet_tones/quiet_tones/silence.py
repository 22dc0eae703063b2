"""Silence: what the target loses when a tone stands still at its own mean over the window."""

import numpy as np

from tonescope_server import plugin


class Silence(plugin.ProceduralMethod):
    name = "silence"
    summary = "What the target loses when a tone stands still at its mean."

    def attribute(self, model, windows, parameters):
        x, everyone = windows.x, np.arange(len(windows.x))
        intact, flat = model.score(x, everyone), x.reshape(len(x), -1)
        tones = np.empty((len(x), windows.n_tones), np.float32)
        for tone in range(windows.n_tones):
            of_tone = windows.tone_of_cell == tone
            still = np.where(of_tone, flat[:, of_tone].mean(axis=1, keepdims=True), flat)
            tones[:, tone] = intact - model.score(still.reshape(x.shape), everyone)
        return plugin.Estimate(cells=None, tones=tones)

    def evaluations(self, windows, parameters):
        return windows.n_tones + 1


@plugin.hookimpl
def tonescope_methods():
    return [Silence()]
