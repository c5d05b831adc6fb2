"""What the deep weight prior's parts are worth: its reverse model, its samples, its KL sum, its start; on CIFAR-10, its layers and its
strength.

    python -m experiments.ablations --data_root DATA_ROOT --workers 2
    python -m experiments.ablations --panel cifar10 --data_root DATA_ROOT --workers 2

Everything else is as in Fig. 2 by the short schedule.
"""

from utils import run_cli

from .comparison import Variant, comparison

WHOLE, DRAWN = "as in Fig. 2", "256 kernels a step"


def part(**options):
    """A part is varied under the drawn KL sum: as good as the whole sum under this prior, and several times as fast."""
    return Variant("dwp-256", options, DRAWN)


VARIANTS = {
    "mnist": {
        WHOLE: Variant("dwp"),
        DRAWN: Variant("dwp-256", base=WHOLE),
        "start from decoder means": part(init_list=["vae-mean", "vae-mean"]),
        "Xavier start": part(init_list=["xavier", "xavier"]),
        "reverse model frozen": part(train_reverse=0),
        "Bayesian classifier, too, under N(0, 1)": part(net_cfg="bayes-all", prior_list=["vae", "vae", "sn"]),
    },
    "cifar10": {
        DRAWN: Variant("dwp-256"),
        "N(0, 1) on the first layer": part(prior_list=["sn", "vae", "vae"]),
        "N(0, 1) on the other two": part(prior_list=["vae", "sn", "sn"]),
        "a hundredth of the KL term": part(kl_scale=0.01),
        "noise of 3 % of the weights, as on MNIST": part(logvarinit="relative:0.03"),
    },
}
DRIVER = comparison("ablations", __doc__, VARIANTS, {"mnist": 50, "cifar10": 200})

if __name__ == "__main__":
    run_cli(DRIVER.main)
