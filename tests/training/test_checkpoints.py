"""Checkpoints: whole or not there, checked when they are read, refused by what they are."""

import errno
import hashlib
import json
import os
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from rlaif_pl.data.checksum import DamagedFileError, is_whole, part_name, previous_of, verify
from rlaif_pl.models import BackboneOptions
from rlaif_pl.training import checkpoints
from rlaif_pl.training.checkpoints import (
    ChecksumCheckpointIO,
    are_other_bases,
    put_in_place,
    read_checkpoint,
    tokenizer_digest,
    write_checkpoint,
)
from rlaif_pl.training.sharding import LOCAL, SHAPE

CONTENT = {"state_dict": {"w": torch.arange(5000.0)}, "pytorch-lightning_version": "2.6.6"}


class Runs:
    """Runs a command when it is unpickled."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "last.ckpt"
    write_checkpoint(CONTENT, path)
    return path


def test_what_was_written_is_read_and_torch_alone_reads_it_too(saved):
    assert verify(saved)
    for found in (read_checkpoint(saved), torch.load(saved, weights_only=True, mmap=True)):
        torch.testing.assert_close(found["state_dict"], CONTENT["state_dict"], rtol=0, atol=0)
    # the sum is of what torch wrote: the file without the comment, whose length was 0
    data = saved.read_bytes()
    plain = data[: -(16 + 64) - 2] + b"\0\0"
    assert data.endswith(hashlib.sha256(plain).hexdigest().encode())
    assert [p.name for p in saved.parent.iterdir()] == ["last.ckpt"]


def test_a_cut_at_any_place_and_any_changed_byte_are_found(saved):
    whole = saved.read_bytes()
    places = [*range(0, len(whole), 997), *range(len(whole) - 102, len(whole))]
    for place in places:
        saved.write_bytes(whole[:place])
        assert not is_whole(saved)
        changed = bytearray(whole)
        changed[place] ^= 1
        saved.write_bytes(changed)
        assert not is_whole(saved)
    assert len(places) > 20


def test_the_one_before_is_kept_and_removed_with_it(saved):
    write_checkpoint({**CONTENT, "n": 1}, saved)
    write_checkpoint({**CONTENT, "n": 2}, saved)
    assert read_checkpoint(saved)["n"] == 2
    assert read_checkpoint(previous_of(saved))["n"] == 1
    saved.write_bytes(saved.read_bytes()[:-500])
    with pytest.raises(ValueError, match=r"cut, or not written.*whole: .*last\.previous\.ckpt"):
        read_checkpoint(saved)
    ChecksumCheckpointIO().remove_checkpoint(saved)
    assert not list(saved.parent.iterdir())


def test_a_folder_with_a_file_a_rank_is_one_checkpoint(saved):
    for number in (1, 2):
        for rank, rows in enumerate([torch.arange(4.0), torch.arange(4.0, 7.0)]):
            state = {"w": {LOCAL: rows, SHAPE: [7]}}
            part = saved.with_name("work") / part_name(rank, 2)
            write_checkpoint({**CONTENT, "n": number, "state_dict": state}, part)
        put_in_place(saved.with_name("work"), saved)
        assert read_checkpoint(saved)["n"] == number
    torch.testing.assert_close(read_checkpoint(saved)["state_dict"]["w"], torch.arange(7.0))
    assert read_checkpoint(previous_of(saved))["n"] == 1
    write_checkpoint(CONTENT, saved)  # a file takes the folder's place
    assert saved.is_file()
    assert read_checkpoint(previous_of(saved))["n"] == 2
    (previous_of(saved) / part_name(0, 2)).unlink()
    assert is_whole(saved)
    assert not is_whole(previous_of(saved))
    ChecksumCheckpointIO().remove_checkpoint(saved)
    assert not list(saved.parent.iterdir())


def write_pickle(path):
    path.write_bytes(pickle.dumps(Runs(f"touch {path}.ran")))


def write_pickle_in_zip(path):
    torch.save({**CONTENT, "x": Runs(f"touch {path}.ran")}, path)


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (write_pickle, "got a pickle, which would run code"),
        (write_pickle_in_zip, "got Python objects beside tensors and plain values"),
        (lambda path: path.write_bytes(b""), "got an empty file"),
        (lambda path: path.write_text("nonsense"), "got a file of another kind, which begins with"),
        (lambda path: torch.save({"w": torch.ones(2)}, path), r"holds \['w'\], and no state"),
        (lambda path: torch.save([1], path), "holds list, and no state"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*has no checksum")
def test_what_is_no_checkpoint_is_refused_by_name_and_runs_nothing(tmp_path, write, said):
    path = tmp_path / "other.ckpt"
    write(path)
    with pytest.raises(ValueError, match=said) as refused:
        read_checkpoint(path)
    assert f"checkpoint of Lightning at {path}" in str(refused.value)
    assert "--ckpt_path" in str(refused.value)
    assert not (tmp_path / "other.ckpt.ran").exists()


def test_one_without_a_checksum_is_read_with_a_warning(tmp_path):
    torch.save(CONTENT, tmp_path / "old.ckpt")
    with pytest.warns(UserWarning, match="has no checksum"):
        assert read_checkpoint(tmp_path / "old.ckpt").keys() == CONTENT.keys()


@pytest.mark.parametrize("room", [0, 9000])
def test_a_full_disk_leaves_the_old_one_and_names_the_file(saved, monkeypatch, room):
    real = checkpoints._Writer.write

    class Full:
        """A file on a disk with so much room."""

        def __init__(self, file):
            self.file, self.left = file, room

        def write(self, data):
            self.left -= len(data)
            if self.left < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return self.file.write(data)

    def write(self, data):
        if not isinstance(self.file, Full):
            self.file = Full(self.file)
        return real(self, data)

    monkeypatch.setattr(checkpoints._Writer, "write", write)
    with pytest.raises(OSError, match="No space left") as refused:
        write_checkpoint({**CONTENT, "n": 1}, saved)
    assert refused.value.errno == errno.ENOSPC
    assert refused.value.filename == str(saved)
    assert "n" not in read_checkpoint(saved)
    assert [p.name for p in saved.parent.iterdir()] == ["last.ckpt"]


def test_a_fit_writes_checked_checkpoints_and_resumes_from_no_damaged_one(build, trainer, tmp_path):
    module, data = build("sft")
    trainer(2, tmp_path).fit(module, data)
    last = tmp_path / "last.ckpt"
    assert verify(last)
    assert read_checkpoint(previous_of(last))["global_step"] == 1
    damaged = bytearray(last.read_bytes())
    damaged[len(damaged) // 2] ^= 64
    last.write_bytes(damaged)
    with pytest.raises(ValueError, match="other bytes than were written"):
        trainer(3).fit(*build("sft"), ckpt_path=last)
    resumed = trainer(3)
    resumed.fit(*build("sft"), ckpt_path=previous_of(last))
    assert resumed.global_step == 3


def test_another_tokenizer_or_architecture_is_named(
    build, trainer, backbone, tiny_model_folder, tmp_path
):
    module, data = build("sft")
    trainer(1, tmp_path / "kept").fit(module, data)
    last = tmp_path / "kept" / "last.ckpt"
    other = tmp_path / "other"
    shutil.copytree(tiny_model_folder, other)
    tokenizer = AutoTokenizer.from_pretrained(other)
    before = tokenizer_digest(tokenizer)
    file = other / "tokenizer.json"
    content = json.loads(file.read_text())
    ids = content["model"]["vocab"]
    ids["a"], ids["b"] = ids["b"], ids["a"]
    file.write_text(json.dumps(content))
    after = tokenizer_digest(AutoTokenizer.from_pretrained(other))
    assert before != after
    swapped, data = build("sft", backbone=BackboneOptions(str(other), trunk_layers=2))
    said = f"the tokenizer of policy .{after}., got one of another tokenizer .{before}."
    with pytest.raises(ValueError, match=said):
        trainer(2).fit(swapped, data, ckpt_path=last)
    cut, data = build(
        "sft", backbone=BackboneOptions(str(tiny_model_folder), trunk_layers=2, num_layers=3)
    )
    with pytest.raises(ValueError, match="architecture of policy .llama of 3 layers.*of 4 layers"):
        trainer(2).fit(cut, data, ckpt_path=last)


def test_another_base_of_the_same_shape_is_named(build, trainer, tiny_model_folder, tmp_path):
    module, data = build("sft")
    trainer(1, tmp_path / "kept").fit(module, data)
    last = tmp_path / "kept" / "last.ckpt"
    same, other = tmp_path / "same", tmp_path / "other"
    for folder in (same, other):
        shutil.copytree(tiny_model_folder, folder)
    weights = load_file(other / "model.safetensors")
    save_file(
        {k: v + 0.01 for k, v in weights.items()}, other / "model.safetensors", {"format": "pt"}
    )
    for folder, precision in ((same, "float32"), (same, "bfloat16")):  # wherever it lies
        options = BackboneOptions(str(folder), trunk_layers=2, dtype=precision)
        trainer(2).fit(*build("sft", backbone=options), ckpt_path=last)
    options = BackboneOptions(str(other), trunk_layers=2)
    with pytest.raises(ValueError, match="the base of policy .llama@.*, got one of another base"):
        trainer(2).fit(*build("sft", backbone=options), ckpt_path=last)


@pytest.mark.parametrize(
    ("one", "other", "differ"),
    [
        (f"llama@{'a' * 32}:layers=all", f"llama@{'b' * 32}:layers=all", True),
        (f"llama@{'a' * 32}:layers=all", f"smollm2-135m@{'a' * 32}:layers=all", False),
        (f"smollm2-135m@{'a' * 32}:layers=all", f"smollm2-135m@{'b' * 32}:layers=all", False),
        ("org/one@main:layers=all", "org/two@main:layers=all", True),
        ("org/one@main:layers=all", f"org/one@{'c' * 40}:layers=all", False),
        (f"org/one@{'c' * 40}:layers=all", f"llama@{'a' * 32}:layers=all", False),
    ],
)
def test_only_bases_that_are_sure_to_differ_are_refused(one, other, differ):
    assert are_other_bases(one, other) is are_other_bases(other, one) is differ


def test_weights_of_another_shape_are_named(build, trainer, tmp_path):
    trainer(1, tmp_path).fit(*build("sft"))
    content = read_checkpoint(tmp_path / "last.ckpt")
    name = next(iter(content["state_dict"]))
    content["state_dict"][name] = torch.zeros(1, 2)
    write_checkpoint(content, tmp_path / "odd.ckpt")
    with pytest.raises(ValueError, match=r"its policy\..* is \(1, 2\) in place of"):
        trainer(2).fit(*build("sft"), ckpt_path=tmp_path / "odd.ckpt")


def test_the_reason_stands_alone_for_the_caller_to_name_the_file(tmp_path):
    (tmp_path / "x").write_bytes(b"PK\x03\x04")
    with pytest.raises(DamagedFileError, match=r"an archive without its end \(4 bytes\)"):
        verify(tmp_path / "x")
