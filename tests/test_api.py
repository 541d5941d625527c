"""``generate``, ``label`` and ``evaluate`` in memory, as the commands do them."""

import pytest

import rlaif_pl
from rlaif_pl import LikelihoodLabeler, LocalBackend, Policy, Preference, SamplingParams
from rlaif_pl.data.label_store import LabelStore

SAMPLING = SamplingParams(n=2, max_new_tokens=6)


@pytest.fixture
def policy(tiny_model_folder):
    return Policy.from_pretrained(tiny_model_folder, trunk_layers=2, lora=rlaif_pl.Lora(r=4))


@pytest.fixture
def labeler(tiny_model_folder):
    return LikelihoodLabeler(LocalBackend(str(tiny_model_folder)))


def test_generate_answers_every_prompt_and_says_who_wrote(policy, small_prompts):
    found = rlaif_pl.generate(policy, small_prompts, SAMPLING, seed=4)
    assert found.prompts == small_prompts
    assert [len(texts) for texts in found.texts] == [2] * len(small_prompts)
    assert found.author == f"{policy.identity()} T=1.0 seed=4"
    again = rlaif_pl.generate(policy, small_prompts[::-1], SAMPLING, seed=4, batch_size=5)
    assert again.texts == found.texts[::-1]  # prompts key the noise, not their batches
    assert rlaif_pl.generate(policy, small_prompts, SAMPLING, seed=5).texts != found.texts


def test_generate_takes_texts(policy):
    found = rlaif_pl.generate(policy, ["a post", "another"], SAMPLING)
    assert [prompt.text for prompt in found.prompts] == ["a post", "another"]


def test_pairs_are_made_of_an_even_number_of_different_responses(policy, small_prompts):
    found = rlaif_pl.generate(policy, small_prompts, SAMPLING)
    pairs = found.pairs()
    assert 0 < len(pairs) <= len(small_prompts)
    assert all(pair.first != pair.second and pair.p_first is None for pair in pairs)
    assert {pair.provenance.first_policy for pair in pairs} == {found.author}
    with pytest.raises(ValueError, match="expected an even number of responses a prompt"):
        rlaif_pl.generate(policy, ["p"], SamplingParams(n=3, max_new_tokens=4)).pairs()
    greedy = SamplingParams(n=2, max_new_tokens=4, temperature=0)
    alike = rlaif_pl.generate(policy, ["p"], greedy)
    with pytest.raises(ValueError, match="expected pairs of two different responses, got none"):
        alike.pairs()


def test_generate_wants_a_policy():
    with pytest.raises(TypeError, match=r"got str; make one with Policy\.from_pretrained"):
        rlaif_pl.generate("smollm2-135m", ["p"])


def test_label_is_what_the_labeler_says(labeler, small_pairs):
    found = rlaif_pl.label(small_pairs, labeler, progress=False)
    expected = labeler.label(small_pairs)
    assert [pair.p_first for pair in found] == [pair.p_first for pair in expected]
    assert {pair.source for pair in found} == {"ai"}


def test_label_keeps_answers_where_it_is_told_to(labeler, small_pairs, tmp_path, monkeypatch):
    store = str(tmp_path / "labels.sqlite")
    first = rlaif_pl.label(small_pairs, labeler, store=store, progress=False)
    with LabelStore(store) as kept:
        assert len(kept) == len(small_pairs)
    monkeypatch.setattr(labeler, "label", lambda pairs: pytest.fail("asked again"))
    assert rlaif_pl.label(small_pairs, labeler, store=store, progress=False) == first


def test_label_leaves_out_what_cannot_be_judged(tiny_model_folder, small_pairs, caplog):
    labeler = LikelihoodLabeler(LocalBackend(str(tiny_model_folder), max_tokens=150))
    long = Preference("word " * 400, "one", "another", "long")
    found = rlaif_pl.label([*small_pairs, long], labeler, progress=False)
    assert len(found) == len(small_pairs)
    assert "left out 1 of 13 pairs that the labeler could not judge" in caplog.text
    with pytest.raises(ValueError, match="no usable label for 1 pairs: .*too_long"):
        rlaif_pl.label([long], labeler, progress=False)


def test_evaluate_compares_policies_by_a_function(policy, labeler, small_prompts):
    def words(prompts, responses):
        return [len(text.split()) for text in responses]

    report = rlaif_pl.evaluate(
        policy,
        policy,
        small_prompts,
        reward=words,
        labeler=labeler,
        independent=False,
        sampling=SAMPLING,
        draws=50,
    )
    metrics = report.to_metrics()
    assert metrics["a2c/reward_gain"] == 0.0  # the same policy, the same noise
    assert metrics["a2c/kl"] == pytest.approx(0.0, abs=1e-5)
    assert "greedy/a2c/reward_gain" in metrics
    assert "greedy/a2c/kl" not in metrics  # greedy texts are drawn from no distribution
    assert report.win_rates["policy_vs_sft"].raw.value == 0.5
    assert "policy_vs_sft_independent" not in report.win_rates
    assert report.reward_policy[0] == [float(n) for n in words([], report.samples.policy[0])]


def test_evaluate_gives_a_reward_its_columns(policy, labeler):
    def closeness(prompts, responses, answer):
        return [-abs(len(text) - want) for text, want in zip(responses, answer, strict=True)]

    def run(rows):
        how = {"labeler": labeler, "independent": False, "sampling": SAMPLING, "draws": 20}
        return rlaif_pl.evaluate(policy, policy, rows, reward=closeness, **how)

    rows = [{"text": f"a post of {n}", "answer": n} for n in (3, 9)]
    report = run(rows)
    texts = report.samples.policy
    assert report.reward_policy == [
        [-abs(len(text) - row["answer"]) for text in own]
        for row, own in zip(rows, texts, strict=True)
    ]
    with pytest.raises(ValueError, match=r"columns answer, .* in row 1 of the prompts \(group"):
        run([rows[0], {"text": "a post"}])
