"""The pairwise_ce op: hand-worked values, independent peers, properties, and the edges."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlaif_pl import ops
from rlaif_pl.ops import reference

pytestmark = pytest.mark.usefixtures("implementation")

SIZES = [1, 7, 129, 5000, 0]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
INF = float("inf")


def sample(n, device, dtype=torch.float32):
    """Draw two scores, hard and soft targets, and weights with some zeros."""
    first, second = (3 * torch.randn(2, n, device=device)).to(dtype)
    target, weight = torch.rand(2, n, device=device, dtype=reference.accumulator_dtype(dtype))
    target[::3], target[1::5], weight[::4] = 1.0, 0.0, 0.0
    return first, second, target, weight


def loss_and_grads(first, second, target, weight=None):
    first, second = first.clone().requires_grad_(), second.clone().requires_grad_()
    loss = ops.pairwise_ce(first, second, target, weight)
    return loss.detach(), *torch.autograd.grad(loss.sum(), (first, second))


def column(*numbers, device):
    return torch.tensor(numbers, device=device, dtype=torch.float64)


def test_one_pair_by_hand(device):
    # m = log 3, so sigmoid(m) = 3/4 and sigmoid(-m) = 1/4. With p = 0.9 and w = 2:
    # loss  = -2 * (0.9 log(3/4) + 0.1 log(1/4)) = 2 * (0.9*0.287682 + 0.1*1.386294) = 0.795087
    # slope = 2 * (3/4 - 0.9) = -0.3 for the first score, +0.3 for the second
    args = (math.log(3.0) + 1.0,), (1.0,), (0.9,), (2.0,)
    got = loss_and_grads(*(column(*a, device=device) for a in args))
    want = [column(number, device=device) for number in (0.795087, -0.3, 0.3)]
    torch.testing.assert_close(list(got), want, rtol=0, atol=1e-6)


def test_a_tie_costs_log_two(device):
    zero, half = column(0.0, device=device), column(0.5, device=device)
    loss, *grads = loss_and_grads(zero, zero, half)
    assert loss.item() == pytest.approx(math.log(2.0))
    assert [g.item() for g in grads] == [0.0, 0.0]


@pytest.mark.parametrize("n", SIZES)
def test_matches_two_class_cross_entropy(n, device):
    first, second, target, _ = sample(n, device, torch.float64)
    scores, shares = torch.stack([first, second], -1), torch.stack([target, 1 - target], -1)
    want = F.cross_entropy(scores, shares, reduction="none")
    torch.testing.assert_close(ops.pairwise_ce(first, second, target), want)


@pytest.mark.parametrize("n", SIZES)
def test_matches_binary_cross_entropy_with_logits_and_its_gradient(n, device):
    first, second, target, weight = sample(n, device, torch.float64)
    margin = (first - second).requires_grad_()
    want = F.binary_cross_entropy_with_logits(margin, target, weight, reduction="none")
    (slope,) = torch.autograd.grad(want.sum(), margin)
    got = loss_and_grads(first, second, target, weight)
    torch.testing.assert_close(got, (want.detach(), slope, -slope))


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_error_is_within_budget(n, dtype, device, exact_pairwise_ce, assert_within_budget):
    args = sample(n, device, dtype)
    truth = exact_pairwise_ce(*args)
    plain = reference.pairwise_ce_fwd(*args)[:2]
    got = torch.ops.rlaif_pl.pairwise_ce_fwd.default(*args)[:2]
    for one, same_dtype, true in zip(got, plain, truth, strict=True):
        assert one.dtype == dtype
        assert_within_budget(one, same_dtype, true)


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    margin=st.floats(-700, 700),
    target=st.floats(0, 1),
    weight=st.floats(0, 1e3),
)
def test_any_pair(margin, target, weight, device):
    # log sigmoid(x) = -log(1 + exp(-x)); the smaller side is recovered by symmetry.
    log_up = (
        -math.log1p(math.exp(-margin)) if margin >= 0 else margin - math.log1p(math.exp(margin))
    )
    log_down = log_up - margin
    want = -weight * (target * log_up + (1 - target) * log_down)
    args = (column(x, device=device) for x in (margin, 0.0, target, weight))
    assert ops.pairwise_ce(*args).item() == pytest.approx(want, rel=1e-9, abs=1e-9)


def test_swapping_the_responses_changes_nothing(device):
    first, second, target, weight = sample(100, device, torch.float64)
    loss, grad_first, grad_second = loss_and_grads(first, second, target, weight)
    swapped = loss_and_grads(second, first, 1 - target, weight)
    torch.testing.assert_close(swapped, (loss, grad_second, grad_first))


def test_only_the_margin_counts(device):
    first, second, target, _ = sample(100, device, torch.float64)
    torch.testing.assert_close(
        ops.pairwise_ce(first + 7, second + 7, target), ops.pairwise_ce(first, second, target)
    )


def test_no_weight_is_a_weight_of_one(device):
    first, second, target, _ = sample(50, device)
    want = loss_and_grads(first, second, target, torch.ones_like(target))
    # Two loops of vector code, which may round products differently.
    torch.testing.assert_close(loss_and_grads(first, second, target), want, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_huge_margins_are_exact(dtype, device):
    # loss = (1 - p) m on the wrong side; slope is 1 - p; at p = 1 the loss is exp(-m), here 0.
    first = torch.tensor([1e4, 1e4, -1e4, 3e38], device=device, dtype=dtype)
    target = torch.tensor([1.0, 0.75, 1.0, 0.5], device=device, dtype=dtype)
    loss, grad, _ = loss_and_grads(first, torch.zeros_like(first), target)
    torch.testing.assert_close(
        loss, torch.tensor([0, 2500, 1e4, 1.5e38], device=device, dtype=dtype)
    )
    torch.testing.assert_close(grad, torch.tensor([0, 0.25, -1, 0.5], device=device, dtype=dtype))


def test_a_won_pair_keeps_a_small_gradient(device):
    # sigmoid(30) - 1 rounds to 0 in float32; the true slope is -exp(-30) = -9.3576e-14.
    thirty, one = torch.tensor([[30.0], [1.0]], device=device)
    _, grad, _ = loss_and_grads(thirty, torch.zeros_like(thirty), one)
    assert grad.item() == pytest.approx(-math.exp(-30.0), rel=1e-5)


@pytest.mark.parametrize(
    ("margin", "target", "loss", "slope"),
    [
        (INF, 1.0, 0.0, 0.0),
        (INF, 0.9, INF, 0.1),
        (INF, 0.0, INF, 1.0),
        (-INF, 0.0, 0.0, 0.0),
        (-INF, 0.1, INF, -0.1),
        (-INF, 1.0, INF, -1.0),
    ],
)
def test_an_infinite_margin_gives_the_limit(margin, target, loss, slope, device):
    args = (column(x, device=device) for x in (margin, 0.0, target))
    got_loss, got_slope, _ = loss_and_grads(*args)
    assert got_loss.item() == loss
    assert got_slope.item() == pytest.approx(slope)


def test_nan_stays_in_its_pair(device):
    first = torch.tensor([1.0, float("nan"), INF, 2.0], device=device)
    second = torch.tensor([0.0, 0.0, INF, 0.0], device=device)
    loss, grad, _ = loss_and_grads(first, second, torch.full((4,), 0.5, device=device))
    assert loss.isnan().tolist() == [False, True, True, False]
    assert grad.isnan().tolist() == [False, True, True, False]


@pytest.mark.parametrize("margin", [float("nan"), INF, 5.0])
def test_a_weight_of_zero_removes_its_pair(margin, device):
    args = (column(x, device=device) for x in (margin, 0.0, 0.5, 0.0))
    assert [x.item() for x in loss_and_grads(*args)] == [0.0, 0.0, 0.0]


def test_gradients(device):
    first, second, target, weight = sample(9, device, torch.float64)
    pair = (first.requires_grad_(), second.requires_grad_())

    def loss(first, second):
        return ops.pairwise_ce(first, second, target, weight)

    assert torch.autograd.gradcheck(loss, pair)
    assert torch.autograd.gradgradcheck(loss, pair)


def test_only_one_side_may_need_a_gradient(device):
    first, second, target, _ = sample(5, device)
    ops.pairwise_ce(first.requires_grad_(), second, target).sum().backward()
    assert first.grad is not None
    assert second.grad is None


def test_backward_computes_nothing_again(device, monkeypatch):
    first, second, target, _ = sample(5, device)
    loss = ops.pairwise_ce(first.requires_grad_(), second, target)
    for name in ("sigmoid", "exp"):
        monkeypatch.setattr(torch, name, lambda *_: pytest.fail("the derivative is recomputed"))
    loss.sum().backward()


def test_accepts_strided_input(device):
    packed = sample(11, device)
    strided = [torch.stack([a, a], 1)[:, 0] for a in packed]
    assert not any(a.is_contiguous() for a in strided)
    torch.testing.assert_close(loss_and_grads(*strided), loss_and_grads(*packed), rtol=0, atol=0)


def test_leaves_its_inputs_alone(device):
    args = sample(11, device)
    copies = [a.clone() for a in args]
    loss_and_grads(*args)
    torch.testing.assert_close(list(args), copies, rtol=0, atol=0)


def test_labels_of_another_precision_are_not_rounded(device):
    # 0.7001 is not a bfloat16; rounding it would move the loss of a margin of 64 by 0.1.
    first = torch.tensor([64.0], device=device, dtype=torch.bfloat16)
    target = torch.tensor([0.7001], device=device)
    loss = ops.pairwise_ce(first, torch.zeros_like(first), target)
    want = torch.tensor([64 * (1 - 0.7001)], device=device).bfloat16()
    torch.testing.assert_close(loss, want, rtol=0, atol=0)


def test_sums_by_hand(device):
    # Margins 1, -2, 3 and targets 0.9, 0.8, 0.5 with weights 1, 2, 0: the first agrees, the second
    # does not, the third is out.
    # Losses: softplus(-1) + 0.1 = 0.413262; 2 * (softplus(2) - 0.2 * 2) = 2 * 1.726928 = 3.453856.
    first, second = column(2, 0, 3, device=device), column(1, 2, 0, device=device)
    target, weight = column(0.9, 0.8, 0.5, device=device), column(1, 2, 0, device=device)
    sums = ops.pairwise_ce_sums(first, second, target, weight)
    got = [x.item() for x in (sums.loss, sums.weight, sums.num_correct, sums.margin)]
    assert got == pytest.approx([0.413262 + 3.453856, 3.0, 1.0, 1 - 4], abs=1e-5)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n", [0, 1, 1023, 20000])
def test_sums_are_those_of_the_losses(n, dtype, device):
    first, second, target, weight = sample(n, device, dtype)
    one, two = first.clone().requires_grad_(), second.clone().requires_grad_()
    sums = ops.pairwise_ce_sums(one, two, target, weight)
    margin = first.double() - second.double()
    agrees = ((margin > 0) == (target > 0.5)).double()
    losses, *grads = loss_and_grads(first, second, target, weight)
    close = {"rtol": 1e-5 if dtype == torch.float32 else 1e-2, "atol": 1e-3}
    if dtype == torch.float64:
        close = {"rtol": 1e-12, "atol": 1e-9}
    torch.testing.assert_close(sums.loss.double(), losses.double().sum(), **close)
    close = {"rtol": 1e-5, "atol": 1e-3}
    torch.testing.assert_close(sums.weight, weight.double().sum(), **close)
    torch.testing.assert_close(sums.num_correct, (weight * agrees).double().sum(), **close)
    torch.testing.assert_close(sums.margin, (weight * margin).double().sum(), **close)
    assert not sums.margin.requires_grad
    torch.testing.assert_close(list(torch.autograd.grad(sums.loss, (one, two))), grads)


def test_threads_do_not_change_a_sum():
    first, second, target, weight = sample(50_000, torch.device("cpu"))
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(ops.pairwise_ce_sums(first, second, target, weight).loss.item())
    finally:
        torch.set_num_threads(before)
    assert found[0] == pytest.approx(found[1], rel=1e-7)


def test_gradients_of_the_sum(device):
    first, second, target, weight = sample(9, device, torch.float64)
    pair = (first.requires_grad_(), second.requires_grad_())

    def loss(first, second):
        return ops.pairwise_ce_sums(first, second, target, weight).loss

    assert torch.autograd.gradcheck(loss, pair)
    assert torch.autograd.gradgradcheck(loss, pair)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("n", [1, 64, 9000])
def test_a_reduction_is_that_of_the_losses(n, reduction, weighted, device):
    first, second = torch.randn(2, n, device=device, dtype=torch.float64).requires_grad_().unbind()
    target = torch.rand(n, device=device, dtype=torch.float64)
    weight = torch.rand_like(target) if weighted else None
    losses = ops.pairwise_ce(first, second, target, weight)
    want = losses.mean() if reduction == "mean" else losses.sum()
    got = ops.pairwise_ce(first, second, target, weight, reduction=reduction)
    torch.testing.assert_close(got, want)
    for graph in (False, True):  # with a graph the gradients are made of ops that have one
        grads = [
            torch.autograd.grad(3 * x, (first, second), retain_graph=True, create_graph=graph)
            for x in (got, want)
        ]
        torch.testing.assert_close(*grads)


def test_the_mean_has_a_second_derivative(device):
    first = torch.randn(5, device=device, dtype=torch.float64).requires_grad_()
    target = torch.rand(5, device=device, dtype=torch.float64)
    other = torch.zeros_like(first)
    assert torch.autograd.gradgradcheck(
        lambda x: ops.pairwise_ce(x, other, target, reduction="mean"), (first,)
    )


def test_another_reduction_is_refused(device):
    row = torch.zeros(2, device=device)
    with pytest.raises(ValueError, match="reduction must be none, mean or sum, got 'max'"):
        ops.pairwise_ce(row, row, row, reduction="max")
