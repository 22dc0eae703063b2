"""How operators hand relevance back that are no layers with weights, one family a file. The table is in ``lrp``."""
