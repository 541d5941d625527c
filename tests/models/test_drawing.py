import torch

from rlaif_pl.models.drawing import draw


def test_only_the_top_k_are_drawn_in_proportion():
    # Of .4, .3, .2 and .1 the top two are 4/7 and 3/7; a draw of .57 is the first, .58 the second.
    logits = torch.tensor([0.2, 0.4, 0.1, 0.3]).log().expand(4, 4)
    uniform = torch.tensor([0.0, 0.57, 0.58, 0.999], dtype=torch.float64)
    assert draw(logits, uniform, 1.0, top_k=2).tolist() == [1, 1, 3, 3]


def test_a_top_k_beyond_the_vocabulary_takes_all():
    logits = torch.zeros(2, 4)
    uniform = torch.tensor([0.1, 0.9], dtype=torch.float64)
    for top_k in (0, 4, 100):
        assert draw(logits, uniform, 1.0, top_k=top_k).tolist() == [0, 3]


def test_greedy_heeds_no_noise():
    assert draw(torch.tensor([[0.0, 2.0, 1.0]]), torch.tensor([0.99]), 0.0, top_k=2).tolist() == [1]
