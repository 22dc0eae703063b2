"""Each fault injected on purpose, over a hundred seeds: the right finding, and no other."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from tests.faults import CLEAN, FAULTS, VARIANTS, declared_by
from tonescope_server.demo import store_path
from tonescope_server.models.manifest import Manifest

SEEDS = range(100)
LEAST_RIGHT = 0.95
MOST_FALSE_ALARMS = 0.01
OTHER_WAYS = {name: (code, make) for code, ways in VARIANTS.items() for name, make in ways.items()}


@pytest.fixture(scope="module")
def declared():
    stated = Manifest.load(store_path() / "people_count" / "1" / "model.toml").normalisation
    return declared_by(np.array(stated.mean), np.array(stated.std))


@pytest.fixture(scope="module")
def confusion(declared):
    """Count, for each kind of stream, which codes were found together."""
    kinds = {**CLEAN, **FAULTS, **{name: make for name, (_, make) in OTHER_WAYS.items()}}
    return {
        name: Counter(frozenset(f.code for f in make(seed, declared).findings()) for seed in SEEDS)
        for name, make in kinds.items()
    }


@pytest.fixture(scope="module", autouse=True)
def table(confusion):
    """Print the table; run with -s to see it."""
    print()
    for name, counts in confusion.items():
        found = ", ".join(f"{n} x {' + '.join(sorted(codes)) or 'nothing'}" for codes, n in counts.most_common())
        print(f"{name:24s} {found}")


@pytest.mark.parametrize("code", FAULTS)
def test_a_fault_is_found_as_itself_and_as_nothing_else(confusion, code):
    right = confusion[code][frozenset({code})]
    assert right >= LEAST_RIGHT * len(SEEDS), confusion[code]


@pytest.mark.parametrize("way", OTHER_WAYS)
def test_a_fault_that_comes_another_way_is_found_as_itself_too(confusion, way):
    code, _ = OTHER_WAYS[way]
    right = confusion[way][frozenset({code})]
    assert right >= LEAST_RIGHT * len(SEEDS), confusion[way]


@pytest.mark.parametrize("kind", CLEAN)
def test_a_clean_stream_raises_no_alarm(confusion, kind):
    alarms = len(SEEDS) - confusion[kind][frozenset()]
    assert alarms <= MOST_FALSE_ALARMS * len(SEEDS), confusion[kind]
