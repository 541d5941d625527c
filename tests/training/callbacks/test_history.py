import pandas
import pytest
from lightning.pytorch.callbacks import ModelCheckpoint

from rlaif_pl.data.csv_rows import read_table, write_table
from rlaif_pl.training.callbacks import HistoryFile


def rows(path):
    return [{k: v for k, v in row.items() if v} for row in read_table(path / "history.csv").rows]


def test_calls_for_one_step_share_a_row_and_columns_may_come_later(tmp_path):
    history = HistoryFile(tmp_path)
    history.log_metrics({"a": 1.5}, 0)
    history.log_metrics({"b": 2.0}, 0)
    history.log_metrics({"a": 2.5, "b": 3.0}, 1)
    history.log_metrics({"a": 9.0}, 1)
    assert (tmp_path / "history.csv").read_text() == "step,a,b\n0,1.5,2.0\n1,9.0,3.0\n"


def test_a_step_logged_again_takes_the_place_of_the_old_one(tmp_path):
    first = HistoryFile(tmp_path)
    for step in range(4):
        first.log_metrics({"a": float(step)}, step)
    second = HistoryFile(tmp_path)
    for step in range(2, 6):
        second.log_metrics({"a": 10.0 + step}, step)
    values = [float(row["a"]) for row in rows(tmp_path)]
    assert values == [0.0, 1.0, 12.0, 13.0, 14.0, 15.0]
    assert [int(row["step"]) for row in rows(tmp_path)] == list(range(6))


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_row_cut_short_by_a_kill_is_dropped(tmp_path, cut):
    history = HistoryFile(tmp_path)
    for step in range(2):
        history.log_metrics({"a": 0.125, "b": 0.25}, step)
    path = tmp_path / "history.csv"
    path.write_bytes(path.read_bytes()[:-cut])
    HistoryFile(tmp_path).log_metrics({"a": 0.5, "b": 0.5}, 1)
    assert path.read_text() == "step,a,b\n0,0.125,0.25\n1,0.5,0.5\n"


def test_values_come_back_exactly_and_pandas_reads_them(tmp_path):
    history = HistoryFile(tmp_path)
    history.log_metrics({"a": 0.1 + 0.2, "nan": float("nan")}, 3)
    table = pandas.read_csv(tmp_path / "history.csv")
    assert table.loc[0, "a"] == 0.1 + 0.2
    assert table.loc[0, "step"] == 3
    assert table["nan"].isna().all()


def test_a_fit_that_resumes_has_one_history_without_gaps(tmp_path, fit):
    def keeper():
        return ModelCheckpoint(save_last=True, every_n_train_steps=2)

    options = {"enable_checkpointing": True, "max_epochs": None}
    fit(logger=HistoryFile(tmp_path), callbacks=[keeper()], max_steps=3, **options)
    last = tmp_path / "checkpoints" / "last.ckpt"
    assert last.is_file()
    fit(
        logger=HistoryFile(tmp_path),
        callbacks=[keeper()],
        max_steps=6,
        ckpt_path=last,
        **options,
    )
    steps = [int(row["step"]) for row in rows(tmp_path) if "toy/train_loss" in row]
    assert steps == list(range(6))


def test_text_with_commas_quotes_and_line_breaks_survives(tmp_path):
    row = {"step": 1, "text": 'a, "b"\nc\r\n', "reward": 0.5}
    write_table(tmp_path / "x.csv", list(row), [row])
    assert read_table(tmp_path / "x.csv").rows == [
        {"step": "1", "text": row["text"], "reward": "0.5"}
    ]


def test_no_file_is_an_empty_table(tmp_path):
    assert read_table(tmp_path / "x.csv") == ([], [])


def test_a_cell_keeps_every_character_and_its_row(tmp_path):
    texts = ["a\rb", "a\r", "\r\n", "a\nb", 'a "b"', "a,b", "\u2028\x85\x1c", "\x04\ufffd"]
    rows = [{"step": str(n), "text": text, "reward": "0.5"} for n, text in enumerate(texts)]
    write_table(tmp_path / "table.csv", ["step", "text", "reward"], rows)
    assert read_table(tmp_path / "table.csv").rows == rows
    assert (tmp_path / "table.csv").read_bytes().endswith(b",0.5\n")
