import io

import pytest
import torch
from torch.optim.lr_scheduler import LinearLR, SequentialLR

from rlaif_pl.training.optimizers import ConstantWithWarmup, LinearDecay

PEAK = 0.2


def optimizer():
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)


def rates(schedule, steps):
    """Learning rate that each step uses, over the peak."""
    found = []
    for _ in range(steps):
        found.append(schedule.get_last_lr()[0] / PEAK)
        schedule.optimizer.step()
        schedule.step()
    return found


def test_warmup_and_decay_by_hand():
    # Up by halves to the peak at step 1, then from there to 0 at step 6 by fifths.
    found = rates(LinearDecay(optimizer(), warmup_steps=2, total_steps=6), 8)
    assert found == pytest.approx([0.5, 1.0, 0.8, 0.6, 0.4, 0.2, 0.0, 0.0])


def test_without_warmup_it_falls_from_the_start():
    found = rates(LinearDecay(optimizer(), total_steps=4), 5)
    assert found == pytest.approx([1.0, 0.75, 0.5, 0.25, 0.0])


def test_a_constant_rate_stays_at_its_peak():
    assert rates(ConstantWithWarmup(optimizer()), 3) == [1.0, 1.0, 1.0]
    found = rates(ConstantWithWarmup(optimizer(), warmup_steps=4), 6)
    assert found == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 1.0])


def test_a_fit_says_where_the_decay_ends_if_nobody_else_does():
    open_end, given = LinearDecay(optimizer(), 2), LinearDecay(optimizer(), 2, 9)
    for schedule in (open_end, given):
        schedule.end_at(6)
    assert given.total_steps == 9
    assert rates(open_end, 7) == rates(LinearDecay(optimizer(), 2, 6), 7)


@pytest.mark.parametrize(
    ("total", "steps", "said"),
    [
        (None, 5, "warmup_steps below the 5 steps of the fit, got 5"),
        (
            6,
            8,
            "the learning rate is 0 from step 6 of LinearDecay on, and the fit goes on to step 8",
        ),
    ],
)
def test_a_fit_within_the_warmup_or_beyond_the_decay_warns(total, steps, said):
    schedule = LinearDecay(optimizer(), 5, total)
    with pytest.warns(UserWarning, match=said):
        schedule.end_at(steps)
    assert rates(schedule, 5) == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_a_fit_without_an_end_is_refused():
    with pytest.raises(ValueError, match="expected trainer.max_steps or trainer.max_epochs"):
        LinearDecay(optimizer(), warmup_steps=5).end_at(float("inf"))


def test_a_decay_whose_end_nobody_says_is_refused_where_it_would_begin():
    schedule = LinearDecay(optimizer(), warmup_steps=2)
    with pytest.raises(ValueError, match="expected total_steps of LinearDecay, got none"):
        rates(schedule, 3)


def test_it_is_torchs_two_lines_one_after_the_other():
    # LinearLR has the peak after its iterations: the last step of the warmup is the first below.
    peer = optimizer()
    up = LinearLR(peer, start_factor=1 / 5, total_iters=4)
    down = LinearLR(peer, start_factor=1.0, end_factor=0.0, total_iters=26)
    expected = rates(SequentialLR(peer, [up, down], milestones=[4]), 30)
    found = rates(LinearDecay(optimizer(), warmup_steps=5, total_steps=30), 30)
    assert found == pytest.approx(expected)


def test_each_group_keeps_its_own_peak():
    first, second = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    groups = [{"params": [first], "lr": 1.0}, {"params": [second], "lr": 0.1}]
    schedule = LinearDecay(torch.optim.SGD(groups), warmup_steps=2)
    assert schedule.get_last_lr() == pytest.approx([0.5, 0.05])


def test_a_resumed_schedule_goes_on_where_it_was():
    whole = rates(LinearDecay(optimizer(), 3, 12), 10)
    first = LinearDecay(optimizer(), 3, 12)
    assert rates(first, 4) == whole[:4]
    state = io.BytesIO()
    torch.save((first.optimizer.state_dict(), first.state_dict()), state)
    state.seek(0)
    of_optimizer, of_schedule = torch.load(state, weights_only=True)
    second = LinearDecay(optimizer(), 3, 12)
    second.optimizer.load_state_dict(of_optimizer)
    second.load_state_dict(of_schedule)
    assert rates(second, 6) == pytest.approx(whole[4:])


@pytest.mark.parametrize("total_steps", [12, None, 5])
def test_a_longer_schedule_goes_on_from_the_end_of_a_shorter_one(total_steps):
    def made():
        if total_steps is None:
            return ConstantWithWarmup(optimizer(), 2)
        return LinearDecay(optimizer(), 2, total_steps)

    first = LinearDecay(optimizer(), 2, 6)
    assert rates(first, 6)[-1] == pytest.approx(0.2)
    second = made()
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    second.load_state_dict(first.state_dict())
    whole = rates(made(), 10)
    assert second.optimizer.param_groups[0]["lr"] == pytest.approx(PEAK * whole[6])
    assert rates(second, 4) == pytest.approx(whole[6:])


def test_a_checkpoint_of_before_goes_on_at_its_constant_rate():
    first = ConstantWithWarmup(optimizer(), 2)
    rates(first, 4)
    state = first.state_dict() | {"total_steps": None}  # as LinearDecay without an end wrote it
    second = ConstantWithWarmup(optimizer(), 2)
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    second.load_state_dict(state)
    assert rates(second, 3) == [1.0, 1.0, 1.0]


def test_a_negative_warmup_of_a_constant_rate_is_refused():
    with pytest.raises(ValueError, match="expected warmup_steps of at least 0, got -1"):
        ConstantWithWarmup(optimizer(), -1)


@pytest.mark.parametrize(("warmup_steps", "total_steps"), [(-1, None), (5, 5), (5, 3), (0, 0)])
def test_a_warmup_beyond_the_end_is_refused(warmup_steps, total_steps):
    with pytest.raises(ValueError, match="0 <= warmup_steps < total_steps"):
        LinearDecay(optimizer(), warmup_steps, total_steps)
