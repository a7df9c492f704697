"""The short way for calls that come again (`nbops.repeat`): which calls are remembered, and for whom."""

from __future__ import annotations

import threading

import numba
import numpy as np
import pytest

import nbops
from nbops import dispatch
from nbops.dispatch import use

pytestmark = pytest.mark.skipif(
    bool(numba.config.DISABLE_JIT or numba.config.BOUNDSCHECK), reason="every call goes the long way"
)


def ways(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The targets of the decisions that are made anew from here on."""
    made: list[str] = []
    decide = dispatch.decide

    def told(work: dispatch.Work, target: str | None = None) -> dispatch.Decision:
        decision = decide(work, target)
        made.append(decision.target)
        return decision

    monkeypatch.setattr(dispatch, "decide", told)
    return made


def test_a_call_inside_a_block_is_remembered_with_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """By equal settings, not by the block; and each call gets the decision that its own settings make."""
    op = nbops.elementwise(name="remembered_with_settings")(lambda x: x)
    x, out = np.arange(6.0), np.empty(6)
    made = ways(monkeypatch)
    with use("serial"):
        op(x, out=out)
        op(x, out=out)
    assert made == ["serial"]
    with use("parallel", threads=1), use("serial", threads=None):
        op(x, out=out)  # other settings: one thread
    assert made == ["serial", "serial"]
    with use("parallel"):
        op(x, out=out)
        assert nbops.last_decision().rule == "asked for"
    assert made[2:] == ["parallel"]
    with use("serial"):
        op(x, out=out)
        assert nbops.last_decision().target == "serial"
    op(x, out=out)
    assert nbops.last_decision().rule == "small"
    op(x, out=out)
    with use("python"):
        op(x, out=out)
        op(x, out=out)
    assert made[3:] == ["serial", "python", "python"]
    np.testing.assert_array_equal(out, x)


def test_another_threads_block_changes_nothing_here(monkeypatch: pytest.MonkeyPatch) -> None:
    op = nbops.elementwise(name="remembered_beside_a_block")(lambda x: x)
    x, out = np.arange(6.0), np.empty(6)
    made = ways(monkeypatch)
    inside, done = threading.Event(), threading.Event()

    def elsewhere() -> None:
        with use("python"):
            inside.set()
            done.wait()

    thread = threading.Thread(target=elsewhere)
    thread.start()
    inside.wait()
    op(x, out=out)
    op(x, out=out)
    done.set()
    thread.join()
    op(x, out=out)
    assert made == ["serial"]


def test_what_explain_follows_takes_no_short_way() -> None:
    """Not even inside a block whose settings it knows, nor in one that the function opens."""
    x, out = np.arange(6.0), np.empty(6)

    def calls() -> None:
        nbops.relu(x, out=out)
        with use("serial"):
            nbops.relu(x, out=out)

    with use("serial"):
        calls()
        calls()
        assert [call.op for call in nbops.explain(calls).calls] == ["relu", "relu"]
    calls()
    assert [call.op for call in nbops.explain(calls).calls] == ["relu", "relu"]


def test_a_call_under_strict_is_decided_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    op = nbops.elementwise(name="remembered_never_under_strict")(lambda x: x)
    x, out = np.arange(6.0), np.empty(6)
    made = ways(monkeypatch)
    with use("serial", strict=True):
        op(x, out=out)
        op(x, out=out)
    assert made == ["serial", "serial"]
