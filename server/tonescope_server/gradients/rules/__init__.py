"""Backward rules, one operator family a file; each file ends in its table ``RULES``.

A rule is ``rule(ctx, node, cotangents)`` and returns one cotangent, or None, per node input. To add an operator, write
the function, add the row to the table, and a case to the family's test.
"""
