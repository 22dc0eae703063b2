"""What every method must keep, and what this one is to compute."""

import numpy as np
from my_method import MyMethod

from tonescope_server import Explainer
from tonescope_server.testing import check_method, tiny_models, tiny_windows


def test_it_keeps_the_rules_that_hold_for_every_method():
    check_method(MyMethod())


def test_it_is_the_gradient_times_the_distance_from_the_reference():
    explainer = Explainer(tiny_models()["conv_1d"])
    x = tiny_windows(explainer.model)
    found = explainer.explain(x, "my_method", target=1, reference=0.5)
    expected = (x - 0.5) * explainer.gradient(x, target=1)
    np.testing.assert_allclose(found.cells, expected, rtol=1e-5, atol=1e-6)  # float32, in another order
