"""A deep ensemble: deterministic nets that differ in their seed, whose predictions are averaged (Lakshminarayanan et al. 2017).

    python -m experiments.deep_ensemble --data mnist --num_examples 50 --epochs 600

Takes the options of train_bnn.py, sets --net_cfg vanilla and --seed, and trains five nets. ensemble.yaml in the last one's run folder
has the ensemble's metrics, and the names of all five.
"""

import sys

import yaml

import train_bnn
from myexman import go_on, write_yaml
from utils import ensemble_average, load_run, metrics, predict, run_cli

MEMBERS = 5


def ensemble_file(run_dir):
    """What the ensemble that a run is the last member of left: dict(metrics, runs); of any other run: no metrics, the run itself."""
    file = run_dir / "ensemble.yaml"
    return yaml.safe_load(file.read_text()) if file.exists() else dict(metrics={}, runs=[run_dir.name])


def main(argv=None):
    argv = list(sys.argv[1:] if argv is None else argv)
    members, runs = [], []
    for seed in range(MEMBERS):
        run_dir = go_on(train_bnn.main, [*argv, "--net_cfg", "vanilla", "--seed", str(seed)])
        net, _, test = load_run(run_dir)
        members.append(predict(net, test.x))
        runs.append(run_dir.name)
    results = metrics(ensemble_average(members), test.y)
    write_yaml(run_dir / "ensemble.yaml", dict(metrics=results, runs=runs))
    print("ensemble: " + ", ".join(f"{name} {value:.4g}" for name, value in results.items()))
    return run_dir


if __name__ == "__main__":
    run_cli(main)
