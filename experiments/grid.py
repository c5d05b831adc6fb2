"""What the drivers share: run a list of jobs once each, whatever interrupts, and keep their results as tidy rows.

A row is one number: figure, panel, method, x, seed, metric, value, steps, device, commit, seconds, setting. A job whose rows stand in
the CSV file is not run again, so a driver that was stopped or killed goes on where it was.
"""

import os
import platform
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import yaml
from filelock import FileLock
from scipy import stats
from tqdm import tqdm

import train_bnn
from myexman import Parser, commit_name, go_on, replacing, runs_root
from myexman.logger import append_rows, read_rows
from utils import default_data_root

from . import deep_ensemble
from .launchers import Here, add_launcher_flags, make_launcher

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RESULTS, FIGURES = HERE / "results", HERE / "figures"
KEY = ("figure", "panel", "method", "x", "seed", "setting")  # what tells one job's rows from another's
COLUMNS = ("figure", "panel", "method", "x", "seed", "metric", "value", "steps", "device", "commit", "seconds", "setting")

# Taken over beside the ensemble's metrics
LOGGED = ("train_nll", "kl", "logvar_05", "logvar_50", "logvar_95", "mean_acc", "mean_nll", "mean_ece", "one_acc", "one_nll")

# One name and one colour (Okabe and Ito's and Tol's colour-blind-safe sets) per method, in every table and figure.
METHODS = {
    "dwp": ("deep weight prior", "#0072B2"),
    "dwp-256": ("deep weight prior, 256 kernels a step", "#88CCEE"),
    "loguniform": ("log-uniform", "#E69F00"),
    "vd": ("variational dropout", "#661100"),
    "sn": ("standard normal", "#009E73"),
    "det": ("deterministic", "#CC79A7"),
    "det-l2": ("deterministic, L2", "#AA4499"),
    "do": ("MC dropout", "#56B4E9"),
    "de": ("deep ensemble of 5", "#44AA99"),
    "ard": ("ARD", "#332288"),
    "gamma": ("ARD, Gamma hyperprior", "#DDCC77"),
    "student": ("Student t", "#117733"),
    "gauss": ("Gaussian kernels", "#D55E00"),
    "gauss-indep": ("independent Gaussian", "#999933"),
    "filters": ("learned filters", "#882255"),
    "xavier": ("Xavier", "#000000"),
}
# What paper_results.csv calls a method of ours otherwise. The paper's log-uniform is variational dropout in its release.
PAPER_NAMES = {"vd": "loguniform", "loguniform": "sparse_vd", "do": "binary dropout"}


def paper_name(method):
    return PAPER_NAMES.get(method, method)


def paper_method(name):
    """The method of ours that paper_results.csv calls so."""
    return {theirs: own for own, theirs in PAPER_NAMES.items()}.get(name, name)


CORE = ("dwp", "loguniform", "vd", "sn", "det")  # those of the paper's Fig. 2, in which `vd` is called log-uniform

DETERMINISTIC = ("det", "det-l2", "do", "de")


class KLSum(NamedTuple):
    """train_bnn's options for the KL sum of the deep weight prior, and what rows say of it."""

    options: dict
    words: str


EXACT = KLSum({}, "full KL sum")  # every kernel in every step, as in the paper
DRAWN = KLSum(dict(kl_kernels=256), "deep weight prior by 256 kernels a step")  # as good under a good prior (experiments.ablations)
KL_SUMS = {"dwp": EXACT, "dwp-256": DRAWN}  # of the method of that name

# The shipped kernels ("conv") and priors ("vae") for each convolution of a net, from input to output.
FCONV = ("fconv/{}7x7", "fconv/{}5x5")
CIFARNET = ("cifar/{}7x7", "cifar/{}5x5_1", "cifar/{}5x5_2")


def logged(row):
    """The numbers of a log's row by metric; those of the ensemble, if there is one, under the metric's bare name."""
    who = "ens" if "ens_acc" in row else "mean"  # a deterministic net is its own ensemble
    values = {name: row[f"{who}_{name}"] for name in ("acc", "nll", "ece", "brier", "elbo") if f"{who}_{name}" in row}
    return values | {k: row[k] for k in LOGGED if k in row}


def last_row(run_dir):
    """The numbers of a run when it ended, of its pruning, and of the ensemble that it ends: tidy rows, less what they share with the
    job's other rows."""
    row = read_rows(run_dir / "logs.csv")[-1]
    values = logged(row)
    if (run_dir / "pruning.yaml").exists():
        report = yaml.safe_load((run_dir / "pruning.yaml").read_text())
        values |= {name: report[name] for name in ("error", "error_before", "compression")}
        values |= {f"kept {layer}": kept / total for layer, (kept, total) in report["kept"].items()}
    values |= deep_ensemble.ensemble_file(run_dir)["metrics"]
    return [dict(metric=k, value=v, steps=row["step"]) for k, v in values.items()]


def every_row(run_dir):
    """The numbers of all evaluations of a run, with the step as x."""
    return [
        dict(metric=k, value=v, steps=row["step"], x=row["step"]) for row in read_rows(run_dir / "logs.csv") for k, v in logged(row).items()
    ]


class Job(NamedTuple):
    """One run of a script: where its numbers belong, the command line that makes them, the script's main(), and what takes the numbers
    from the run's folder. run_grid() adds the figure, and the setting of its panel, unless it has one of its own."""

    panel: str
    method: str
    x: str
    seed: int
    argv: list
    run: Callable = train_bnn.main
    measure: Callable = last_row
    figure: str = ""
    setting: str = ""

    @property
    def key(self):
        return tuple(str(getattr(self, c)) for c in KEY)

    @property
    def title(self):
        """What tells it from the others of its driver, but for the setting."""
        return " / ".join(word for word in self.key[1:-1] if word)

    def __str__(self):
        return " / ".join(self.key)


def command_line(**options):
    """Options as command-line words: hid_dim=(32, 128) -> --hid_dim 32 128; True is a switch."""
    words = []
    for name, value in options.items():
        values = [] if value is True else value if isinstance(value, (list, tuple)) else [value]
        words += [f"--{name}", *map(str, values)]
    return words


def shipped(kind, layers=FCONV):
    """Folders of the shipped kernels ("conv") or priors ("vae") for these layers."""
    return [ROOT / "data" / layer.format(kind) for layer in layers]


def method_options(method, vaes, kernels=None, start="vae", kl_sum=None):
    """train_bnn's options of a method: its net and priors, and the kernels it starts from.

    start: one of models.initialization.INITS for all convolutions.
    kl_sum: over which kernels the deep weight prior's KL term is a sum; by default what the method's name says."""
    learned = method in KL_SUMS
    options = dict(init_list=[start] * len(vaes)) | (dict(vae_list=vaes) if learned or start.startswith("vae") else {})
    if method in DETERMINISTIC:
        return options | dict(net_cfg="vanilla-do" if method == "do" else "vanilla")
    if method.startswith("gauss"):
        options |= dict(filters_list=kernels)
    if learned:
        options |= (kl_sum or KL_SUMS[method]).options
    return options | dict(net_cfg="bayes", prior_list=["vae" if learned else method] * len(vaes))


def method_job(panel, method, x, seed, options):
    """The Job of a method with train_bnn's options; a deep ensemble takes several runs."""
    run = deep_ensemble.main if method == "de" else train_bnn.main
    return Job(panel, method, x, seed, command_line(**options), run)


def init_options(init, layers):
    """Options that fill these convolutions from the shipped priors ("dwp") or kernels ("filters"), or by Xavier."""
    options = dict(init_list=["vae" if init == "dwp" else init] * len(layers))
    if init == "dwp":
        options["vae_list"] = shipped("vae", layers)
    elif init == "filters":
        options["filters_list"] = shipped("conv", layers)
    return options


def device_name(device):
    return torch.cuda.get_device_name(device) if str(device).startswith("cuda") else f"cpu ({platform.machine()}, {os.cpu_count()} cores)"


@cache
def own_commit():
    """The commit of the code that this process has loaded."""
    return commit_name()


def run_job(job):
    """Run one job, or go on with a run of it that was stopped; returns its tidy rows."""
    commit, began = own_commit(), time.time()
    run_dir = go_on(job.run, job.argv)
    seconds = round(time.time() - began, 1)
    device = yaml.safe_load((run_dir / "params.yaml").read_text())["device"]
    shared = {c: getattr(job, c) for c in KEY}
    shared |= dict(device=device_name(device), commit=commit, seconds=seconds)
    return [shared | row for row in job.measure(run_dir)]


def folders(quick):
    """Folders of a driver's results and figures; a smoke run's lie under the runs."""
    return [runs_root() / "quick"] * 2 if quick else [RESULTS, FIGURES]


class Driver(NamedTuple):
    """An experiment of many runs: results/<name>.csv, figures/<name>.png, and a table.

    doc: the module's docstring.  add_arguments(parser): its own flags.  smoke: the arguments of a smoke run.
    settings(args): {panel: what its rows say of how they were made, or a tuple of that, if the jobs themselves say which}.
    jobs(args): the Jobs; if some need what others leave, those that can run now, and it is asked again when they have.
    table(rows): Markdown.  plot(rows, file): draws them, if there is a figure.
    by_panel: whether table and figure are of args.panel alone; a figure of CIFAR-10 then has a name of its own.
    paper, quantity: the names in paper_results.csv of what it reproduces, and what number that is.
    own_table: whether the report shows the driver's table beside that of the paper's numbers.
    report(): Markdown lines for the report, in place of those tables."""

    name: str
    doc: str
    add_arguments: Callable
    smoke: dict
    settings: Callable
    jobs: Callable
    table: Callable
    plot: Callable | None = None
    by_panel: bool = False
    paper: tuple = ()
    quantity: str = ""
    own_table: bool = True
    report: Callable | None = None

    def parse_args(self, argv=None):
        parser = Parser(description=self.doc)
        parser.add_argument("--data_root", default=default_data_root(), help="folder of the data sets ($DATA_ROOT)")
        parser.add_argument("--quick", action="store_true", help="smoke run on the embedded digits, results under logs/")
        parser.add_argument("--plot_only", action="store_true", help="redraw from the results")
        parser.set_defaults(panel="mnist")
        self.add_arguments(parser)
        add_launcher_flags(parser)
        args = parser.parse_args(argv)
        if args.quick:
            vars(args).update(self.smoke)
        return args

    def usual(self):
        """{panel: the setting} of the driver's own arguments; rows in others are trials."""
        return self.settings(self.parse_args([]))

    def results(self):
        """Its rows in the usual setting."""
        file = RESULTS / f"{self.name}.csv"
        return in_settings(read_rows(file), self.usual()) if file.exists() else []

    def main(self, argv=None):
        """Run what is missing, print the table, draw the figure: the shipped one, or under the runs if the settings are a trial's."""
        args = self.parse_args(argv)
        (results, figures), setting = folders(args.quick), self.settings(args)
        file = results / f"{self.name}.csv"
        if not args.quick and setting != self.usual():
            figures = folders(quick=True)[1].with_name("trials")
        rows, failed = run_stages(self, args, file, setting)
        rows = [r for r in in_settings(rows, setting) if not self.by_panel or r["panel"] == args.panel]
        if rows:
            print(self.table(rows))
        elif not failed:
            raise FileNotFoundError(f"nothing to show: no results in this setting in {file}")
        if rows and self.plot:
            own = f"{self.name}_{args.panel}" if self.by_panel and args.panel == "cifar10" else self.name
            self.plot(rows, figures / f"{own}.png")
            print(f"drew {figures / f'{own}.png'}")
        report_failures(failed)


def in_settings(rows, settings):
    """The rows whose setting is among those that `settings` (see Driver) has for their panel."""

    def among(row):
        wanted = settings.get(row["panel"])
        return row["setting"] in wanted if isinstance(wanted, tuple) else row["setting"] == wanted

    return [row for row in rows if among(row)]


def run_stages(driver, args, file, setting):
    """run_grid() with a driver's jobs, and again while there are more of them than before."""

    def jobs_now():
        return [] if args.plot_only else list(driver.jobs(args))

    began, jobs, retry = time.monotonic(), jobs_now(), args.retry
    while True:
        left = None if args.time_limit is None else max(args.time_limit - (time.monotonic() - began), 0)
        rows, failed = run_grid(jobs, file, setting, make_launcher(args, grid_folder(file) / "slurm"), left, retry)
        more = jobs_now()
        if len(more) <= len(jobs):
            return rows, failed
        jobs, retry = more, False


def work_folder(args, name):
    """Where a driver keeps what its jobs hand to one another, among the runs."""
    return runs_root() / ("quick" if args.quick else "") / name


def run_grid(jobs, file, setting, launcher=None, time_limit=None, retry=False):
    """Run the jobs that have no rows in `file` yet and append their rows, each job's at once.

    file: its name is the rows' figure; those of another figure, which a job's `measure` may add, go to that one's file beside it.
    setting: {panel: what the rows say of how they were made}.
    launcher: one of experiments.launchers; by default Here.  time_limit: seconds after which no further job is started.
    A job that fails does not stop the others, and is not run again before `retry` asks for it.
    Returns all rows of the file, and {a job's title: why it failed}."""
    file, launcher = Path(file), launcher or Here()
    jobs = [job._replace(figure=file.stem, setting=job.setting or setting[job.panel]) for job in jobs]
    memory, finished = grid_folder(file) / "failed.csv", finished_keys(file)
    former = {} if retry else {row["run"]: row["why"] for row in (read_rows(memory) if memory.exists() else [])}
    by_name = {str(job): job for job in jobs if job.key not in finished}
    failed = {name: former[name] for name in by_name if name in former}
    to_go = {name: partial(run_job, job) for name, job in by_name.items() if name not in failed}
    running, began, at_first = {}, time.monotonic(), len(to_go)
    deadline = began + (float("inf") if time_limit is None else time_limit)

    def state():
        left = len(running) + len(to_go)
        eta = f", {tqdm.format_interval((time.monotonic() - began) / (at_first - left) * left)} left" if 0 < left < at_first else ""
        return f"{len(jobs) - left - len(failed)} done, {len(running)} running, {len(failed)} failed, {len(to_go)} to go{eta}"

    with launcher, tqdm(total=len(jobs), desc=file.stem, bar_format="{desc}: |{bar}| {postfix}", disable=None) as bar:
        while True:
            if time.monotonic() < deadline:
                running |= launcher.start(to_go)
                to_go = {name: call for name, call in to_go.items() if name not in running}
            bar.n = len(jobs) - len(running) - len(to_go)
            bar.set_postfix_str(state())
            if not running:
                break
            for name in launcher.ended(running):
                rows, why = running.pop(name).outcome()
                if why:
                    failed[name] = why
                    add_rows([dict(run=name, why=why)], memory, ("run", "why"))
                else:
                    for figure in dict.fromkeys(row["figure"] for row in rows):
                        add_rows([row for row in rows if row["figure"] == figure], file.with_name(f"{figure}.csv"))
                launcher.collected(name)
                tqdm.write(f"{by_name[name].title}: {f'failed, {why}' if why else 'done'} ({state()})")
    if to_go:
        print(f"stopped at the time limit with {len(to_go)} of {len(jobs)} runs to go; the same command goes on from here")
    return read_rows(file) if file.exists() else [], {by_name[name].title: why for name, why in failed.items()}


def grid_folder(file):
    """Where the state of a grid with that file of results is, among the runs."""
    return runs_root() / "grids" / Path(file).stem


def report_failures(failed):
    """Raise ValueError if runs failed, after a line for each."""
    for name, why in failed.items():
        print(f"failed: {name}: {why}")
    if failed:
        raise ValueError(f"{len(failed)} of the runs have failed, as said above; --retry runs them again")


def finished_keys(file):
    return {tuple(str(row[c]) for c in KEY) for row in (read_rows(file) if file.exists() else [])}


def add_rows(rows, file, columns=COLUMNS):
    """Append rows to a CSV file to which another driver may append."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_name(f".{file.name}.lock")):
        append_rows(rows, file, columns)


def write_rows(rows, file):
    """Write a CSV file anew, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as (part,):
        append_rows(rows, part, list(rows[0]))


def select(rows, **where):
    """Values of the rows that agree with `where`, as an array."""
    return np.array([row["value"] for row in rows if all(str(row[k]) == str(v) for k, v in where.items())], dtype=float)


def paper_value(figure, panel, method, x):
    """The number the paper gives for a method of ours, or None."""
    values = select(read_rows(HERE / "paper_results.csv"), figure=figure, panel=panel, method=paper_name(method), x=x)
    return float(values[0]) if len(values) else None


def markdown(columns, rows):
    """A Markdown table: the columns' names, "n | accuracy", and rows, each a list of cells."""
    names = columns.split(" | ")
    return "\n".join(f"| {' | '.join(map(str, cells))} |" for cells in [names, ["---"] * len(names), *rows])


def mean_std(values, digits=3):
    """'0.827 ± 0.024' (standard deviation over runs, n - 1); a dash if there is no value."""
    if not len(values):
        return "–"
    return f"{values.mean():.{digits}f}" + (f" ± {values.std(ddof=1):.{digits}f}" if len(values) > 1 else "")


def paired_differences(rows, first, second, **where):
    """A method's values less another's, among the rows that agree with `where`, on the seeds that both have, as an array."""

    def by_seed(method):
        return {r["seed"]: r["value"] for r in rows if all(r[k] == v for k, v in (where | dict(method=method)).items())}

    one, other = by_seed(first), by_seed(second)
    return np.array([one[seed] - other[seed] for seed in sorted(one.keys() & other.keys())])


def interval_ends(values):
    """The 95 % t interval of a mean, of two values or more."""
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return values.mean() - half, values.mean() + half


def interval(values, digits=3, sign="+"):
    """'+0.037 (+0.021 to +0.053)': the mean and its 95 % t interval; of a single value no interval.  sign: '+' for differences, or ''."""
    if len(values) < 2:
        return f"{values[0]:{sign}.{digits}f}" if len(values) else "–"
    return "{:{s}.{d}f} ({:{s}.{d}f} to {:{s}.{d}f})".format(values.mean(), *interval_ends(values), d=digits, s=sign)


def p_value(values):
    """Of the hypothesis that the mean of paired differences is 0, by Student's t; 1 if they are all 0."""
    return float(stats.ttest_1samp(values, 0).pvalue) if np.any(values) else 1.0


def holm(ps):
    """p-values adjusted by Holm's step-down method: below a level where that hypothesis is rejected with the chance of any false rejection
    at most that level."""
    order = np.argsort(ps)
    adjusted = np.empty(len(ps))
    adjusted[order] = np.minimum(np.maximum.accumulate(np.asarray(ps)[order] * np.arange(len(ps), 0, -1)), 1)
    return adjusted


def curve(axis, rows, method, metric, position=float):
    """Mean of a method's metric against x with the range over seeds, in the method's colour; x is drawn at position(x)."""
    label, colour = METHODS[method]
    xs = sorted({r["x"] for r in rows if r["method"] == method and r["metric"] == metric}, key=position)
    values = [select(rows, method=method, metric=metric, x=x) for x in xs]
    if values:
        mean = [v.mean() for v in values]
        spread = [[m - v.min() for m, v in zip(mean, values)], [v.max() - m for m, v in zip(mean, values)]]
        axis.errorbar([position(x) for x in xs], mean, spread, color=colour, label=label, marker="o", capsize=3)


def paper_curve(axis, figure, panel, method, position=float, label=None):
    """The paper's numbers for a method of ours in grey, behind ours, each method with its marker."""
    where = figure, panel, paper_name(method)
    rows = [r for r in read_rows(HERE / "paper_results.csv") if (r["figure"], r["panel"], r["method"]) == where]
    points = sorted((position(r["x"]), r["value"]) for r in rows)
    if points:
        marker = dict(dwp="s", vd="^", sn="v", det="D", filters="^", xavier="v").get(method, "x")
        axis.plot(*zip(*points), color="0.75", marker=marker, markersize=4, linestyle="--", zorder=0, label=label)
