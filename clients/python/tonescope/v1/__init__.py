"""The wire contract, generated from ``proto/`` by ``make generate`` and never edited."""
