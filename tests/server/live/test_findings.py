"""What of a stream's findings is said, and when."""

from __future__ import annotations

from tonescope_server.checks import Finding, Severity
from tonescope_server.live.findings import AGAIN_S, MOST, Findings


def finding(code: str = "A", node: int | None = 1, severity: Severity = Severity.FAULT) -> Finding:
    return Finding(code, severity, "something", node_id=node)


def test_what_lasts_is_said_once_and_counted_once() -> None:
    findings = Findings()
    assert findings.take([finding()], 0.0) == [finding()]
    assert [findings.take([finding()], t) for t in (1.0, 2.0, 500.0)] == [[], [], []]
    assert findings.counts == {"A": 1}


def test_each_node_and_each_code_is_said() -> None:
    findings = Findings()
    found = [finding("A", 1), finding("A", 2), finding("B", 1), finding("B", None)]
    assert findings.take(found, 0.0) == found
    assert findings.counts == {"A": 2, "B": 2}


def test_what_comes_back_is_counted_at_once_and_said_after_a_minute() -> None:
    findings = Findings()
    findings.take([finding()], 0.0)
    findings.take([], 1.0)
    assert findings.take([finding()], 2.0) == []
    findings.take([], 3.0)
    assert findings.take([finding()], AGAIN_S) == [finding()]
    assert findings.counts == {"A": 3}


def test_what_flickers_is_said_once_a_minute() -> None:
    findings = Findings()
    said = [t for t in range(600) if findings.take([finding()] if t % 2 == 0 else [], float(t))]
    assert said == list(range(0, 600, 60))


def test_notes_are_not_said_in_a_stream() -> None:
    findings = Findings()
    assert findings.take([finding(severity=Severity.NOTE)], 0.0) == []
    assert not findings.counts


def test_a_sender_that_invents_nodes_does_not_fill_the_memory() -> None:
    findings = Findings()
    said = [findings.take([finding(node=node)], 0.0) for node in range(10 * MOST)]
    assert sum(map(len, said)) == MOST
    assert findings.take([finding(node=0)], AGAIN_S) == [finding(node=0)]


def test_a_fault_that_answers_carry_is_counted_once_while_it_lasts() -> None:
    findings = Findings()
    assert [findings.count("A", 1, float(t)) for t in (0, 1, 50, 100)] == [1, 0, 0, 0]
    assert findings.count("A", 2, 100.0) == 1
    assert findings.count("A", 1, 100.0 + AGAIN_S) == 1
    assert findings.counts == {"A": 3}


def test_what_the_checks_find_and_answers_carry_is_counted_once() -> None:
    findings = Findings()
    findings.count("A", 1, 0.0)
    assert findings.take([finding("A", 1)], 1.0) == [finding("A", 1)]
    findings.take([finding("A", 1), finding("B", 1)], 2.0)
    assert findings.count("B", 1, 3.0) == 0
    assert findings.counts == {"A": 1, "B": 1}


def test_answers_of_invented_nodes_do_not_fill_the_memory() -> None:
    findings = Findings()
    assert sum(findings.count("A", node, 0.0) for node in range(10 * MOST)) == MOST
