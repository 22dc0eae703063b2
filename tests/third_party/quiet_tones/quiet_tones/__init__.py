"""Two attribution methods for tonescope: one is a graph, one asks for predictions."""
