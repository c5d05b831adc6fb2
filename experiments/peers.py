"""The same few digits under other libraries: the mean-field layers of bayesian-torch, and the Laplace approximation of laplace-torch.

    pip install bayesian-torch==0.5.0 laplace-torch==0.3
    python -m experiments.peers --data_root DATA_ROOT --workers 2

Each is used as its own README does: bayesian-torch starts from weights of its own, or ("MOPED") around a net that has been trained, as
laplace-torch does; that net starts from samples of the prior, as in Fig. 2. Net, images, epochs and rate are Fig. 2's, whose rows stand
beside them in the table; MOPED trains twice as long. The Laplace approximation's prior is chosen once as its README does, and once, with
the help of another net, on validation images.
"""

import copy
import importlib
import itertools

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset
from tqdm import trange

from data.datasets import import_torchvision_datasets
from models import NETWORKS, build_net
from models.sources import initialized
from myexman import ExParser, Logger, at_least, script
from utils import (
    add_common_flags,
    add_init_flags,
    data_options,
    ensemble_average,
    linear_lr,
    load_data,
    metrics,
    predict,
    run_cli,
    seed_everything,
    steps_per_epoch,
    train_epoch,
)

from .comparison import comparison_table
from .fig2 import rows_beside
from .grid import Driver, Job, command_line
from .methods import PANELS, last_row, name_of, net_options, shipped

MEMBERS = 10  # networks in an ensemble, as in ours
OURS = ("dwp", "sn", "det")  # methods of Fig. 2 to compare with


def import_extra(name, install):
    """An optional package.  Raises ValueError if it is missing."""
    try:
        return importlib.import_module(name)
    except ImportError as e:
        raise ValueError(f"this needs {name}: pip install {install}") from e


def fit(net, train, args, penalty=lambda images: 0.0):
    """Minimise the cross-entropy, a mean over images, and a penalty of how many images there are in the minibatch."""
    opt = torch.optim.Adam(net.parameters(), lr=args.lr, fused=True)

    def objective(x, y):
        loss = F.cross_entropy(net(x), y) + penalty(len(x))
        return loss, dict(loss=loss)

    for epoch in trange(args.epochs, desc="epochs", leave=False, disable=None):
        linear_lr(opt, epoch, args.epochs, args.lr)
        train_epoch(train, args.bs, opt, objective, epoch)


def mean_field(net, train, test, args, kind="Reparameterization", trained_first=False):
    """bayesian-torch: all layers Bayesian under N(0, 1), with weights of their own start, or around those of the trained net ("MOPED").

    Its KL term is a mean over the weights of a layer, far below their sum: a cold posterior."""
    bnn = import_extra("bayesian_torch.models.dnn_to_bnn", "bayesian-torch==0.5.0")
    if trained_first:
        fit(net, train, args)
    options = dict(prior_mu=0.0, prior_sigma=1.0, posterior_mu_init=0.0, posterior_rho_init=-3.0, moped_delta=0.5)
    bnn.dnn_to_bnn(net, options | dict(type=kind, moped_enable=trained_first))
    fit(net, train, args, lambda images: bnn.get_kl_loss(net) / images)
    return ensemble_average([predict(net, test.x) for _ in range(MEMBERS)])


def last_layer_laplace(net, train, args):
    """laplace-torch's Gaussian around the last layer of the net, which is trained first, Kronecker-factored."""
    import_torchvision_datasets()  # the library imports torchvision, which may need what this does for it
    package = import_extra("laplace", "laplace-torch==0.3")
    fit(net, train, args)
    posterior = package.Laplace(net, "classification", subset_of_weights="last_layer", hessian_structure="kron")
    posterior.fit(DataLoader(TensorDataset(train.x, train.y), batch_size=args.bs))
    return posterior


def laplace(net, train, test, args, held_out=1000):
    """The predictive of last_layer_laplace by the probit approximation. The prior's precision is chosen as in the library's README, from a
    grid on validation images: by NLL on that many (each takes a Jacobian), with another net trained without them."""
    few, held = load_data(**data_options(vars(args) | dict(validate=True)))
    chosen = last_layer_laplace(copy.deepcopy(net), few, args)
    loader = DataLoader(TensorDataset(held.x[:held_out], held.y[:held_out]), batch_size=500)
    chosen.optimize_prior_precision("glm", "gridsearch", val_loader=loader, grid_size=17, link_approx="probit")
    posterior = last_layer_laplace(net, train, args)
    posterior.prior_precision = chosen.prior_precision
    return torch.cat([posterior(batch, link_approx="probit") for batch in test.x.split(500)]).log()


PEERS = {  # what makes log-probabilities for the test images of a plain net, options of it, and how many trainings it takes
    "bayesian-torch": (mean_field, {}, 1),
    "bayesian-torch, Flipout": (mean_field, dict(kind="Flipout"), 1),
    "bayesian-torch, MOPED": (mean_field, dict(trained_first=True), 2),
    "laplace-torch, last layer, prior chosen on validation images": (laplace, {}, 2),
}


def parse_args(argv=None):
    parser = ExParser(description=__doc__, prog="one_peer.py")
    parser.add_argument("--peer", choices=list(PEERS), required=True, help="the other library, and how it is used")
    parser.add_argument("--data", default="mnist", help="target data set")
    parser.add_argument("--model", choices=sorted(NETWORKS), default="fconv", help="architecture")
    add_init_flags(parser)
    add_common_flags(parser, epochs=600, bs=256)
    return parser.parse_args(argv)


@script(parse_args)
def main(args):
    """One training; the log has one row, at its end."""
    seed_everything(args.seed)
    train, test = load_data(**data_options(vars(args)))
    net = initialized(build_net(args.model, "vanilla", args.hid_dim, *train), args)
    make, options, trainings = PEERS[args.peer]
    log = Logger(args.run_dir, echo=("epoch", "ens_acc", "ens_nll", "ens_ece"))
    found = metrics(make(net, train, test, args, **options).detach(), test.y)
    epochs = trainings * args.epochs
    log.row(epoch=epochs, step=epochs * steps_per_epoch(len(train.y), args.bs), **{f"ens_{name}": v for name, v in found.items()})
    return args.run_dir


def add_arguments(parser):
    parser.add_argument("--num_examples", type=at_least(1), nargs="+", default=[100], help="sizes of the training set")
    parser.add_argument("--splits", type=at_least(1), default=3, help="split seeds 0, 1, …")
    parser.add_argument("--epochs", type=at_least(1), default=600, help="passes over the training set, as in Fig. 2")
    parser.add_argument("--peers", nargs="+", choices=list(PEERS), default=list(PEERS), help="what to run")


def shared(args):
    return {args.panel: dict(epochs=args.epochs)}


def jobs(args):
    for n, split, peer in itertools.product(args.num_examples, range(args.splits), args.peers):
        options = net_options(args) | dict(peer=peer, num_examples=n, data_split_seed=split)
        del options["eval_freq"]
        options |= dict(vae_list=shipped("vae", PANELS[args.panel].layers), init_list="vae")
        yield Job(args.panel, peer, str(n), split, command_line(**options), main, last_row)


def table(rows):
    """comparison_table() of the libraries and of Fig. 2's rows, beside the deep weight prior's."""
    ours = {method: f"ours: {name_of(method)}" for method in OURS}
    beside = [r | dict(method=ours[r["method"]]) for r in rows_beside(rows, OURS)]
    return comparison_table(beside + rows, {label: ours["dwp"] if label != ours["dwp"] else None for label in (*ours.values(), *PEERS)})


SMOKE = dict(panel="glyph-digits", num_examples=[20], splits=1, epochs=2)
DRIVER = Driver("peers", __doc__, add_arguments, SMOKE, shared, jobs, table)

if __name__ == "__main__":
    run_cli(DRIVER.main)
