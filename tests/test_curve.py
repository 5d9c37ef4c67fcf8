"""The losses of a run as a picture, before anybody looks at it."""

import re
from xml.etree import ElementTree

import pytest

from jaxlm.cli.curve import POINTS, Curve


def steps(curve, count, epochs, loss):
    """Tells a curve all steps of so many epochs, as a run does: each epoch's mean so far of `loss(step)`."""
    for epoch in range(epochs):
        whole = 0.0
        for row in range(1, count + 1):
            whole += loss(epoch * count + row)
            curve.step(epoch * count + row, whole / row)


def lines(svg):
    """The points of the lines of a picture: training, and validation."""
    found = re.findall(r'<polyline points="([^"]*)"', svg)
    return [[tuple(map(float, point.split(","))) for point in line.split()] for line in found]


def test_each_point_is_the_mean_loss_of_a_stretch_of_steps_at_its_middle():
    curve = Curve(600, 2)  # 200 stretches of 6 steps.
    steps(curve, 600, 2, loss=lambda step: 3.0 - step / 1000)
    assert len(curve.training) == POINTS
    epochs, losses = zip(*curve.training, strict=True)
    assert epochs == pytest.approx([(6 * stretch + 3) / 600 for stretch in range(POINTS)])
    assert losses == pytest.approx([3.0 - (6 * stretch + 3.5) / 1000 for stretch in range(POINTS)])


@pytest.mark.parametrize(("count", "epochs"), [(1, 1), (1, 2), (7, 3), (5, 10_000), (10_000, 1), (403, 1)])
def test_any_run_has_a_picture_of_bounded_size_within_its_axes(count, epochs):
    curve = Curve(count, epochs)
    steps(curve, count, epochs, loss=lambda step: 3.0)
    for epoch in range(1, epochs + 1):
        curve.epoch(epoch, 2.5)
    svg = curve.svg()
    assert (svg == "") == (count * epochs == 1)
    if svg:
        ElementTree.fromstring(svg)
        assert len(svg) < 40_000
        assert all(0 <= x <= 640 and 0 <= y <= 220 for line in lines(svg) for x, y in line)
        assert 1 < len(lines(svg)[0]) <= POINTS + epochs


@pytest.mark.parametrize(("count", "points"), [(1001, 166 + 1), (403, 134)])
def test_a_few_steps_that_are_left_at_an_epoch_s_end_make_no_point_of_their_own(count, points):
    curve = Curve(count, 1)  # 166 stretches of 6 steps, and 5 more; 134 of 3, and one more.
    steps(curve, count, 1, loss=lambda step: 1.0)
    assert len(curve.training) == points


def test_a_resumed_run_s_curve_starts_with_the_epochs_that_it_has_had():
    curve = Curve(10, 4, [{"epoch": 1, "loss": 2.0, "validation_loss": 1.9}])
    assert (curve.training, curve.validation) == ([(0.5, 2.0)], [(1, 1.9)])
    curve.step(14, 1.5)  # Resumed within the second epoch: the mean of its first four steps.
    assert curve.training[-1] == (pytest.approx(1.2), 1.5)


def test_a_run_that_goes_back_takes_its_curve_with_it():
    curve = Curve(10, 4)
    steps(curve, 10, 3, loss=lambda step: step)
    for epoch in (1, 2, 3):
        curve.epoch(epoch, float(epoch))
    curve.go_back(10)
    assert curve.training == [(pytest.approx(epoch / 10 - 0.05), pytest.approx(epoch)) for epoch in range(1, 11)]
    assert curve.validation == [(1, 1.0)]
    curve.step(11, 7.0)
    assert curve.training[-1] == (pytest.approx(1.05), 7.0)


def test_the_best_epoch_is_marked_and_the_picture_says_its_losses_to_those_who_cannot_see_it():
    curve = Curve(10, 3)
    steps(curve, 10, 3, loss=lambda step: 2.0)
    for epoch, loss in enumerate([1.9, 1.4567, 1.7], 1):
        curve.epoch(epoch, loss)
    svg = curve.svg()
    assert 'aria-label="training loss 2.000, validation loss 1.700 nats, best 1.457 in epoch 2"' in svg
    ring = re.search(r'<circle cx="([\d.]+)" cy="([\d.]+)" r="7"', svg)
    assert (float(ring[1]), float(ring[2])) == lines(svg)[1][1]
    left, best, right = lines(svg)[1]
    assert best[0] - left[0] == pytest.approx(right[0] - best[0], abs=0.2)
    assert best[1] > max(left[1], right[1])  # SVG counts from the top.


def test_the_first_losses_do_not_press_the_others_flat():
    curve = Curve(100, 1)
    steps(curve, 100, 1, loss=lambda step: 100.0 if step < 5 else 2.0 - step / 100)
    late = [y for x, y in lines(curve.svg())[0][50:]]
    assert max(late) - min(late) > 60
