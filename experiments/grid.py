"""What the drivers share: run a list of jobs once each, whatever interrupts. A job whose rows stand in the CSV file (experiments.rows) is
not run again, so a driver that was stopped or killed goes on where it was.
"""

import hashlib
import os
import platform
import time
from collections import Counter
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import torch
import yaml
from filelock import FileLock, Timeout
from tqdm import tqdm

from myexman import Parser, acquire, commit_name, go_on, runs_root
from myexman.logger import read_rows
from utils import default_data_root

from .launchers import Here, add_launcher_flags, make_launcher
from .rows import FIGURES, KEY, RESULTS, add_rows, finished_keys, pack, sentence, tidy_rows, unpack


class Job(NamedTuple):
    """One run of a script: where its numbers belong, the command line that makes them, the script's main(), and what takes the numbers
    from the run's folder. run_grid() adds the figure, and to the options those of its panel."""

    panel: str
    method: str
    x: str
    seed: int
    argv: list
    run: Callable
    measure: Callable
    options: dict = {}
    figure: str = ""

    @property
    def row(self):
        """What its rows have in common, in KEY's order."""
        return {column: getattr(self, column) for column in KEY} | dict(options=pack(self.options))

    @property
    def key(self):
        return tuple(map(str, self.row.values()))

    @property
    def title(self):
        """What tells it from the others of its driver, as a rule: not the options."""
        return " / ".join(word for word in self.key[1:-1] if word)

    def __str__(self):
        return " / ".join(self.key)


def command_line(**options):
    """Options as command-line words: hid_dim=(32, 128) -> --hid_dim 32 128; True is a switch, and False leaves it out."""
    words = []
    for name, value in options.items():
        if value is False:
            continue
        values = [] if value is True else value if isinstance(value, (list, tuple)) else [value]
        words += [f"--{name}", *map(str, values)]
    return words


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
    shared = job.row | dict(device=device_name(device), commit=commit, seconds=seconds)
    return [shared | row for row in job.measure(run_dir)]


def folders(quick):
    """Folders of a driver's results and figures; a smoke run's lie under the runs."""
    return [runs_root() / "quick"] * 2 if quick else [RESULTS, FIGURES]


USUAL = {}  # of Driver.usual(), which the report asks for hundreds of times


class Driver(NamedTuple):
    """An experiment of many runs: results/<name>.csv, figures/<name>.png, and a table.

    doc: the module's docstring.  add_arguments(parser): its own flags.  smoke: the arguments of a smoke run.
    shared(args): {panel: the options that all its rows share}; rows with other values are trials.  varied: names of options that differ
    between jobs.  full: the paper's values of options that ours may reduce.
    jobs(args): the Jobs; if some need what others leave, those that can run now, and it is asked again when they have.
    table(rows): Markdown.  plot(rows, file): draws them, if there is a figure.
    by_panel: whether table and figure are of args.panel alone; a figure of CIFAR-10 then has a name of its own.
    paper: the names in paper_results.csv of its numbers.  quantity: what they are, if the report sets them beside ours in place of the
    driver's table.  report(): Markdown lines for the report, in place of that table."""

    name: str
    doc: str
    add_arguments: Callable
    smoke: dict
    shared: Callable
    jobs: Callable
    table: Callable
    plot: Callable | None = None
    varied: tuple = ()
    full: dict = {}
    by_panel: bool = False
    paper: tuple = ()
    quantity: str = ""
    report: Callable | None = None

    def parse_args(self, argv=None):
        parser = Parser(description=self.doc)
        parser.add_argument("--data_root", default=default_data_root(), help="folder of the data sets ($DATA_ROOT)")
        parser.add_argument("--quick", action="store_true", help="smoke run on the embedded digits, results under logs/")
        parser.add_argument("--plot_only", action="store_true", help="redraw from the results")
        parser.set_defaults(panel="mnist")
        self.add_arguments(parser)
        add_launcher_flags(parser)
        if parser.parse_args(argv).quick:
            parser.set_defaults(**self.smoke)
        return parser.parse_args(argv)

    def usual(self):
        """{panel: the options} of the driver's own arguments; rows of others are trials."""
        if self.shared not in USUAL:
            USUAL[self.shared] = self.shared(self.parse_args([]))
        return USUAL[self.shared]

    def results(self):
        """Its rows of the usual options."""
        return self.among(tidy_rows(RESULTS / f"{self.name}.csv"), self.usual())

    def among(self, rows, shared):
        wanted = {panel: pack(options) for panel, options in shared.items()}
        return [row for row in rows if self.options_of(row) == wanted.get(row["panel"])]

    def options_of(self, row):
        """The options that a row shares with others of its figure, packed."""
        return pack({name: value for name, value in unpack(row["options"]).items() if name not in self.varied})

    def title(self, rows):
        """In words, what these rows share."""
        return sentence(self.options_of(rows[0]), self.full)

    def main(self, argv=None):
        """Run what is missing, print the table, draw the figure: the shipped one, or under the runs if the options are a trial's."""
        args = self.parse_args(argv)
        (results, figures), shared = folders(args.quick), self.shared(args)
        file = results / f"{self.name}.csv"
        if not args.quick and shared != self.usual():
            figures = folders(quick=True)[1].with_name("trials")
        rows, failed = run_stages(self, args, file, shared)
        rows = [r for r in self.among(rows, shared) if not self.by_panel or r["panel"] == args.panel]
        if rows:
            print(self.table(rows))
        elif not failed:
            raise FileNotFoundError(f"nothing to show: no results for these options in {file}")
        if rows and self.plot:
            own = f"{self.name}_{args.panel}" if self.by_panel and args.panel == "cifar10" else self.name
            self.plot(rows, figures / f"{own}.png")
            print(f"drew {figures / f'{own}.png'}")
        report_failures(failed)


def run_stages(driver, args, file, shared):
    """run_grid() with a driver's jobs, and again while there are others than before."""

    def jobs_now():
        return [] if args.plot_only else list(driver.jobs(args))

    began, jobs, asked, retry = time.monotonic(), jobs_now(), set(), args.retry
    while True:
        left = None if args.time_limit is None else max(args.time_limit - (time.monotonic() - began), 0)
        rows, failed = run_grid(jobs, file, shared, make_launcher(args, grid_folder(file) / "slurm"), left, retry)
        asked |= {job.key for job in jobs}
        jobs, retry = jobs_now(), False
        if asked.issuperset(job.key for job in jobs):
            return rows, failed


def work_folder(args, name):
    """Where a driver keeps what its jobs hand to one another, among the runs."""
    return runs_root() / ("quick" if args.quick else "") / name


def run_grid(jobs, file, shared=None, launcher=None, time_limit=None, retry=False):
    """Run the jobs that have no rows in `file` yet and append their rows, each job's at once.

    file: its name is the rows' figure; those of another figure, which a job's `measure` may add, go to that one's file beside it.
    shared: {panel: options that its rows have beside a job's own}.
    launcher: one of experiments.launchers; by default Here.  time_limit: seconds after which no further job is started.
    A job that fails does not stop the others, and is not run again before `retry` asks for it. Jobs of the same file that another process
    runs are left to it, and waited for.
    Returns all rows of the file, and {a job's title: why it failed}."""
    file, launcher = Path(file), launcher or Here()
    jobs = [job._replace(figure=file.stem, options=(shared[job.panel] if shared else {}) | job.options) for job in jobs]
    memory, finished = grid_folder(file) / "failed.csv", finished_keys(file)

    def failures():
        last = {row["run"]: row["why"] for row in (read_rows(memory) if memory.exists() else [])}
        return {name: why for name, why in last.items() if why}

    former, counts = {} if retry else failures(), Counter(job.title for job in jobs)
    titles = {str(job): job.title if counts[job.title] == 1 else str(job) for job in jobs}
    by_name = {str(job): job for job in jobs if job.key not in finished}
    failed = {name: former[name] for name in by_name if name in former}
    to_go = {name: partial(run_job, job) for name, job in by_name.items() if name not in failed}
    running, began, at_first = {}, time.monotonic(), len(to_go)
    deadline = began + (float("inf") if time_limit is None else time_limit)

    def state():
        left = len(running) + len(to_go)
        eta = f", {tqdm.format_interval((time.monotonic() - began) / (at_first - left) * left)} left" if 0 < left < at_first else ""
        return f"{len(jobs) - left - len(failed)} done, {len(running)} running, {len(failed)} failed, {len(to_go)} to go{eta}"

    def claimed():
        """As many of the calls to go as there is room for, which no other process runs, or has run meanwhile."""
        found, room = {}, launcher.room()
        for name in list(to_go) if room > 0 else ():
            if len(found) >= room:
                break
            if claims.take(name):
                why = None if retry else failures().get(name)
                if why or by_name[name].key in finished_keys(file):
                    claims.release(name)
                    del to_go[name]
                    failed.update({name: why} if why else {})
                else:
                    found[name] = to_go[name]
        return found

    with (
        Claims(grid_folder(file) / "claims") as claims,
        launcher,
        tqdm(total=len(jobs), desc=file.stem, bar_format="{desc}: |{bar}| {postfix}", disable=None) as bar,
    ):
        while True:
            if time.monotonic() < deadline:
                running |= launcher.start(claimed())
                to_go = {name: call for name, call in to_go.items() if name not in running}
            bar.n = len(jobs) - len(running) - len(to_go)
            bar.set_postfix_str(state())
            if not running and (not to_go or time.monotonic() >= deadline):
                break
            if not running:  # all that is left is another process's
                time.sleep(1)
                continue
            for name in launcher.ended(running):
                rows, why = running.pop(name).outcome()
                if why:
                    failed[name] = why
                    add_rows([dict(run=name, why=why)], memory, ("run", "why"))
                else:
                    if name in failures():  # and has been tried again
                        add_rows([dict(run=name, why="")], memory, ("run", "why"))
                    for figure in sorted({row["figure"] for row in rows}, key=lambda figure: figure == file.stem):  # its own last
                        add_rows([row for row in rows if row["figure"] == figure], file.with_name(f"{figure}.csv"))
                launcher.collected(name)
                claims.release(name)
                tqdm.write(f"{titles[name]}: {f'failed, {why}' if why else 'done'} ({state()})")
    if to_go:
        print(f"stopped at the time limit with {len(to_go)} of {len(jobs)} runs to go; run the same command again to continue")
    return tidy_rows(file), {titles[name]: why for name, why in failed.items()}


class Claims:
    """Which jobs of a grid this process runs, so that another with the same ones takes others. A claim ends with its process.

    folder: has a lock for each."""

    def __init__(self, folder):
        self.folder, self.locks = folder, {}

    def __enter__(self):
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_):
        for name in list(self.locks):
            self.release(name)

    def take(self, name):
        """Whether it is this process's now."""
        lock = FileLock(self.folder / f"{hashlib.sha1(name.encode()).hexdigest()[:16]}.lock")
        try:
            acquire(lock, timeout=0)
        except Timeout:
            return False
        self.locks[name] = lock
        return True

    def release(self, name):
        self.locks.pop(name).release()


def grid_folder(file):
    """Where the state of a grid with that file of results is, among the runs."""
    return runs_root() / "grids" / Path(file).stem


def report_failures(failed):
    """Raise ValueError if runs failed, after a line for each."""
    for name, why in failed.items():
        print(f"failed: {name}: {why}")
    if failed:
        raise ValueError(f"{len(failed)} of the runs have failed, as said above; --retry runs them again")
