"""The gae op as a citizen of torch: registration, compilation, and every refused argument."""

import pytest
import torch
from torch._subclasses import FakeTensorMode

from rlaif_pl import ops

pytestmark = pytest.mark.usefixtures("implementation")


def trajectories(device, n=3, t=5):
    return torch.randn(n, t, device=device), torch.randn(n, t, device=device)


def direct_args(device, n=3, t=5):
    lengths = torch.arange(n, device=device).clamp(max=t)
    return (*trajectories(device, n, t), lengths, torch.randn(n, device=device), 0.9, 0.8)


@pytest.mark.parametrize("shape", [(3, 5), (0, 5), (5, 0)], ids=str)
@pytest.mark.parametrize("requires_grad", [False, True])
def test_registration(shape, requires_grad, device):
    args = direct_args(device, *shape)
    args[1].requires_grad_(requires_grad)
    torch.library.opcheck(torch.ops.rlaif_pl.gae.default, args)


def test_compiles_without_graph_breaks(device):
    rewards, values = trajectories(device)
    is_response = torch.arange(5, device=device) < torch.tensor([[5], [0], [2]], device=device)

    def advantages(rewards, values, is_response):
        return ops.gae(rewards, values, is_response=is_response, gamma=0.9)

    got = torch.compile(advantages, fullgraph=True, backend="aot_eager")(
        rewards, values, is_response
    )
    torch.testing.assert_close(got, advantages(rewards, values, is_response))


def test_fake_tensors_pass_through(device):
    with FakeTensorMode() as mode:
        fake = [mode.from_tensor(a) for a in trajectories(device)]
        is_response = torch.ones(3, 5, dtype=torch.bool, device=device)
    meta = [a.to("meta") for a in trajectories(device)]
    for rewards, values, mask in ((*fake, is_response), (*meta, None)):
        advantages, returns = ops.gae(rewards, values, is_response=mask)
        assert advantages.shape == returns.shape == (3, 5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rewards": torch.zeros(3)}, r"rewards must be \(N, T\) in .* got \(3,\) .* reshape it"),
        (
            {"rewards": torch.zeros(3, 5).long()},
            "rewards must be .* in float32 or .* in int64 on .*; cast it",
        ),
        ({"values": torch.zeros(3, 4)}, r"values must be \(3, 5\) in .* got \(3, 4\)"),
        ({"values": torch.zeros(3, 5).double()}, "values must be .* in float32 on .* in float64"),
        ({"values": torch.zeros(3, 5, device="meta")}, "values must be .* on meta; move it"),
        ({"lengths": torch.tensor([1, 2])}, r"lengths must be \(3,\) in int64 .* got \(2,\)"),
        ({"lengths": torch.ones(3)}, "lengths must be .* in int64 on .* in float32"),
        (
            {"lengths": torch.ones(3, dtype=torch.int32)},
            "lengths must be .* in int64 on .* in int32",
        ),
        ({"bootstrap": torch.zeros(3, 1)}, r"bootstrap must be \(3,\) in .* got \(3, 1\)"),
        (
            {"bootstrap": torch.zeros(3).double()},
            "bootstrap must be .* in float32 on .* in float64",
        ),
        (
            {"is_response": torch.ones(3, 4).bool()},
            r"is_response must be \(3, 5\) in bool .* got \(3, 4\)",
        ),
        ({"is_response": torch.ones(3, 5)}, "is_response must be .* in bool on .* in float32"),
        ({"gamma": 1.5}, r"gamma must lie in \[0, 1\], got 1.5"),
        ({"gamma": float("nan")}, r"gamma must lie in \[0, 1\], got nan"),
        ({"gae_lambda": -0.1}, r"gae_lambda must lie in \[0, 1\], got -0.1"),
        (
            {"lengths": torch.ones(3).long(), "is_response": torch.ones(3, 5).bool()},
            "both lengths and is_response",
        ),
    ],
    ids=lambda x: "-".join(x) if isinstance(x, dict) else "",
)
def test_refuses(changes, message, device):
    rewards, values = trajectories(device)
    arguments = {"rewards": rewards, "values": values}
    for name, value in changes.items():
        moves = isinstance(value, torch.Tensor) and value.device.type != "meta"
        arguments[name] = value.to(device) if moves else value
    with pytest.raises(ValueError, match=f"gae: .*{message}"):
        ops.gae(**arguments)


@pytest.mark.parametrize("bad", [-1, 6, 2**62])
def test_a_length_out_of_range_is_refused_or_bounded(bad, device):
    rewards, values = trajectories(device)
    lengths = torch.tensor([2, bad, 5], device=device)
    bootstrap = torch.zeros(3, device=device)
    arguments = (rewards, values, lengths, bootstrap, 1.0, 0.95)
    if device.type == "cpu":
        with pytest.raises(ValueError, match=r"gae: lengths must lie in \[0, 5\]"):
            ops.gae(rewards, values, lengths=lengths)
        with pytest.raises(RuntimeError, match=r"gae: lengths must lie in \[0, 5\]"):
            torch.ops.rlaif_pl.gae.default(*arguments)
    else:
        want = ops.gae(rewards, values, lengths=lengths.clamp(0, 5))
        torch.testing.assert_close(torch.ops.rlaif_pl.gae.default(*arguments), want)


@pytest.mark.parametrize("row", [0, 2])
def test_a_mask_with_a_gap_is_refused(row, device):
    is_response = torch.ones(3, 5, dtype=torch.bool, device=device)
    is_response[row, 2] = False
    with pytest.raises(ValueError, match=f"row {row} has a True after a False"):
        ops.gae(*trajectories(device), is_response=is_response)


@pytest.mark.parametrize("position", [0, 1, 2, 3])
def test_kernels_refuse_what_does_not_fit(position, device, implementation):
    if implementation == "reference":
        pytest.skip("the reference reads through torch, which checks bounds itself")
    args = list(direct_args(device))
    args[position] = args[position][:-1]
    with pytest.raises(RuntimeError, match="gae: "):
        torch.ops.rlaif_pl.gae.default(*args)
    args[position] = direct_args(device)[position].to(torch.complex64)
    with pytest.raises(RuntimeError, match="gae: "):
        torch.ops.rlaif_pl.gae.default(*args)
