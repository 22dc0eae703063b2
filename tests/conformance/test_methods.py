"""Every method that is registered keeps the rules that hold for every method: a new one is tested by being there."""

from __future__ import annotations

import pytest

from tonescope_server.engine.explainer import installed_plugins
from tonescope_server.testing import check_method

# Samples enough for the rules: what more of them come to is for each method's own tests.
CHEAPER = {
    "kernel_shap": {"budget": 256},
    "permutation_shapley": {"budget": 256},
    "lime": {"budget": 128},
    "rise": {"n": 128},
}


def test_every_plugin_of_this_environment_loads():
    assert installed_plugins().failures == []


def test_the_projects_own_methods_are_registered():
    own = {"saliency", "input_x_gradient", "subcarrier_saliency", "integrated_gradients", "occlusion"}
    assert own <= set(installed_plugins().methods)


@pytest.mark.parametrize("name", sorted(installed_plugins().methods))
def test_a_registered_method_keeps_the_rules(name):
    check_method(installed_plugins().methods[name], CHEAPER.get(name))
