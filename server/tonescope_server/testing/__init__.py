"""For authors of plugins: very small models, and a check that an attribution method keeps the rules.

    from tonescope_server.testing import check_method

    def test_my_method_keeps_the_rules():
        check_method(MyMethod())

Public: what is here stays. Nothing of the daemon imports it. It needs the extra ``testing``. What a method computes is
for its own tests to say; here is what holds for every method.
"""

from tonescope_server.testing.conformance import ConformanceError, check_method
from tonescope_server.testing.models import tiny_models, tiny_windows

__all__ = ["ConformanceError", "check_method", "tiny_models", "tiny_windows"]
