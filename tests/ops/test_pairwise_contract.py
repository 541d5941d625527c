"""The pairwise_ce op as a citizen of torch: registration, compilation, every refused argument."""

import re

import pytest
import torch

from rlaif_pl import ops

pytestmark = pytest.mark.usefixtures("implementation")


def scores(device, n=7):
    return (
        torch.randn(n, device=device),
        torch.randn(n, device=device),
        torch.rand(n, device=device),
    )


@pytest.mark.parametrize("n", [7, 1, 0])
@pytest.mark.parametrize("is_weighted", [False, True])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_registration(n, is_weighted, requires_grad, device):
    first, second, target = scores(device, n)
    args = (first.requires_grad_(requires_grad), second, target)
    weight = torch.rand(n, device=device) if is_weighted else None
    torch.library.opcheck(torch.ops.rlaif_pl.pairwise_ce_fwd.default, (*args, weight))
    torch.library.opcheck(torch.ops.rlaif_pl.pairwise_ce_fwd.default, (*args, weight, False))
    dmargin = args[0].detach()
    for grad in (
        dmargin.new_ones(()),
        torch.rand_like(dmargin),
        dmargin.new_ones(()).expand(len(dmargin)),
    ):
        torch.library.opcheck(torch.ops.rlaif_pl.pairwise_ce_bwd.default, (dmargin, grad))


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiles_without_graph_breaks(backend, device):
    first, second, target = scores(device)
    weight = torch.rand_like(target)
    compiled = torch.compile(ops.pairwise_ce, fullgraph=True, backend=backend)
    grads = []
    for loss in (compiled, ops.pairwise_ce):
        leaf = first.clone().requires_grad_()
        loss(leaf, second, target, weight).sum().backward()
        grads.append(leaf.grad)
    torch.testing.assert_close(*grads)


def test_fake_tensors_pass_through(device):
    loss = ops.pairwise_ce(*(a.to("meta") for a in scores(device)))
    assert loss.shape == (7,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"first": torch.zeros(3, 1)},
            r"first must be \(N,\) in float32 or .* got \(3, 1\) .* reshape it",
        ),
        (
            {"first": torch.zeros(3).int()},
            r"first must be .* in float32 or .* got \(3,\) in int32 on [\w:]+; cast it",
        ),
        ({"second": torch.zeros(4)}, r"second must be \(3,\) in float32 on [\w:]+, got \(4,\)"),
        (
            {"second": torch.zeros(3).double()},
            r"second must be \(3,\) in float32 .* got \(3,\) in float64",
        ),
        ({"second": torch.zeros(3, device="meta")}, r"second must be .* got .* on meta; move it"),
        ({"target": torch.zeros(1)}, r"target must be \(3,\) in .* got \(1,\)"),
        (
            {"target": torch.zeros(3).long()},
            r"target must be .* in float32 or .* got \(3,\) in int64",
        ),
        ({"target": torch.zeros(3, requires_grad=True)}, "target must not require a gradient"),
        ({"weight": torch.zeros(4)}, r"weight must be \(3,\) in .* got \(4,\)"),
        ({"weight": torch.zeros(3).bool()}, r"weight must be .* in float32 or .* in bool"),
        ({"weight": torch.zeros(3, requires_grad=True)}, "weight must not require a gradient"),
    ],
    ids=lambda x: "-".join(x) if isinstance(x, dict) else "",
)
def test_refuses(changes, message, device):
    arguments = {name: torch.zeros(3, device=device) for name in ("first", "second", "target")}
    for name, value in changes.items():
        arguments[name] = value if value.device.type == "meta" else value.detach().to(device)
        arguments[name].requires_grad_(value.requires_grad)
    with pytest.raises(ValueError, match=f"pairwise_ce: {message}") as refusal:
        ops.pairwise_ce(**arguments)
    # A GPU's name has an index: what a machine without one matches must match there too.
    assert re.search(message, re.sub(r"on cpu\b", "on cuda:0", str(refusal.value)))


@pytest.mark.parametrize("name", ["target", "weight"])
@pytest.mark.parametrize("bad", [-0.01, float("nan"), float("inf")])
def test_a_bad_label_is_refused_on_the_cpu(name, bad, device):
    labels = {"target": torch.full((3,), 0.5, device=device), name: torch.ones(3, device=device)}
    labels[name][1] = bad
    first = torch.zeros(3, device=device)
    if device.type == "cpu":
        with pytest.raises(ValueError, match=f"pairwise_ce: {name} must be .* at index 1"):
            ops.pairwise_ce(first, first, **labels)
    else:
        assert ops.pairwise_ce(first, first, **labels).shape == (3,)


def test_a_target_above_one_is_refused_on_the_cpu(device):
    if device.type != "cpu":
        pytest.skip("values are looked at on the CPU only")
    first = torch.zeros(2)
    with pytest.raises(ValueError, match=r"target must be a probability in \[0, 1\], got 2.0"):
        ops.pairwise_ce(first, first, torch.tensor([0.5, 2.0]))


@pytest.mark.parametrize("position", [0, 1, 2, 3])
def test_kernels_refuse_what_does_not_fit(position, device, implementation):
    if implementation == "reference":
        pytest.skip("the reference reads through torch, which checks bounds itself")
    good = (*scores(device), torch.ones(7, device=device))
    for broken in (good[position][:-1], good[position][:, None], good[position].to(torch.int32)):
        args = [*good[:position], broken, *good[position + 1 :]]
        with pytest.raises(RuntimeError, match="pairwise_ce_fwd"):
            torch.ops.rlaif_pl.pairwise_ce_fwd.default(*args)
