"""metrics.json: round trip, atomic replacement, refusals."""

import json
import math

import numpy as np
import pytest
import torch

from rlaif_pl.evaluation.metrics import read_metrics, update_metrics, write_json, write_metrics


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
