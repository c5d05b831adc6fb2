"""A deep ensemble: deterministic nets that differ in their seed, whose predictions are averaged (Lakshminarayanan et al. 2017).

    python -m experiments.deep_ensemble --data mnist --num_examples 50 --epochs 600

Takes the options of train_bnn.py, sets --net_cfg vanilla and --seed, and trains five nets. ensemble.yaml in the last one's run folder
has the ensemble's metrics.
"""

import sys

import train_bnn
from myexman import go_on, write_yaml
from utils import ensemble_average, load_run, metrics, predict, run_cli

MEMBERS = 5


def main(argv=None):
    argv = list(sys.argv[1:] if argv is None else argv)
    members = []
    for seed in range(MEMBERS):
        run_dir = go_on(train_bnn.main, [*argv, "--net_cfg", "vanilla", "--seed", str(seed)])
        net, _, test = load_run(run_dir)
        members.append(predict(net, test.x))
    results = metrics(ensemble_average(members), test.y)
    write_yaml(run_dir / "ensemble.yaml", results)
    print("ensemble: " + ", ".join(f"{name} {value:.4g}" for name, value in results.items()))
    return run_dir


if __name__ == "__main__":
    run_cli(main)
