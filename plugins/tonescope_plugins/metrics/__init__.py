"""Metrics that judge explanations: one file a family, each a diagnostic plugin of its own."""
