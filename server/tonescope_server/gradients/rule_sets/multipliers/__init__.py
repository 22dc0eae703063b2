"""Multipliers Δy/Δx of operators between a window and a reference, one family a file.

Each splits the change of a result over its operands exactly: what DeepLIFT's completeness is made of. Which operator
has which is in ``deep_lift``.
"""
