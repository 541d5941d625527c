import pytest

from rlaif_pl.data.sources import load_preferences


def options(tiny_model_folder, data_files, *more):
    return [
        f"--policy.name={tiny_model_folder}",
        "--policy.trunk_layers=2",
        f"--prompts={data_files.prompts}",
        "--sampling.max_new_tokens=6",
        *more,
    ]


def test_pairs_are_two_different_responses_to_each_prompt(
    command, out, tiny_model_folder, data_files, small_prompts
):
    metrics = command(
        "sample", *options(tiny_model_folder, data_files, "--sampling.n=4", "--seed=5")
    )
    rows = load_preferences(str(out / "pairs.jsonl")).rows
    assert metrics["sample/pairs"] == len(rows)
    assert metrics["sample/pairs"] + metrics["sample/dropped"] == 2 * len(small_prompts)
    assert all(row.first and row.second and row.first != row.second for row in rows)
    assert all(row.p_first is None for row in rows)
    assert {row.group for row in rows} <= {prompt.group for prompt in small_prompts}
    assert str(rows[0].provenance.first_policy).endswith("T=1.0 seed=5")


def test_the_seed_decides(command, out, tiny_model_folder, data_files):
    found = []
    for seed in (1, 1, 2):
        command("sample", *options(tiny_model_folder, data_files, f"--seed={seed}"))
        found.append(
            [(row.first, row.second) for row in load_preferences(str(out / "pairs.jsonl")).rows]
        )
    assert found[0] == found[1] != found[2]


def test_greedy_responses_make_no_pair(
    command, tiny_model_folder, data_files, small_prompts, capsys
):
    words = options(tiny_model_folder, data_files, "--sampling.temperature=0")
    metrics = command("sample", *words, status=1)
    assert "expected pairs of two different responses, got none" in capsys.readouterr().err
    assert metrics["sample/pairs"] == 0
    assert metrics["sample/dropped"] == len(small_prompts)


@pytest.mark.parametrize("name", ["sampling.n", "sampling.max_new_tokens", "drawing.batch_size"])
def test_counts_below_one_are_refused(name, command, tiny_model_folder, data_files, capsys):
    command("sample", *options(tiny_model_folder, data_files, f"--{name}=0"), status=1)
    name = name.partition(".")[2]
    assert f"expected {name} of at least 1, got 0" in capsys.readouterr().err


def test_an_odd_number_makes_no_pairs(command, tiny_model_folder, data_files, capsys):
    command("sample", *options(tiny_model_folder, data_files, "--sampling.n=3"), status=1)
    assert "expected an even sampling.n" in capsys.readouterr().err


def test_spliced_pairs_stand_behind_the_sampled_ones(command, out, tiny_model_folder, data_files):
    sampled = command("sample", *options(tiny_model_folder, data_files))
    alone = list(load_preferences(str(out / "pairs.jsonl")).rows)
    words = options(tiny_model_folder, data_files, "--spliced=1")
    metrics = command("sample", *words)
    rows = list(load_preferences(str(out / "pairs.jsonl")).rows)
    assert sampled["sample/spliced"] == 0
    assert metrics["sample/spliced"] > 0
    assert rows[: len(alone)] == alone
    assert len(rows) == metrics["sample/pairs"] + metrics["sample/spliced"]
    for row in rows[len(alone) :]:
        assert sorted(
            str(name).endswith(" spliced")
            for name in (row.provenance.first_policy, row.provenance.second_policy)
        ) == [False, True]


def test_spliced_is_refused_before_anything_is_sampled(
    command, tiny_model_folder, data_files, capsys
):
    command("sample", *options(tiny_model_folder, data_files, "--spliced=3"), status=1)
    assert "expected spliced of 0 to 2" in capsys.readouterr().err
    words = options(tiny_model_folder, data_files, "--spliced=1", "--prompts.limit=1")
    command("sample", *words, status=1)
    assert "expected two prompts or more" in capsys.readouterr().err
