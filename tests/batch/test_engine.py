"""The loop over many photographs: order, failures at every stage, memory, shared batches."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
from support.drawn import photograph
from support.models import tiny_weights
from torch import Tensor

from vesselseg import OptionError, Segmenter, load_model
from vesselseg.backends.pytorch import TorchBackend
from vesselseg.batch.engine import run

pytestmark = pytest.mark.usefixtures("one_thread")


class Number(NamedTuple):
    """A job: the drawn photograph of that number."""

    number: int

    @property
    def name(self) -> str:
        return str(self.number)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    file = tiny_weights(tmp_path_factory.mktemp("model") / "tiny.pth")
    return load_model(file, device="cpu", batch_size=3)


def read(job: Number) -> tuple[Any, str]:
    return photograph(job.number), f"read {job.number}"


def finish(job: Number, known: str, result: Any, seconds: float) -> tuple[str, Any]:
    assert known == f"read {job.number}"
    assert seconds >= 0
    return job.name, result.mask


def outcomes(model: Segmenter | None, jobs: Any, **options: Any) -> list[tuple[int, Any]]:
    found: list[tuple[int, Any]] = []
    stages = {"read": read, "finish": finish, **options}
    run(jobs, model, stages.pop("read"), stages.pop("finish"),
        lambda job, outcome: found.append((job.number, outcome)), **stages)  # fmt: skip
    return found


def jobs_of(count: int) -> list[Number]:
    return [Number(number) for number in range(count)]


def test_every_photograph_gets_its_own_result_in_order(model: Segmenter) -> None:
    found = outcomes(model, jobs_of(12), threshold=0.4)
    assert [number for number, _ in found] == list(range(12))
    for number, (name, mask) in found:
        assert name == str(number)
        assert np.array_equal(mask, model(photograph(number), threshold=0.4).mask)


def test_windows_of_several_photographs_share_batches(
    model: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    compute = TorchBackend.__call__

    def counted(self: TorchBackend, windows: Tensor) -> Tensor:
        calls.append(len(windows))
        return compute(self, windows)

    monkeypatch.setattr(TorchBackend, "__call__", counted)
    outcomes(model, jobs_of(6))  # 40 x 44 pixels in windows of 32: 4 windows each
    assert calls == [3] * (6 * 4 // 3)  # one by one it would take 2 for each, 12


def test_without_a_model_what_was_read_is_finished() -> None:
    def shape_of(_: Number, known: str, image: Any, seconds: float) -> tuple[str, Any]:
        assert seconds >= 0
        return known, image.shape

    found = outcomes(None, jobs_of(3), finish=shape_of)
    assert found == [(i, (f"read {i}", photograph(i).shape)) for i in range(3)]


@pytest.mark.parametrize("error", [OSError("gone"), MemoryError(), KeyError("foreign")])
def test_whatever_fails_at_any_stage_is_the_outcome_of_its_photograph(
    model: Segmenter, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = dict(outcomes(model, jobs_of(9)))
    corner = photograph(4)[:32, :32].tolist()
    compute = TorchBackend.__call__

    def failing_read(job: Number) -> tuple[Any, str]:
        if job.number in (0, 8):
            raise error
        return read(job)

    def failing_network(self: TorchBackend, windows: Tensor) -> Tensor:
        if any(x.permute(1, 2, 0).tolist() == corner for x in windows):
            raise error
        return compute(self, windows)

    def failing_finish(job: Number, *arguments: Any) -> Any:
        if job.number == 6:
            raise error
        return finish(job, *arguments)

    monkeypatch.setattr(TorchBackend, "__call__", failing_network)
    found = outcomes(model, jobs_of(9), read=failing_read, finish=failing_finish)
    assert [number for number, _ in found] == list(range(9))
    for number, outcome in found:
        if number in (0, 4, 6, 8):
            assert outcome is error
        else:
            assert np.array_equal(outcome[1], expected[number][1])


@pytest.mark.slow
def test_only_a_few_photographs_are_held_at_once(model: Segmenter) -> None:
    taken = 0
    seen = []

    def counted() -> Iterator[Number]:
        nonlocal taken
        for job in jobs_of(60):
            taken += 1
            yield job

    run(counted(), model, read, finish, lambda *_: seen.append(taken))
    ahead = max(taken_then - done for done, taken_then in enumerate(seen))
    assert ahead < 20  # read, in a batch, being finished
    assert len(seen) == 60


def test_reading_and_finishing_run_beside_the_network(model: Segmenter) -> None:
    threads: dict[str, set[str]] = {"read": set(), "finish": set(), "report": set()}

    def noted(what: str, function: Any) -> Any:
        def call(*arguments: Any) -> Any:
            threads[what].add(threading.current_thread().name)
            return function(*arguments)

        return call

    run(jobs_of(8), model, noted("read", read), noted("finish", finish),
        noted("report", lambda *_: None))  # fmt: skip
    here = threading.current_thread().name
    assert threads["report"] == {here}
    assert here not in threads["read"] | threads["finish"]
    assert not threads["read"] & threads["finish"]


def test_several_photographs_are_read_at_once_and_several_finished() -> None:
    reads, finishes = threading.Barrier(2, timeout=10), threading.Barrier(2, timeout=10)

    def read_with_another(job: Number) -> tuple[Any, int]:
        reads.wait()  # until another is being read
        return photograph(job.number), job.number

    def finish_with_another(_: Number, known: int, *__: Any) -> int:
        finishes.wait()
        return known

    found = outcomes(None, jobs_of(4), read=read_with_another, finish=finish_with_another)
    assert found == [(number, number) for number in range(4)]


def test_an_interruption_reports_what_was_finished(
    model: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute = TorchBackend.__call__
    calls = 0

    def interrupted(self: TorchBackend, windows: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 14:  # 3 windows a call, 4 a photograph: 9 are complete
            raise KeyboardInterrupt
        return compute(self, windows)

    monkeypatch.setattr(TorchBackend, "__call__", interrupted)
    reported = []
    with pytest.raises(KeyboardInterrupt):
        run(jobs_of(20), model, read, finish, lambda job, _: reported.append(job.number))
    assert reported == list(range(9))


INTERRUPTED = """
import signal, threading, time
from vesselseg.batch.engine import run

signal.signal(signal.SIGINT, signal.default_int_handler)
finished, reported = [], []

def interrupt_and_finish(job, *_):
    if job == 0:  # the others are finished long before, and it is waited for
        time.sleep(0.3)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        time.sleep(0.1)
    finished.append(job)

try:
    run(
        range(20), None, lambda _: (None, None), interrupt_and_finish,
        lambda job, _: reported.append(job),
    )
except KeyboardInterrupt:
    print(sorted(finished), reported)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="signals of POSIX")
def test_an_interruption_while_it_waits_loses_no_result() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, check=True
    )
    assert ended.stdout == "[0, 1, 2, 3, 4] [0, 1, 2, 3, 4]\n"


def test_what_the_report_raises_ends_the_run(model: Segmenter) -> None:
    reported = []

    def report(job: Number, _: Any) -> None:
        reported.append(job.number)
        if job.number == 3:
            raise LookupError("the table cannot be written")

    with pytest.raises(LookupError, match="the table"):
        run(jobs_of(40), model, read, finish, report)
    assert reported == list(range(len(reported)))
    assert len(reported) < 30


def test_a_wrong_option_is_reported_before_anything_is_read(model: Segmenter) -> None:
    def never(_: Number) -> Any:
        raise AssertionError

    with pytest.raises(OptionError, match="scale is 'half'"):
        outcomes(model, jobs_of(2), read=never, scale="half")
