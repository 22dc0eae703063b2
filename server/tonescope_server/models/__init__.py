"""Models: manifests, weight files, graphs and the store. Running a graph is ``engine``'s business."""

from __future__ import annotations
