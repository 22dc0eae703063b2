"""Choosing tones: a ranking with its uncertainty, how stable it is, and what a model can do with the first K alone.

``choice`` puts the parts together; each part is pure and knows no files.
"""
