"""Daemons that are killed, late, held up or changed while a gateway forwards to them."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest

from ..client.daemons import Daemon, free_port
from ..client.frames import expected_windows
from .gateways import answered, packets


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_after_the_daemon_is_gone_and_back_no_window_is_lost_or_repeated(
    start, mortal: Daemon, how: signal.Signals
) -> None:
    # A queue that holds all: what waited meanwhile comes at once, and a short one would drop some, and say so.
    gateway = start(mortal.address, "--model", "tiny", "--print-explanations")
    sent = packets(120)
    gateway.send(*sent[:40])
    gateway.wait(lambda: len(answered(gateway)) == 19)
    mortal.stop(how)
    gateway.wait(lambda: gateway.connections() == [False])
    gateway.send(*sent[40:80])
    gateway.wait_for_status(lambda status: status["frames"] == 80 and not status["connected"])
    mortal.start()
    gateway.wait(lambda: gateway.connections() == [False, True])
    gateway.send(*sent[80:])
    gateway.wait(lambda: len(answered(gateway)) == 59)
    summary = gateway.stop()
    assert answered(gateway) == expected_windows(120)
    assert gateway.connections() == [False, True]
    assert summary["forwarded"]["reconnects"] == 1
    assert summary["forwarded"]["sent"] == 120
    assert not any(summary["dropped"].values())
    assert gateway.errors.count("connection lost") == gateway.errors.count("again, after") == 1


@pytest.mark.parametrize("named", [True, False], ids=["model named", "its only model"])
def test_frames_wait_for_a_daemon_that_starts_later_the_newest_of_them(
    start, tiny_store: Path, tmp_path: Path, named: bool
) -> None:
    shutil.copytree(tiny_store / "tiny", tmp_path / "tiny")
    port = free_port()
    flags = ("--model", "tiny") if named else ()
    gateway = start(f"127.0.0.1:{port}", "--print-explanations", "--buffer", 40, *flags)
    for first in range(0, 100, 20):  # so that none is pushed out before it is looked at
        gateway.send(*packets(first + 20, start=first))
        gateway.wait_for_status(lambda status, n=first + 20: status["frames"] == n)
    gateway.wait(gateway.connections)
    late = Daemon(tmp_path, port)
    try:
        gateway.wait(lambda: len(answered(gateway)) == 19)
        summary = gateway.stop()
    finally:
        late.stop()
    assert answered(gateway) == [(60 + first, 60 + last) for first, last in expected_windows(40)]
    assert gateway.connections() == [False, True]
    assert summary["dropped"] == {"kernel": 0, "unread": 0, "buffer": 60}
    assert summary["forwarded"]["sent"] == 40


def test_a_daemon_that_stands_still_holds_up_neither_the_socket_nor_the_memory(start, mortal: Daemon) -> None:
    gateway = start(mortal.address, "--model", "tiny", "--print-explanations", "--buffer", 64)
    gateway.send(*packets(8))
    gateway.wait(lambda: len(answered(gateway)) == 3)
    mortal.process.send_signal(signal.SIGSTOP)
    n = 20_000
    sent = packets(n)
    gateway.send(*sent[8:], pause_s=0.0001)
    told = gateway.wait_for_status(
        lambda status: status["packets"] + status["dropped"]["unread"] + status["dropped"]["kernel"] >= n
    )
    assert told["frames"] > n // 2
    lost = told["dropped"]["buffer"] + told["forwarded"]["forgotten"]
    assert lost >= told["frames"] - 64 - told["forwarded"]["sent"]
    mortal.process.send_signal(signal.SIGCONT)
    gateway.wait(lambda: answered(gateway)[-1][1] >= n - 2)
    summary = gateway.stop()
    assert summary["forwarded"]["sent"] + summary["dropped"]["buffer"] == summary["frames"]


def test_a_daemon_that_comes_back_without_the_model_is_asked_again_until_it_has_it(
    start, tiny_store: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    shutil.copytree(tiny_store, store)
    daemon = Daemon(store)
    try:
        gateway = start(daemon.address, "--model", "tiny", "--print-explanations")
        gateway.send(*packets(8))
        gateway.wait(lambda: len(answered(gateway)) == 3)
        daemon.stop(signal.SIGKILL)
        (store / "tiny").rename(tmp_path / "aside")
        gateway.wait(lambda: gateway.connections() == [False])
        gateway.send(*packets(2000, start=8), pause_s=0.0003)  # these go with the stream that is refused
        gateway.wait_for_status(lambda status: status["frames"] == 2000)
        daemon.start()
        gateway.wait(lambda: gateway.connections()[-1:] == [False] and "no model" in gateway.errors)
        assert gateway.process.poll() is None
        daemon.stop(signal.SIGKILL)
        (tmp_path / "aside").rename(store / "tiny")
        daemon.start()
        gateway.wait(lambda: gateway.connections()[-1])
        gateway.send(*packets(2008, start=2000))
        gateway.wait(lambda: answered(gateway)[-1:] == [(2004, 2007)])
        summary = gateway.stop()
        assert summary["frames"] == 2008
        assert summary["forwarded"]["sent"] + summary["dropped"]["buffer"] == 2008
        assert summary["dropped"]["buffer"] > 0  # what was not yet sent when the refusal came
    finally:
        daemon.stop(signal.SIGKILL)
