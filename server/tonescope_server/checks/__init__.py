"""Checks of data, attributions and weights against what a manifest declares. Each says what to change.

A check is a plain function: arrays and declarations in, findings out. Live streams, recordings and reports all call
the same ones; who calls them when, and how a finding travels, does not belong here.
"""

from tonescope_server.checks.finding import Finding as Finding
from tonescope_server.checks.finding import Severity as Severity
from tonescope_server.checks.series import Declared as Declared
from tonescope_server.checks.series import Series as Series
from tonescope_server.checks.series import series_of as series_of
