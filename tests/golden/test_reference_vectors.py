"""The reference vectors, every entry of them, compared by the rules of the folder that they come in.

Skipped, by name, where that folder is absent. See ``adapter`` for how names are mapped to calls.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
ROOT = Path(os.environ.get("TONESCOPE_SHARED") or HERE.parents[1].parent / "shared") / "golden"
CASES = sorted(p.parent.name for p in ROOT.glob("*/case.json"))
ABSENT = f"needs the golden vectors: {ROOT} is not there"

# All of them must be there, and on none of them may an entry of these methods be skipped.
ALL_CASES = {
    "A_count", "B_pose", "B_pose_adapter", "C_resnet_small", "D_vit_small", "E_bilstm", "H_mlp_ln", "I_residual_mlp",
    "J_dwsep", "L_r5", "M_conduit",
}  # fmt: skip
OFFERED = {
    "forward", "activation", "score", "gradient", "saliency", "input_x_gradient", "integrated_gradients",
    "integrated_gradients_delta", "guided_backprop", "deconvolution", "deeplift", "deeplift_delta", "lrp_epsilon",
    "occlusion_rows", "r5_saliency_analytic", "smoothgrad", "vargrad", "gradcam", "gradcam_pp", "attention_rollout",
    "attention_rollout_cls", "shapley_exact", "kernelshap",
}  # fmt: skip


def module_at(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def attribute() -> Any:
    return module_at("tonescope_golden_adapter", HERE / "adapter.py").attribute


@pytest.fixture(scope="module")
def rules() -> ModuleType:
    """The comparison that the folder itself defines."""
    if not CASES:
        pytest.skip(ABSENT)
    return module_at("tonescope_golden_check", ROOT / "check.py")


def judged(rules: ModuleType, attribute: Any, folder: Path) -> list[tuple[str, str, str, str]]:
    """Return (key, method, outcome, message) of every entry of a case; outcomes are pass, skip, info and fail."""
    case = json.loads((folder / "case.json").read_text())
    arrays = rules.arrays_of(str(folder))
    by_key = {entry["key"]: entry for entry in case["goldens"]}
    rows = []
    for entry in case["goldens"]:
        try:
            model, x, target, parameters = rules.prepare(str(folder), case, arrays, entry)
            got = attribute(model, entry["method"], x, target, parameters)
        except NotImplementedError as error:
            rows.append((entry["key"], entry["method"], "skip", str(error)))
            continue
        except Exception as error:  # noqa: BLE001  one entry that raises must not hide the others
            rows.append((entry["key"], entry["method"], "fail", f"{type(error).__name__}: {error}"))
            continue
        keys = [entry["key"], *entry.get("alternatives", [])]
        results = [rules.compare(got, arrays[key], by_key[key], arrays) for key in keys]
        wrong = "info" if entry.get("informational") else "fail"  # what is informational may differ
        outcome = "pass" if any(result[2] for result in results) else wrong
        rows.append((entry["key"], entry["method"], outcome, results[0][3]))
    return rows


@pytest.mark.parametrize(
    "name",
    CASES or [pytest.param("none", marks=pytest.mark.skip(reason=ABSENT))],
)
def test_every_entry_of_a_case_agrees(name: str, rules: ModuleType, attribute: Any, capsys: Any) -> None:
    rows = judged(rules, attribute, ROOT / name)
    counts = Counter((method, outcome) for _, method, outcome, _ in rows)
    with capsys.disabled():
        for outcome in ("pass", "skip", "info", "fail"):
            found = {m: n for (m, o), n in sorted(counts.items()) if o == outcome}
            if found:
                listed = ", ".join(f"{m} {n}" for m, n in found.items())
                print(f"\n{name}: {outcome} {sum(found.values())}: {listed}", end="")
    assert [(key, message) for key, _, outcome, message in rows if outcome == "fail"] == []
    assert rows
    methods = {wanted: {method for _, method, outcome, _ in rows if outcome == wanted} for wanted in ("pass", "skip")}
    assert methods["skip"] & OFFERED == set()
    assert methods["pass"] == {method for _, method, _, _ in rows} & OFFERED


def test_the_cases_that_must_pass_are_all_there() -> None:
    if not CASES:
        pytest.skip(ABSENT)
    assert set(CASES) == ALL_CASES
    found = (json.loads((ROOT / name / "case.json").read_text())["goldens"] for name in CASES)
    assert {entry["method"] for case in found for entry in case} >= OFFERED


def test_a_wrong_answer_is_seen(rules: ModuleType, attribute: Any) -> None:
    """Two parts in a thousand off, a wrong shape, NaN, an exception: each entry fails."""
    wrongs = (
        lambda *a: attribute(*a) * 1.002,
        lambda *a: attribute(*a)[:1],
        lambda *a: attribute(*a) * float("nan"),
        lambda *a: 1 / 0,
    )

    def only_gradients(wrong: Any) -> Any:
        def answer(model: str, method: str, *rest: Any) -> Any:
            if method != "gradient":
                raise NotImplementedError
            return wrong(model, method, *rest)

        return answer

    for wrong in wrongs:
        rows = judged(rules, only_gradients(wrong), ROOT / "A_count")
        outcomes = {outcome for _, method, outcome, _ in rows if method == "gradient"}
        assert outcomes == {"fail"}
