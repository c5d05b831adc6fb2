"""Hostile input: odd words on the command line, and files with damage. Each case must end well, or in one line and exit status 2.

    python -m tests.fuzz --cases 20000

No case may end in a traceback, take more than 30 seconds, change a file that was there (unless it ends well), or run what a file holds.
Others are about what must come out: layers in their order, with the weights that their net computes with, from files of any wrapping; a run
that is whole when its terminal goes; and each row once, when two drivers share a grid. tests/test_fuzz.py does some hundred cases.
"""

import io
import os
import pickle
import re
import shutil
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import chdir, redirect_stderr, redirect_stdout, suppress
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import parametrizations, prune, weight_norm
from tqdm import tqdm

import prune_kernels
import train_bnn
import train_source
import train_vae_prior
from data import load_dataset
from experiments.grid import Job, run_grid
from models.kernel_folder import read_kernels
from myexman import Index, Parser, status, survive_a_lost_terminal
from myexman.__main__ import main as myexman_main
from myexman.logger import read_rows
from utils import load_density, load_kernels, load_run, load_weights, run_cli

SECONDS = 30.0
CANARY = "executed"
OWN = ("traceback.txt", "status.yaml", "params.yaml", "model.torch")  # what a run that is resumed writes of itself, even if it fails then


class Payload:
    """What no reader may unpickle."""

    def __reduce__(self):
        return os.mkdir, (CANARY,)


# ---------------------------------------------------------------- a small world


def make_world():
    """Data, kernels, priors and runs in the working directory, as the scripts make them, small."""
    rng = np.random.default_rng(0)
    arrays = {f"{a}_{split}": v for split, n in (("train", 30), ("test", 9)) for a, v in images(rng, n).items()}
    np.savez("digits.npz", **arrays)
    raw = Path("MNIST/raw")
    raw.mkdir(parents=True)
    for split in ("train", "t10k"):
        (raw / f"{split}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 0x803, 8, 28, 28) + rng.bytes(8 * 784))
        (raw / f"{split}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 0x801, 8) + bytes(range(8)))
    for k in (7, 5):
        Path(f"conv{k}").mkdir()
        for split, n in (("train", 20), ("test", 6)):
            np.save(f"conv{k}/{split}.npy", rng.normal(size=(n, 1, k, k)).astype(np.float32))
        words = f"--kernel_dim {k} --z_dim 2 --hidden_dim 2 --num_epochs 1 --data_dir conv{k} --no_screen --out vae{k}"
        train_vae_prior.main(words.split())
        Path(f"vae{k}/SHA256SUMS").unlink()  # which would find all damage
    small = ["--data", "digits.npz", "--hid_dim", "2", "2", "--epochs", "2", "--eval_freq", "1"]
    shutil.move(train_source.main(small), "source")
    shutil.move(train_bnn.main([*small, *["--ens", "1", "--vae_list", "vae7", "vae5", "--prior_list", "vae", "--prune", "mean"]]), "bnn")
    shutil.rmtree("logs")
    train_source.main(small)  # a run that the index knows


def images(rng, n):
    return dict(x=rng.integers(0, 255, (n, 28, 28), dtype=np.uint8), y=np.arange(n) % 3)


BNN = ["--data", "digits.npz", "--hid_dim", "2", "2", "--epochs", "1", "--ens", "1"]
VAE = ["--z_dim", "2", "--hidden_dim", "2", "--num_epochs", "1", "--no_screen"]


def reading(main, words):
    return partial(main, words.split())


def bnn(words):
    return partial(train_bnn.main, [*BNN, *words.split()])


def myexman(words):
    """python -m myexman, which has its own way to end."""
    if myexman_main(words):
        sys.exit(2)


PRUNING = reading(prune_kernels.main, "source --out k --keep 1")
RESUMING = {run: reading(main, f"--resume {run} --epochs 3") for run, main in (("source", train_source.main), ("bnn", train_bnn.main))}
LISTS = [reading(myexman, words) for words in ("", "--sort epoch", "show 0", "compare 0 0")]
# Each file, and what reads it
READERS = {
    "vae7/vae_params.torch": [partial(load_density, "vae7", weights="vae_params.torch")],
    "vae7/vae_params.safetensors": [partial(load_density, "vae7")],
    "vae7/params.yaml": [partial(load_density, "vae7"), bnn("--prior_list vae --vae_list vae7 vae5")],
    "conv7/train.npy": [partial(load_kernels, "conv7/train.npy"), bnn("--prior_list gauss-indep sn --filters_list conv7 none")],
    "digits.npz": [partial(load_dataset, "digits.npz", ".")],
    "MNIST/raw/train-images-idx3-ubyte": [partial(load_dataset, "mnist", ".")],
    "MNIST/raw/t10k-labels-idx1-ubyte": [partial(load_dataset, "mnist", ".")],
    "source/model.torch": [partial(load_weights, "source/model.torch"), PRUNING],
    "source/params.yaml": [PRUNING, reading(train_source.main, "--config source/params.yaml")],
    "source/checkpoint.torch": [RESUMING["source"]],
    "source/logs.csv": [RESUMING["source"], partial(read_rows, "source/logs.csv")],
    "bnn/model.torch": [partial(load_run, "bnn"), bnn("--start_from bnn"), bnn("--prior_list posterior:bnn")],
    "bnn/pruned.torch": [partial(load_run, "bnn", pruned=True)],
    "bnn/params.yaml": [partial(load_run, "bnn"), RESUMING["bnn"]],
    "bnn/checkpoint.torch": [RESUMING["bnn"]],
    **{f"logs/index/000000/{name}": [*LISTS, Index("logs").info] for name in ("params.yaml", "logs.csv", "status.yaml")},
}


# ---------------------------------------------------------------- damage to bytes, and files of the wrong kind


def cut(data, a, b):
    return data[: a % (len(data) + 1)]


def drop(data, a, b):
    a = a % (len(data) + 1)
    return data[:a] + data[a + 1 + b % 64 :]


def flip(data, a, b):
    data = bytearray(data)
    for i in range(1 + b % 4):
        if data:
            data[(a + i * 7919) % len(data)] ^= 1 + (b >> i) % 255
    return bytes(data)


def insert(data, a, b):
    a = a % (len(data) + 1)
    return data[:a] + struct.pack("<q", b * 7919) + data[a:]


def word(data, a, b):
    """Another word in the place of one, as in YAML, CSV, and the headers of arrays."""
    found = list(re.finditer(rb"[\w.+-]+", data[:100_000]))
    if not found:
        return data
    at = found[a % len(found)]
    return data[: at.start()] + WORDS[b % len(WORDS)].encode("utf-8", "surrogateescape") + data[at.end() :]


def repeat(data, a, b):
    a = a % (len(data) + 1)
    return data[:a] + data[a : a + 200] * (2 + b % 50) + data[a:]


DAMAGE = [cut, drop, flip, insert, word, repeat]


def npy(header, body=b"\0" * 64):
    text = header.encode() + b" " * 20 + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + body


def saved(value):
    content = io.BytesIO()
    torch.save(value, content)
    return content.getvalue()


def zipped(**arrays):
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


def safe(tensors, metadata=None):
    with tempfile.NamedTemporaryFile() as f:
        save_file(tensors, f.name, metadata)
        return Path(f.name).read_bytes()


def huge_npz():
    """An archive of an array whose header promises 2^40 numbers."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as z:
        for name in ("x_train", "y_train", "x_test", "y_test"):
            z.writestr(f"{name}.npy", npy("{'descr': '|u1', 'fortran_order': False, 'shape': (1099511627776,), }"))
    return content.getvalue()


REPARAMETRISED = {  # what changes the names in a layer's state dict, but not its weight
    "as it is": lambda layer: layer,
    "weight_norm": weight_norm,
    "parametrizations.weight_norm": parametrizations.weight_norm,
    "prune": lambda layer: prune.random_unstructured(layer, "weight", 0),
}


@cache
def foreign():
    """Whole files that are not what is asked for."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of kinds of tensors that few use
        return list(odd_files())


def odd_files():
    one = torch.ones(1)
    wide = torch.as_strided(one, (2**40,), (0,))
    state = {"features.conv1.weight": torch.ones(2, 1, 7, 7)}
    nested = "[" * 3000
    bomb = "a: &a [1,1]\n" + "".join(f"{c}: &{c} [*{p},*{p},*{p},*{p}]\n" for p, c in zip("abcdefghijklm", "bcdefghijklmn"))
    return [
        b"",
        b"\0" * 1000,
        b"\xff\xfe",
        "\ufeffepoch;loss\n1;2\n".encode(),
        "épochs: é".encode("latin-1"),
        b"[1, 2",
        b"- 1\n- 2\n",
        b"epochs: 2001-99-99\n",
        b"epochs: !!python/object/apply:os.mkdir [executed]\n",
        b"{[1, 2]: 3}\n",
        b"epochs: *nothing\n",
        nested.encode(),
        bomb.encode(),
        b'epoch,loss\n1,"2\n',
        b"epoch\n1,2,3\n",
        b"epoch,loss\nnan,inf\n",
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776, 1, 7, 7), }"),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 1, 7, 7), }"),
        npy("{'descr': '<f4', 'fortran_order': True, 'shape': (0, 1, 7, 7), }"),
        npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", pickle.dumps(Payload())),
        npy("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }"),
        npy("__import__('os').mkdir('executed')"),
        npy("{'descr': '<c8', 'fortran_order': False, 'shape': (1, 1, 2, 2), }"),
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1, 1, 2, 2), }", np.full(4, 1e300).tobytes()),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1, 2, 2), }", np.full(4, 1e20, np.float32).tobytes()),
        *(saved(change(nn.Conv2d(2, 2, 3)).state_dict()) for change in REPARAMETRISED.values()),
        saved(parametrizations.spectral_norm(nn.Conv2d(2, 2, 3)).state_dict()),
        saved({f"0.parametrizations.weight.original{i}": torch.ones(2, 1, 3, 3) for i in range(3)}),
        pickle.dumps(Payload()),
        saved(Payload()),
        saved({"w": Payload()}),
        saved([one]),
        saved(3),
        saved({}),
        saved({"a": {"w": one}, "b": {"w": one}}),
        saved({1: one, 2: one}),
        saved({"w": wide}),
        saved({"w": torch.sparse_coo_tensor([[0], [0]], [1.0], (2**30, 2**30))}),
        saved({"w": torch.sparse_coo_tensor([[5], [5]], [1.0], (9, 9)).coalesce()}),
        saved({"w": torch.ones(2, dtype=torch.complex64)}),
        saved({"w": torch.ones(2, dtype=torch.bool)}),
        saved({"w": torch.ones(2, device="meta")}),
        saved({"w": torch.quantize_per_tensor(torch.ones(2), 1.0, 0, torch.qint8)}),
        saved({"w": torch.ones(2).to(torch.float8_e4m3fn)}),
        saved({"w": torch.full((2,), float("nan"))}),
        saved(state),
        saved({k: v.long() for k, v in state.items()}),
        saved({k: v.cfloat() for k, v in state.items()}),
        saved({k: v.to_sparse_csr() for k, v in {"w": torch.eye(3)}.items()}),
        saved(dict(epoch=2, rng={}, net={}, opt={})),
        saved(dict(epoch="two", rng=dict(cpu=one, cuda=[]), net=state, opt=3, priors={})),
        saved(torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])),
        safe({"w": torch.ones(2)}),
        safe({"w": torch.ones(2, dtype=torch.int32)}, {"a": "b" * 1000}),
        struct.pack("<Q", 2**60) + b"{}",
        b'\x10\0\0\0\0\0\0\0{"w":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}',
        zipped(x_train=np.zeros((2, 28, 28), np.uint8)),
        zipped(x_train=np.zeros((2, 28, 28), np.uint8), y_train=[0, 2**40], x_test=np.zeros((1, 28, 28), np.uint8), y_test=[0]),
        zipped(x_train=np.zeros((2, 28, 28, 5), np.uint8), y_train=[0, 1], x_test=np.zeros((1, 28, 28), np.uint8), y_test=[0]),
        zipped(x_train=np.zeros((2, 0, 28), np.uint8), y_train=[0, 1], x_test=np.zeros((1, 0, 28), np.uint8), y_test=[0]),
        huge_npz(),
        struct.pack(">4i", 0x803, 2**31 - 1, 28, 28) + b"\0" * 99,
        struct.pack(">4i", 0xD03, -1, 28, 28),
        struct.pack(">2i", 0x801, 8) + bytes([255] * 8),
    ]


# ---------------------------------------------------------------- words on the command line

WORDS = ["-1", "0", "1", "2", "3", "1000000000", "99999999999999999999", "1e9", "1e-400", "nan", "inf", "-inf", "1e400", "0x10", "３"]
WORDS += [
    "",
    " ",
    "none",
    "null",
    "true",
    "a\nb",
    "\0",
    "é",
    "🙂",
    "\udcff",
    "a" * 5000,
    "%s",
    "{}",
    "[]",
    "*",
    "--",
    "-",
    "-x",
    "a,b",
    "a=b",
]
WORDS += [
    "vae",
    "sn",
    "gauss",
    "vd",
    "ard",
    "student",
    "posterior:",
    "posterior:bnn",
    "posterior:nothing",
    "dropout",
    "filters",
    "pretrained",
]
WORDS += [
    "xavier",
    "vae-mean",
    "vanilla",
    "bayes",
    "bayes-all",
    "lenet5",
    "lenet300",
    "fconv",
    "cifarnet",
    "vgg",
    "resnet",
    "snr",
    "mean",
    "cuda",
]
WORDS += [
    ".",
    "nothing",
    "digits.npz",
    "vae7",
    "vae5",
    "conv7",
    "source",
    "bnn",
    "bnn/params.yaml",
    "source/model.torch",
    "logs",
    "/dev/null",
]
LONG = ("--epochs", "--num_epochs", "--ens", "--dwp_samples", "--hid_dim", "--z_dim", "--hidden_dim", "--kl_anneal_epochs")  # or short
SCRIPTS = {
    "train_source": (train_source.main, ["--data", "digits.npz", "--hid_dim", "2", "2", "--epochs", "1"]),
    "train_bnn": (train_bnn.main, [*BNN, *["--vae_list", "vae7", "vae5", "--prior_list", "vae"]]),
    "train_vae_prior": (train_vae_prior.main, [*VAE, "--data_dir", "conv7"]),
    "prune_kernels": (prune_kernels.main, ["source", "--out", "k", "--keep", "1"]),
    "myexman": (myexman, []),
    "myexman show": (lambda words: myexman(["show", *words]), ["0"]),
    "myexman compare": (lambda words: myexman(["compare", *words]), ["0", "0"]),
}


@cache
def options(script):
    said = io.StringIO()
    with redirect_stdout(said), suppress(SystemExit):
        SCRIPTS[script][0](["--help"])
    return sorted(set(re.findall(r"(?<=[\s\[])--\w+", said.getvalue())) - {"--help"})


def sensible(option, values):
    """Whether the case is quick: what is asked for is short, or too much to be tried."""
    fits = [v for v in values if v.isdecimal() and option in LONG]
    return all(int(v) < 9 or (int(v) > 10**8 and option not in ("--epochs", "--num_epochs")) for v in fits)


# ---------------------------------------------------------------- what must come out


def layers_in_order(draw):
    """A net of constant kernels, 1, 2, …, by layer, whose state dict is wrapped as people's are: they must be read so."""
    change, end = (choices[draw % len(choices)] for choices in (list(REPARAMETRISED), ("pt", "safetensors")))
    prefix = ("", "module.", "_orig_mod.", "model.", "net.features.")[draw // 8 % 5]
    net = nn.Sequential(*(layer for i in range(2 + draw % 12) for layer in (nn.Conv2d(1, 2, 3), nn.ReLU())))
    for i, layer in enumerate(net[::2]):
        nn.init.constant_(layer.weight, i + 1.0)
        REPARAMETRISED[change](layer)
    state = {prefix + name: t.contiguous() for name, t in net.state_dict().items()}
    file = f"net.{end}"
    Path(file).write_bytes(safe(state) if end == "safetensors" else saved(state))

    def call():
        found = [float(w.mean()) for w in read_kernels(file).values()]
        if not np.allclose(found, range(1, len(net[::2]) + 1)):
            raise AssertionError(f"layers are read as {found}")

    return call, f"{file}: {change}, {prefix!r}, {len(net[::2])} layers"


class Closing(io.TextIOWrapper):
    """A terminal that goes after so many writes."""

    def __init__(self, writes):
        self.left, (self.other, end) = writes, os.pipe()
        super().__init__(open(end, "wb", buffering=0), write_through=True)  # noqa: SIM115

    def write(self, text):
        self.left -= 1
        if self.left == 0:
            os.close(self.other)
        return super().write(text)

    def close(self):
        if self.left > 0:
            os.close(self.other)
            self.left = 0
        super().close()


def lost_terminal(draw):
    """A training whose terminal goes at some moment: it is finished all the same."""
    main, words = [(train_bnn.main, BNN), (train_source.main, SCRIPTS["train_source"][1])][draw % 2]

    def call():
        with Closing(1 + draw // 2 % 12) as terminal, redirect_stdout(terminal), redirect_stderr(terminal):
            survive_a_lost_terminal()
            run = main([*words, "--eval_freq", "1"])
        if status(run)["state"] != "finished" or not read_rows(run / "logs.csv"):
            raise AssertionError(f"the run is {status(run)}")

    return call, f"{words}, whose terminal goes after {1 + draw // 2 % 12} writes"


def shared_grid(draw):
    """Two drivers of one grid at once: each run begun once, each row written once."""
    rng, begun = np.random.default_rng(draw), []

    def run(argv):
        begun.append(argv[0])
        time.sleep(rng.random() / 50)
        folder = Path("grid_runs") / argv[0]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "params.yaml").write_text("device: cpu")
        return folder

    def measure(folder):
        return [dict(metric=metric, value=1, steps=1) for metric in ("acc", "nll")]

    def call():
        jobs = [Job("p", "m", "x", i, [str(i)], run, measure) for i in range(2 + draw % 5)]
        with ThreadPoolExecutor(2) as two:
            ends = [two.submit(run_grid, jobs, "results/grid.csv") for _ in range(2)]
        failed = [end.result()[1] for end in ends]
        rows = [(r["seed"], r["metric"]) for r in read_rows("results/grid.csv")]
        if any(failed) or sorted(begun) != [str(i) for i in range(len(jobs))] or len(rows) != len(set(rows)) or len(rows) != 2 * len(jobs):
            raise AssertionError(f"{failed}, begun {begun}, rows {rows}")

    return call, f"two drivers of a grid, draw {draw}"


OUTCOMES = dict(layers=layers_in_order, terminal=lost_terminal, grid=shared_grid)
NUMBERS = st.integers(0, 2**20)
OPTIONS = st.lists(st.tuples(NUMBERS, st.lists(NUMBERS, max_size=3)), min_size=1, max_size=3)
DAMAGED = st.tuples(st.just("damage"), st.sampled_from(sorted(READERS)), NUMBERS, st.sampled_from(range(len(DAMAGE))), NUMBERS, NUMBERS)
CASES = st.one_of(
    st.tuples(st.just("cli"), st.sampled_from(sorted(SCRIPTS)), OPTIONS),
    DAMAGED,
    DAMAGED,
    st.tuples(st.just("foreign"), st.sampled_from(sorted(READERS)), NUMBERS, st.sampled_from(range(len(foreign())))),
    st.tuples(st.sampled_from(sorted(OUTCOMES)), NUMBERS),
)


def prepare(case):
    """Damage what the case says.  Returns what to call, and words for the case."""
    kind, name, *rest = case
    if kind in OUTCOMES:
        return OUTCOMES[kind](name)
    if kind == "cli":
        main, words = SCRIPTS[name]
        words, choices = list(words), options(name)
        for option, values in rest[0]:
            option, values = choices[option % len(choices)], [WORDS[v % len(WORDS)] for v in values]
            if sensible(option, values):
                words += [option, *values]
        return partial(main, words), f"{name} {words}"
    file, reader = Path(name), READERS[name][rest[0] % len(READERS[name])]
    if kind == "damage":
        how = DAMAGE[rest[1]]
        file.write_bytes(how(file.read_bytes(), *rest[2:]))
        return reader, f"{name}: {how.__name__}{tuple(rest[2:])}, reader {rest[0] % len(READERS[name])}"
    file.write_bytes(foreign()[rest[1]])
    return reader, f"{name}: {foreign()[rest[1]][:60]}, reader {rest[0] % len(READERS[name])}"


def contents():
    """{path: bytes, or None of a folder or a link to one} of all that lies under the working directory."""
    paths = (Path(top) / name for top, folders, files in os.walk(".") for name in (*folders, *files))
    return {p: p.read_bytes() if p.is_file() else None for p in paths if p.name != ".lock"}


def restore(world):
    """Make the working directory what it was."""
    now = contents()
    for p in sorted(now.keys() - world.keys(), reverse=True):  # what lies in a folder before the folder
        shutil.rmtree(p) if p.is_dir() and not p.is_symlink() else p.unlink(missing_ok=True)
    for p, data in world.items():
        if data is not None and now.get(p) != data:
            p.parent.mkdir(parents=True, exist_ok=True)
            p.write_bytes(data)


def outcome(case):
    """How a case ended: (exit status, what is wrong, in words, or "")."""
    call, words = prepare(case)
    before, began = contents(), time.monotonic()
    out, err, code, wrong = io.StringIO(), io.StringIO(), 0, []
    with redirect_stdout(out), redirect_stderr(err):
        try:
            run_cli(call)
        except SystemExit as e:
            code = e.code or 0
        except BaseException as e:  # a traceback
            code, wrong = 1, [f"{type(e).__name__}: {e}", traceback.format_exc()[-1200:]]
    said = err.getvalue().splitlines()
    lines = [line for line in said if not line.startswith(("note: ", "warning: "))]
    if (code == 2 and len(lines) != 1) or code not in (0, 1, 2):
        wrong.append(f"exit status {code} and {len(lines)} lines: {said[-5:]}")
    if code == 0 and lines:
        wrong.append(f"ended well and said {said[-5:]}")
    if time.monotonic() - began > SECONDS:
        wrong.append(f"took {time.monotonic() - began:.0f} seconds")
    after = contents()
    if Path(CANARY) in after:
        wrong.append("executed what the file holds")
    changed = [str(p) for p in before if after.get(p) != before[p] and p.name not in OWN]
    if changed and code:
        wrong.append(f"changed {changed}")
    left = [str(p) for p in after if p.name.startswith(".") and not p.name.endswith(".lock")]
    if left:
        wrong.append(f"left {left}")
    return code, f"{words}\n    " + "\n    ".join(wrong) if wrong else ""


def fuzz(cases, number=0, stop=True):
    """Run so many cases, drawn with the seed `number`.  Returns (how many ended with which exit status, what went wrong).  stop: at the
    first that goes wrong."""
    codes, failures = Counter(), []
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, tqdm(total=cases, desc="cases", disable=None) as bar:
        os.environ.pop("DWP_PATH", None)
        os.environ["DATA_ROOT"] = "."  # of what is trained if the name of the data is lost
        with chdir(folder):
            with redirect_stdout(io.StringIO()):
                make_world()
            world = contents()

            @seed(number)
            @settings(max_examples=cases, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
            @given(CASES)
            def run(case):
                if stop and failures:
                    return
                code, wrong = outcome(case)
                restore(world)
                codes[code] += 1
                failures.extend([wrong] * bool(wrong))
                bar.update()

            run()
    return codes, failures


def main(argv=None):
    parser = Parser(description=__doc__)
    parser.add_argument("--cases", type=int, default=20000, help="how many")
    parser.add_argument("--seed", type=int, default=0, help="which")
    args = parser.parse_args(argv)
    codes, failures = fuzz(args.cases, args.seed, stop=False)
    print("\n".join(failures))
    print(f"{sum(codes.values())} cases: {codes[0]} ended well, {codes[2]} in one line; {len(failures)} went wrong")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
