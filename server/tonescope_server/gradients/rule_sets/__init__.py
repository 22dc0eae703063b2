"""Rule sets, one a file: ``standard`` is the gradient; the others override it."""
