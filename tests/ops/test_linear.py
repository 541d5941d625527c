"""The linear_logprob op against the plain computation over all logits, and its contract."""

import math

import pytest
import torch

from rlaif_pl import ops
from rlaif_pl.ops import _products, linear

pytestmark = pytest.mark.usefixtures("implementation")


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Let even small shapes take several blocks of rows and columns."""
    monkeypatch.setattr(_products, "block_sizes", lambda _weight: _products.BlockSizes(64, 7))


def sample(device, n=20, d=6, v=37, dtype=torch.float64):
    hidden = torch.randn(n, d, device=device, dtype=dtype)
    weight = torch.randn(v, d, device=device, dtype=dtype)
    bias = torch.randn(v, device=device, dtype=dtype)
    return hidden, weight, torch.randint(0, v, (n,), device=device), bias


def plain(hidden, weight, tokens, temperature, bias=None, softcap=None):
    """The definition, with every logit at once."""
    z = hidden @ weight.T if bias is None else hidden @ weight.T + bias
    z = z if softcap is None else softcap * torch.tanh(z / softcap)
    logp = torch.log_softmax(z.to(torch.promote_types(z.dtype, torch.float32)) / temperature, -1)
    return logp.gather(1, tokens[:, None])[:, 0], -(logp.exp() * logp).sum(1)


def test_two_tokens_by_hand(device):
    # Logits (log 3, 0) at temperature 1: p = (3/4, 1/4).
    hidden = torch.tensor([[1.0], [1.0]], device=device, dtype=torch.float64)
    weight = torch.tensor([[math.log(3.0)], [0.0]], device=device, dtype=torch.float64)
    logprob, entropy = ops.linear_logprob(hidden, weight, torch.tensor([0, 1], device=device))
    assert logprob.tolist() == pytest.approx([math.log(0.75), math.log(0.25)])
    want = -0.75 * math.log(0.75) - 0.25 * math.log(0.25)
    assert entropy.tolist() == pytest.approx([want, want])


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("trained", [False, True])
def test_values_and_gradients_are_the_plain_ones(softcap, biased, trained, device):
    hidden, weight, tokens, bias = sample(device)
    bias = bias if biased else None
    hidden.requires_grad_()
    leaves = [hidden]
    if trained:
        leaves += [x.requires_grad_() for x in (weight, bias) if x is not None]
    got = ops.linear_logprob(hidden, weight, tokens, 0.7, bias=bias, softcap=softcap)
    want = plain(hidden, weight, tokens, 0.7, bias, softcap)
    torch.testing.assert_close(list(got), list(want))
    pull = torch.randn_like(got[0])
    grads = torch.autograd.grad((got[0] * pull).sum(), leaves)
    truth = torch.autograd.grad((want[0] * pull).sum(), leaves)
    torch.testing.assert_close(list(grads), list(truth))


@pytest.mark.parametrize("softcap", [None, 3.0])
def test_entropy_has_a_gradient_on_request(softcap, device):
    hidden, weight, tokens, bias = sample(device)
    hidden.requires_grad_()
    logprob, entropy = ops.linear_logprob(
        hidden, weight, tokens, 0.7, bias=bias, softcap=softcap, entropy_gradient=True
    )
    want = plain(hidden, weight, tokens, 0.7, bias, softcap)
    (got,) = torch.autograd.grad((logprob - 0.3 * entropy).sum(), hidden)
    (truth,) = torch.autograd.grad((want[0] - 0.3 * want[1]).sum(), hidden)
    torch.testing.assert_close(got, truth)


def test_without_the_request_the_entropy_has_none(device):
    hidden, weight, tokens, _ = sample(device)
    _, entropy = ops.linear_logprob(hidden.requires_grad_(), weight, tokens)
    assert not entropy.requires_grad


@pytest.mark.parametrize("trained", [False, True])
def test_gradcheck(trained, device):
    hidden, weight, tokens, bias = sample(device, 4, 3, 9)
    hidden.requires_grad_()
    weight.requires_grad_(trained)
    bias.requires_grad_(trained)

    def logprob(hidden, weight, bias):
        return ops.linear_logprob(hidden, weight, tokens, 0.9, bias=bias, softcap=5.0)[0]

    assert torch.autograd.gradcheck(logprob, (hidden, weight, bias))


@pytest.mark.parametrize(
    ("dtype", "close"),
    [(torch.float32, 1e-5), (torch.bfloat16, 5e-2), (torch.float16, 1e-2)],
    ids=str,
)
@pytest.mark.parametrize("trained", [False, True])
def test_lower_precision(dtype, close, trained, device):
    hidden, weight, tokens, bias = sample(device, 33, 16, 5000, dtype)
    hidden, weight = hidden.requires_grad_(), (0.3 * weight).requires_grad_(trained)
    logprob, entropy = ops.linear_logprob(hidden, weight, tokens, 0.9, bias=bias)
    assert logprob.dtype == torch.float32
    exact = [x.detach().double().requires_grad_() for x in (hidden, weight)]
    want = plain(*exact, tokens, 0.9, bias.double())
    torch.testing.assert_close(logprob.double(), want[0], rtol=close, atol=close)
    torch.testing.assert_close(entropy.double(), want[1], rtol=close, atol=close)
    logprob.sum().backward()
    want[0].sum().backward()
    torch.testing.assert_close(hidden.grad.double(), exact[0].grad, rtol=close, atol=2 * close)
    if trained:
        torch.testing.assert_close(weight.grad.double(), exact[1].grad, rtol=close, atol=2 * close)


def test_huge_logits_stay_finite(device):
    hidden = torch.tensor([[1000.0], [-1000.0]], device=device)
    weight = torch.tensor([[1.0], [0.0], [-1.0]], device=device)
    logprob, entropy = ops.linear_logprob(hidden, weight, torch.tensor([0, 0], device=device))
    assert logprob.tolist() == [0.0, -2000.0]
    assert entropy.tolist() == [0.0, 0.0]


def test_a_forbidden_token_has_no_share(device):
    # A bias of -infinity over a whole block, then finite columns.
    hidden, weight, _, bias = sample(device)
    hidden.requires_grad_()
    bias[:20] = -torch.inf
    tokens = torch.full((len(hidden),), 30, device=device)
    logprob, entropy = ops.linear_logprob(hidden, weight, tokens, bias=bias)
    want = plain(hidden, weight[20:], tokens - 20, 1.0, bias[20:])
    torch.testing.assert_close([logprob, entropy], list(want))
    (got,) = torch.autograd.grad(logprob.sum(), hidden)
    torch.testing.assert_close(got, torch.autograd.grad(want[0].sum(), hidden)[0])


def test_no_rows(device):
    hidden, weight, tokens, _ = sample(device, 0)
    logprob, entropy = ops.linear_logprob(hidden.requires_grad_(), weight, tokens)
    assert logprob.shape == entropy.shape == (0,)


def test_never_more_logits_than_a_block(device, monkeypatch):
    seen = []
    real = linear.block_products

    def spied(*args):
        for block in real(*args):
            seen.append(block[-1].numel())
            yield block

    monkeypatch.setattr(linear, "block_products", spied)
    hidden, weight, tokens, _ = sample(device, 50, 4, 300)
    ops.linear_logprob(hidden, weight, tokens)
    assert max(seen) <= 64
    assert sum(seen) == 50 * 300


@pytest.mark.parametrize("keep_slope", [False, True])
@pytest.mark.parametrize("trained", [False, True])
def test_registration(keep_slope, trained, device):
    hidden, weight, tokens, bias = sample(device, 5, 3, 11)
    args = (hidden.requires_grad_(), weight, tokens, bias, 0.9, 3.0, keep_slope)
    weight.requires_grad_(trained and not keep_slope)
    torch.library.opcheck(torch.ops.rlaif_pl.linear_logprob_fwd.default, args)


def test_registration_of_the_block_ops(device):
    logits, tokens = torch.randn(5, 8, device=device), torch.randint(0, 8, (5,), device=device)
    state = torch.zeros(5, 5, device=device)
    state[:, 0] = -torch.inf
    rows = torch.rand(5, 4, device=device)
    block, slope = (
        torch.ops.rlaif_pl.online_softmax_update_,
        torch.ops.rlaif_pl.online_softmax_backward_,
    )
    torch.library.opcheck(block.default, (logits, tokens, None, state, 0, 1.0, 0.0, True))
    torch.library.opcheck(slope.default, (logits, tokens, None, rows, 0, 1.0, 0.0))


def test_compiles_without_graph_breaks(device):
    hidden, weight, tokens, _ = sample(device)
    compiled = torch.compile(ops.linear_logprob, fullgraph=True, backend="aot_eager")
    grads = []
    for function in (compiled, ops.linear_logprob):
        leaf = hidden.clone().requires_grad_()
        function(leaf, weight, tokens, 0.8)[0].sum().backward()
        grads.append(leaf.grad)
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden": torch.zeros(3)}, r"hidden must be \(N, D\) in .* got \(3,\)"),
        ({"weight": torch.zeros(5, 3)}, r"weight must be \(V, 2\) .* got \(5, 3\)"),
        (
            {"weight": torch.zeros(5, 2).double()},
            "weight must be .* in float32 on .* in float64 on .*; cast it",
        ),
        ({"tokens": torch.zeros(4).long()}, r"tokens must be \(3,\) in int64 .* got \(4,\)"),
        ({"bias": torch.zeros(4)}, r"bias must be \(5,\) in float32 or .* got \(4,\)"),
        ({"temperature": 0.0}, "temperature must be above 0, got 0.0"),
        ({"softcap": -1.0}, "softcap must be above 0, got -1.0"),
    ],
)
def test_refuses(changes, message, device):
    good = {
        "hidden": torch.zeros(3, 2),
        "weight": torch.zeros(5, 2),
        "tokens": torch.zeros(3, dtype=torch.int64),
    }
    arguments = {
        name: x.to(device) if isinstance(x, torch.Tensor) else x
        for name, x in {**good, **changes}.items()
    }
    with pytest.raises(ValueError, match=f"linear_logprob: {message}"):
        ops.linear_logprob(**arguments)


def test_a_token_outside_the_vocabulary_is_refused_on_the_cpu(device):
    if device.type != "cpu":
        pytest.skip("values are looked at on the CPU only")
    with pytest.raises(ValueError, match=r"tokens must lie in \[0, 4\], .* got 5 at index 1"):
        ops.linear_logprob(torch.zeros(2, 2), torch.zeros(5, 2), torch.tensor([0, 5]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_whole_rows_of_logits_have_gradients(dtype, device, monkeypatch):
    monkeypatch.setattr(_products, "block_sizes", lambda _weight: _products.BlockSizes(64, 8))
    hidden, weight, _, bias = (t.to(dtype) if t.is_floating_point() else t for t in sample(device))
    leaves = [hidden.requires_grad_(), weight.requires_grad_()]
    got = ops.linear_logits(*leaves, bias)
    exact = [t.detach().double().requires_grad_() for t in leaves]
    want = exact[0] @ exact[1].T + bias.double()
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)
    pull = torch.randn_like(got)
    found = torch.autograd.grad((got * pull).sum(), leaves)
    truth = torch.autograd.grad((want * pull.double()).sum(), exact)
    rounding = 2**-8 if dtype == torch.bfloat16 else 1e-5
    for one, other in zip(found, truth, strict=True):
        assert one.dtype == dtype
        assert (one - other).abs().max() <= rounding * other.abs().max()


def test_widened_once_gives_the_same_logits_and_widens_each_embedding_once():
    torch.manual_seed(0)
    hidden, weight = torch.randn(4, 64).bfloat16(), torch.randn(5000, 64).bfloat16()
    other = torch.randn(3000, 64).bfloat16()
    with torch.no_grad():
        before = [ops.linear_logits(hidden, w) for w in (weight, other)]
        with ops.widened_once():
            ops.linear_logits(hidden, weight)
            copy = _products._widened_weights.get()[id(weight)][1]
            again = [ops.linear_logits(hidden, w) for w in (weight, other)]
            assert _products._widened_weights.get()[id(weight)][1] is copy
    assert _products._widened_weights.get() is None
    for one, two in zip(before, again, strict=True):
        assert one.dtype == two.dtype == torch.float32
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-5)


def test_widened_once_leaves_gradients_alone():
    hidden = torch.randn(4, 64).bfloat16().requires_grad_()
    weight = torch.randn(2000, 64).bfloat16()
    with ops.widened_once():
        ops.linear_logits(hidden, weight).sum().backward()
        assert not _products._widened_weights.get()
    assert hidden.grad is not None
