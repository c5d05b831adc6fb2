"""The experiment manager: unique run folders, reruns from params.yaml, logs and checkpoints that survive."""

import multiprocessing
import platform
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import yaml

from myexman import ExParser, Index, Logger, go_on, load_checkpoint, resume, save_checkpoint, save_state, write_yaml
from myexman.__main__ import main as command
from myexman.files import replacing
from myexman.life import alive
from myexman.logger import read_rows
from myexman.parser import code_hash, make_run


def parser(*devices):
    p = ExParser(prog="script.py", resume_with=("lr",))
    p.add_argument("--device", choices=devices or ["cpu"], default="cpu")
    p.add_argument("--lr", type=float, default=0.1)
    p.add_argument("--offset", type=float, default=-10.0)
    p.add_argument("--hid_dim", type=int, nargs="+", default=[1, 2])
    p.add_argument("--name")
    p.add_argument("--fast", action="store_true")
    return p


def test_building_a_parser_makes_nothing(tmp_path):
    parser()
    assert not (tmp_path / "logs").exists()


def test_a_run_is_a_folder(tmp_path):
    args = parser().parse_args(["--root", str(tmp_path), "--lr", "0.5", "--fast"])
    params = yaml.safe_load((args.run_dir / "params.yaml").read_text())
    assert (params["lr"], params["hid_dim"], params["fast"], params["name"]) == (0.5, [1, 2], True, None)
    assert {"commit", "dirty", "versions", "argv", "machine"} <= set(params["meta"]) and params["meta"]["versions"]["torch"]
    assert (tmp_path / "index/000000/params.yaml").samefile(args.run_dir / "params.yaml")


@pytest.mark.parametrize(
    "typed", [[], ["--lr", "3"], ["--fast"], ["--offset=-1e-05", "--hid_dim", "5"], ["--name", "a b", "--hid_dim", "7", "8", "9"]]
)
def test_config_round_trip_and_command_line_wins(tmp_path, typed):
    first = parser().parse_args(["--root", str(tmp_path), *typed])
    config = ["--config", str(first.run_dir / "params.yaml")]
    again = parser().parse_args(config)
    keys = ("lr", "offset", "hid_dim", "name", "fast", "root")
    assert [getattr(first, k) for k in keys] == [getattr(again, k) for k in keys] and again.run_dir != first.run_dir
    assert parser().parse_args([*config, "--lr", "7"]).lr == 7 and parser().parse_args(["--lr", "7", *config]).lr == 7


@pytest.mark.parametrize(
    "text, message", [("bogus: 1", "unknown argument bogus"), ("lr: fast", "invalid float"), ("[1, 2", "expected"), ("3", "not a list")]
)
def test_bad_config_is_an_error(tmp_path, capsys, text, message):
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(SystemExit) as e:
        parser().parse_args(["--config", str(tmp_path / "params.yaml")])
    assert e.value.code == 2 and message in capsys.readouterr().err


def test_resuming_keeps_the_options_but_a_few_and_says_so(tmp_path, monkeypatch, capsys):
    first = parser().parse_args(["--root", str(tmp_path), "--hid_dim", "5", "--fast"])
    again = parser().parse_args(["--resume", str(first.run_dir), "--lr", "7"])
    assert (again.run_dir, again.hid_dim, again.fast, again.lr) == (first.run_dir, [5], True, 7)
    assert parser().parse_args(["--resume", "0", "--root", str(tmp_path)]).run_dir.samefile(first.run_dir)
    monkeypatch.setenv("DWP_PATH", str(tmp_path))
    assert parser().parse_args(["--resume", "0"]).run_dir.samefile(first.run_dir)
    with pytest.raises(SystemExit) as e:
        parser().parse_args(["--resume", "1"])
    assert e.value.code == 2 and f"--resume: no run 1 under {tmp_path}" in capsys.readouterr().err
    save_checkpoint(first.run_dir, 3)
    with pytest.raises(ValueError, match=r"3 epochs of .* are done already, more than the 2 asked for"):
        resume(again, 2)
    assert [resume(again, epochs) for epochs in (3, 4)] == [3, 3]
    params = yaml.safe_load((first.run_dir / "params.yaml").read_text())
    assert params["lr"] == 7 and params["meta"]["argv"][2] == "--hid_dim" and len(params["meta"]["resumed"]) == 2
    with pytest.raises(SystemExit) as e:
        parser().parse_args(["--resume", str(first.run_dir), "--hid_dim", "6"])
    assert e.value.code == 2 and "--resume goes on with --hid_dim [5]" in capsys.readouterr().err
    assert yaml.safe_load((first.run_dir / "params.yaml").read_text()) == params


def test_a_run_goes_on_where_its_device_is_missing(tmp_path):
    there, here = parser("cpu", "cuda"), parser()
    for p in (there, here):
        p.add_argument("--data_dir", required=True)
    run = there.parse_args(["--root", str(tmp_path), "--device", "cuda", "--data_dir", "there"]).run_dir
    args = here.parse_args(["--resume", str(run), "--device=cpu", "--data_dir", "here"])
    assert (args.device, args.data_dir, args.run_dir) == ("cpu", "here", run)


def test_tmp_runs_stay_out_of_the_index(tmp_path):
    parser().parse_args(["--root", str(tmp_path), "--tmp"])
    assert Index(tmp_path).info() == [] and len(list((tmp_path / "tmp").iterdir())) == 1


def claim(root, tmp, n=15):
    return [make_run(root, tmp).name[:6] for _ in range(n)]


@pytest.mark.parametrize("tmp", [False, True])
def test_numbers_are_unique_under_concurrency(tmp_path, tmp):
    with multiprocessing.get_context("fork").Pool(16) as pool:
        numbers = [n for part in pool.starmap(claim, [(tmp_path, tmp)] * 16) for n in part]
    assert len(numbers) == 240 and (tmp or len(set(numbers)) == 240)
    assert len(list((tmp_path / ("tmp" if tmp else "runs")).iterdir())) == 240


def test_index_and_table(tmp_path, capsys):
    for lr, acc in ((1, 0.5), (2, 0.9), (3, 0.7)):
        args = parser().parse_args(["--root", str(tmp_path), "--lr", str(lr)])
        log = Logger(args.run_dir)
        log.row(epoch=1, ens_acc=0.1)
        log.row(epoch=2, ens_acc=acc)
    parser().parse_args(["--root", str(tmp_path)])  # a run without logs yet
    rows = Index(tmp_path).info()
    assert [row.get("ens_acc") for row in rows] == [0.5, 0.9, 0.7, None] and rows[1]["lr"] == 2.0
    capsys.readouterr()
    command(["--root", str(tmp_path), "--sort", "ens_acc", "--descending", "--columns", "run", "ens_acc"])
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["run", "000001", "000002", "000000", "000003"]
    command(["--root", str(tmp_path), "--filter", "lr=2.0", "--columns", "run", "lr", "--csv", str(tmp_path / "runs.csv")])
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert read_rows(tmp_path / "runs.csv") == [{"run": 1, "lr": 2.0}]
    with pytest.raises(SystemExit) as e:
        command(["--root", str(tmp_path), "--sort", "nonsense"])
    assert e.value.code == 2


def test_logs_are_flushed_and_resumed(tmp_path):
    log = Logger(tmp_path)
    for epoch in (1, 2, 3):
        log.row(epoch=epoch, loss=1 / 3)
        assert len(read_rows(tmp_path / "logs.csv")) == epoch
    with pytest.raises(ValueError, match="columns"):
        log.row(epoch=4)
    Logger(tmp_path, resume_at=2).row(epoch=3, loss=0.25)  # killed after the row of epoch 3, before its checkpoint
    assert read_rows(tmp_path / "logs.csv") == [dict(epoch=1, loss=1 / 3), dict(epoch=2, loss=1 / 3), dict(epoch=3, loss=0.25)]
    Logger(tmp_path, resume_at=3).row(epoch=4, loss=0.2, newer=1)  # a column that the log of a former version has not
    assert read_rows(tmp_path / "logs.csv")[-1] == dict(epoch=4, loss=0.2)


def test_checkpoint_continues_exactly(tmp_path):
    def step(net, opt):
        net(torch.randn(4, 3)).square().sum().backward()
        opt.step()
        opt.zero_grad()

    def fresh():
        net = torch.nn.Linear(3, 2)
        return net, torch.optim.Adam(net.parameters())

    net, opt = fresh()
    step(net, opt)
    save_checkpoint(tmp_path, 1, net=net, opt=opt)
    step(net, opt)
    other, other_opt = fresh()
    assert load_checkpoint(tmp_path, "cpu", net=other, opt=other_opt) == 1
    step(other, other_opt)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters()))
    with pytest.raises(FileNotFoundError, match="nothing to resume"):
        load_checkpoint(tmp_path / "elsewhere", "cpu")


def test_a_bad_state_never_replaces_a_good_one(tmp_path):
    file = tmp_path / "model.torch"
    save_state({"weight": torch.ones(2)}, file)
    with pytest.raises(FloatingPointError, match="weight holds NaN"):
        save_state({"weight": torch.tensor([1.0, float("nan")])}, file)
    assert torch.equal(torch.load(file)["weight"], torch.ones(2)) and len(list(tmp_path.iterdir())) == 1


def test_a_run_finds_its_files_from_elsewhere(tmp_path, monkeypatch, capsys):
    """Relative to where it was started, else where the command line says that those of the same names are."""

    def with_files():
        p = ExParser(prog="script.py", resume_with=(), paths=("folders",), names_or_paths=("data", "priors"))
        p.add_argument("--data")
        p.add_argument("--priors", nargs="+")
        p.add_argument("--folders", nargs="+", default=[])
        return p

    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    for folder in (home / "vae", home / "mnist", elsewhere / "moved/vae"):
        folder.mkdir(parents=True)
    monkeypatch.chdir(home)
    words = ["--folders", "vae", "none", "--data", "mnist", "--priors", "vae", "posterior:vae"]
    run = with_files().parse_args(["--root", str(tmp_path / "logs"), *words]).run_dir
    assert yaml.safe_load((run / "params.yaml").read_text())["folders"] == ["vae", "none"]  # as typed
    monkeypatch.chdir(elsewhere)
    for option in ("--resume", "--config"):
        args = with_files().parse_args([option, str(run if option == "--resume" else run / "params.yaml")])
        assert args.folders == [str(home / "vae"), "none"] and args.data == "mnist"
        assert args.priors == ["vae", f"posterior:{home / 'vae'}"]
    (home / "vae").rmdir()
    assert with_files().parse_args(["--resume", str(run)]).folders == ["vae", "none"]
    assert with_files().parse_args(["--resume", str(run), "--folders", "moved/vae", "none"]).folders == [
        str(elsewhere / "moved/vae"),
        "none",
    ]
    for words in (["--folders", "moved", "none"], ["--data", "cifar10"]):
        with pytest.raises(SystemExit):
            with_files().parse_args(["--resume", str(run), *words])
        assert "a different value needs a new run" in capsys.readouterr().err
    with pytest.raises(SystemExit) as e:
        with_files().parse_args(["--resume", str(run), "--config", str(run / "params.yaml")])
    assert e.value.code == 2 and "leave --config out" in capsys.readouterr().err


def some_runs(root):
    """Three runs: finished, failed, and one with another rate and no logs."""
    runs = []
    for lr, error in ((1e-3, None), (1e-3, ValueError("no kernels")), (2e-3, None)):
        run = parser().parse_args(["--root", str(root), "--lr", str(lr)]).run_dir
        with suppress(ValueError), alive(run):
            if error:
                raise error
        runs.append(run)
    Logger(runs[0]).row(epoch=1, ens_acc=0.5)
    return runs


def test_commands_on_runs(tmp_path, capsys, monkeypatch):
    runs, root = some_runs(tmp_path), ["--root", str(tmp_path)]
    capsys.readouterr()
    assert not command([*root, "--filter", "lr=1e-3", "state=finished"])  # 0.001 as a number
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["run", "000000"]
    command(["show", "1", *root])
    out = capsys.readouterr().out
    assert "state                failed" in out and "ValueError: no kernels" in out
    command(["compare", "0", str(runs[2]), *root])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["lr", "0.001", "0.002"] in lines and "hid_dim" not in [line[0] for line in lines]
    for words in (["show", "7"], ["compare", "0", "gone"], ["resume", "0"]):
        assert command([*words, *root]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(SystemExit) as e:
        command([*root, "--filter", "lr=0.001", "lr=0.002"])
    assert e.value.code == 2 and "--filter: a name comes twice" in capsys.readouterr().err
    calls = []
    monkeypatch.setattr("subprocess.call", lambda words: calls.append(words) or 0)
    params = yaml.safe_load((runs[0] / "params.yaml").read_text())
    params["meta"]["script"] = "train_bnn.py"
    (runs[0] / "params.yaml").write_text(yaml.safe_dump(params))
    assert command(["rerun", "0", *root, "--seed", "1"]) == command(["resume", "0", *root]) == 0
    assert calls[0][2:] == ["--config", str(runs[0]), *root, "--seed", "1"] and calls[1][2:] == ["--resume", str(runs[0])]
    monkeypatch.setattr("builtins.input", lambda question: "n")
    command(["rm", "--failed", *root])
    assert runs[1].exists()
    command(["rm", "--failed", "--yes", *root])
    assert not runs[1].exists() and runs[0].exists() and len(Index(tmp_path).info()) == 2


def refused(capsys, argv):
    """The last line of what a command says of a mistake."""
    with pytest.raises(SystemExit) as stop:
        command(argv)
    assert stop.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_runs_are_removed_by_number_and_by_state_but_not_while_they_run(tmp_path, capsys):
    runs, root = some_runs(tmp_path), ["--root", str(tmp_path)]
    command(["rm", "0", "--yes", *root])
    assert not runs[0].exists() and runs[1].exists() and runs[2].exists()
    write_yaml(runs[2] / "status.yaml", dict(state="running", host=platform.node()))  # but nobody holds its lock
    with alive(runs[1]):
        assert "run 1 is running" in refused(capsys, ["rm", "1", "2", "--yes", *root])
    assert runs[2].exists()
    command(["rm", "--killed", "--yes", *root])
    assert runs[1].exists() and not runs[2].exists()
    assert "say which: numbers or folders" in refused(capsys, ["rm", *root])


def test_a_comparison_of_one_run_and_a_filter_without_match_are_said(tmp_path, capsys):
    some_runs(tmp_path)
    root = ["--root", str(tmp_path)]
    for words in (["compare", "0"], ["compare", "0", "0"]):
        assert "two runs or more are needed" in refused(capsys, [*words, *root])
    assert f"no run under {tmp_path} has lr=7" in refused(capsys, [*root, "--filter", "lr=7"])


def test_a_link_to_a_file_stays_a_link(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far/pool.torch").write_text("old")
    (tmp_path / "pool.torch").symlink_to(tmp_path / "far/pool.torch")
    with replacing(tmp_path / "pool.torch") as (part,):
        part.write_text("new")
    assert (tmp_path / "pool.torch").is_symlink() and (tmp_path / "far/pool.torch").read_text() == "new"
    assert [p.name for p in (tmp_path / "far").iterdir()] == ["pool.torch"]


LATIN, BINARY = "lr: é".encode("latin-1"), bytes(range(256))
DAMAGE = [b"", b"[1, 2]", b"a: [1", LATIN, b"\xef\xbb\xbflr: 1\n", b"a;b\n1;2\n", b"a\n1,2,3\n", BINARY, b"1: 2\n"]


@pytest.mark.parametrize("name", ["params.yaml", "logs.csv"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_files_become_a_note_in_the_listing(tmp_path, capsys, name, damage):
    runs = some_runs(tmp_path)
    (runs[0] / name).write_bytes(damage)
    capsys.readouterr()
    assert not command(["--root", str(tmp_path)]) and not command(["show", "0", "--root", str(tmp_path)])
    rows = Index(tmp_path).info()
    assert len(rows) == 3 and "note" not in rows[2]
    if damage in (LATIN, BINARY):
        assert name in rows[0]["note"]


def test_a_pipe_that_closes_is_no_error(tmp_path):
    some_runs(tmp_path)
    words = f"{sys.executable} -m myexman --root {tmp_path} | true; exit ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", words], capture_output=True, text=True, cwd=Path(__file__).resolve().parents[1])
    assert result.returncode == 0 and result.stderr == ""


def test_a_copy_in_another_repository_does_not_claim_its_commit(tmp_path):
    shutil.copytree(Path(__file__).resolve().parents[1] / "myexman", tmp_path / "copy/myexman")
    for words in (["init", "-q"], ["-c", "user.name=a", "-c", "user.email=b", "commit", "-q", "--allow-empty", "-m", "theirs"]):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    code = "from myexman.parser import git_state; print(git_state())"
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "copy", capture_output=True, text=True)
    assert result.stdout.strip() == "{'commit': None, 'dirty': None}", result.stderr


def test_tensorboard_is_named_where_it_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("myexman.parser.find_spec", lambda name: None)
    with pytest.raises(SystemExit) as e:
        parser().parse_args(["--root", str(tmp_path / "logs"), "--tensorboard"])
    assert e.value.code == 2 and "pip install tensorboard" in capsys.readouterr().err and not (tmp_path / "logs").exists()


def test_a_runs_code_is_that_of_its_modules_and_its_own_script():
    """A line in the README, or another experiment, does not make other code of it."""
    assert code_hash("train_bnn.py") == code_hash("train_source.py") != code_hash("features.py") != code_hash("convergence.py")


def test_a_job_goes_on_with_its_own_unfinished_run_alone(monkeypatch, capsys):
    """The last one of the same words and code that was stopped, killed, or, by the same Slurm job, left as running."""

    def begin(*argv, state, job=None):
        args = parser().parse_args(argv)
        save_checkpoint(args.run_dir, 1)
        write_yaml(args.run_dir / "status.yaml", dict(state=state, host="elsewhere", job=job))
        return args.run_dir

    def main(argv):
        return argv

    main.__module__ = "script"
    words = ["--lr", "3"]
    stopped = begin(*words, state="stopped")
    begin("--lr", "4", state="stopped")
    begin(*words, state="finished")
    queued = begin(*words, state="running", job="7")
    assert go_on(main, words) == ["--resume", str(stopped)]
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert go_on(main, words) == ["--resume", str(queued)]
    assert go_on(main, ["--lr", "5"]) == ["--lr", "5"]
    monkeypatch.setattr("myexman.index.code_hash", lambda script, argv: "another")
    assert go_on(main, words) == words and "was begun by other code" in capsys.readouterr().err
    monkeypatch.undo()
    main.__module__ = "other"
    assert go_on(main, words) == words
