"""ExParser: an argparse.ArgumentParser whose parse_args() makes a run folder.

<root>/runs/NNNNNN-<time>/params.yaml      every argument, and under `meta` the commit, versions and machine
<root>/index/NNNNNN -> ../runs/NNNNNN-…    one link per run; making it is what claims the number
<root>/tmp/NNNNNN-<time>/                  runs made with --tmp, which the index does not list
"""

import argparse
import hashlib
import math
import os
import platform
import subprocess
import sys
from datetime import datetime
from fractions import Fraction
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import yaml

from .files import replacing, runs_root

SAFE = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the former is ten times as fast, and not everywhere
VERSIONS = ("torch", "torchvision", "numpy", "scipy")
LARGEST = 2**31 - 1  # of integers, which all libraries take
NOT_PARAMS = ("tmp", "config", "resume", "run_dir", "again")
PLACES = ("root", "device", "data_root", "data_dir", "out")  # may be others when a run is resumed
HABITS = ("save_every", "tensorboard")  # these, too


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows an option's default, if it has one."""

    def _get_help_string(self, action):
        none = action.default is None or action.default is False or action.default == []
        return action.help if none else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that shows defaults in --help, takes no abbreviations and reports a mistake in one line.

    description: a docstring, whose first paragraph is shown, or None, as a docstring is under python -OO."""

    def __init__(self, *args, description=None, formatter_class=HelpFormatter, allow_abbrev=False, **kwargs):
        first = (description or "").split("\n\n")[0]
        super().__init__(*args, description=first, formatter_class=formatter_class, allow_abbrev=allow_abbrev, **kwargs)

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())} (--help lists the options)\n")


def checked(number, fits, what):
    """An argparse type: a number that fits."""

    def parse(text):
        try:
            value = number(text)
        except ValueError as e:
            hint = ": arguments without a flag must come first" if os.path.exists(text) else ""
            raise argparse.ArgumentTypeError(f"{text!r} is not {'a whole number' if number is int else 'a number'}{hint}") from e
        if not fits(value) or (number is int and abs(value) > LARGEST):
            raise argparse.ArgumentTypeError(f"{text} is not {what}")
        return value

    return parse


def at_least(low, number=int):
    """An argparse type: a finite number that is not below `low`."""
    return checked(number, lambda value: low <= value < math.inf, f"a number from {low} up")


positive = checked(float, lambda value: 0 < value < math.inf, "a number above 0")  # finite, too
share = checked(float, lambda value: 0 < value <= 1, "a share, above 0 and at most 1")
finite = checked(float, math.isfinite, "a finite number")


class ExParser(Parser):
    """A drop-in ArgumentParser that adds --root, --tmp, --config and --resume, and makes the run's folder when it parses.

    The parsed namespace gains `run_dir` (a Path). `--config params.yaml`, or the run's folder, reads a former run's options as if typed
    before the command line, which therefore wins; an option that the script does not know is an error. `--resume RUN`, a number or a
    folder, does the same with that run's params.yaml and stays in its folder; of its options only `resume_with`, PLACES and HABITS may
    then change, which `resume()` writes into params.yaml. resume_with=None is for scripts without checkpoints. Nothing is created before
    parse_args(), nor if check(args), which gets the parsed options and may complete them, raises ValueError. retired: former options of
    the script, {name: default}, which a params.yaml may have at their defaults. reset_by: {name: another option}: if that one is typed
    without it, it goes back to its default, for a former run's would not fit. Nor does --config take over where results went (`out`).
    paths: further options that hold files or folders. names_or_paths: those in which a path has a slash, or comes after a colon.
    A run that is resumed or repeated from another working directory finds what was given relative to its own (`meta: cwd`); on another
    machine the command line may say where files of the same names are."""

    def __init__(self, *args, resume_with=None, check=None, retired=None, reset_by=None, paths=(), names_or_paths=(), **kwargs):
        super().__init__(*args, **kwargs)
        self.paths, self.names_or_paths = (*PLACES, *paths), names_or_paths
        group = self.add_argument_group("experiment")
        group.add_argument("--root", default=str(runs_root()), help="folder of all runs ($DWP_PATH)")
        group.add_argument("--tmp", action="store_true", help="a trial: make the run under <root>/tmp, outside the index")
        what = "rerun with the arguments of a former run, that file or its folder; the command line wins"
        group.add_argument("--config", metavar="PARAMS.YAML", help=what)
        self.resume_with, self.check, self.retired, self.reset_by = resume_with, check, retired or {}, reset_by or {}
        if resume_with is not None:
            may = ", ".join(f"--{name}" for name in resume_with)
            what = f"continue a stopped run, a number or a folder, from its last checkpoint; {may}, folders and device may be changed"
            group.add_argument("--resume", metavar="RUN", help=what)
            every = "seconds between checkpoints, besides those at evaluations and on a signal to end"
            group.add_argument("--save_every", type=at_least(0, float), default=300.0, metavar="SECONDS", help=every)
            group.add_argument("--tensorboard", action="store_true", help="log for TensorBoard, too, into the run's folder")

    def parse_args(self, args=None, namespace=None):
        typed = list(sys.argv[1:] if args is None else args)
        sources = Parser(prog=self.prog, add_help=False)
        sources.add_argument("--config")
        sources.add_argument("--resume")
        sources.add_argument("--root")
        found = sources.parse_known_args(typed)[0]
        resume = self.run_to_resume(found.resume, found.root) if found.resume and self.resume_with is not None else None
        if resume and found.config:
            self.error("--resume goes on with the run's own options: leave --config out")
        config = resume or found.config
        config = Path(config) / "params.yaml" if config and Path(config).is_dir() else config
        given = {word.split("=")[0] for word in typed}
        given = {a.dest for a in self._actions if given & {*a.option_strings}}
        elsewhere = given & {*self.paths, *self.names_or_paths}
        values = self.read_config(config) if config else {}
        anew = elsewhere | {name for name, other in self.reset_by.items() if other in given}
        anew |= set() if resume else {"out"}  # where the former run's results are
        words = self.command_line({name: value for name, value in values.items() if name not in anew})
        args = super().parse_args([*words, *typed], namespace)
        if self.check:
            self.check(args)
        if vars(args).get("tensorboard") and not find_spec("tensorboard"):
            self.error("--tensorboard needs a package of that name: pip install tensorboard")
        if resume:
            typed_places = {name: vars(args)[name] for name in elsewhere if name in vars(args)}
            former = super().parse_args([*words, *self.command_line(typed_places)])
            if self.check:
                self.check(former)
            for name in sorted(vars(args).keys() - {*NOT_PARAMS, *PLACES, *HABITS, *self.resume_with}):
                was, now = values[name] if name in elsewhere and name in values else getattr(former, name), getattr(args, name)
                movable = name in (*self.paths, *self.names_or_paths) and file_names(now) == file_names(was)
                if now != was and not movable:
                    self.error(f"--resume goes on with --{name} {was}; a different value needs a new run")
            here = dict(vars(args), meta=dict(cwd="."))
            vars(args).update(
                {name: resolve_paths(here, self.paths, self.names_or_paths, True)[name] for name in elsewhere & vars(args).keys()}
            )
            args.run_dir, args.again = Path(resume), provenance(self.prog, typed)
        else:
            args.run_dir = make_run(Path(args.root).expanduser(), args.tmp)
            write_params(args, provenance(self.prog, typed))
        return args

    def run_to_resume(self, name, root=None):
        """The folder of a run, by its path, or by its number under root, as `python -m myexman` shows it."""
        from .index import find_run  # here, since it reads runs with this module

        try:
            return find_run(name, root)
        except ValueError as e:
            self.error(f"--resume: {e}")

    def read_config(self, path):
        """The options in a params.yaml by name, without `meta`, the facts about that run."""
        try:
            values = read_params(path)
        except (OSError, ValueError) as e:
            self.error(str(e))
        options = {a.dest: a for a in self._actions if a.option_strings and a.dest not in ("help", *NOT_PARAMS)}
        gone = {name for name, default in self.retired.items() if values.get(name) == default}
        unknown = sorted(set(values) - set(options) - gone - {"meta"})
        if unknown:
            script = (values.get("meta") or {}).get("script", self.prog)
            whose = f" (it is of a run of {script})" if script != self.prog else ""
            self.error(f"{path}: unknown argument {', '.join(unknown)}{whose}")
        values = resolve_paths(values, self.paths, self.names_or_paths)
        return {name: values[name] for name in options.keys() & values.keys()}

    def command_line(self, values):
        """Values by option as command-line words."""
        words, options = [], {action.dest: action for action in self._actions}
        for name, value in values.items():
            option = options[name].option_strings[-1]
            if isinstance(value, list):
                words += [option, *map(str, value)] if value else []
            elif options[name].nargs == 0:  # a switch
                words += [option] if value else []
            elif value is not None:
                words.append(f"{option}={value}")
        return words


def read_params(file):
    """The dict in a params.yaml.  Raises OSError, and ValueError in one line if it is damaged."""
    try:
        params = yaml.load(Path(file).read_text(encoding="utf-8-sig"), SAFE)
    except UnicodeDecodeError as e:
        raise ValueError(f"{file} is not text in UTF-8") from e
    except (yaml.YAMLError, ValueError, RecursionError, AttributeError) as e:  # as of a date that does not exist
        raise ValueError(f"{file} is not YAML: {' '.join(str(e).split())}") from e
    if not isinstance(params, dict) or not all(isinstance(name, str) for name in params) or not all(map(flat, params.values())):
        raise ValueError(f"{file} is not a list of `name: value` lines")
    return params


def flat(value):
    """Whether it is a plain value, a list of such, or a dict, whose contents are another matter."""
    return not isinstance(value, (list, tuple, set)) or all(not isinstance(v, (list, tuple, set, dict)) for v in value)


def resolve_paths(params, paths, names_or_paths=(), always=False):
    """params, a dict as in params.yaml, with those of its options that hold paths relative to the run's working directory made absolute, if
    the files are still there and this process works elsewhere, or always.

    names_or_paths: options in which a path has a slash, or comes after a colon, as in posterior:RUN."""
    there = Path((params.get("meta") or {}).get("cwd") or ".").resolve()
    if there == Path.cwd() and not always:
        return params

    def resolve(value, plain):
        if not isinstance(value, str):
            return value
        head, colon, path = value.rpartition(":")
        is_path = bool(path) and path != "none" and (plain or colon or "/" in path or path.endswith(".npz"))
        return f"{head}{colon}{there / path}" if is_path and (there / path).exists() else value

    found = {name: params[name] for name in (*paths, *names_or_paths) if params.get(name) and name != "device"}
    for name, value in found.items():
        found[name] = [resolve(v, name in paths) for v in value] if isinstance(value, list) else resolve(value, name in paths)
    return params | found


def file_names(value):
    """The last parts of a path, or of a list of them."""
    return [Path(str(path)).name for path in (value if isinstance(value, list) else [value])]


def make_run(root, tmp=False):
    """Make and return a new run folder; safe when many processes do it at once."""
    time = datetime.now().strftime("%Y-%m-%d-%H-%M-%S")
    runs, index = root / ("tmp" if tmp else "runs"), root / "index"
    runs.mkdir(parents=True, exist_ok=True)
    index.mkdir(exist_ok=True)
    number = 1 + max((int(p.name[:6]) for p in (runs if tmp else index).iterdir() if p.name[:6].isdigit()), default=-1)
    while True:
        run = runs / f"{number:06d}-{time}"
        try:  # os.symlink and mkdir either make the name or fail: whoever makes it owns the number
            if tmp:
                run.mkdir()
            else:
                os.symlink(Path("..") / "runs" / run.name, index / f"{number:06d}")
                run.mkdir()
            return run
        except FileExistsError:
            number += 1


def provenance(prog, argv):
    """What made the run: command line, commit, versions, machine."""

    def installed(package):
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            return None

    return dict(
        time=datetime.now().isoformat(timespec="seconds"),
        script=prog,
        **git_state(),
        code=code_hash(prog, tuple(argv)),
        python=platform.python_version(),
        versions={p: installed(p) for p in VERSIONS},
        machine=f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        cwd=str(Path.cwd()),
        argv=list(argv),
    )


@cache
def code_hash(script, argv=()):
    """Of the code that a run of a script depends on: this project's modules, the script itself if it is an experiment's, and files of the
    command line, as in FILE.py:Class."""
    home, digest = Path(__file__).resolve().parents[1], hashlib.sha256()
    files = [file for folder in ("", "data", "models", "myexman") for file in sorted((home / folder).glob("*.py"))]
    values = (word.partition("=")[2] if word.startswith("--") else word for word in map(str, argv))
    own = [Path(file) for file, colon, _ in (value.rpartition(":") for value in values) if colon and file.endswith(".py")]
    for file in [*files, home / "experiments" / script, *own]:
        if file.is_file():
            digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def git_state():
    """{'commit': short hash or None, 'dirty': whether tracked files, results of experiments aside, differ from it}."""

    home = Path(__file__).resolve().parents[1]

    def git(*words):
        return subprocess.run(["git", "-C", str(home), *words], capture_output=True, text=True, check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != home:  # a copy within another project's repository
            return dict(commit=None, dirty=None)
        results = [f":(top,exclude)experiments/{folder}" for folder in ("results", "figures")]
        return dict(
            commit=git("rev-parse", "--short=10", "HEAD"), dirty=bool(git("status", "--porcelain", "-uno", "--", ":(top)", *results))
        )
    except (OSError, subprocess.CalledProcessError):
        return dict(commit=None, dirty=None)


def commit_name():
    """The short hash of the code's commit, with a + if tracked files, results of experiments aside, differ from it."""
    state = git_state()
    return f"{state['commit']}{'+' if state['dirty'] else ''}"


def write_params(args, meta):
    """Write a run's params.yaml from its parsed arguments and facts about it."""
    params = {k: v for k, v in vars(args).items() if k not in NOT_PARAMS}
    write_yaml(args.run_dir / "params.yaml", {**params, "meta": meta})


def write_yaml(file, values):
    plain = {k: list(v) if isinstance(v, tuple) else str(v) if isinstance(v, (Path, Fraction)) else v for k, v in values.items()}
    with replacing(file) as (part,):
        part.write_text(yaml.safe_dump(plain, sort_keys=False))
