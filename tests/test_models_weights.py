"""Published weights into a network: what is taken, what stays, what is refused, and what a download leaves behind."""

import hashlib
import http.server
import io
import os
import re
import threading
from collections import OrderedDict
from urllib.parse import urlsplit

import pytest
import safetensors.torch
import torch
from against_torch import assert_refused
from torch import nn

from byhand import pretrained
from byhand.data.folders import cache_root
from byhand.errors import DataError, RunError, SettingsError
from byhand.models.mobile_v3 import mobilenet_v3_small
from byhand.models.weights import Loaded, head_of, take_weights
from byhand.pretrained import fetch_weights, load_weights
from byhand.runs import storage


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)

    def forward(self, x):
        return x + self.bn1(self.conv1(x)).relu()


class Tiny(nn.Module):
    """Shaped as ResNets are, small enough to write and read in no time; optionally with auxiliary heads."""

    def __init__(self, num_classes=10, in_channels=3, width=4, auxiliary=False):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = nn.Sequential(Block(width), Block(width))
        if auxiliary:
            self.aux1 = nn.Sequential(OrderedDict(fc1=nn.Linear(width, 6), fc2=nn.Linear(6, num_classes)))
            self.aux2 = nn.Sequential(OrderedDict(fc1=nn.Linear(width, 6), fc2=nn.Linear(6, num_classes)))
        self.fc = nn.Linear(width, num_classes)

    def forward(self, x):
        return self.fc(self.layer1(self.bn1(self.conv1(x)).relu()).mean((2, 3)))


def tiny(seed=0, **options):
    """With weights and statistics that differ from those of every other seed."""
    torch.manual_seed(seed)
    model = Tiny(**options)
    with torch.no_grad():
        for value in model.state_dict().values():
            value.copy_(torch.rand(value.shape) if value.is_floating_point() else torch.tensor(seed + 3))
    return model


def copied(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def assert_same(state, expected, keys=None):
    assert list(state) == list(expected)
    for key in expected if keys is None else keys:
        assert torch.equal(state[key], expected[key]), key


def assert_untouched(network, call, kind, *values):
    """The call is refused in one line that carries the values, and the network is as it was."""
    before = copied(network)
    assert_refused(kind, call, *values)
    assert_same(network.state_dict(), before)


def without(state, *endings):
    return {key: value for key, value in state.items() if not key.endswith(endings)}


def written(path, content, **options):
    torch.save(content, path, **options)
    return path


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """No user's cache and no proxy."""
    for name in ("HOME", "XDG_CACHE_HOME", "LOCALAPPDATA", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


# files


@pytest.mark.parametrize("kind", ["pth", "before torch 1.6", "safetensors", "byhand's own"])
def test_a_published_file_loads_into_a_network_of_another_seed(tmp_path, kind):
    source, target = tiny(1), tiny(2)
    path = tmp_path / ("w.safetensors" if kind in ("safetensors", "byhand's own") else "w.pth")
    if kind == "safetensors":
        safetensors.torch.save_file(source.state_dict(), path)
    elif kind == "byhand's own":
        storage.save_weights(source, path)
    else:
        written(path, source.state_dict(), _use_new_zipfile_serialization=kind == "pth")
    loaded = load_weights(target, path)
    assert_same(target.state_dict(), source.state_dict())
    assert loaded == Loaded(str(path), len(source.state_dict()))
    assert str(loaded) == f"{path}: 20 tensors loaded"


@pytest.mark.parametrize("spelling", ["path", "text", "home"])
def test_a_path_may_be_given_as_path_or_text_or_below_home(tmp_path, spelling):
    (tmp_path / "home").mkdir()
    path = written(tmp_path / "home" / "w.pth", tiny(1).state_dict())
    target = tiny(2)
    load_weights(target, {"path": path, "text": str(path), "home": "~/w.pth"}[spelling])
    assert_same(target.state_dict(), tiny(1).state_dict())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "epoch": 90},
        lambda state: {"model": state, "optimizer": {"state": {}}},
        lambda state: {"model": {"state_dict": state}},
        lambda state: {f"module.{key}": value for key, value in state.items()},
        lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}},
        lambda state: {f"_orig_mod.module.{key}": value for key, value in state.items()},
    ],
    ids=["state_dict", "model", "both", "module.", "module. in state_dict", "compiled"],
)
def test_what_training_scripts_put_around_the_weights_is_taken_off(tmp_path, wrap):
    target = tiny(2)
    assert load_weights(target, written(tmp_path / "w.pth", wrap(tiny(1).state_dict()))).num_loaded == 20
    assert_same(target.state_dict(), tiny(1).state_dict())


def test_a_network_that_has_such_names_itself_keeps_them():
    source, target = (nn.Sequential(OrderedDict(module=tiny(seed))) for seed in (1, 2))
    take_weights(target, source.state_dict())
    assert_same(target.state_dict(), source.state_dict())
    single = tiny(3)
    take_weights(single, source.state_dict())
    assert_same(single.state_dict(), tiny(1).state_dict())


def test_files_from_before_batches_were_counted_leave_the_count_as_it_is():
    target = tiny(2)
    assert take_weights(target, without(tiny(1).state_dict(), "num_batches_tracked")).num_loaded == 17
    assert_same(target.state_dict(), tiny(1).state_dict(), without(tiny(1).state_dict(), "num_batches_tracked"))
    assert target.bn1.num_batches_tracked == 2 + 3


def test_torchvisions_old_densenet_names_are_understood():
    def densenet():
        layer = OrderedDict(norm1=nn.BatchNorm2d(2), conv1=nn.Conv2d(2, 3, 1, bias=False))
        layer |= OrderedDict(norm2=nn.BatchNorm2d(3), conv2=nn.Conv2d(3, 2, 3, bias=False))
        block = nn.Sequential(OrderedDict(denselayer1=nn.Sequential(layer)))
        features = nn.Sequential(OrderedDict(norm0=nn.BatchNorm2d(2), denseblock1=block))
        return nn.Sequential(OrderedDict(features=features, classifier=nn.Linear(2, 4)))

    torch.manual_seed(1)
    source, target = densenet(), densenet()
    # as in densenet121-a639ec97.pth: features.denseblock1.denselayer1.norm.1.weight, and nothing counted
    old = {
        re.sub(r"(norm|conv)([12])\.", r"\1.\2.", key): value
        for key, value in without(source.state_dict(), "num_batches_tracked").items()
    }
    assert "features.denseblock1.denselayer1.norm.1.running_mean" in old
    assert take_weights(target, old).num_loaded == len(old)
    assert_same(target.state_dict(), source.state_dict())


def test_a_network_that_has_the_old_names_itself_keeps_them():
    def network():
        layer = nn.Sequential(OrderedDict(norm=nn.Sequential(nn.BatchNorm2d(2), nn.BatchNorm2d(2))))
        return nn.Sequential(OrderedDict(denselayer1=layer, classifier=nn.Linear(2, 4)))

    source, target = network(), network()
    nn.init.uniform_(source.denselayer1.norm[1].weight)
    assert "denselayer1.norm.1.weight" in source.state_dict()
    take_weights(target, source.state_dict())
    assert_same(target.state_dict(), source.state_dict())


def test_values_take_the_networks_dtype():
    target = tiny(2)
    half = {key: v.half() if v.is_floating_point() else v for key, v in tiny(1).state_dict().items()}
    take_weights(target, half)
    assert target.conv1.weight.dtype == torch.float32
    assert torch.equal(target.conv1.weight, half["conv1.weight"].float())


# heads


def test_with_other_classes_the_head_stays_new_and_the_answer_says_so(tmp_path):
    source, target = tiny(1, num_classes=1000), tiny(2)
    before = copied(target)
    path = written(tmp_path / "w.pth", source.state_dict())
    loaded = load_weights(target, path)
    assert loaded == Loaded(str(path), 18, ("fc",), 1000, 10)
    assert str(loaded) == (
        f"{path}: 18 tensors loaded; the head (fc) is new: 1000 classes in the file, 10 in the network"
    )
    body = [key for key in before if not key.startswith("fc.")]
    assert_same(target.state_dict(), source.state_dict(), body)
    assert_same(target.state_dict(), before, ["fc.weight", "fc.bias"])
    assert target(torch.zeros(2, 3, 8, 8)).shape == (2, 10)


def test_a_head_of_convolutions_as_wide_as_the_classes_stays_new_too():
    def nin(num_classes):  # the last block of NiN in D2L 7.3: each of its layers has a channel for each class
        layers = [nn.Conv2d(3, 8, 3), nn.Conv2d(8, num_classes, 3), nn.ReLU(), nn.Conv2d(num_classes, num_classes, 1)]
        return nn.Sequential(*layers)

    torch.manual_seed(0)
    source, target = nin(20), nin(5)
    before = copied(target)
    loaded = take_weights(target, source.state_dict())
    assert (loaded.head, loaded.classes_in_file, loaded.num_classes) == (("1", "3"), 20, 5)
    assert torch.equal(target[0].weight, source[0].weight)
    assert_same(target.state_dict(), before, ["1.weight", "1.bias", "3.weight", "3.bias"])


def test_a_whole_network_gets_published_weights_for_other_classes(tmp_path):
    torch.manual_seed(0)
    source, target = mobilenet_v3_small(width_mult=0.25), mobilenet_v3_small(width_mult=0.25, num_classes=10)
    loaded = load_weights(target, written(tmp_path / "w.pth", source.state_dict()))
    assert loaded.head == ("classifier.3",)
    assert loaded.num_loaded == len(source.state_dict()) - 2
    assert torch.equal(target.classifier[0].weight, source.classifier[0].weight)


@pytest.mark.parametrize("classes", [10, 1000])
def test_auxiliary_heads_may_be_lacking_or_in_excess(classes):
    target = tiny(2, auxiliary=True)
    before = copied(target)
    loaded = take_weights(target, tiny(1, num_classes=classes).state_dict(), "w.pth")
    assert loaded.new_heads == ("aux1", "aux2")
    assert "aux1, aux2 new: not in the file" in str(loaded)
    assert_same(target.state_dict(), before, [key for key in before if key.startswith("aux")])
    assert torch.equal(target.conv1.weight, tiny(1, num_classes=classes).conv1.weight)

    target = tiny(2)
    loaded = take_weights(target, tiny(1, num_classes=classes, auxiliary=True).state_dict(), "w.pth")
    assert loaded.unused_heads == ("aux1", "aux2")
    assert "aux1, aux2 of the file not used" in str(loaded)
    assert "\n" not in str(loaded)
    assert loaded.head == (("fc",) if classes == 1000 else ())


def test_auxiliary_heads_of_other_classes_stay_new_with_the_head():
    target = tiny(2, auxiliary=True)
    loaded = take_weights(target, tiny(1, num_classes=1000, auxiliary=True).state_dict())
    assert loaded.head == ("aux1.fc2", "aux2.fc2", "fc")
    assert torch.equal(target.aux1.fc1.weight, tiny(1, num_classes=1000, auxiliary=True).aux1.fc1.weight)


def test_half_an_auxiliary_head_is_an_error():
    target = tiny(2, auxiliary=True)
    half = without(tiny(1, auxiliary=True).state_dict(), "aux1.fc1.weight")
    assert_untouched(target, lambda: take_weights(target, half), RunError, "1 missing (aux1.fc1.weight)")


def test_the_head_is_the_last_layer_with_weights():
    assert head_of(tiny()) == "fc"
    assert head_of(tiny(auxiliary=True)) == "fc"
    assert head_of(mobilenet_v3_small(width_mult=0.25)) == "classifier.3"
    assert head_of(nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2), nn.ReLU())) == "0"
    assert head_of(nn.Linear(2, 3)) == ""


def test_a_bare_linear_layer_is_all_head():
    target = nn.Linear(4, 2)
    before = copied(target)
    assert take_weights(target, nn.Linear(4, 3).state_dict()).num_loaded == 0
    assert_same(target.state_dict(), before)


# what does not fit


def test_all_that_does_not_fit_stands_in_one_error(tmp_path):
    target = tiny(2)
    state = without(tiny(1).state_dict(), "running_mean", "layer1.0.conv1.weight")
    state |= {"conv1.weight": torch.zeros(4, 1, 3, 3), "head.weight": torch.zeros(2), "epoch": 5}
    path = written(tmp_path / "w.pth", state)
    assert_untouched(
        target,
        lambda: load_weights(target, path),
        RunError,
        f"{path} does not fit this Tiny: ",
        "4 missing (bn1.running_mean, layer1.0.conv1.weight, layer1.0.bn1.running_mean and 1 more)",
        "2 unexpected (head.weight, epoch)",
        "1 misshapen (conv1.weight is (4, 1, 3, 3), expected (4, 3, 3, 3))",
    )


def test_another_network_is_refused_with_three_names_of_each_kind():
    target = tiny(2)
    other = {f"features.{i}.weight": torch.zeros(2, 2) for i in range(7)}
    listed = "features.0.weight, features.1.weight, features.2.weight and 4 more"
    assert_untouched(target, lambda: take_weights(target, other), RunError, "17 missing (", f"7 unexpected ({listed})")
    wide = tiny(1, width=8)
    assert_untouched(target, lambda: take_weights(target, wide.state_dict()), RunError, "16 misshapen (", "13 more")


def test_numbers_and_counts_do_not_stand_for_each_other():
    target = tiny(2)
    for value, said in ((torch.zeros(4, dtype=torch.int64), "whole numbers"), (7, "a int"), ([0.0] * 4, "a list")):
        state = tiny(1).state_dict() | {"bn1.bias": value}
        assert_untouched(target, lambda s=state: take_weights(target, s), RunError, "bn1.bias is ", said, "(4,)")


def test_a_head_that_differs_in_more_than_its_classes_does_not_fit():
    target = tiny(2)
    state = tiny(1, num_classes=1000).state_dict() | {"fc.weight": torch.zeros(1000, 9)}
    assert_untouched(target, lambda: take_weights(target, state), RunError, "fc.weight is (1000, 9), expected (10, 4)")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([1, 2], "a list"),
        (torch.zeros(3), "a Tensor"),
        ({}, "a dict"),
        ({"epoch": 1, "lr": 0.1, "loss": 2.0, "seed": 4, "name": "x"}, "epoch, lr, loss and 2 more"),
        ({"state_dict": {"epoch": 1}}, "epoch"),
    ],
)
def test_a_file_without_weights_is_named_with_what_it_holds(tmp_path, content, said):
    target, path = tiny(2), written(tmp_path / "w.pth", content)
    call = lambda: load_weights(target, path)  # noqa: E731
    assert_untouched(target, call, RunError, f"{path} holds no weights", said, "state_dict", "model")


def test_a_mapping_that_contains_itself_does_not_hang():
    endless: dict = {}
    endless["model"] = endless
    assert_refused(RunError, lambda: take_weights(tiny(), endless), "holds no weights")


# files that are refused


class Hostile:
    """Unpickled by the unsafe loader this makes a file."""

    def __init__(self, witness):
        self.witness = str(witness)

    def __reduce__(self):
        return (os.system, (f"touch {self.witness}",))


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
def test_a_file_that_holds_code_is_refused_and_the_code_never_runs(tmp_path, zipped):
    witness, target = tmp_path / "pwned", tiny(2)
    content = {"state_dict": tiny(1).state_dict(), "note": Hostile(witness)}
    path = written(tmp_path / "w.pth", content, _use_new_zipfile_serialization=zipped)
    assert_untouched(target, lambda: load_weights(target, path), RunError, f"{path} holds code", "system", "not run")
    assert not witness.exists()
    torch.load(path, weights_only=False)  # the control: it does what it says when it is let
    assert witness.exists()


def test_a_whole_pickled_network_is_code_too(tmp_path):
    target, path = tiny(2), written(tmp_path / "w.pth", tiny(1))
    assert_untouched(target, lambda: load_weights(target, path), RunError, "holds code", "Tiny")


def test_missing_and_damaged_files_are_refused(tmp_path):
    target = tiny(2)
    missing = tmp_path / "none.pth"
    assert_untouched(target, lambda: load_weights(target, missing), RunError, f"{missing} does not exist")
    assert_untouched(target, lambda: load_weights(target, tmp_path), RunError, f"{tmp_path} is not a file")
    for name in ("w.pth", "w.safetensors"):
        path = tmp_path / name
        path.write_bytes(b"<!DOCTYPE html>")
        assert_untouched(target, lambda p=path: load_weights(target, p), RunError, path, "nothing was loaded")
    whole = written(tmp_path / "cut.pth", tiny(1).state_dict()).read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    assert_untouched(target, lambda: load_weights(target, tmp_path / "cut.pth"), RunError, "damaged")


def test_a_file_is_held_to_its_sha256(tmp_path):
    target, path = tiny(2), written(tmp_path / "w.pth", tiny(1).state_dict())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    wrong = f"{int(digest[0], 16) ^ 1:x}{digest[1:]}"
    for given in (wrong, wrong[:8]):
        assert_untouched(target, lambda g=given: load_weights(target, path, sha256=g), RunError, path, wrong[:8])
    for given in ("", digest[:7], "z" * 64, digest + "0", 5):
        call = lambda g=given: load_weights(target, path, sha256=g)  # noqa: E731
        assert_untouched(target, call, SettingsError, f"sha256={given!r}", "8 to 64")
    for given in (digest, digest[:8], digest.upper()):
        load_weights(target, path, sha256=given)
    assert_same(target.state_dict(), tiny(1).state_dict())


# addresses


class Server:
    """A site on the loopback address; `answer(handler)` says what it says."""

    def __init__(self, answer):
        self.requests = []
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                server.requests.append(self.path)
                answer(self)

            def log_message(self, *args):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self):
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()


@pytest.fixture
def serve():
    servers = []

    def start(answer):
        servers.append(Server(answer if callable(answer) else lambda handler: send(handler, answer)))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def send(handler, body, length=None, status=200, **headers):
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name, value)
    if length != "unsaid":
        handler.send_header("Content-Length", str(len(body) if length is None else length))
    handler.end_headers()
    handler.wfile.write(body)


def saved(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def cached():
    folder = cache_root() / "weights"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


@pytest.mark.parametrize("name", ["tiny.pth", "tiny.safetensors", "tiny.pth?download=true"])
def test_an_address_is_downloaded_once_into_the_cache(serve, name):
    state = tiny(1).state_dict()
    body = safetensors.torch.save(state) if "safetensors" in name else saved(state)
    server, calls = serve(body), []
    url = f"{server.url}/models/{name}"
    for seed in (2, 3):
        target = tiny(seed)
        loaded = load_weights(target, url, progress=lambda *call: calls.append(call))
        assert_same(target.state_dict(), state)
        assert loaded == Loaded(url, 20)
    assert server.requests == [f"/models/{name}"]
    assert calls[-1] == (name.partition("?")[0], len(body), len(body))
    file, seal = cached()
    assert file.endswith(f"-{name.partition('?')[0]}")
    assert seal == f"{file}.sha256"
    path = fetch_weights(url)
    assert path == cache_root() / "weights" / file
    assert path.read_bytes() == body
    assert hashlib.sha256(body).hexdigest() in path.with_name(seal).read_text()


def test_two_addresses_with_one_file_name_are_two_files(serve):
    one, two = (serve(saved(tiny(seed).state_dict())) for seed in (1, 2))
    target = tiny(3)
    load_weights(target, f"{one.url}/w.pth")
    load_weights(target, f"{two.url}/w.pth")
    assert_same(target.state_dict(), tiny(2).state_dict())
    assert len(cached()) == 4


def test_a_server_that_does_not_say_the_length_is_fine(serve):
    server = serve(lambda handler: send(handler, saved(tiny(1).state_dict()), length="unsaid"))
    target = tiny(2)
    load_weights(target, f"{server.url}/w.pth")
    assert_same(target.state_dict(), tiny(1).state_dict())


def test_a_download_is_held_to_its_sha256(serve):
    body = saved(tiny(1).state_dict())
    server, target = serve(body), tiny(2)
    url, digest = f"{server.url}/w.pth", hashlib.sha256(body).hexdigest()
    call = lambda: load_weights(target, url, sha256="0" * 64)  # noqa: E731
    assert_untouched(target, call, DataError, url, digest[:12], "expected 000000000000")
    assert cached() == []
    load_weights(target, url, sha256=digest)
    assert len(server.requests) == 2
    load_weights(target, url, sha256=digest[:8])
    assert len(server.requests) == 2
    assert_untouched(target, lambda: load_weights(target, url, sha256="xyz"), SettingsError, "'xyz'")


def test_a_file_in_the_cache_that_is_not_the_one_asked_for_is_downloaded_again(serve):
    bodies = [saved(tiny(seed).state_dict()) for seed in (1, 2)]
    server = serve(lambda handler: send(handler, bodies[len(server.requests) - 1]))
    target = tiny(3)
    load_weights(target, f"{server.url}/w.pth")
    load_weights(target, f"{server.url}/w.pth", sha256=hashlib.sha256(bodies[1]).hexdigest())
    assert_same(target.state_dict(), tiny(2).state_dict())
    assert len(cached()) == 2


def test_a_copy_that_was_damaged_is_refused_removed_and_downloaded_again(serve):
    server, target = serve(saved(tiny(1).state_dict())), tiny(2)
    url = f"{server.url}/w.pth"
    path = fetch_weights(url)
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 1
    path.write_bytes(bytes(body))
    assert_untouched(target, lambda: load_weights(target, url), RunError, url, "damaged", "removed")
    assert cached() == []
    load_weights(target, url)
    assert_same(target.state_dict(), tiny(1).state_dict())


def test_a_download_that_holds_code_is_refused_and_not_kept(serve, tmp_path):
    witness, target = tmp_path / "pwned", tiny(2)
    server = serve(saved({"state_dict": tiny(1).state_dict(), "note": Hostile(witness)}))
    url = f"{server.url}/w.pth"
    assert_untouched(target, lambda: load_weights(target, url), RunError, url, "holds code", "not run")
    assert not witness.exists()
    assert cached() == []


def test_a_download_that_does_not_fit_is_kept(serve):
    server, target = serve(saved(tiny(1, width=8).state_dict())), tiny(2)
    url = f"{server.url}/w.pth"
    assert_untouched(target, lambda: load_weights(target, url), RunError, f"{url} does not fit this Tiny", "misshapen")
    assert len(cached()) == 2


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda handler: handler.send_error(404), "404 Not Found"),
        (lambda handler: handler.send_error(503), "503 Service Unavailable"),
        (lambda handler: send(handler, b"<!DOCTYPE html><html>Sign in</html>"), "something else than weights"),
        (lambda handler: send(handler, b""), "something else than weights"),
        (lambda handler: send(handler, b"PK\x03\x04" + bytes(900), length=1000), "broke off after 904 of 1,000"),
        (lambda handler: send(handler, b"PK\x03\x04", length=1 << 40), "expected at most"),
        (lambda handler: send(handler, b"", status=302, Location="file:///etc/hostname"), "302"),
        (lambda handler: handler.wfile.write(b"hello\r\n\r\n"), "hello"),
    ],
    ids=["not found", "unavailable", "a page", "nothing", "cut", "endless", "elsewhere", "not http"],
)
def test_an_answer_that_is_no_file_of_weights_is_one_line_and_leaves_nothing(serve, answer, said):
    server, target = serve(answer), tiny(2)
    url = f"{server.url}/w.pth"
    assert_untouched(target, lambda: load_weights(target, url), DataError, url, said, "give its path")
    assert cached() == []


def test_a_server_that_is_not_there_or_never_answers_is_one_line(serve, monkeypatch):
    server = serve(b"")
    server.close()
    assert_refused(DataError, lambda: load_weights(tiny(), f"{server.url}/w.pth"), server.url, "refused")
    waiting = threading.Event()
    silent = serve(lambda handler: waiting.wait(20))
    monkeypatch.setattr(pretrained, "TIMEOUT", 0.2)
    call = lambda: load_weights(tiny(), f"{silent.url}/w.pth")  # noqa: E731
    assert_refused(DataError, call, silent.url, "no answer for 0.2 seconds")
    waiting.set()


@pytest.mark.parametrize(
    "url", ["ftp://127.0.0.1/w.pth", "file:///etc/hostname", "s3://bucket/w.pth", "FILE:///w.pth", "http://"]
)
def test_only_http_and_https_are_addresses(url):
    assert_refused(DataError, lambda: load_weights(tiny(), url), url, "http or https", "give its path")


def test_what_was_asked_of_a_safe_site_is_not_taken_from_another(monkeypatch):
    class Elsewhere(io.BytesIO):
        url, headers = "http://127.0.0.1/w.pth", {}

    monkeypatch.setattr("urllib.request.urlopen", lambda *a, **k: Elsewhere(saved(tiny(1).state_dict())))
    call = lambda: load_weights(tiny(), "https://127.0.0.1/w.pth")  # noqa: E731
    assert_refused(DataError, call, "was redirected to http://127.0.0.1/w.pth, which is not https")
    load_weights(tiny(2), "http://127.0.0.1/w.pth")  # the control


def test_an_address_that_cannot_be_read_is_one_line():
    assert_refused(DataError, lambda: load_weights(tiny(), "http://[::1/w.pth"), "http://[::1/w.pth is not an address")


def test_a_cache_that_cannot_be_written_is_one_line(serve, tmp_path):
    (tmp_path / "home").write_text("a file where the folder should be")
    server = serve(saved(tiny(1).state_dict()))
    call = lambda: load_weights(tiny(), f"{server.url}/w.pth")  # noqa: E731
    assert_refused(DataError, call, cache_root() / "weights", "cannot be written")
    assert server.requests == []


def test_part_files_of_killed_processes_are_swept_when_they_are_a_day_old(serve):
    folder = cache_root() / "weights"
    folder.mkdir(parents=True)
    for name, age in ((".old.part", 2 * 24 * 3600), (".new.part", 0)):
        (folder / name).write_bytes(b"PK")
        now = (folder / name).stat().st_mtime
        os.utime(folder / name, (now - age, now - age))
    fetch_weights(f"{serve(saved(tiny(1).state_dict())).url}/w.pth")
    assert ".new.part" in cached()
    assert ".old.part" not in cached()


def test_torchvisions_file_names_carry_the_first_digits_of_the_sha256():
    def digits(url):
        return pretrained._digest_in(urlsplit(url))

    assert digits("https://download.pytorch.org/models/resnet18-f37072fd.pth") == "f37072fd"
    assert digits("https://download.pytorch.org/models/googlenet-1378be20.pth?x=1") == "1378be20"
    assert digits("https://download.pytorch.org/models/resnet18.pth") is None
    assert digits("https://example.org/resnet18-20231101.pth") is None  # a date
