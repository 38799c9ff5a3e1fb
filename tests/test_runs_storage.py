"""Saving and loading: what comes back, what is refused, and what a crash at any moment leaves behind."""

import builtins
import collections
import errno
import hashlib
import io
import os
import pickle
import threading
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from byhand.errors import RunError
from byhand.runs import storage
from byhand.runs.storage import load, load_checkpoint, load_run_weights, load_weights, save, save_weights, sweep


class Hostile:
    """Unpickled by the unsafe loader this makes a file."""

    def __init__(self, witness):
        self.witness = str(witness)

    def __reduce__(self):
        return (os.system, (f"touch {self.witness}",))


def one_line(error):
    assert "\n" not in str(error.value)
    return str(error.value)


def flipped(data, bit):
    damaged = bytearray(data)
    damaged[bit // 8] ^= 1 << (bit % 8)
    return bytes(damaged)


def no_temporary_files(folder):
    return not [name for name in os.listdir(folder) if name.endswith("tmp")]


def test_a_tensor_a_state_dict_and_an_optimizer_come_back_equal(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2 * 6 * 6, 3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.randn(4, 1, 8, 8)).sum().backward()
    optimizer.step()
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 5])

    save(torch.arange(5.0), tmp_path / "x")
    assert torch.equal(load(tmp_path / "x"), torch.arange(5.0))

    save(model.state_dict(), tmp_path / "model.params")
    twin = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2 * 6 * 6, 3))
    twin.load_state_dict(load(tmp_path / "model.params"))
    assert all(torch.equal(a, b) for a, b in zip(twin.state_dict().values(), model.state_dict().values(), strict=True))

    state = {"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict(), "rng": torch.get_rng_state()}
    save(state, str(tmp_path / "optimizer.params"))
    back = load(str(tmp_path / "optimizer.params"))
    other = torch.optim.AdamW(twin.parameters(), lr=0.5)
    other.load_state_dict(back["optimizer"])
    for mine, theirs in zip(
        other.state_dict()["state"].values(), optimizer.state_dict()["state"].values(), strict=True
    ):
        assert torch.equal(mine["exp_avg"], theirs["exp_avg"])
    assert back["schedule"]["milestones"] == collections.Counter([2, 5])
    assert torch.equal(back["rng"], torch.get_rng_state())
    # Anyone else reads it with torch alone.
    assert torch.load(tmp_path / "model.params", weights_only=True).keys() == model.state_dict().keys()


def test_plain_values_of_every_allowed_kind_come_back_with_their_types(tmp_path):
    value = {1: (2, 3.5, None), "s": ["é", b"\x00", True, float("inf")], "set": {4}, "c": 1j, "big": 2**100}
    value |= {"dtype": torch.float64, "size": torch.Size([2, 3]), "device": torch.device("cpu")}
    save(value, tmp_path / "v")
    assert load(tmp_path / "v") == value


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"a": [1, np.float64(2)]}, "the object['a'][1] is a numpy.float64"),
        ({"a": np.zeros(2)}, "the object['a'] is a numpy.ndarray"),
        (nn.Linear(1, 1), "save its state_dict()"),
        ({"f": {"g": len}}, "the object['f']['g'] is a builtins.builtin_function_or_method"),
        ((frozenset([1]),), "the object[0] is a builtins.frozenset"),
        ({"d": collections.defaultdict(list)}, "collections.defaultdict"),
        ({(1, 2): 3}, "keys must be plain values"),
    ],
)
def test_what_would_not_load_safely_is_refused_at_saving_with_its_place(tmp_path, value, place):
    with pytest.raises(RunError) as error:
        save(value, tmp_path / "v")
    assert place in one_line(error)
    assert os.listdir(tmp_path) == []


def test_a_dict_that_holds_itself_is_refused(tmp_path):
    loop: dict = {}
    loop["me"] = [loop]
    with pytest.raises(RunError, match="nested in itself"):
        save(loop, tmp_path / "v")


def test_safetensors_hold_models_with_shared_and_strided_tensors_and_other_tools_read_them(tmp_path):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    save_weights(model, tmp_path / "m.safetensors")
    back = load_weights(tmp_path / "m.safetensors")
    assert set(back) == set(model.state_dict())
    assert all(torch.equal(back[key], value) for key, value in model.state_dict().items())
    assert safetensors.torch.load_file(tmp_path / "m.safetensors").keys() == back.keys()

    strided = torch.arange(6.0).reshape(2, 3).T
    save_weights({"w": strided}, tmp_path / "w.safetensors")
    assert torch.equal(load_weights(tmp_path / "w.safetensors")["w"], strided)
    with pytest.raises(RunError, match="'n' is a int"):
        save_weights({"n": 3}, tmp_path / "n.safetensors")


def test_the_sha256_beside_a_file_is_what_sha256sum_checks(tmp_path):
    save({"x": torch.ones(2)}, tmp_path / "x.pt")
    digest = hashlib.sha256((tmp_path / "x.pt").read_bytes()).hexdigest()
    assert (tmp_path / "x.pt.sha256").read_text() == f"{digest}  x.pt\n"


@pytest.mark.parametrize(("write", "read"), [(save, load), (save_weights, load_weights)])
def test_every_flipped_bit_of_a_file_is_an_error(tmp_path, write, read):
    path = tmp_path / "w"
    write({"w": torch.arange(8.0)}, path)
    good = path.read_bytes()
    for bit in range(0, 8 * len(good), 27):  # coprime to 8, so that every position within a byte comes up
        path.write_bytes(flipped(good, bit))
        with pytest.raises(RunError, match="its sha256 is not the one") as error:
            read(path)
        one_line(error)
    path.write_bytes(good)
    assert torch.equal(read(path)["w"], torch.arange(8.0))


@pytest.mark.parametrize(("write", "read"), [(save, load_checkpoint), (save_weights, load_run_weights)])
def test_every_flipped_bit_of_the_sha256_file_of_a_run_is_an_error(tmp_path, write, read):
    path = tmp_path / "w"
    write({"w": torch.arange(8.0)}, path)
    seal = tmp_path / "w.sha256"
    good = seal.read_bytes()
    for bit in range(8 * len(good)):
        seal.write_bytes(flipped(good, bit))
        with pytest.raises(RunError) as error:
            read(path)
        one_line(error)
    for damaged in (b"", good[:-1], good + good + good, good.upper()):
        seal.write_bytes(damaged)
        with pytest.raises(RunError, match="damaged"):
            read(path)
    seal.unlink()
    with pytest.raises(RunError, match=r"has no w\.sha256"):
        read(path)


def test_without_its_sha256_a_file_loads_but_no_flipped_bit_changes_a_tensor(tmp_path):
    path = tmp_path / "w"
    save({"w": torch.arange(100.0)}, path)
    (tmp_path / "w.sha256").unlink()
    good = path.read_bytes()
    assert torch.equal(load(path)["w"], torch.arange(100.0))
    refused = 0
    for bit in range(0, 8 * len(good), 27):
        path.write_bytes(flipped(good, bit))
        try:
            loaded = load(path)
        except RunError:
            refused += 1
        else:
            assert torch.equal(loaded["w"], torch.arange(100.0))  # the bit lay in padding or in a date
    assert refused > 50
    for cut in (0, 1, 10, len(good) // 2, len(good) - 1):
        path.write_bytes(good[:cut])
        with pytest.raises(RunError):
            load(path)


def test_a_file_and_its_sha256_renamed_together_still_load(tmp_path):
    save(torch.ones(2), tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "b")
    (tmp_path / "a.sha256").rename(tmp_path / "b.sha256")
    assert torch.equal(load(tmp_path / "b"), torch.ones(2))


@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize("how", ["zip", "zip protocol 4", "pickle", "pickle protocol 0", "legacy"])
def test_a_hostile_pickle_is_refused_by_name_and_never_runs(tmp_path, how, sealed):
    witness = tmp_path / "pwned"
    buffer = io.BytesIO()
    if how.startswith("zip"):
        torch.save({"model": Hostile(witness)}, buffer, pickle_protocol=4 if "4" in how else 2)
    elif how == "legacy":
        torch.save({"model": Hostile(witness)}, buffer, _use_new_zipfile_serialization=False)
    else:
        pickle.dump(Hostile(witness), buffer, protocol=0 if "0" in how else None)
    path = tmp_path / "bad.pt"
    path.write_bytes(buffer.getvalue())
    if sealed:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        (tmp_path / "bad.pt.sha256").write_text(f"{digest}  bad.pt\n")
    with pytest.raises(RunError, match="holds code") as error:
        load(path)
    assert "system" in one_line(error)
    assert not witness.exists()
    # The control: the pickle does what it says when it is let.
    if how == "pickle":
        pickle.loads(buffer.getvalue())
        assert witness.exists()


def test_a_whole_pickled_model_is_code_too(tmp_path):
    torch.save(nn.Linear(1, 1), tmp_path / "model")
    with pytest.raises(RunError, match=r"holds code \(torch.nn.modules.linear.Linear\)"):
        load(tmp_path / "model")


def test_an_archive_that_would_unpack_to_more_than_it_is_is_refused_before_unpacking(tmp_path):
    buffer = io.BytesIO()
    torch.save({"w": torch.zeros(10)}, buffer)
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(tmp_path / "bomb", "w", zipfile.ZIP_DEFLATED) as bomb:
        for name in source.namelist():
            bomb.writestr(name, source.read(name))
        bomb.writestr("archive/data/1", bytes(50_000_000))
    with pytest.raises(RunError, match=r"damaged or was not written by torch\.save"):
        load(tmp_path / "bomb")


@pytest.mark.parametrize("content", [b"", b"hello world\n" * 9, b"PK\x03\x04", b"\x80\x02.", b"\x00" * 500, b"{}"])
def test_what_is_no_saved_file_at_all_is_a_one_line_error(tmp_path, content):
    (tmp_path / "f").write_bytes(content)
    for read in (load, load_weights):
        with pytest.raises(RunError) as error:
            read(tmp_path / "f")
        assert str(tmp_path / "f") in one_line(error)


def test_a_safetensors_header_that_lies_is_a_one_line_error(tmp_path):
    path = tmp_path / "w"
    save_weights({"w": torch.arange(8.0)}, path)
    (tmp_path / "w.sha256").unlink()
    good = path.read_bytes()
    for data in (b"\xff" * 8 + good[8:], good.replace(b"32]", b"99]"), good.replace(b"F32", b"F99"), good[:-1]):
        path.write_bytes(data)
        with pytest.raises(RunError, match="damaged or is not a safetensors file"):
            load_weights(path)


def test_missing_files_and_folders_are_named(tmp_path):
    for read in (load, load_weights, load_checkpoint):
        with pytest.raises(RunError, match="does not exist") as error:
            read(tmp_path / "nothing")
        one_line(error)
        with pytest.raises(RunError, match="is not a file"):
            read(tmp_path)
    with pytest.raises(RunError, match="make the folder first"):
        save(torch.ones(1), tmp_path / "no" / "such" / "x")
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match="Not a directory"):
        save(torch.ones(1), tmp_path / "file" / "x")


class Crash(BaseException):
    """Stands for SIGKILL: nothing after it runs, not even cleaning up (which `crash_at` undoes)."""


def crash_at(monkeypatch, step):
    """From the step-th call of the operating system on that changes the disk, nothing happens any more."""
    calls = []

    def counted(function):
        def call(*arguments, **options):
            calls.append(function.__name__)
            if len(calls) > step:
                raise Crash
            return function(*arguments, **options)

        return call

    monkeypatch.setattr(os, "replace", counted(os.replace))
    monkeypatch.setattr(os, "fsync", counted(os.fsync))
    monkeypatch.setattr(storage.Path, "unlink", lambda path, missing_ok=False: None)
    return calls


def test_a_crash_between_any_two_steps_leaves_a_file_that_loads_old_or_new(tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        calls = crash_at(patched, 10**6)
        save({"epoch": 0}, tmp_path / "count")
    num_steps = len(calls)
    assert calls.count("replace") == 3
    seen = []
    for step in range(num_steps):
        folder = tmp_path / f"crash-{step}"
        folder.mkdir()
        path = folder / "checkpoint.pt"
        save({"epoch": 1, "w": torch.ones(3)}, path)
        with monkeypatch.context() as patched:
            crash_at(patched, step)
            with pytest.raises(Crash):
                save({"epoch": 2, "w": torch.zeros(3)}, path)
        seen.append(load_checkpoint(path)["epoch"])
        for bit in (3, 8 * path.stat().st_size // 2):  # also now a flipped bit is found
            good = path.read_bytes()
            path.write_bytes(flipped(good, bit))
            with pytest.raises(RunError):
                load_checkpoint(path)
            path.write_bytes(good)
        # A second crash at the same place, then the next process mends it all.
        with monkeypatch.context() as patched:
            crash_at(patched, step)
            with pytest.raises(Crash):
                save({"epoch": 3, "w": torch.zeros(3)}, path)
        assert load_checkpoint(path)["epoch"] in (1, 2, 3)
        sweep(folder)
        save({"epoch": 4}, path)
        assert load_checkpoint(path) == {"epoch": 4}
        assert sorted(os.listdir(folder)) == ["checkpoint.pt", "checkpoint.pt.sha256"]
    assert seen == sorted(seen)  # first the old one, from some step on the new one
    assert set(seen) == {1, 2}


def test_a_crash_at_the_very_first_save_leaves_nothing_or_a_file_that_loads(tmp_path, monkeypatch):
    for step in range(9):
        path = tmp_path / str(step)
        with monkeypatch.context() as patched:
            crash_at(patched, step)
            with pytest.raises(Crash):
                save({"epoch": 1}, path)
        if path.exists():
            assert load_checkpoint(path) == {"epoch": 1}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
@pytest.mark.parametrize("operation", ["open", "write", "fsync", "replace"])
def test_a_full_or_read_only_disk_is_one_line_and_keeps_the_last_good_file(tmp_path, monkeypatch, operation, code):
    path = tmp_path / "checkpoint.pt"
    save({"epoch": 1}, path)
    real_open = builtins.open

    def fail(*arguments, **options):
        raise OSError(code, os.strerror(code))

    class Full(io.FileIO):
        write = fail

    def failing_open(name, mode="r", *arguments, **options):
        if "x" not in mode:
            return real_open(name, mode, *arguments, **options)
        if operation == "open":
            fail()
        return Full(name, mode.replace("b", ""))

    with monkeypatch.context() as patched:
        if operation in ("open", "write"):
            patched.setattr(builtins, "open", failing_open)
        else:
            patched.setattr(os, operation, fail)
        with pytest.raises(RunError) as error:
            save({"epoch": 2}, path)
    assert os.strerror(code) in one_line(error)
    assert str(path) in str(error.value)
    assert no_temporary_files(tmp_path)
    assert load_checkpoint(path) == {"epoch": 1}


def test_a_disk_that_fills_up_at_any_step_never_leaves_a_file_that_does_not_load(tmp_path, monkeypatch):
    for failing in range(9):  # three temporary files, then three times rename and directory
        folder = tmp_path / str(failing)
        folder.mkdir()
        path = folder / "x"
        save({"epoch": 1}, path)
        real, calls = os.fsync, []

        def fsync(descriptor, real=real, calls=calls, failing=failing):
            calls.append(descriptor)
            if len(calls) > failing:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(descriptor)

        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", fsync)
            if failing < 6:
                with pytest.raises(RunError, match="No space left"):
                    save({"epoch": 2}, path)
            else:
                save({"epoch": 2}, path)
                assert len(calls) == 6
        assert load_checkpoint(path)["epoch"] in (1, 2)
        assert no_temporary_files(folder)


def test_ctrl_c_in_the_middle_of_writing_leaves_no_temporary_file(tmp_path, monkeypatch):
    save({"epoch": 1}, tmp_path / "x")

    def interrupted(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            save({"epoch": 2}, tmp_path / "x")
    assert sorted(os.listdir(tmp_path)) == ["x", "x.sha256"]
    assert load_checkpoint(tmp_path / "x") == {"epoch": 1}


def test_a_damaged_file_that_stands_in_the_way_is_replaced_and_never_vouched_for(tmp_path, monkeypatch):
    path = tmp_path / "x"
    save({"epoch": 1}, path)
    path.write_bytes(flipped(path.read_bytes(), 999))
    for epoch in (2, 3):
        with monkeypatch.context() as patched:
            crash_at(patched, 4)  # after the first rename, before the second
            with pytest.raises(Crash):
                save({"epoch": epoch}, path)
        with pytest.raises(RunError):
            load_checkpoint(path)
    save({"epoch": 3}, path)
    assert load_checkpoint(path) == {"epoch": 3}


def test_a_reader_meets_a_whole_file_while_the_writer_replaces_it(tmp_path):
    path = tmp_path / "x"
    save({"epoch": 0}, path)

    def write():
        for epoch in range(1, 100):
            save({"epoch": epoch, "fill": "x" * (epoch % 7) * 5000}, path)

    writer = threading.Thread(target=write)
    writer.start()
    epochs = []
    while writer.is_alive():
        epochs.append(load_checkpoint(path)["epoch"])
    writer.join()
    assert epochs == sorted(epochs)
    assert len(set(epochs)) > 1
    assert load_checkpoint(path)["epoch"] == 99


def test_a_file_replaced_between_reading_its_sha256_and_itself_is_read_again(tmp_path, monkeypatch):
    path = tmp_path / "x"
    save({"epoch": 1}, path)
    real, replaced = storage._read_seal, []

    def slow(asked):
        seal = real(asked)
        if not replaced:
            replaced.append(True)
            save({"epoch": 2}, path)
        return seal

    monkeypatch.setattr(storage, "_read_seal", slow)
    assert load_checkpoint(path) == {"epoch": 2}


def test_sweeping_removes_only_our_own_temporary_files(tmp_path):
    save(torch.ones(1), tmp_path / "x")
    (tmp_path / ".x.1234abcd.byhand-tmp").write_bytes(b"half")
    (tmp_path / ".hidden").write_text("the user's")
    (tmp_path / "notes.tmp").write_text("the user's")
    assert sweep(tmp_path) == [".x.1234abcd.byhand-tmp"]
    assert sorted(os.listdir(tmp_path)) == [".hidden", "notes.tmp", "x", "x.sha256"]
