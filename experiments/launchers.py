"""Where the calls of a grid run: in this process, in processes beside it, or as jobs of a Slurm cluster."""

import contextlib
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from multiprocessing.connection import wait
from pathlib import Path

import torch

from myexman import Stopped, at_least, positive, survive_a_lost_terminal
from myexman.logger import append_rows, read_rows

ROOT = Path(__file__).resolve().parents[1]


def attempt(call):
    """(what a call returns, None), or (None, why it failed, in one line)."""
    try:
        return call(), None
    except SystemExit as e:
        return None, f"exit status {e.code}: a mistake in its command line"
    except Exception as e:
        return None, f"{type(e).__name__}: {' '.join(str(e).split())}"


class Launcher:
    """A context in which calls, {name: function without arguments}, are run.

    room(): how many more calls it can begin now.  start(calls): begins them, and returns their handles by name.
    ended(handles): waits a little and returns the names of those that have ended; handle.outcome() is then what attempt() says.
    collected(name): what it said is safe."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def room(self):
        return math.inf

    def collected(self, name):
        pass


class Here(Launcher):
    """One call after the other, in this process, with all threads."""

    class Handle:
        def __init__(self, call):
            self.call = call

        def outcome(self):
            return attempt(self.call)

    def room(self):
        return 1

    def start(self, calls):
        return {name: self.Handle(call) for name, call in calls.items()}

    def ended(self, handles):
        return list(handles)


class Workers(Launcher):
    """`n` processes side by side, of one thread each. When the context ends early, what still runs is told to end, and leaves its
    checkpoint; so it does when this process is killed."""

    class Handle:
        def __init__(self, context, call):
            self.pipe, end = context.Pipe(duplex=False)
            self.process = context.Process(target=work, args=(end, call, dict(os.environ)))
            self.process.start()
            end.close()

        def outcome(self):
            try:
                return self.pipe.recv()
            except EOFError:
                self.process.join()
                return None, f"its process ended without a result (exit code {self.process.exitcode}; -9: killed, often for lack of memory)"

    def __init__(self, n):
        self.n, self.handles, self.context = n, {}, multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["experiments.methods"])  # PyTorch and the scripts are imported once, not by every worker

    def __exit__(self, *_):
        for handle in self.handles.values():
            handle.process.terminate()
        for handle in self.handles.values():
            handle.process.join()

    def room(self):
        return self.n - len(self.handles)

    def start(self, calls):
        begun = {name: self.Handle(self.context, call) for name, call in calls.items()}
        self.handles |= begun
        return begun

    def ended(self, handles):
        ready = wait([handle.pipe for handle in handles.values()], timeout=1)
        names = [name for name, handle in handles.items() if handle.pipe in ready]
        for name in names:
            del self.handles[name]
        return names


def work(pipe, call, environment):
    """What a worker does.  environment: the variables of its driver, for the server that forks it may be older than they are."""
    os.environ.update(environment)
    survive_a_lost_terminal()
    torch.set_num_threads(1)
    threading.Thread(target=end_with_the_driver, daemon=True).start()
    with contextlib.suppress(Stopped, BrokenPipeError):  # told to end; nobody listens
        pipe.send(attempt(call))


def end_with_the_driver():
    multiprocessing.parent_process().join()
    os.kill(os.getpid(), signal.SIGTERM)


class Task:
    """A call as a Slurm job. Told to end before its time is over, it leaves its checkpoint, and submitit puts it into the queue again."""

    def __call__(self, call):
        torch.set_num_threads(int(os.environ.get("SLURM_CPUS_PER_TASK", 1)))
        try:
            return attempt(call)
        except Stopped as e:
            if e.args[0] == signal.SIGUSR2:  # Slurm's warning, which submitit's own handler, now back in its place, takes from here
                signal.raise_signal(signal.SIGUSR2)
            print(e, file=sys.stderr)  # SIGTERM: cancelled, or queued again by Slurm itself
            sys.exit(128 + e.args[0])

    def checkpoint(self, call):
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, call)


class Slurm(Launcher):
    """An array of jobs. Their numbers are kept in `folder`, on a file system that the nodes share, so that a driver which is started again
    finds those that it has submitted.

    parameters: of submitit's AutoExecutor.  Raises ValueError if submitit or Slurm is missing."""

    POLL, ASK = 1.0, 10.0  # seconds between looks at the folder, and at the queue
    PATIENCE = 60.0  # seconds that a job may be in neither, as a shared file system is slow to show a file

    class Handle:
        def __init__(self, folder, number):
            import submitit

            self.number, self.lost, self.job = number, 0, submitit.SlurmJob(folder=folder, job_id=number)

        def outcome(self):
            if self.job.paths.result_pickle.exists():
                error = self.job.exception()
                return (None, " ".join(str(error).split())[-300:]) if error else self.job.result()
            return None, f"job {self.number} left the queue without a result; see {self.job.paths.stderr}"

    def __init__(self, folder, parameters):
        try:
            import submitit

            self.executor = submitit.AutoExecutor(folder, cluster="slurm", slurm_max_num_timeout=10_000)
        except ImportError as e:
            raise ValueError("--launcher slurm needs the package submitit: pip install submitit") from e
        except RuntimeError as e:
            raise ValueError(f"--launcher slurm: {e}") from e
        self.executor.update_parameters(slurm_setup=[f"export PYTHONPATH={ROOT}:$PYTHONPATH"], **parameters)
        self.folder, self.file, self.asked = Path(folder), Path(folder) / "submitted.csv", 0.0

    def __exit__(self, kind, *_):
        if kind is KeyboardInterrupt:
            print("the jobs keep running; the same command collects their results, and scancel ends them")

    def submitted(self):
        """{name: the number of its job}, of those that have not been collected."""
        rows = read_rows(self.file) if self.file.exists() else []
        last = {row["name"]: row["job"].removeprefix("job ") for row in rows}
        return {name: number for name, number in last.items() if number != "collected"}

    def note(self, jobs):
        append_rows([dict(name=name, job=job) for name, job in jobs.items()], self.file, ("name", "job"))

    def start(self, calls):
        known = self.submitted()
        handles = {name: self.Handle(self.folder, known[name]) for name in calls if name in known}
        new = {name: call for name, call in calls.items() if name not in known}
        if new:
            jobs = self.executor.map_array(Task(), list(new.values()))
            numbers = {name: job.job_id for name, job in zip(new, jobs)}
            self.note({name: f"job {number}" for name, number in numbers.items()})
            handles |= {name: self.Handle(self.folder, number) for name, number in numbers.items()}
        return handles

    def ended(self, handles):
        time.sleep(self.POLL)
        self.look_for_lost(handles)
        return [
            name for name, handle in handles.items() if handle.job.paths.result_pickle.exists() or handle.lost * self.ASK > self.PATIENCE
        ]

    def collected(self, name):
        self.note({name: "collected"})

    def look_for_lost(self, handles):
        """Count how often in a row a job was not in the queue. (sacct, which would know how it ended, is not on every cluster.)"""
        if time.monotonic() - self.asked < self.ASK:
            return
        self.asked = time.monotonic()
        queue = subprocess.run(["squeue", "--noheader", "--array", "--format=%i"], capture_output=True, text=True)
        if queue.returncode == 0:  # else the controller is busy
            present = set(queue.stdout.split())
            for handle in handles.values():
                handle.lost = 0 if handle.number in present else handle.lost + 1


def add_launcher_flags(parser):
    add = parser.add_argument_group("where the runs take place").add_argument
    add("--launcher", choices=["local", "slurm"], default="local", help="on this machine, or as jobs of a Slurm cluster (needs submitit)")
    add("--workers", type=at_least(1), help="runs side by side: processes of one thread each, or Slurm jobs (default: 1, or all)")
    add("--time_limit", type=at_least(0, float), help="seconds after which no further run starts on this machine")
    add("--retry", action="store_true", help="run again what failed before")
    add("--partition", help="Slurm's partition")
    add("--minutes", type=at_least(1), default=60, help="time limit of a Slurm job; an unfinished run continues in a new job")
    add("--gpus", type=at_least(0), default=0, help="GPUs of a Slurm job")
    add("--cpus", type=at_least(1), default=1, help="cores, and threads, of a Slurm job")
    add("--mem_gb", type=positive, default=4.0, help="memory of a Slurm job")


def side_by_side(n):
    """Launcher of n processes on this machine, or of this one alone."""
    return Workers(n) if n > 1 else Here()


def make_launcher(args, folder):
    """What the flags ask for.  folder: of a grid's Slurm jobs.  Raises ValueError."""
    if args.launcher == "local":
        return side_by_side(args.workers or 1)
    parameters = dict(timeout_min=args.minutes, cpus_per_task=args.cpus, mem_gb=args.mem_gb, name=folder.name)
    parameters |= dict(slurm_partition=args.partition) if args.partition else {}
    parameters |= dict(gpus_per_node=args.gpus) if args.gpus else {}
    parameters |= dict(slurm_array_parallelism=args.workers) if args.workers else {}
    return Slurm(folder, parameters)
