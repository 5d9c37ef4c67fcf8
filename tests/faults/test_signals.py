"""Signals, once or twice, at any moment: the run is saved, or nothing was there to save, and it resumes the same."""

import functools
import random
import re
import signal
import time

import pytest
from program import RESUME, RUN, WATCHED, run, start, state, verdict, workplace
from rows import in_parts

EPOCHS = 12

TRAIN = f"train.py fox.txt --run run --hidden 8 --batch 16 --length 10 --epochs {EPOCHS} {WATCHED}"

STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}

PHASES = {
    "start": (None, 1.0),
    "compiling": ("Compiling the training step", 0.5),
    "steps and saves": ("Epoch 1/", 1.5),
    "samples": ("Epoch 1/", 0.5),
}
"""What has been printed when a phase has begun, and the seconds in which a signal follows."""


@functools.cache
def reference():
    """The state of a run that no signal has met."""
    with workplace() as place:
        assert verdict(run(TRAIN, cwd=place)) == "right"
        return state(place / RUN)


@pytest.mark.parametrize("phase", PHASES)
@in_parts
def test_signals(row, phase):
    """SIGINT, SIGTERM, SIGHUP, once or twice, at a random moment of training"""
    reference()
    marker, seconds = PHASES[phase]

    def trial(number, seed, twice):
        draw = random.Random(f"{phase} {seed}").random
        with workplace() as place:
            # A sample that would take an hour, so that only a signal ends it.
            process = start(f"{TRAIN} --sample-length 100000000" if phase == "samples" else TRAIN, cwd=place)
            if marker:
                process.until(marker)
            time.sleep(draw() * seconds)
            process.signal(number)
            if twice:
                time.sleep(draw() * 0.3)
                process.signal(number)
            return ended_well(place, process.wait(timeout=20), number, twice)

    trials = [(number, seed, twice) for seed in range(10) for number in STATUS for twice in (False, True)]
    row.run(random.Random(0).sample(trials, len(trials)), trial)


def ended_well(place, result, number, twice):
    """Checks how a training ended, and resumes it."""
    saved = any((place / RUN).glob("[0-9]*"))
    if result.status == -number:  # Nothing handles it before there is something to save, nor after that is done.
        assert not result.err, result.err
        assert not saved or "Done." in result.out or (twice and "Stopped and saved" in result.out)
        found = "right"
    else:
        found = verdict(result)
        assert result.status in (0, STATUS[number]), result
    if stopped := re.search(r"Stopped and saved at step ([\d,]+)", result.out):
        assert saved
    # A second signal, but not one of a closed terminal, ends it at once.
    assert stopped or result.status <= 0 or (twice and number != signal.SIGHUP) or not saved, result.out
    resumed = run(RESUME if (place / RUN).exists() else TRAIN, cwd=place)
    assert verdict(resumed) == "right", resumed.err
    if stopped and result.status and "already" not in resumed.out:
        assert f"Resuming from step {stopped[1]}," in resumed.out
    assert state(place / RUN) == reference()
    return found
