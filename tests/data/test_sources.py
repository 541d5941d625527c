"""Sources: found, told apart, and clear about what is missing."""

import json
import logging

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlaif_pl.data.files import RawRow
from rlaif_pl.data.preferences import write_preferences, write_prompts
from rlaif_pl.data.records import group_of
from rlaif_pl.data.sources import DataSource, load_demonstrations, load_preferences, load_prompts
from rlaif_pl.data.sources.rows import detect
from rlaif_pl.types import Preference, Prompt

PAIRS = [Preference(f"p{n // 2}", f"a{n}", f"b{n}", f"g{n // 2}", n / 10) for n in range(6)]


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"prompt": "p", "first": "a", "second": "b", "group": "g"}, "preferences"),
        ({"prompt": "p", "first": "a", "second": "b", "label": 0}, "columns"),
        ({"prompt": "p", "chosen": "a", "rejected": "b"}, "trl"),
        ({"prompt": "p", "chosen": "x\n\nAssistant: y", "rejected": "b"}, "trl"),
        ({"chosen": "x\n\nAssistant: y", "rejected": "b"}, "hh"),
        ({"chosen": [{}], "rejected": [{}]}, "trl"),
        ({"prompt": "p", "completion": "a"}, "trl"),
        ({"messages": [{}]}, "trl"),
        ({"prompt": "p", "messages": [{}]}, "trl"),
        ({"info": {}, "summaries": [], "choice": 0}, "openai_comparisons"),
        ({"text": "p"}, "prompts"),
        ({"prompt": "p", "reference": "r"}, "columns"),
    ],
)
def test_formats_are_told_apart_by_their_fields(fields, found):
    assert detect(RawRow("here", fields), DataSource("x")) == found


def test_an_unknown_format_names_the_fields_and_the_way_out():
    with pytest.raises(ValueError, match="cannot tell the format from the fields q, r; .*columns"):
        detect(RawRow("here", {"q": 1, "r": 2}), DataSource("x"))


def test_what_auto_found_is_in_the_log(tmp_path, caplog):
    write_preferences(tmp_path / "p.jsonl", PAIRS)
    with caplog.at_level(logging.INFO, logger="rlaif_pl"):
        assert load_preferences(str(tmp_path / "p.jsonl")).rows == PAIRS
    assert "reading as preferences" in caplog.text


def test_preferences_give_each_prompt_once_and_limit_takes_the_first(tmp_path):
    write_preferences(tmp_path / "p.jsonl", PAIRS)
    prompts = load_prompts(str(tmp_path / "p.jsonl"))
    assert prompts == [Prompt("p0", "g0"), Prompt("p1", "g1"), Prompt("p2", "g2")]
    source = DataSource(str(tmp_path / "p.jsonl"), limit=2)
    assert load_prompts(source) == prompts[:2]
    assert load_preferences(source).rows == PAIRS[:2]


def test_prompts_are_no_pairs(tmp_path):
    write_prompts(tmp_path / "p.jsonl", [Prompt("p", "g")])
    with pytest.raises(ValueError, match="prompts without responses; sample two"):
        load_preferences(str(tmp_path / "p.jsonl"))


def test_folders_parquet_and_saved_data_sets_give_the_same_rows(tmp_path):
    rows = [{"prompt": f"p{n}", "chosen": "a", "rejected": "b"} for n in range(3)]
    (tmp_path / "files").mkdir()
    pq.write_table(pa.Table.from_pylist(rows[:2]), tmp_path / "files" / "train-0.parquet")
    pq.write_table(pa.Table.from_pylist(rows[2:]), tmp_path / "files" / "train-1.parquet")
    table = datasets.Dataset.from_list(rows)
    table.save_to_disk(tmp_path / "saved")
    datasets.DatasetDict({"train": table}).save_to_disk(tmp_path / "dict")
    expected = load_preferences(str(tmp_path / "files")).rows
    assert len(expected) == 3
    assert load_preferences(str(tmp_path / "saved")).rows == expected
    assert load_preferences(str(tmp_path / "dict")).rows == expected
    with pytest.raises(FileNotFoundError, match="split 'test' in .*, found train"):
        load_preferences(DataSource(str(tmp_path / "dict"), split="test"))


def test_an_empty_file_is_an_error(tmp_path):
    (tmp_path / "p.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="expected rows in .*p.jsonl.* it is empty"):
        load_preferences(str(tmp_path / "p.jsonl"))


def test_a_file_of_which_nothing_is_left_is_an_error(tmp_path):
    (tmp_path / "p.jsonl").write_text('{"prompt": "p", "first": "a", "second": "a"}\n')
    with pytest.raises(ValueError, match="none is left; left out: {'identical responses': 1}"):
        load_preferences(str(tmp_path / "p.jsonl"))


@pytest.mark.parametrize("name", ["./no.jsonl", "no.jsonl", "a/b/no", "~/no/such.csv"])
def test_a_missing_file_is_an_error_and_not_looked_for_on_the_hub(name):
    with pytest.raises(FileNotFoundError, match="expected a data file at .*, found nothing"):
        load_preferences(name)


def test_a_hub_name_without_network_says_what_to_do(monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        OSError, match="Hugging Face data set named 'nobody/nothing-of-this'.*local"
    ):
        load_preferences("nobody/nothing-of-this")


def test_a_hub_data_set_is_asked_for_with_split_subset_and_revision(monkeypatch):
    asked = {}

    def load_dataset(path, **settings):
        asked.update(settings, path=path)
        return datasets.Dataset.from_list([{"prompt": "p", "chosen": "a", "rejected": "b"}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    source = DataSource("org/set", split="test", subset="small", data_dir="part", revision="abc")
    assert load_preferences(source).rows[0].prompt == "p"
    assert asked == {
        "path": "org/set",
        "split": "test",
        "name": "small",
        "data_dir": "part",
        "revision": "abc",
    }


def test_hard_labels_round_and_unlabeled_rows_stay(tmp_path):
    rows = [Preference("p", "a", "b", "g", p) for p in (0.2, 0.5, 0.8, None)]
    write_preferences(tmp_path / "p.jsonl", rows)
    loaded = load_preferences(DataSource(str(tmp_path / "p.jsonl"), hard_labels=True))
    assert [row.p_first for row in loaded.rows] == [0.0, 1.0, None]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"limit": 0}, "limit of at least 1"),
        ({"confidence": [5]}, "signed scale"),
        ({"confidence": [0]}, "signed scale"),
        ({"name": ""}, "expected the name"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        DataSource(**{"name": "x", **settings})


def test_a_title_is_refused_where_rows_have_none(tmp_path):
    write_preferences(tmp_path / "p.jsonl", PAIRS)
    with pytest.raises(ValueError, match="with_title only with openai_comparisons"):
        load_preferences(DataSource(str(tmp_path / "p.jsonl"), with_title=True))


def test_confidence_without_confidences_is_refused(tmp_path):
    write_preferences(tmp_path / "p.jsonl", PAIRS)
    with pytest.raises(ValueError, match="confidence only with openai_comparisons"):
        load_preferences(DataSource(str(tmp_path / "p.jsonl"), confidence=[1, 9]))


@pytest.mark.parametrize(
    ("options", "row"),
    [
        ({"format": "preferences", "columns": {"p_first": "p"}}, {"first": "a", "second": "b"}),
        ({"confidence": [1]}, {"first": "a", "second": "b"}),
        ({"confidence": [1]}, {"chosen": "a", "rejected": "b"}),
        ({"with_title": True}, {"text": "p"}),
        ({"format": "prompts", "columns": {"prompt": "p"}}, {"text": "p"}),
    ],
)
@pytest.mark.parametrize("load", [load_preferences, load_prompts, load_demonstrations])
def test_an_option_that_would_be_ignored_is_refused(load, options, row, tmp_path):
    (tmp_path / "p.jsonl").write_text(json.dumps({"prompt": "p", "p": 0.3, **row}))
    with pytest.raises(ValueError, match="expected .* only with .*p.jsonl is .*; drop it"):
        load(DataSource(str(tmp_path / "p.jsonl"), **options))


def test_a_post_has_one_group_whatever_the_layout_does_with_white_space():
    post, turn = "\nA post. \n", {"role": "user", "content": "\nA post. \n"}
    answer = {"role": "assistant", "content": "a"}
    pairs = [
        {"prompt": post, "first": "a", "second": "b"},
        {"prompt": post, "chosen": "a", "rejected": "b"},
        {"prompt": [turn], "chosen": "a", "rejected": "b"},
        {"prompt": post, "first": "a", "second": "b", "label": 0},
        {
            "info": {"post": post},
            "summaries": [{"text": "a"}, {"text": "b"}],
            "choice": 0,
        },
    ]
    prompts = [{"text": post}, {"prompt": post, "completion": "a"}, {"messages": [turn, answer]}]
    groups = {row.group for each in pairs for row in load_preferences([each]).rows}
    groups |= {row.group for each in prompts for row in load_demonstrations([each])}
    assert groups == {group_of("A post.")}


def test_parts_split_a_source_by_group_for_good(data_files):
    whole = load_prompts(data_files.prompts)
    low = load_prompts(DataSource(data_files.prompts, part=(0.0, 0.5)))
    high = load_prompts(DataSource(data_files.prompts, part=(0.5, 1.0)))
    assert low
    assert high
    assert sorted(p.group for p in (*low, *high)) == sorted(p.group for p in whole)
    pairs = load_preferences(DataSource(data_files.pairs, part=(0.0, 0.5)))
    assert {pair.group for pair in pairs.rows} == {prompt.group for prompt in low}
    assert pairs.dropped["in another part"] == len(high)
    assert load_demonstrations(DataSource(data_files.prompts, part=(0.0, 0.5))) == low
    assert load_demonstrations(DataSource(data_files.prompts, part=(0.5, 1.0), limit=1)) == high[:1]


def test_a_part_is_taken_before_the_limit(data_files):
    low = load_prompts(DataSource(data_files.prompts, part=(0.0, 0.5)))
    first = load_prompts(DataSource(data_files.prompts, part=(0.0, 0.5), limit=2))
    assert first == low[:2]


@pytest.mark.parametrize("part", [(0.5, 0.5), (-0.1, 0.5), (0.5, 1.1)])
def test_a_part_outside_the_whole_is_refused(part):
    with pytest.raises(ValueError, match="0 <= from < to <= 1"):
        DataSource("x.jsonl", part=part)


def test_rows_that_repeat_another_are_kept_and_counted(caplog):
    row = {"prompt": "p", "first": "a", "second": "b", "p_first": 0.7}
    other = row | {"p_first": 0.2}  # another judge of the same pair
    assert len(load_preferences([row, other, row, row]).rows) == 4
    assert "2 rows repeat another; all are kept" in caplog.text
