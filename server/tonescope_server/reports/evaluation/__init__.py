"""Judging explanations: methods compared on a model and its data, each metric beside what random attributions get."""
