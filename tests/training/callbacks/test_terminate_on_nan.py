import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils._python_dispatch import TorchDispatchMode

from rlaif_pl.training.callbacks import NonFiniteError, TerminateOnNaN
from rlaif_pl.training.callbacks.terminate_on_nan import gradient_problem


@pytest.mark.parametrize(
    ("what", "named"),
    [
        ("loss", "the loss is nan"),
        (
            "gradient",
            r"the gradient norm is not finite, in 1 parameter\(s\), the first layer.weight",
        ),
    ],
)
def test_a_run_stops_at_the_step_before_the_weights_are_spoiled(fit, what, named, tiny):
    module = tiny(breaks_at=2, what=what)
    with pytest.raises(NonFiniteError, match=f"before optimizer step 3: {named}; no checkpoint"):
        fit(module, callbacks=[TerminateOnNaN()])
    assert all(torch.isfinite(p).all() for p in module.parameters())


def test_the_last_checkpoint_and_what_to_try_are_named(tmp_path, fit, tiny):
    keeper = ModelCheckpoint(tmp_path, save_last=True, every_n_train_steps=1)
    with pytest.raises(
        NonFiniteError, match=r"last checkpoint is .*last\.ckpt\. Try, in this order"
    ):
        fit(
            tiny(breaks_at=2),
            callbacks=[keeper, TerminateOnNaN()],
            enable_checkpointing=True,
        )


def test_every_micro_batch_of_an_accumulated_step_is_looked_at(fit, tiny):
    with pytest.raises(NonFiniteError, match="step 2: the loss is nan"):
        fit(tiny(breaks_at=1), callbacks=[TerminateOnNaN()], accumulate_grad_batches=2)


def test_a_healthy_run_ends_normally(fit):
    assert fit(callbacks=[TerminateOnNaN()]).global_step == 4


def test_large_half_precision_gradients_are_not_mistaken_for_overflow():
    # 100 values of 6e4 are finite in float16, whose largest value is 65504; their norm is not.
    weight = torch.nn.Parameter(torch.zeros(100, dtype=torch.float16))
    weight.grad = torch.full_like(weight, 6e4)
    assert gradient_problem([("w", weight)]) is None
    weight.grad[3] = float("nan")
    assert "the first w" in gradient_problem([("w", weight)])
    assert gradient_problem([]) is None


class Counted(TorchDispatchMode):
    """Counts the ops of a block."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


def test_many_gradients_are_looked_at_in_as_few_ops_as_one():
    counts = []
    for number in (1, 100):
        weights = [torch.nn.Parameter(torch.zeros(3)) for _ in range(number)]
        for weight in weights:
            weight.grad = torch.ones_like(weight)
        with Counted() as counted:
            assert gradient_problem([(f"w{n}", w) for n, w in enumerate(weights)]) is None
        counts.append(counted.count)
    assert counts[1] == counts[0]
    for value in (float("nan"), float("inf"), -float("inf")):
        for place in (3, 70):
            weights[place].grad = torch.tensor([1.0, value, 0.0])
        found = gradient_problem([(f"w{n}", w) for n, w in enumerate(weights)])
        assert found == "the gradient norm is not finite, in 2 parameter(s), the first w3"


def test_a_period_below_one_is_refused():
    with pytest.raises(ValueError, match=r"TerminateOnNaN\.every_n_steps of at least 1, got 0"):
        TerminateOnNaN(0)
