"""``tonescope serve``: start the daemon. Only flags are read here; the daemon is wired in ``app``."""
