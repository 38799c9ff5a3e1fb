"""The download, from servers of our own on the loopback address that fail in every way we know."""

import errno
import gzip
import hashlib
import http.server
import os
import pickle
import re
import subprocess
import sys
import threading
import warnings
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from byhand import data
from byhand.data import download, folders
from byhand.data.download import fetch
from byhand.data.entry import DataFile
from byhand.data.idx import write_idx
from byhand.data.mnist import MNIST
from byhand.errors import DataError

# noise does not compress, so that the .gz files are about as long as their content
NOISE = np.random.default_rng(0).integers(0, 256, (60, 28, 28), dtype=np.uint8)
CONTENTS = {
    "train-images-idx3-ubyte": write_idx(NOISE[:40]),
    "train-labels-idx1-ubyte": write_idx(np.arange(40) % 10),
    "t10k-images-idx3-ubyte": write_idx(NOISE[40:]),
    "t10k-labels-idx1-ubyte": write_idx(np.arange(20) % 10),
}
GZIPPED = {name: gzip.compress(content, mtime=0) for name, content in CONTENTS.items()}
SHAPES = ((40, 28, 28), (40,), (20, 28, 28), (20,))
IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TINY = replace(
    MNIST,
    num_train=40,
    num_test=20,
    mirrors=(),
    files=tuple(
        DataFile(name, shape, hashlib.sha256(content).hexdigest(), gz_bytes=len(GZIPPED[name]))
        for (name, content), shape in zip(CONTENTS.items(), SHAPES, strict=True)
    ),
)


class Server:
    """A mirror on the loopback address; `answer(handler, name, start)` may take over what it says about a file."""

    def __init__(self, answer=None):
        self.requests: list[tuple[str, str | None]] = []
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                name = self.path.rsplit("/", 1)[-1].removesuffix(".gz")
                asked = self.headers.get("Range")
                server.requests.append((self.path, asked))
                start = int(re.fullmatch(r"bytes=(\d+)-", asked).group(1)) if asked else 0
                if answer is None or answer(self, name, start) is NotImplemented:
                    send_file(self, GZIPPED[name], start)

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


def send_file(handler, body, start=0, *, length=None, num_bytes=None):
    """What a sound server says; with `num_bytes`, the connection ends after so many; `length` is what it claims."""
    if start >= len(body) and start:
        handler.send_error(416)
        return
    handler.send_response(206 if start else 200)
    if start:
        handler.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
    handler.send_header("Content-Length", str(len(body) - start if length is None else length))
    handler.end_headers()
    handler.wfile.write(body[start:] if num_bytes is None else body[start : start + num_bytes])


@pytest.fixture
def serve():
    servers = []

    def start(answer=None):
        servers.append(Server(answer))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """No user's files, mirrors or proxy."""
    for name in ("HOME", "XDG_CACHE_HOME", "LOCALAPPDATA", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    for name in ("BYHAND_DATA", "BYHAND_MIRROR", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(folders, "DEBIAN_ROOT", tmp_path / "debian")


@pytest.fixture
def tiny_mnist(monkeypatch):
    """`mnist` is the tiny set; gives a function that sets its own mirrors."""

    def with_mirrors(*mirrors):
        monkeypatch.setattr(data, "DATASETS", (replace(TINY, mirrors=mirrors),))

    return with_mirrors


def assert_published(folder):
    """The folder holds the four published files and nothing else: no part, no lock."""
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {f"{n}.gz": b for n, b in GZIPPED.items()}


def part_of(folder, name=IMAGES):
    return folder / f".{name}.gz.part"


def test_the_data_set_is_downloaded_into_the_named_folder_and_loads(tmp_path, serve, tiny_mnist):
    tiny_mnist(serve().url + "/mnist/")
    dataset = data.load("mnist", tmp_path / "new" / "place")
    assert_published(tmp_path / "new" / "place" / "mnist")
    assert np.array_equal(dataset.train_images[:, 0].numpy(), NOISE[:40])
    assert dataset.test_labels.tolist() == [i % 10 for i in range(20)]
    assert [row["verdict"] for row in data.check("mnist", tmp_path / "new" / "place")] == ["ok"] * 4


@pytest.mark.parametrize("variable", [True, False], ids=["BYHAND_DATA", "cache"])
def test_without_a_named_folder_the_download_goes_to_byhand_data_or_the_cache(
    tmp_path, serve, tiny_mnist, monkeypatch, variable
):
    server = serve()
    tiny_mnist(server.url)
    if variable:
        monkeypatch.setenv("BYHAND_DATA", str(tmp_path / "variable"))
    folder = (tmp_path / "variable" if variable else folders.cache_root()) / "mnist"
    assert data.get("mnist") == folder
    assert_published(folder)
    assert len(server.requests) == 4
    data.get("mnist")
    data.load("mnist")
    assert len(server.requests) == 4  # what is there is not fetched again


def test_nothing_is_downloaded_when_that_is_not_allowed(serve, tiny_mnist, tmp_path):
    server = serve()
    tiny_mnist(server.url)
    with pytest.raises(DataError, match="run `byhand data get mnist --data-dir"):
        data.load("mnist", tmp_path, download=False)
    assert server.requests == []
    assert list(tmp_path.iterdir()) == []


def test_progress_grows_from_nothing_to_the_size_of_each_file(serve, tmp_path):
    calls = []
    fetch(TINY, tmp_path / "mnist", [serve().url], lambda *call: calls.append(call))
    for name, body in GZIPPED.items():
        done = [n for file, n, total in calls if file == f"{name}.gz" and total == len(body)]
        assert done[0] == 0
        assert done[-1] == len(body)
        assert all(a <= b for a, b in pairwise(done))


# mirrors that fail


def closed_port():
    """An address where nobody listens."""
    server = Server()
    server.close()
    return server.url


def answers_not_found(handler, name, start):
    handler.send_error(404)


def answers_forbidden(handler, name, start):
    handler.send_error(403)


def answers_an_error_page_as_if_all_were_well(handler, name, start):
    send_file(handler, b"<!DOCTYPE html><html><title>Sign in to campus network</title></html>")


def answers_nothing(handler, name, start):
    send_file(handler, b"")


def answers_another_file(handler, name, start):
    send_file(handler, GZIPPED["t10k-images-idx3-ubyte" if name != "t10k-images-idx3-ubyte" else IMAGES])


def answers_a_tampered_file(handler, name, start):
    content = bytearray(CONTENTS[name])
    content[-1] ^= 1
    send_file(handler, gzip.compress(bytes(content)))


def answers_a_corrupt_file(handler, name, start):
    body = bytearray(GZIPPED[name])
    body[-8] ^= 1
    send_file(handler, bytes(body))


def answers_half_a_file_as_if_it_were_whole(handler, name, start):
    send_file(handler, GZIPPED[name][: len(GZIPPED[name]) // 2], start)


def answers_a_bomb(handler, name, start):
    send_file(handler, gzip.compress(bytes(5 << 20)))


def claims_to_be_endless(handler, name, start):
    send_file(handler, GZIPPED[name], length=10**12)


def sends_without_end(handler, name, start):
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(GZIPPED[name])
    try:
        while True:
            handler.wfile.write(bytes(1 << 16))
    except OSError:
        pass  # the other side had enough


def speaks_another_language(handler, name, start):
    handler.wfile.write(b"220 ftp.example.org ready\r\n\r\n")


def redirects_in_a_circle(handler, name, start):
    handler.send_response(302)
    handler.send_header("Location", handler.path)
    handler.end_headers()


FAILURES = {
    answers_not_found: "404",
    answers_forbidden: "403",
    answers_an_error_page_as_if_all_were_well: "something else than gzip, starts with b'<!DOCTYPE html>'",
    answers_nothing: "sent nothing",
    answers_another_file: "not the published file|holds more than",
    answers_a_tampered_file: "not the published file",
    answers_a_corrupt_file: "CRC does not match",
    answers_half_a_file_as_if_it_were_whole: "longer than the file|broke off",
    answers_a_bomb: "holds more than",
    claims_to_be_endless: "offers 1,000,000,000,000 bytes",
    sends_without_end: "sent more than",
    speaks_another_language: "220 ftp",
    redirects_in_a_circle: "302",
}


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.__name__)
def test_a_mirror_that_fails_is_passed_over_for_the_next_one(serve, tmp_path, failure):
    bad, good = serve(failure), serve()
    with pytest.warns(UserWarning, match="passed over") as warned:
        fetch(TINY, tmp_path / "mnist", [bad.url, good.url])
    assert_published(tmp_path / "mnist")
    assert len(warned) == 1  # from then on the good mirror is asked first
    message = str(warned[0].message)
    assert re.search(FAILURES[failure], message)
    assert bad.url in message
    assert "\n" not in message


@pytest.mark.parametrize("url", ["closed", "ftp://127.0.0.1/x", "file:///etc", "no address", "http://[", "http://é/"])
def test_an_address_that_leads_nowhere_is_passed_over(serve, tmp_path, url):
    url = closed_port() if url == "closed" else url
    with pytest.warns(UserWarning, match="passed over"):
        fetch(TINY, tmp_path / "mnist", [url, serve().url])
    assert_published(tmp_path / "mnist")


def test_a_mirror_that_does_not_answer_is_passed_over(serve, tmp_path, monkeypatch):
    asked_to_stop = threading.Event()

    def hangs(handler, name, start):
        asked_to_stop.wait(30)

    monkeypatch.setattr(download, "TIMEOUT", 0.2)
    hanging = serve(hangs)
    try:
        with pytest.warns(UserWarning, match="no answer for 0.2 seconds"):
            fetch(TINY, tmp_path / "mnist", [hanging.url, serve().url])
    finally:
        asked_to_stop.set()
    assert_published(tmp_path / "mnist")


def test_when_every_mirror_fails_one_line_names_each_and_its_reason_and_nothing_is_left(serve, tmp_path):
    page, lost = serve(answers_an_error_page_as_if_all_were_well), serve(answers_not_found)
    folder = tmp_path / "new" / "mnist"
    with pytest.warns(UserWarning, match="passed over"), pytest.raises(DataError) as caught:
        fetch(TINY, folder, [page.url, lost.url])
    text = str(caught.value)
    for part in (f"{page.url}/{IMAGES}.gz (answered with", f"{lost.url}/{IMAGES}.gz (404", f"{LABELS}.gz", str(folder)):
        assert part in text
    assert "BYHAND_MIRROR" in text
    assert "\n" not in text
    assert list(tmp_path.iterdir()) == []


def test_mirrors_of_the_users_own_are_asked_first(serve, tmp_path, tiny_mnist, monkeypatch):
    def only_by_name(handler, name, start):
        return NotImplemented if handler.path.startswith("/sets/mnist/") else answers_not_found(handler, name, start)

    theirs, flat, mine = serve(), serve(), serve(only_by_name)
    tiny_mnist(theirs.url)
    monkeypatch.setenv("BYHAND_MIRROR", f"{mine.url}/sets/ {flat.url}")
    data.get("mnist", tmp_path)
    assert_published(tmp_path / "mnist")
    assert len(mine.requests) == 4
    monkeypatch.setenv("BYHAND_MIRROR", f"{closed_port()} {flat.url}/flat")
    data_dir = tmp_path / "second"
    with pytest.warns(UserWarning, match="passed over"):
        data.get("mnist", data_dir)
    assert_published(data_dir / "mnist")
    assert len(flat.requests) == 4
    assert theirs.requests == []


# interruption and resumption


def test_a_transfer_that_breaks_off_is_resumed_where_it_stopped(serve, tmp_path):
    def breaks_off_once(handler, name, start):
        if name == IMAGES and not start:
            send_file(handler, GZIPPED[name], num_bytes=10_000)
            return None
        return NotImplemented

    server = serve(breaks_off_once)
    fetch(TINY, tmp_path / "mnist", [server.url])
    assert_published(tmp_path / "mnist")
    assert [asked for path, asked in server.requests if IMAGES in path] == [None, "bytes=10000-"]


def test_a_transfer_that_breaks_off_for_good_is_resumed_at_the_next_mirror(serve, tmp_path):
    def breaks_off(handler, name, start):
        return send_file(handler, GZIPPED[name], start, num_bytes=0 if start else 10_000)

    first, second = serve(breaks_off), serve()
    with pytest.warns(UserWarning, match="broke off before the end"):
        fetch(TINY, tmp_path / "mnist", [first.url, second.url])
    assert_published(tmp_path / "mnist")
    assert second.requests[0][1] == "bytes=10000-"


def test_an_error_page_does_not_cost_what_was_already_there(serve, tmp_path):
    folder = tmp_path / "mnist"
    folder.mkdir()
    part_of(folder).write_bytes(GZIPPED[IMAGES][:20_000])
    good = serve()
    with pytest.warns(UserWarning, match="something else than gzip"):
        fetch(TINY, folder, [serve(answers_an_error_page_as_if_all_were_well).url, good.url])
    assert good.requests[0][1] == "bytes=20000-"
    assert_published(folder)


def test_an_interruption_leaves_a_part_to_resume_and_no_file_under_the_final_name(serve, tmp_path):
    folder = tmp_path / "mnist"

    def interrupt(name, done, total):
        if done == total:
            raise KeyboardInterrupt

    server = serve()
    with pytest.raises(KeyboardInterrupt):
        fetch(TINY, folder, [server.url], interrupt)
    assert [path.name for path in folder.iterdir()] == [part_of(folder).name]
    part_of(folder).write_bytes(part_of(folder).read_bytes()[:12_345])
    fetch(TINY, folder, [server.url])
    assert_published(folder)
    assert server.requests[1] == (f"/{IMAGES}.gz", "bytes=12345-")


def test_an_interrupted_data_set_is_completed_when_it_is_loaded(serve, tmp_path, tiny_mnist):
    def interrupt(name, done, total):
        if name.startswith("t10k"):
            raise KeyboardInterrupt

    server = serve()
    tiny_mnist(server.url)
    with pytest.raises(KeyboardInterrupt):
        data.load("mnist", tmp_path, progress=interrupt)
    with pytest.raises(DataError, match="has 2 of the 4 files"):
        data.load("mnist", tmp_path, download=False)
    del server.requests[:]
    data.load("mnist", tmp_path)
    assert_published(tmp_path / "mnist")
    assert {path.rsplit("/")[-1][:4] for path, _ in server.requests} == {"t10k"}


def test_a_part_that_is_already_whole_needs_no_transfer(serve, tmp_path):
    folder = tmp_path / "mnist"
    folder.mkdir()
    part_of(folder).write_bytes(GZIPPED[IMAGES])
    server = serve()
    fetch(TINY, folder, [server.url])
    assert not any(IMAGES in path for path, _ in server.requests)
    assert_published(folder)


PARTS = {
    "corrupt": b"\x1f\x8b" + bytes(5000),
    "too long": GZIPPED[IMAGES] + bytes(5),
    "of another file": GZIPPED["t10k-images-idx3-ubyte"][:5000],
    "of an error page": b"<!DOCTYPE html>",
    "cut from a longer file": gzip.compress(CONTENTS[IMAGES] + bytes(60_000), 0)[: len(GZIPPED[IMAGES]) + 9],
    "empty": b"",
}


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_is_no_use_is_started_over(serve, tmp_path, part):
    folder = tmp_path / "mnist"
    folder.mkdir()
    part_of(folder).write_bytes(PARTS[part])
    fetch(TINY, folder, [serve().url])
    assert_published(folder)


def test_a_server_that_ignores_the_range_is_read_from_the_beginning(serve, tmp_path):
    folder = tmp_path / "mnist"
    folder.mkdir()
    part_of(folder).write_bytes(GZIPPED[IMAGES][:7000])
    server = serve(lambda handler, name, start: send_file(handler, GZIPPED[name]))
    fetch(TINY, folder, [server.url])
    assert server.requests[0][1] == "bytes=7000-"
    assert_published(folder)


def test_a_server_that_resumes_at_the_wrong_place_is_asked_again_from_the_beginning(serve, tmp_path):
    folder = tmp_path / "mnist"
    folder.mkdir()
    part_of(folder).write_bytes(GZIPPED[IMAGES][:7000])

    def one_off(handler, name, start):
        return send_file(handler, GZIPPED[name], start - 1) if start else NotImplemented

    fetch(TINY, folder, [serve(one_off).url])
    assert_published(folder)


# what is already there


def test_damaged_files_are_replaced_and_sound_ones_kept(serve, tmp_path, tiny_mnist):
    server = serve()
    tiny_mnist(server.url)
    folder = data.get("mnist", tmp_path)
    (folder / f"{LABELS}.gz").write_bytes(GZIPPED[LABELS][:-3])
    del server.requests[:]
    data.get("mnist", tmp_path)
    assert [path for path, _ in server.requests] == [f"/{LABELS}.gz"]
    assert_published(folder)


def test_the_command_in_the_message_about_a_damaged_file_mends_it(serve, tmp_path, tiny_mnist):
    tiny_mnist(serve().url)
    raw = tmp_path / "MNIST" / "raw"
    fetch(TINY, raw, [serve().url])
    (raw / f"{LABELS}.gz").write_bytes(b"")
    with pytest.raises(DataError, match="is empty") as caught:
        data.load("mnist", tmp_path)
    data.get("mnist", re.search(r"--data-dir (\S+)`", str(caught.value)).group(1))
    assert len(data.load("mnist", tmp_path).train_images) == 40


def test_parts_of_complete_files_and_parts_long_abandoned_are_swept(serve, tmp_path):
    folder = fetch(TINY, tmp_path / "mnist", [serve().url])
    part_of(folder).write_bytes(b"left by a process that was killed")
    abandoned = folder / f".{IMAGES}.gz.123-456.part"
    in_use = folder / f".{IMAGES}.gz.123-457.part"
    for part in (abandoned, in_use):
        part.write_bytes(b"of a process on a file system without locks")
    os.utime(abandoned, (0, 0))
    fetch(TINY, folder, [])
    assert not part_of(folder).exists()
    assert not abandoned.exists()
    assert in_use.exists()


# disks


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_a_disk_that_cannot_be_written_is_an_error_and_no_other_mirror_is_tried(serve, tmp_path, monkeypatch, error):
    class FullDisk:
        def write(self, piece):
            raise OSError(error, os.strerror(error))

    write = download._write
    monkeypatch.setattr(download, "_write", lambda out, piece, part: write(FullDisk(), piece, part))
    server = serve()
    with pytest.raises(DataError, match=re.escape(os.strerror(error))) as caught:
        fetch(TINY, tmp_path / "mnist", [server.url, server.url])
    assert "\n" not in str(caught.value)
    assert len(server.requests) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_file_where_the_folder_should_be_is_an_error(serve, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match="cannot be written"):
        fetch(TINY, tmp_path / "file" / "mnist", [serve().url])


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no /proc, where no folder can be made")
def test_a_folder_that_cannot_be_made_is_an_error(serve):
    with pytest.raises(DataError, match="cannot be written"):
        fetch(TINY, Path("/proc/byhand/mnist"), [serve().url])


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="nothing is read-only to root")
def test_a_read_only_folder_is_an_error(serve, tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(DataError, match="Permission denied"):
            fetch(TINY, tmp_path / "mnist", [serve().url])
    finally:
        tmp_path.chmod(0o700)


# several at once


def test_threads_that_download_at_once_transfer_each_file_once(serve, tmp_path):
    server = serve()
    ready = threading.Barrier(4)
    failures = []

    def run():
        ready.wait()
        try:
            fetch(TINY, tmp_path / "deep" / "mnist", [server.url])
        except BaseException as error:  # a thread's exception would be lost
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(server.requests) == 4
    assert_published(tmp_path / "deep" / "mnist")


def test_threads_that_all_fail_leave_no_file_behind(serve, tmp_path):
    server = serve(answers_not_found)
    failures = []

    def run():
        try:
            fetch(TINY, tmp_path / "deep" / "mnist", [server.url])
        except DataError as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    with warnings.catch_warnings(action="ignore"):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(failures) == 4
    assert [path for path in tmp_path.rglob("*") if not path.is_dir()] == []


PROCESS = """
import pickle, sys
from pathlib import Path
from byhand.data.download import fetch
entry, url, folder = pickle.loads(bytes.fromhex(sys.argv[1])), sys.argv[2], Path(sys.argv[3])
print('ready', flush=True)
fetch(entry, folder, [url])
"""


def processes(url, folder, n):
    command = [sys.executable, "-c", PROCESS, pickle.dumps(TINY).hex(), url, str(folder)]
    return [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(n)]


def test_processes_that_download_at_once_transfer_each_file_once(serve, tmp_path):
    both_ready = threading.Event()

    def waits_for_the_second_process(handler, name, start):
        both_ready.wait(60)
        return NotImplemented

    server = serve(waits_for_the_second_process)
    running = processes(server.url, tmp_path / "mnist", 2)
    for process in running:
        assert process.stdout.readline() == "ready\n"
    both_ready.set()
    for process in running:
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == 0, stderr
    assert len(server.requests) == 4
    assert_published(tmp_path / "mnist")


def test_the_lock_of_a_killed_process_is_free_and_its_part_is_resumed(serve, tmp_path):
    half_sent, killed = threading.Event(), threading.Event()

    def stops_half_way(handler, name, start):
        if start or killed.is_set():
            return NotImplemented
        send_file(handler, GZIPPED[name], num_bytes=15_000)
        handler.wfile.flush()
        half_sent.set()
        killed.wait(30)
        return None

    server = serve(stops_half_way)
    (process,) = processes(server.url, tmp_path / "mnist", 1)
    assert half_sent.wait(60)
    while not (part_of(tmp_path / "mnist").exists() and part_of(tmp_path / "mnist").stat().st_size == 15_000):
        assert process.poll() is None
    process.kill()
    process.communicate()
    killed.set()
    assert (tmp_path / "mnist" / ".lock").exists()
    fetch(TINY, tmp_path / "mnist", [server.url])
    assert server.requests[1][1] == "bytes=15000-"
    assert_published(tmp_path / "mnist")


def test_where_the_file_system_has_no_locks_each_process_has_its_own_part(serve, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "_acquire", lambda file: False)
    threads = [
        threading.Thread(target=fetch, args=(TINY, tmp_path / "mnist", [serve().url]), daemon=True) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_published(tmp_path / "mnist")
