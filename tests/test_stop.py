"""Requests to stop a run: which signals do so, the effect of a second one, and the event for threads."""

import faulthandler
import gc
import os
import signal
import sys
import threading
import time

import pytest
from helpers import SignalAt, assert_same_run

import jaxlm
from jaxlm.errors import Stopped
from jaxlm.runs.reporter import Reporter
from jaxlm.runs.stop import FROM_PERSON, FROM_SCHEDULER, FROM_SYSTEM, stop_on_signals

SIGNALS = FROM_PERSON + FROM_SYSTEM + FROM_SCHEDULER


@pytest.fixture(autouse=True)
def handlers():
    """Every test leaves all signals as it found them."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield before
    assert {number: signal.getsignal(number) for number in SIGNALS} == before


@pytest.fixture
def handle(handlers):
    """Sets a signal's handler for a test."""
    yield signal.signal
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_every_signal_stops_a_run_with_its_own_status(number):
    with stop_on_signals() as stop:
        assert not stop.asked
        signal.raise_signal(number)
        assert stop.asked
        with pytest.raises((KeyboardInterrupt, SystemExit)) as stopped:
            stop.end("")
    if number == signal.SIGINT:
        assert stopped.type is KeyboardInterrupt
    else:
        assert stopped.value.code == 128 + number


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_that_was_ignored_stays_ignored(handle, number):
    handle(number, signal.SIG_IGN)
    with stop_on_signals() as stop:
        signal.raise_signal(number)
        assert not stop.asked
    assert signal.getsignal(number) is signal.SIG_IGN


def test_another_program_s_handler_of_a_scheduler_s_signal_is_left_alone(handle):
    taken = []
    handle(signal.SIGUSR1, lambda number, frame: taken.append(number))
    with stop_on_signals() as stop:
        signal.raise_signal(signal.SIGUSR1)
        assert (taken, stop.asked) == ([signal.SIGUSR1], False)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux lists handlers in C")
def test_a_handler_in_c_is_left_alone(tmp_path):
    with open(tmp_path / "stack", "w+") as file:
        faulthandler.register(signal.SIGUSR2, file)
        try:
            with stop_on_signals() as stop:
                signal.raise_signal(signal.SIGUSR2)
                assert not stop.asked
            signal.raise_signal(signal.SIGUSR2)
        finally:
            faulthandler.unregister(signal.SIGUSR2)
        assert (tmp_path / "stack").read_text().count("Current thread") == 2


@pytest.mark.parametrize("number", FROM_SYSTEM + FROM_SCHEDULER)
def test_what_machines_repeat_is_no_impatience(number):
    with stop_on_signals() as stop:
        for _ in range(3):
            signal.raise_signal(number)
        with pytest.raises(SystemExit):
            signal.raise_signal(signal.SIGTERM)
        assert stop.asked


def test_a_second_signal_is_not_lost_in_a_callback_of_the_garbage_collector():
    def interrupt(phase, _):
        if phase == "start":
            signal.raise_signal(signal.SIGINT)

    hook = sys.unraisablehook
    with stop_on_signals():
        signal.raise_signal(signal.SIGINT)
        gc.callbacks.append(interrupt)
        try:
            gc.collect()  # Python drops the exception, and would warn of it; warnings are errors here.
        finally:
            gc.callbacks.remove(interrupt)
        with pytest.raises(KeyboardInterrupt):
            time.sleep(10)
    assert sys.unraisablehook is hook


class StopsIn(Reporter):
    """Asks a run to stop by a signal in the middle of an epoch's report."""

    def __init__(self, number):
        self.number, self.told = number, []

    def epoch(self, metrics, generator):
        self.told.append("report")
        signal.raise_signal(self.number)
        self.told.append("end of report")

    def stopped(self, run, step):
        self.told.append(step)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_what_follows_a_save_is_not_waited_for(small, tmp_path, number):
    reporter = StopsIn(number)
    with pytest.raises(SystemExit) as stopped:
        jaxlm.train(small, run="fox", checkpoints=tmp_path, reporter=reporter)
    assert stopped.value.code == 128 + number
    assert reporter.told == ["report", 11]
    assert jaxlm.Run.open(tmp_path / "fox").restore()[1].epoch == 1


def test_a_scheduler_s_signal_saves_the_step_at_hand(small, tmp_path, one_at_a_time):
    with pytest.raises(SystemExit):
        jaxlm.train(small, run="fox", checkpoints=tmp_path, reporter=SignalAt(3, *[signal.SIGXCPU] * 3))
    assert jaxlm.Run.open(tmp_path / "fox").restore()[1].step == 4


class SetsAt(Reporter):
    """Sets an event once a step is reported, and records how it ends."""

    def __init__(self, step, event):
        self._step, self._event = step, event
        self.told = []

    def step(self, step, loss):
        if step == self._step:
            self._event.set()

    def stopped(self, run, step):
        self.told.append(step)


def in_thread(function, *arguments, **settings):
    """What a function raises in a thread of its own."""
    raised = []

    def call():
        try:
            function(*arguments, **settings)
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    return raised


def test_an_event_stops_a_run_in_a_thread_which_resumes_as_if_it_had_not(small, tmp_path, trained, one_at_a_time):
    event = threading.Event()
    reporter = SetsAt(3, event)
    path = tmp_path / "fox"
    (error,) = in_thread(jaxlm.train, small, run="fox", checkpoints=tmp_path, reporter=reporter, stop=event)
    assert isinstance(error, Stopped)
    assert isinstance(error, jaxlm.RunError)
    assert str(error) == f"run {path}: stopped and saved at step 4; to resume it: jaxlm.resume({str(path)!r})"
    assert reporter.told == [4]

    event.clear()
    (error,) = in_thread(jaxlm.resume, path, reporter=SetsAt(15, event), stop=event)
    assert isinstance(error, Stopped)
    assert jaxlm.Run.open(path).restore()[1].step == 16

    event.clear()
    assert in_thread(jaxlm.resume, path, stop=event) == []
    assert_same_run(path, trained)


def test_a_run_that_an_event_stops_in_the_main_thread_leaves_signals_alone(small, tmp_path):
    event = threading.Event()
    event.set()
    with pytest.raises(Stopped):
        jaxlm.train(small, run="fox", checkpoints=tmp_path, stop=event)
    assert jaxlm.Run.open(tmp_path / "fox").restore()[1].step == 1
    assert os.path.exists(tmp_path / "fox" / "1")
