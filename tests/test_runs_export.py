"""A run as a file for other programs, read back by those programs."""

import importlib.util
import json
import logging
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from safetensors import safe_open

from byhand import __version__
from byhand.data.fashion_mnist import FASHION_MNIST
from byhand.errors import RunError, SettingsError, UnknownName
from byhand.models import build
from byhand.runs import Run
from byhand.runs.export import export

LENET = {
    "recipe": "lenet5-fashion",
    "plan": "fast",
    "seed": 1,
    "task": "classification",
    "network": {"name": "lenet5", "options": {"activation": "tanh"}},
    "preparation": {"size": 32, "fit": "pad", "mean": 0.286, "std": 0.353},
    "input_shape": [1, 28, 28],
    "class_names": list(FASHION_MNIST.class_names),
}


def finished_run(folder, recipe):
    run = Run.create(folder, recipe, {"device": "cpu", "threads": 1})
    network = recipe["network"]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        run.save_weights(build(network["name"], **network["options"]).state_dict())
    run.finish({"accuracy": 0.1})
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return finished_run(tmp_path_factory.mktemp("runs"), LENET)


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    """The first export to ONNX of a process of its own: what it wrote, and what it said."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    path = tmp_path_factory.mktemp("out") / "clothes.onnx"
    code = "import sys; from byhand.runs import Run; from byhand.runs.export import export\n"
    code += "export(Run.open(sys.argv[1]), 'onnx', sys.argv[2])"
    done = subprocess.run([sys.executable, "-c", code, run.path, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return path, done.stdout, done.stderr


@pytest.fixture(scope="module")
def onnx_file(exported):
    return exported[0]


def run_onnx(path, batch):
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    assert [one.name for one in session.get_inputs()] == ["image"]
    assert [one.name for one in session.get_outputs()] == ["logits"]
    return session.run(["logits"], {"image": batch.numpy()})[0]


@pytest.mark.parametrize("batch_size", [1, 7])
def test_onnxruntime_gives_the_logits_of_the_run_for_any_batch_size(run, onnx_file, batch_size):
    images = torch.randint(0, 256, (batch_size, 1, 28, 28), generator=torch.Generator().manual_seed(3)).to(torch.uint8)
    found = run_onnx(onnx_file, run.prepare(images))
    assert found.shape == (batch_size, 10)
    np.testing.assert_allclose(found, run.logits(images).numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("network", "options", "input_shape", "shape"),
    [
        ("linear-regression", {}, [3], (3,)),
        ("mlp", {"widths": [64, 16, 10], "dropout": 0.5}, [1, 8, 8], (1, 8, 8)),
        ("lenet5", {"activation": "sigmoid"}, None, (1, 32, 32)),
    ],
    ids=["features", "another image size than the network's usual one", "a record without the shape"],
)
def test_what_onnx_takes_follows_the_data_of_the_run(tmp_path, network, options, input_shape, shape):
    pytest.importorskip("onnxscript")
    recipe = {"recipe": "x", "task": "regression" if len(shape) == 1 else "classification", "input_shape": input_shape}
    run = finished_run(tmp_path, recipe | {"network": {"name": network, "options": options}, "preparation": {}})
    batch = torch.randn(7, *shape, generator=torch.Generator().manual_seed(0))
    found = run_onnx(export(run, "onnx"), batch)
    np.testing.assert_allclose(found, run.model()(batch).detach().numpy(), rtol=0, atol=1e-5)


def facts(metadata):
    return {key: json.loads(value) for key, value in metadata.items() if key != "format"}


EXPECTED = {
    "network": "lenet5",
    "options": {"activation": "tanh"},
    "preparation": {"size": 32, "fit": "pad", "mean": 0.286, "std": 0.353},
    "class_names": list(FASHION_MNIST.class_names),
    "recipe": "lenet5-fashion",
    "byhand": __version__,
}


def test_the_onnx_file_is_valid_and_tells_classes_and_preparation(onnx_file):
    onnx = pytest.importorskip("onnx")
    model = onnx.load(onnx_file)
    onnx.checker.check_model(model, full_check=True)
    assert facts({one.key: one.value for one in model.metadata_props}) == EXPECTED


def test_the_onnx_file_names_no_path_of_this_machine(onnx_file):
    data = onnx_file.read_bytes()
    assert os.path.dirname(torch.__file__).encode() not in data
    assert b"site-packages" not in data
    assert b"stack_trace" not in data


def test_the_first_export_of_a_process_says_nothing(exported):
    assert exported[1:] == ("", "")


def test_export_leaves_streams_logging_and_warnings_as_they_were(run, tmp_path):
    pytest.importorskip("onnxscript")
    before = (sys.stdout, sys.stderr, logging.root.manager.disable, list(warnings.filters))
    export(run, "onnx", tmp_path)
    assert (sys.stdout, sys.stderr, logging.root.manager.disable, list(warnings.filters)) == before


def test_safetensors_holds_the_weights_and_what_they_are_for(run, tmp_path):
    path = export(run, "safetensors", tmp_path / "clothes.safetensors")
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    assert metadata["format"] == "pt"
    assert facts(metadata) == EXPECTED
    again = build("lenet5", activation="tanh")
    again.load_state_dict(state)
    assert all(torch.equal(state[key], value) for key, value in run.weights().items())
    assert os.listdir(tmp_path) == ["clothes.safetensors"]


def test_without_a_path_the_file_stands_in_the_run_directory_under_the_recipes_name(run):
    path = export(run, "safetensors")
    assert path == run.path / "lenet5-fashion.safetensors"
    assert Run.open(run.path).weights().keys() == run.weights().keys()


def test_a_folder_gets_the_file_under_the_recipes_name(run, tmp_path):
    assert export(run, "safetensors", tmp_path) == tmp_path / "lenet5-fashion.safetensors"


@pytest.mark.parametrize("name", ["model.safetensors", "recipe.json", "model.safetensors.sha256", "Checkpoint.pt"])
def test_the_runs_own_files_are_never_replaced(run, name):
    before = {file.name: file.read_bytes() for file in run.path.iterdir()}
    with pytest.raises(RunError, match="one of the run's own files"):
        export(run, "safetensors", run.path / name)
    assert {file.name: file.read_bytes() for file in run.path.iterdir()} == before


def test_an_unknown_format_is_named_with_the_nearest_one(run):
    with pytest.raises(UnknownName, match=r"^unknown export format 'onx'; did you mean 'onnx'\?$"):
        export(run, "onx")


@pytest.mark.parametrize("missing", ["onnx", "onnxscript"])
def test_a_missing_package_is_one_line_that_says_how_to_get_it(run, tmp_path, monkeypatch, missing):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, package=None: None if name == missing else real(name, package)
    )
    with pytest.raises(RunError) as caught:
        export(run, "onnx", tmp_path)
    assert missing in str(caught.value)
    assert 'pip install "byhand[onnx]"' in str(caught.value)
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_a_network_that_torch_cannot_export_is_one_line_and_leaves_no_file(run, tmp_path, monkeypatch):
    pytest.importorskip("onnxscript")

    class Unexportable(torch.nn.Module):
        def forward(self, x):
            return x * float(x.sum()) if float(x.sum()) > 1 else x

    monkeypatch.setattr(run, "model", lambda: Unexportable())
    with pytest.raises(RunError, match="torch cannot export this network to ONNX") as caught:
        export(run, "onnx", tmp_path)
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_a_folder_that_does_not_exist_and_a_run_without_weights_are_one_line(run, tmp_path):
    with pytest.raises(RunError, match=r"nowhere does not exist; make the folder first"):
        export(run, "safetensors", tmp_path / "nowhere" / "x.safetensors")
    unfinished = Run.create(tmp_path, LENET, {})
    with pytest.raises(RunError, match=r"has no model\.safetensors"):
        export(unfinished, "safetensors")


def test_the_ending_of_the_file_says_the_format_and_may_not_contradict_it(run, tmp_path):
    written = export(run, path=tmp_path / "net.safetensors")
    with safe_open(written, "pt") as file:
        assert set(file.keys()) == set(run.model().state_dict())
    assert export(run, path=tmp_path / "net.onnx").read_bytes()[:1] == b"\x08"  # ir_version, the first field of a model
    before = written.read_bytes()
    with pytest.raises(SettingsError, match=r"ends in \.safetensors, and the format is onnx"):
        export(run, "onnx", written)
    assert written.read_bytes() == before
