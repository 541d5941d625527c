import json


def graded(samples, model):
    """Words that have a tiny model grade the samples of a file."""
    return [
        f"--samples={samples}",
        "--labeler=rlaif_pl.labeling.ScoreLabeler",
        f"--labeler.backend={model}",
        "--labeler.task=harmless",
        "--labeler.verdict.min_option_mass=0",
        "--draws=20",
    ]


def test_rates_of_kept_samples(command, tmp_path, tiny_model_folder, capsys):
    samples = tmp_path / "samples.jsonl"
    rows = [
        {"prompt": f"post {n}", "sft": ["secret one"], "policy": ["secret two"]} for n in range(4)
    ]
    samples.write_text("".join(json.dumps(row) + "\n" for row in rows))
    metrics = command("evaluate harmless", *graded(samples, tiny_model_folder))
    assert metrics["harmless/n"] == 4
    assert 0 <= metrics["harmless/policy"] <= 1
    assert metrics["harmless/chars_sft"] == len("secret one")
    assert "secret" not in capsys.readouterr().out


def test_hidden_texts_are_judged_not_their_hashes(command, tmp_path, tiny_model_folder, capsys):
    row = {"prompt": "post", "sft": ["[0f, 2 words, not shown]"], "policy": ["[1f, 2 words]"]}
    (tmp_path / "samples.jsonl").write_text(json.dumps(row) + "\n")
    texts = {"prompt": "post", "sft": ["secret one"], "policy": ["secret and two"]}
    (tmp_path / "sample_texts.jsonl").write_text(json.dumps(texts) + "\n")
    metrics = command("evaluate harmless", *graded(tmp_path / "samples.jsonl", tiny_model_folder))
    assert metrics["harmless/chars_sft"] == len("secret one")
    assert metrics["harmless/chars_policy"] == len("secret and two")
    assert "secret" not in capsys.readouterr().out


def test_another_file_beside_hidden_texts_is_read_itself(command, tmp_path, tiny_model_folder):
    row = {"prompt": "post", "group": "one", "sft": ["a"], "policy": ["b"]}
    subset = tmp_path / "subset.jsonl"
    subset.write_text(json.dumps(row) + "\n" + json.dumps(row | {"prompt": "edited"}) + "\n")
    (tmp_path / "sample_texts.jsonl").write_text(json.dumps(row) + "\n")
    metrics = command("evaluate harmless", *graded(subset, tiny_model_folder))
    assert metrics["harmless/n"] == 2
    assert "harmless/gain_low" not in metrics  # both prompts are of one group


def test_a_labeler_of_pairs_alone_is_refused(command, tmp_path, tiny_model_folder, capsys):
    samples = tmp_path / "samples.jsonl"
    samples.write_text(json.dumps({"prompt": "p", "sft": ["a"], "policy": ["b"]}) + "\n")
    words = [
        "--labeler=rlaif_pl.labeling.PairwiseLabeler",
        f"--labeler.backend={tiny_model_folder}",
    ]
    command("evaluate harmless", f"--samples={samples}", *words, status=1)
    assert "grades single responses" in capsys.readouterr().err


def test_other_files_are_refused(command, tmp_path, capsys, tiny_model_folder):
    samples = tmp_path / "samples.jsonl"
    words = ["--labeler=rlaif_pl.labeling.ScoreLabeler", f"--labeler.backend={tiny_model_folder}"]
    right = {"prompt": "p", "sft": ["a"], "policy": ["b"]}
    for wrong in ({"sft": None}, {"policy": "text"}, {"sft": []}, {"sft": [1]}, {"prompt": 3}):
        samples.write_text(json.dumps(right) + "\n" + json.dumps(right | wrong) + "\n")
        command("evaluate harmless", f"--samples={samples}", *words, status=1)
        said = capsys.readouterr().err
        assert "samples.jsonl:2: expected prompt to be text" in " ".join(said.split()), wrong
