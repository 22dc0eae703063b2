"""What a metric is shown, and metrics of plugins: found by their hook, asked for by name."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import numpy as np
import pytest

from tonescope_server import Explainer
from tonescope_server.errors import NotFoundError
from tonescope_server.plugin import Metric, metric
from tonescope_server.plugin.host import PluginHost
from tonescope_server.reports.evaluation.evaluation import Plan, evaluate
from tonescope_server.reports.evaluation.subject import Subject
from tonescope_server.testing import tiny_models, tiny_windows

PAGE = Path(__file__).resolve().parents[3] / "docs" / "evaluation.md"


@pytest.fixture(scope="module")
def host():
    return PluginHost.load()


def test_every_metric_states_what_it_is(host):
    assert len(host.diagnostics) == 17
    for name, each in host.diagnostics.items():
        assert isinstance(each, Metric)
        assert each.name == name
        assert each.summary.endswith(".")
        assert re.search(r"\d{4}$", each.source)
        assert "Source:" in str(type(each).__doc__)
        assert each.higher_is_better is not None
        fields = each.Parameters.model_fields
        assert all(field.description and not field.is_required() for field in fields.values())


def test_the_page_names_every_metric(host):
    shown = re.findall(r"^\| `(\w+)` \| [↑↓] ", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(shown) == sorted(host.diagnostics)


def test_a_metric_that_there_is_not_is_told_with_those_there_are(host):
    assert host.metric("deletion").name == "deletion"
    with pytest.raises(NotFoundError, match="no metric named 'deletions'; there are completeness, complexity, "):
        host.metric("deletions")


def test_scores_without_features_are_the_same_however_many_are_scored_at_once(host, monkeypatch):
    explainer = Explainer(tiny_models()["conv_1d"], host)
    made = []
    for cells in (2**24, 1, 1000):
        monkeypatch.setattr(metric, "CELLS_AT_ONCE", cells)
        judged, _ = Subject(explainer, tiny_windows(explainer.model, 3)).judged("saliency", {})
        removed = np.random.default_rng(0).random((3, 5, judged.n_features)) < 0.5
        made.append(judged.score_without(removed))
    assert made[0].shape == (3, 5)
    # Kernels of ONNX Runtime differ in the last bits with the batch.
    np.testing.assert_allclose(made[1:], [made[0]] * 2, rtol=1e-4, atol=1e-6)


def test_a_baseline_for_each_window_is_that_of_its_own(host):
    explainer = Explainer(tiny_models()["scrambled"], host)
    judged, _ = Subject(explainer, tiny_windows(explainer.model, 2)).judged("saliency", {})
    own = replace(judged, baseline=np.stack([np.full(judged.x.shape[1:], value) for value in (5.0, 7.0)]))
    gone = np.ones((3, judged.n_features), np.bool_)
    made = own.without(gone, np.array([1, 0, 1]))
    assert [np.unique(each).tolist() for each in made] == [[7.0], [5.0], [7.0]]


def test_the_documented_metric_is_found_by_its_entry_point_and_judges(tmp_path, monkeypatch):
    blocks = re.findall(r"^```python runnable\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    (block,) = (each for each in blocks if "TopTone" in each)
    (tmp_path / "top_tone.py").write_text(block)
    monkeypatch.syspath_prepend(str(tmp_path))
    point = EntryPoint("top_tone", "top_tone", "tonescope")
    host = PluginHost.load([*entry_points(group="tonescope"), point])
    sys.modules.pop("top_tone")
    assert host.failures == []
    assert host.origin("diagnostics", "top_tone").plugin == "top_tone"
    explainer = Explainer(tiny_models()["conv_1d"], host)
    x = tiny_windows(explainer.model, 3)
    (found,) = evaluate(explainer, x, Plan(("occlusion",), ("top_tone",))).methods
    # What occlusion of single tones says of its first tone is just that.
    wanted = explainer.explain(x, "occlusion").tones[:, ~explainer.model.table.null_mask].max(axis=1)
    np.testing.assert_allclose(found.judgements["top_tone"].values, wanted, rtol=1e-4, atol=1e-5)
