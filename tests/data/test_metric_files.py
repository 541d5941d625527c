"""metrics.json: round trip, atomic replacement, refusals."""

import json
import math

import numpy as np
import pytest
import torch

from rlaif_pl.data.metric_files import (
    merge_stages,
    read_metrics,
    update_metrics,
    write_json,
    write_metrics,
)


def test_round_trip_sorted_with_numbers_of_every_make(tmp_path):
    path = tmp_path / "deep" / "metrics.json"
    metrics = {"b/x": 1, "a/y": 0.5, "c/z": np.float32(0.25), "d": torch.tensor(2.0)}
    write_metrics(path, metrics)
    assert read_metrics(path) == {"a/y": 0.5, "b/x": 1, "c/z": 0.25, "d": 2.0}
    assert list(json.loads(path.read_text())) == ["a/y", "b/x", "c/z", "d"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_refused_by_name_unless_listed(tmp_path, value):
    path = tmp_path / "metrics.json"
    with pytest.raises(ValueError, match="'a2c/kl'"):
        write_metrics(path, {"a2c/kl": value})
    assert not path.exists()
    write_metrics(path, {"a2c/kl": value}, may_be_missing=["a2c/kl"])
    assert math.isnan(read_metrics(path)["a2c/kl"])


def test_update_keeps_the_old_and_prefers_the_new(tmp_path):
    path = tmp_path / "metrics.json"
    update_metrics(path, {"a": 1, "b": math.nan}, may_be_missing=["b"])
    update_metrics(path, {"a": 2, "c": 3})
    content = read_metrics(path)
    assert (content["a"], content["c"]) == (2, 3)
    assert math.isnan(content["b"])


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = write_metrics(tmp_path / "metrics.json", {"a": 1})
    with pytest.raises(ValueError, match="Out of range"):
        write_json(path, {"a": math.nan})
    assert read_metrics(path) == {"a": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.json"]


@pytest.mark.parametrize("value", ["0.5", True, None, [1]])
def test_what_is_no_number_is_refused(tmp_path, value):
    with pytest.raises(ValueError, match="expected a number for metric 'x'"):
        write_metrics(tmp_path / "metrics.json", {"x": value})


def test_unreadable_files_say_what_is_wrong(tmp_path):
    path = tmp_path / "metrics.json"
    with pytest.raises(FileNotFoundError, match="run the stage"):
        read_metrics(path)
    for text, match in (("{", "expected JSON"), ("[]", "got list"), ('{"a": "b"}', "'a'")):
        path.write_text(text)
        with pytest.raises(ValueError, match=match):
            read_metrics(path)


def test_stages_are_merged_without_losing_any():
    first = {"a/x": 0.5, "a/x_low": 0.4, "a/x_high": 0.6, "a/n": 3, "a/only": 1, "a/none": math.nan}
    other = {"a/x": 0.7, "a/x_low": 0.4, "a/x_high": 0.8, "a/n": 3, "a/none": math.nan}
    merged = merge_stages({"one": first, "two": other, "three": {"a/n": 3}})
    assert math.isnan(merged.pop("a/none"))
    assert merged == {
        "one:a/x": 0.5, "two:a/x": 0.7,
        "one:a/x_low": 0.4, "two:a/x_low": 0.4,  # alike, but of estimates that are not
        "one:a/x_high": 0.6, "two:a/x_high": 0.8,
        "a/n": 3, "a/only": 1,
    }  # fmt: skip


def test_a_limit_that_differs_takes_its_estimate_with_it():
    both = {"one": {"x": 1.0, "x_low": 0.5}, "two": {"x": 1.0, "x_low": 0.6}}
    assert set(merge_stages(both)) == {"one:x", "two:x", "one:x_low", "two:x_low"}
    one = {"one": {"x": 1.0, "x_low": 0.5}, "two": {"x": 2.0}}
    assert set(merge_stages(one)) == {"one:x", "two:x", "one:x_low"}


def test_a_name_that_only_ends_like_a_limit_stands_for_itself():
    assert merge_stages({"one": {"very_low": 1.0}, "two": {"very_low": 1.0}}) == {"very_low": 1.0}


def test_a_missing_value_differs_from_a_measured_one():
    merged = merge_stages({"one": {"x": math.nan}, "two": {"x": 1.0}})
    assert merged["two:x"] == 1.0
    assert math.isnan(merged["one:x"])
