"""Pictures of answers, for files and notebooks: one file a picture, and what they share. Drawn without a display.

Nothing here computes an attribution, and nothing is imported from here until something is drawn: matplotlib takes its
time and its memory. What suits an answer is in ``answer`` and ``drawing``.
"""
