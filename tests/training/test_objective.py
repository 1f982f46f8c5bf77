import numpy as np
import pytest
from backend_probe import MOMENTUM, RATE, slope_data, trained_by_schedule

import config
from commands.training import objective, train
from commands.training.objective import LinearByEpoch, linear_by_epoch
from model import build
from salience.system.errors import UserError


def test_epochs_share_the_way_equally():
    expected = np.linspace(0.05, 1e-4, 1200)
    found = [linear_by_epoch(0.05, 1e-4, 1200, epoch) for epoch in range(1200)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert linear_by_epoch(0.9, 0.5, 1, 0) == 0.9
    assert linear_by_epoch(0.9, 0.5, 3, 7) == 0.5


def test_every_step_of_an_epoch_has_its_value():
    schedule = LinearByEpoch(1.0, 0.0, epochs=3, steps_per_epoch=4)
    found = [float(schedule(step)) for step in range(14)]
    assert found == [1.0] * 4 + [0.5] * 4 + [0.0] * 6


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_of_the_second_epoch_reaches_the_compiled_step(nesterov):
    """By hand, with Sutskever's velocity v = m v - r g, then w + v, or w + m v - r g."""
    x, y = slope_data()
    weights, velocity = np.ones((2, 1)), np.zeros((2, 1))
    for momentum, rate in ((MOMENTUM.start, RATE.start), (MOMENTUM.end, RATE.end)):
        for i in (0, 2, 4):
            gradient = 2 * x[i : i + 2].T @ (x[i : i + 2] @ weights - y[i : i + 2]) / 2
            velocity = momentum * velocity - rate * gradient
            weights += momentum * velocity - rate * gradient if nesterov else velocity
    np.testing.assert_allclose(
        trained_by_schedule(nesterov), np.stack([velocity, weights]), rtol=1e-5
    )


def test_an_optimiser_taken_up_again_goes_on_where_it_stood(tiny):
    settings = tiny(
        optimizer="sgd", learning_rate=0.4, learning_rate_end=0.0, momentum=0.5, momentum_end=0.9,
        decay=0.0, epochs=5,
    )  # fmt: skip
    optimizer = objective.optimizer(settings, steps_per_epoch=3)
    optimizer.build(build(settings).trainable_variables)
    optimizer.iterations.assign(7)  # of a state that was loaded: the third epoch
    assert float(optimizer.learning_rate) == pytest.approx(0.2)
    assert float(optimizer.momentum_schedule(optimizer.iterations)) == pytest.approx(0.7)


def test_history_has_the_values_that_the_epoch_was_trained_with(tiny):
    settings = tiny(
        optimizer="sgd", learning_rate=1e-3, learning_rate_end=1e-5, momentum=0.9,
        momentum_end=0.99, decay=0.0, epochs=3,
    )  # fmt: skip
    rows = train.train(settings, say=lambda line: None).history
    assert [row["learning_rate"] for row in rows] == pytest.approx([1e-3, 5.05e-4, 1e-5])
    assert [row["momentum"] for row in rows] == pytest.approx([0.9, 0.945, 0.99])


def test_two_schedules_of_the_step_size_are_refused():
    with pytest.raises(UserError, match=r"--learning_rate_end 0.1 and --decay 0.0005.*--decay 0"):
        config.resolve({"learning_rate_end": 0.1})
    assert config.resolve({"learning_rate_end": 0.1, "decay": 0.0}).learning_rate_end == 0.1
