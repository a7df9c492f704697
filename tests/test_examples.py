"""The examples, run on small data: what they print, write and refuse."""

from __future__ import annotations

import gzip
import json
import re
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module", autouse=True)
def importable():
    """The examples import one another as scripts do, from their own folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES))
        yield


@pytest.fixture(scope="module")
def digits(importable):
    """300 training and 100 test digits as MNIST has them."""
    import mnist_data

    with np.load(mnist_data.SUBSET) as file:
        return {
            "x_train": file["x_train"][:300],
            "y_train": file["y_train"][:300],
            "x_test": file["x_test"][:100],
            "y_test": file["y_test"][:100],
        }


def idx(array: np.ndarray) -> bytes:
    """An array of uint8 as an IDX file."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_idx(folder: Path, digits: dict[str, np.ndarray], suffix: str = "") -> Path:
    for part, name in (("train", "train"), ("test", "t10k")):
        for letter, kind in (("x", "images-idx3"), ("y", "labels-idx1")):
            data = idx(digits[f"{letter}_{part}"])
            path = folder / f"{name}-{kind}-ubyte{suffix}"
            path.write_bytes(gzip.compress(data) if suffix else data)
    return folder


@pytest.fixture
def folder(tmp_path, digits):
    """A folder with the four IDX files."""
    return write_idx(tmp_path, digits)


def train(*arguments: object) -> int:
    """The exit code of ``train_mnist.py`` with these arguments."""
    import train_mnist

    try:
        return train_mnist.main([str(argument) for argument in arguments])
    except SystemExit as stop:  # argparse
        return stop.code


# ---- training ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("ops", ["nbops", "tensorflow"])
def test_training_tells_and_writes_its_results(ops, folder, capsys):
    code = train(
        "--data", folder, "--epochs", 2, "--batch-size", 2, "--optimizer", "sgd", "--learning-rate", 1e-3,
        "--ops", ops, "--target", "cpu", "--json", folder / "out.json", "--plot", folder / "out.png",
    )  # fmt: skip
    output, progress = capsys.readouterr()
    assert code == 0
    assert f"data: {folder} (IDX files); 300 to train, 100 to test" in output
    assert "test accuracy: 0." in output
    for word in ("epoch 1/2", "epoch 2/2", "loss", "accuracy", "images/s"):
        assert word in progress

    record = json.loads((folder / "out.json").read_text())
    assert (record["ops"], record["target"], record["optimizer"]) == (ops, "cpu", "sgd")
    assert len(record["epoch_seconds"]) == 2
    assert len(record["losses"]) == 2 * 2  # batches 0 and 100 of 150, twice
    assert all(isinstance(loss, float) and loss > 0 for loss in record["losses"])
    assert 0 <= record["accuracy"] <= 1
    assert f"{record['accuracy']:.4f}" in output
    assert (folder / "out.png").read_bytes().startswith(b"\x89PNG")


def test_both_ops_agree_from_the_same_seed(folder):
    losses = []
    for ops in ("nbops", "tensorflow"):
        path = folder / f"{ops}.json"
        arguments = ("--epochs", 1, "--batch-size", 2, "--optimizer", "sgd", "--learning-rate", 1e-4)
        assert train("--data", folder, "--ops", ops, "--json", path, *arguments) == 0
        losses.append(json.loads(path.read_text())["losses"])
    np.testing.assert_allclose(*losses, rtol=0, atol=1e-3)


@pytest.mark.parametrize("optimizer", ["rmsprop", "adam"])
def test_other_optimizers(optimizer, folder):
    assert (
        train("--data", folder, "--epochs", 1, "--optimizer", optimizer, "--json", folder / "out.json") == 0
    )
    assert json.loads((folder / "out.json").read_text())["optimizer"] == optimizer


def test_offline_it_uses_the_subset_that_ships_with_it(monkeypatch, capsys, tmp_path):
    def no_network():
        raise Exception("URL fetch failure on https://…: None -- Name or service not known")

    monkeypatch.setattr(keras.datasets.mnist, "load_data", no_network)
    assert train("--epochs", 2, "--batch-size", 32, "--json", tmp_path / "out.json") == 0
    output = capsys.readouterr().out
    assert "mnist_subset.npz that ships with the example" in output
    assert "could not download MNIST (URL fetch failure" in output
    assert "4,000 to train, 1,000 to test" in output
    assert json.loads((tmp_path / "out.json").read_text())["accuracy"] > 0.5


def test_online_it_uses_keras_s_download(monkeypatch, digits):
    import mnist_data

    downloaded = (digits["x_train"], digits["y_train"]), (digits["x_test"], digits["y_test"])
    monkeypatch.setattr(keras.datasets.mnist, "load_data", lambda: downloaded)
    loaded = mnist_data.load(None)
    assert "Keras's download" in loaded.source
    assert loaded.train_images.shape == (300, 784)


DOWNLOAD = """
    import http.server, os, sys, threading
    from pathlib import Path
    import keras.src.datasets.mnist as keras_mnist
    sys.path.insert(0, sys.argv[1])
    import mnist_data

    promised, sent = map(int, sys.argv[2:])

    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(promised))
            self.end_headers()
            self.wfile.write(bytes(sent))

        def log_message(self, *arguments):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    there, get_file = f"http://127.0.0.1:{server.server_address[1]}/mnist.npz", keras_mnist.get_file
    keras_mnist.get_file = lambda fname, origin, file_hash: get_file(fname, there, file_hash=file_hash)
    for _ in range(2):  # what the first leaves behind must not be taken for digits by the second
        digits = mnist_data.load(None)
        print(f"\\n{len(digits.train_labels)} from {digits.source}")
    print("left:", sorted(path.name for path in Path(os.environ["KERAS_HOME"], "datasets").iterdir()))
"""


@pytest.mark.parametrize(("promised", "sent"), [(5000, 2000), (5000, 5000)])
def test_a_download_that_breaks_off_or_brings_other_bytes(promised, sent, run_python, tmp_path):
    """The subset is used, the reason is told, and half a file is not left behind."""
    output = run_python(
        DOWNLOAD,
        str(EXAMPLES),
        str(promised),
        str(sent),
        KERAS_HOME=str(tmp_path / "home"),
        no_proxy="127.0.0.1",
    )
    lines = output.stdout.splitlines()
    reason = "retrieval incomplete" if sent < promised else "Incomplete or corrupted file"
    wanted = rf"4000 from the mnist_subset.npz that ships .* could not download MNIST \(.*{reason}"
    assert sum(re.match(wanted, line) is not None for line in lines) == 2, lines
    assert sent == promised or lines[-1] == "left: []"  # Keras keeps the other, and looks at its hash again


def test_ctrl_c_during_the_download(monkeypatch, capsys):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(keras.datasets.mnist, "load_data", interrupted)
    assert train("--epochs", 1) == 130
    assert capsys.readouterr().err == "train_mnist.py: stopped\n"


# ---- reading ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["idx", "idx.gz", "npz folder", "npz file"])
def test_every_form_of_the_data_gives_the_same_digits(form, tmp_path, digits):
    import mnist_data

    path = tmp_path
    if form.startswith("idx"):
        write_idx(tmp_path, digits, form[3:])
    else:
        np.savez(tmp_path / "mnist.npz", **digits)
        path = tmp_path if form == "npz folder" else tmp_path / "mnist.npz"
    loaded = mnist_data.load(path)
    assert loaded.train_images.dtype == np.float32
    np.testing.assert_array_equal(
        loaded.train_images, digits["x_train"].reshape(300, 784).astype(np.float32) / 255
    )
    np.testing.assert_array_equal(loaded.train_labels, digits["y_train"])
    np.testing.assert_array_equal(loaded.test_labels, digits["y_test"])
    assert loaded.test_images.max() == 1.0


IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def with_label(data: bytes, label: int) -> bytes:
    return data[:8] + bytes([label]) + data[9:]


@pytest.mark.parametrize(
    ("name", "damage", "problem"),
    [
        (IMAGES, lambda data: data[:-1], "truncated: 235215 bytes, but its header says 235216"),
        (IMAGES, lambda data: data + b"x", "too long: 235217 bytes, but its header says 235216"),
        (IMAGES, lambda data: data[:9], "truncated: 9 bytes, but the header alone has 16"),
        (IMAGES, lambda data: b"", "truncated: 0 bytes"),
        (
            IMAGES,
            lambda data: b"\0\0\x0d\3" + data[4:],
            "the magic number is 0x00000d03, expected 0x00000803",
        ),
        (LABELS, lambda data: b"\0\0\x08\3" + data[4:], "magic number is 0x00000803, expected 0x00000801"),
        (IMAGES, lambda data: gzip.compress(data)[:-9], "broken gzip file"),
        (IMAGES, lambda data: gzip.compress(data)[:50] + b"?" * 50, "broken gzip file"),
        (LABELS, lambda data: idx(np.zeros(299, np.uint8)), r"the shape is \(299,\); expected \(300,\)"),
        (LABELS, lambda data: with_label(data, 10), "label 0 is 10; expected 0 to 9"),
        (IMAGES, lambda data: idx(np.zeros((300, 27, 28), np.uint8)), r"expected \(n, 28, 28\)"),
    ],
)
def test_a_broken_idx_file_is_named(name, damage, problem, folder, capsys):
    path = folder / name
    path.write_bytes(damage(path.read_bytes()))
    assert train("--data", folder) == 2
    assert_one_line(capsys.readouterr().err, path, problem)


def test_no_images_at_all(folder, capsys):
    (folder / "t10k-images-idx3-ubyte").write_bytes(idx(np.zeros((0, 28, 28), np.uint8)))
    (folder / "t10k-labels-idx1-ubyte").write_bytes(idx(np.zeros(0, np.uint8)))
    assert train("--data", folder) == 2
    assert_one_line(capsys.readouterr().err, folder / "t10k-images-idx3-ubyte", "there are no images")


def assert_one_line(errors: str, path: object, problem: str) -> None:
    """That the error is one line, naming file and problem."""
    assert errors.count("\n") == 1, errors
    assert errors.startswith("train_mnist.py: ")
    assert str(path) in errors
    assert re.search(problem, errors), errors


def test_missing_files_are_named(folder, capsys):
    (folder / LABELS).unlink()
    assert train("--data", folder) == 2
    assert_one_line(capsys.readouterr().err, folder, "neither mnist.npz nor train-labels-idx1-ubyte")
    assert train("--data", folder / "nowhere") == 2
    assert_one_line(capsys.readouterr().err, folder / "nowhere", "no such folder")
    (folder / LABELS).mkdir()
    assert train("--data", folder) == 2
    assert_one_line(capsys.readouterr().err, folder / LABELS, "Is a directory")


def test_a_broken_npz_file_is_named(tmp_path, digits, capsys):
    path = tmp_path / "mnist.npz"
    broken = [
        (b"no zip file", "not a readable .npz file"),
        ({**digits, "y_test": digits["y_test"][1:]}, r"y_test\): the shape is \(99,\)"),
        ({**digits, "y_train": digits["y_train"].astype(float)}, "expected integers"),
        (
            {key: value for key, value in digits.items() if key != "x_test"},
            "x_test.* expected x_train, y_train",
        ),
        ({**digits, "y_test": np.array([object()])}, "not a readable .npz file"),
    ]
    for content, problem in broken:
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            np.savez(path, **content)
        assert train("--data", tmp_path) == 2
        assert_one_line(capsys.readouterr().err, path, problem)
    np.savez(path, **digits)
    whole = path.read_bytes()
    entry = whole.index(b"PK\1\2")
    for damaged in (
        whole[:-200],
        whole[: entry + 6] + b"\xff" + whole[entry + 7 :],  # of a later version of the format
        whole[: entry + 8] + b"\1" + whole[entry + 9 :],  # encrypted
        whole[: entry + 10] + b"\x0e" + whole[entry + 11 :],  # compressed by LZMA
    ):
        path.write_bytes(damaged)
        assert train("--data", path) == 2
        assert_one_line(capsys.readouterr().err, path, "not a readable .npz file")


# ---- arguments --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ("--epochs", "0"),
        ("--epochs", "two"),
        ("--batch-size", "-1"),
        ("--learning-rate", "0"),
        ("--learning-rate", "nan"),
        ("--learning-rate", "fast"),
        ("--optimizer", "lbfgs"),
        ("--ops", "torch"),
        ("--target", "tpu"),
        ("--seed", "-1"),
        ("--unknown",),
    ],
)
def test_bad_arguments_are_told_in_one_line(arguments, capsys):
    assert train(*arguments) == 2
    assert_one_line(capsys.readouterr().err, arguments[0], arguments[-1])


@pytest.mark.parametrize("option", ["--json", "--plot"])
def test_an_output_that_cannot_be_written_is_found_before_training(option, folder, capsys):
    path = folder / "nowhere" / "out.png"
    assert train("--data", folder, option, path) == 2
    output, errors = capsys.readouterr()
    assert_one_line(errors, path, "can't be written: No such file or directory")
    assert "accuracy" not in output
    assert train("--data", folder / "missing", option, folder / "out.png") == 2
    assert not (folder / "out.png").exists()  # trying leaves nothing behind


def test_a_full_disk_is_told(folder, capsys):
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    assert train("--data", folder, "--epochs", 1, "--json", "/dev/full") == 2
    assert "train_mnist.py: /dev/full: can't be written: No space left on device" in capsys.readouterr().err


def test_an_unknown_picture_format_is_told(folder, capsys):
    assert train("--data", folder, "--plot", folder / "out.docx") == 2
    assert_one_line(capsys.readouterr().err, "out.docx", r"expected one of .*\.png")


@pytest.mark.parametrize("ops", ["nbops", "tensorflow"])
def test_a_gpu_that_is_not_there_is_told(ops, folder, capsys):
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        pytest.skip("there is one")
    assert train("--data", folder, "--target", "cuda", "--ops", ops) == 2
    assert_one_line(capsys.readouterr().err, "--target cuda", "no GPU")


# ---- checkpoints ------------------------------------------------------------------------------------


def saved_weights(folder: Path) -> list[np.ndarray]:
    with np.load(folder / "checkpoint.npz") as file:
        return [file[name] for name in file.files if name != "header"]


@pytest.mark.parametrize(
    ("ops", "optimizer", "number", "code"),
    [
        ("nbops", "rmsprop", signal.SIGINT, 130),
        ("nbops", "sgd", signal.SIGTERM, 143),
        ("tensorflow", "adam", signal.SIGTERM, 143),
        ("nbops", "adam", signal.SIGKILL, -9),
    ],
)
def test_a_stopped_run_goes_on_to_the_same_weights(ops, optimizer, number, code, folder):
    """On the real network, by real signals from outside."""
    arguments = ("--data", folder, "--epochs", 40, "--batch-size", 50, "--ops", ops, "--optimizer", optimizer)
    script = [sys.executable, EXAMPLES / "train_mnist.py", *arguments, "--checkpoint", folder / "stopped"]
    process = subprocess.Popen(list(map(str, script)), stderr=subprocess.PIPE, text=True, cwd=EXAMPLES.parent)
    while not (folder / "stopped" / "checkpoint.npz").exists():  # an epoch has been trained
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == code, errors
    if number != signal.SIGKILL:
        end = f"train_mnist.py: stopped; the same command goes on from {folder / 'stopped'}\n"
        assert errors.endswith(end), errors

    assert train(*arguments, "--checkpoint", folder / "stopped", "--json", folder / "stopped.json") == 0
    assert train(*arguments, "--checkpoint", folder / "whole", "--json", folder / "whole.json") == 0
    for a, b in zip(saved_weights(folder / "stopped"), saved_weights(folder / "whole"), strict=True):
        np.testing.assert_array_equal(a, b)
    stopped, whole = (json.loads((folder / f"{name}.json").read_text()) for name in ("stopped", "whole"))
    for record in (stopped, whole):
        assert len(record.pop("epoch_seconds")) == 40
    assert stopped == whole


def test_a_checkpoint_that_does_not_fit_is_told(folder, capsys):
    arguments = ("--data", folder, "--epochs", 1, "--checkpoint", folder / "run")
    assert train(*arguments) == 0
    capsys.readouterr()
    path = folder / "run" / "checkpoint.npz"
    for changed, problem in (
        (("--batch-size", 64), "the run there has --batch-size 128, this one 64"),
        (("--optimizer", "adam"), "the run there has --optimizer 'rmsprop', this one 'adam'"),
    ):
        assert train(*arguments, *changed) == 2
        assert_one_line(capsys.readouterr().err.splitlines(keepends=True)[-1], path, problem)
    path.write_bytes(path.read_bytes()[:-100])
    assert train(*arguments) == 2
    assert_one_line(capsys.readouterr().err, path, "not a readable checkpoint")
    (folder / "file").write_text("")
    assert train(*arguments[:-1], folder / "file") == 2
    assert_one_line(capsys.readouterr().err, folder / "file", "can't be written: File exists")


# ---- as scripts -------------------------------------------------------------------------------------


def test_the_script_exits_with_2(tmp_path):
    script = [sys.executable, EXAMPLES / "train_mnist.py", "--data", tmp_path / "nowhere"]
    done = subprocess.run(script, capture_output=True, text=True, cwd=EXAMPLES.parent, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"train_mnist.py: {tmp_path / 'nowhere'}: there is no such folder\n"
