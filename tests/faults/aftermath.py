"""What must hold of a run after its training was cut off."""

import os
import re

from program import RESUME, RUN, SAMPLE, TRAININGS, run, state, undisturbed, verdict

import jaxlm

OWN = re.compile(r"config\.json|vocab\.json|text\.ids|(metrics|samples)\.jsonl|\.lock|\d+")
"""What a run consists of."""


def recovered(name, folder, out):
    """Checks the run that a training has left in a folder, resumes it, and compares it with an undisturbed one.

    Args:
      name: which of TRAININGS it was.
      folder: where it ran.
      out: what it had printed.

    Returns:
      The verdict on resuming it.
    """
    path = folder / RUN
    if is_a_run_or_free(path):
        has_what_was_told(path, out, rolls_back=name == "diverging")
        sample = run(f"{SAMPLE} run", cwd=folder)
        found = verdict(sample)
        assert found != "line" or "has no checkpoint yet" in sample.err, f"sample: {sample.err}"
        resumed = run(RESUME, cwd=folder)
    else:
        assert "Epoch" not in out, f"nothing is left of {out}"
        resumed = run(TRAININGS[name], cwd=folder)
    found = verdict(resumed)
    assert resumed.status == 0, f"resumed: {resumed.err}"
    is_same(state(path), undisturbed(name)[0])
    is_tidy(path)
    return found


def is_a_run_or_free(path):
    """Whether there is a run; if not, the name is free."""
    if not os.path.lexists(path):
        return False
    assert (path / "config.json").is_file(), f"neither a run nor free: {sorted(os.listdir(path))}"
    jaxlm.Run.open(path)
    return True


def has_what_was_told(path, out, rolls_back):
    """The epochs that were reported are saved; of a run that may be rolling back, the best of them."""
    told = [(int(epoch), float(loss)) for epoch, loss in re.findall(r"Epoch (\d+)/.* loss ([\d.]+) nats", out)]
    if not told:
        return
    restored = [jaxlm.Run.open(path).restore(best=best) for best in (False, True)]
    assert None not in restored, f"lost all of {told}"
    (_, last), (_, best) = restored
    assert best.judged <= min(loss for _, loss in told) + 1e-4, f"lost the best of {told}: found {best}"
    assert rolls_back or last.epoch >= told[-1][0], f"lost epoch {told[-1][0]}: found {last}"


def is_same(found, wanted):
    """States are the same; says what differs."""
    assert not (differing := [name for name in wanted if found[name] != wanted[name]]), f"differing: {differing}"


def is_tidy(path):
    """Nothing but the run is there."""
    strays = [name for name in os.listdir(path) if not OWN.fullmatch(name)]
    # What a kill leaves of a new run has a hidden name, and is deleted by another an hour later.
    strays += [name for name in os.listdir(path.parent) if name != path.name and not name.startswith(".jaxlm-new-")]
    strays += [str(found.relative_to(path)) for found in path.rglob("*.tmp")]
    assert not strays, f"left: {strays}"
