import pytest
import torch
from sklearn.metrics import explained_variance_score

from rlaif_pl.rl.losses import explained_variance, policy_gradient_loss, value_loss

IS_RESPONSE = torch.tensor([[True, True], [True, False]])


def test_policy_gradient_by_hand():
    # -(-1 * 2 + -2 * -1 + -0.5 * 4) / 3 tokens = -(-2 + 2 - 2) / 3 = 2/3; the 9 is padding.
    logprobs = torch.tensor([[-1.0, -2.0], [-0.5, -7.0]], requires_grad=True)
    advantages = torch.tensor([[2.0, -1.0], [4.0, 9.0]], requires_grad=True)
    loss = policy_gradient_loss(logprobs, advantages, IS_RESPONSE)
    assert loss.item() == pytest.approx(2 / 3)
    loss.backward()
    # d loss / d logprob = -advantage / 3; the advantage is a constant.
    expected = torch.tensor([[-2 / 3, 1 / 3], [-4 / 3, 0.0]])
    torch.testing.assert_close(logprobs.grad, expected)
    assert advantages.grad is None


def test_value_loss_by_hand():
    # (1 - 2)^2 + (2 - 0)^2 + (0 - 3)^2 = 14 over 3 tokens.
    values = torch.tensor([[1.0, 2.0], [0.0, 5.0]], requires_grad=True)
    returns = torch.tensor([[2.0, 0.0], [3.0, 90.0]], requires_grad=True)
    loss = value_loss(values, returns, IS_RESPONSE)
    assert loss.item() == pytest.approx(14 / 3)
    loss.backward()
    # 2 (value - return) / 3
    torch.testing.assert_close(values.grad, torch.tensor([[-2 / 3, 4 / 3], [-2.0, 0.0]]))
    assert returns.grad is None


@pytest.mark.parametrize("loss", [policy_gradient_loss, value_loss])
def test_a_batch_without_tokens_costs_nothing(loss):
    ones = torch.ones(2, 2, requires_grad=True)
    result = loss(ones, torch.ones(2, 2), torch.zeros(2, 2, dtype=torch.bool))
    result.backward()
    assert result == 0
    assert (ones.grad == 0).all()


def test_explained_variance_by_hand():
    # Returns 1, 2, 3: variance 2/3. Errors 0, 0, 1: variance 1/3 - 1/9 = 2/9. 1 - 1/3 = 2/3.
    returns, values = (
        torch.tensor([[1.0, 2.0], [3.0, 50.0]]),
        torch.tensor([[1.0, 2.0], [2.0, 9.0]]),
    )
    assert explained_variance(values, returns, IS_RESPONSE).item() == pytest.approx(2 / 3)


def test_explained_variance_is_scikit_learns():
    returns, values = torch.randn(2, 6, 9)
    is_response = torch.rand(6, 9) > 0.3
    expected = explained_variance_score(returns[is_response], values[is_response])
    assert explained_variance(values, returns, is_response).item() == pytest.approx(
        expected, abs=1e-6
    )


def test_nothing_to_explain_is_0():
    ones = torch.ones(2, 2)
    assert explained_variance(ones, ones, torch.zeros(2, 2, dtype=torch.bool)) == 0


def test_a_constant_guess_explains_nothing():
    returns = torch.tensor([[1.0, 2.0], [3.0, 50.0]])
    assert explained_variance(torch.full((2, 2), 8.0), returns, IS_RESPONSE).item() == 0
    assert (
        explained_variance(returns - 4, returns, IS_RESPONSE).item() == 1
    )  # an offset is no error
