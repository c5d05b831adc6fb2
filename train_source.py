"""Step 1: train a source CNN on the source domain, with L2 on the layers before its classifier (paper, section 3.3).

    python train_source.py --data not-mnist --bs 256 --hid_dim 256 512 --l2 0.001 --model fconv --net_cfg vanilla --seed 0

Run it once per seed; prune_kernels.py then collects the kernels of all runs.
"""

import myexman.quiet  # noqa: F401  before what takes its time

import time

import torch
import torch.nn.functional as F
from tqdm import trange

from data import crop_and_mirror
from models import NETWORKS, build_net, model_name, own_file
from models.bayes import conv_layers
from models.initialization import initialize
from models.sources import layer_sources
from models.sparsity import check_chain, drop_dead, narrow
from myexman import Checkpoints, ExParser, Logger, at_least, positive, resume, save_state, script
from utils import (
    add_common_flags,
    check_batches,
    check_same_inputs,
    data_options,
    evaluate,
    linear_lr,
    load_data,
    run_cli,
    seed_everything,
    sum_of_squares,
    train_epoch,
)


def parse_args(argv=None):
    resume_with = ("epochs", "eval_freq", "bs", "lr")
    parser = ExParser(description=__doc__, prog="train_source.py", resume_with=resume_with, names_or_paths=("data", "model"))
    add = parser.add_argument_group("net").add_argument
    add("--data", default="not-mnist", help="source data set (paper: not-mnist, cifar100)")
    add("--model", type=model_name, default="fconv", help=f"{', '.join(sorted(NETWORKS))}, or FILE.py:Class")
    add("--net_cfg", choices=["vanilla", "vanilla-do"], default="vanilla", help="plain, or with dropout")
    l2 = "weight of the sum of squares of `features`, the layers before the classifier (paper: 0.001)"
    add("--l2", type=at_least(0, float), default=1e-3, help=l2)
    add("--drop_dead", type=positive, metavar="NORM", help="after every epoch, remove the filters whose norm is below this")
    add("--augment", action="store_true", help="train on randomly moved and mirrored images (for pictures, not for letters)")
    add("--eval_freq", type=at_least(1), default=5, help="epochs between evaluations")
    add(
        "--bf16",
        action="store_true",
        help="forward pass in bfloat16: about twice as fast where the hardware has it, and many times slower where not",
    )
    add_common_flags(parser, epochs=20, bs=256)
    return parser.parse_args(argv)


@script(parse_args)
def main(args):
    seed_everything(args.seed)
    train, test = load_data(**data_options(vars(args)))
    check_same_inputs(args, train=train, test=test, net=own_file(args.model))

    net = build_net(args.model, args.net_cfg, args.hid_dim, *train, new=not args.resume)
    net.to(args.device, memory_format=torch.channels_last)
    check_batches(net, len(train.y), args.bs)
    convs = conv_layers(net)
    counted = {name.split(".")[-1]: conv for name, conv in convs.items()}
    if len(counted) < len(convs):  # the blocks of a residual net, whose convolutions have the same names: too many for a log
        counted = {}
    initialize(layer_sources(net))
    opt = torch.optim.Adam(net.parameters(), fused=True)
    if args.drop_dead:
        check_chain(net, train.x[:2])
        net.register_load_state_dict_pre_hook(narrow)  # a resumed net loads what had been left of it

    def objective(x, y):
        if args.augment:
            x = crop_and_mirror(x)
        with torch.autocast(torch.device(args.device).type, torch.bfloat16, enabled=args.bf16):
            nll = F.cross_entropy(net(x).float(), y)
        l2 = sum_of_squares(net.features)
        return nll + args.l2 * l2, dict(nll=nll, l2=l2)

    start = resume(args, args.epochs, net=net, opt=opt) if args.resume else 0
    log = Logger(args.run_dir, resume_at=start, tensorboard=args.tensorboard)
    if not args.resume:
        save_state(net.state_dict(), args.run_dir / "model.torch")

    def record(epoch, stats):
        """Evaluate the net after so many epochs, save it, and log a row.  stats: of the last of them, if it is known."""
        results = {f"train_{name}": value for name, value in stats.items()} | evaluate(net, test, ens=0)
        results |= {f"{name}_filters": conv.out_channels for name, conv in counted.items()}
        save_state(net.state_dict(), args.run_dir / "model.torch")
        log.row(epoch=epoch, **results, seconds=time.time() - log.began)

    with Checkpoints(args.run_dir, args.save_every, net=net, opt=opt) as checkpoints:
        for epoch in trange(start, args.epochs, initial=start, total=args.epochs, desc="epochs", leave=False, disable=None):
            linear_lr(opt, epoch, args.epochs, args.lr)
            stats = train_epoch(train, args.bs, opt, objective, epoch)
            if args.drop_dead:
                drop_dead(net, opt, args.drop_dead)
            evaluated = (epoch + 1) % args.eval_freq == 0 or epoch + 1 == args.epochs
            if evaluated:
                record(epoch + 1, stats)
            checkpoints.finished(epoch + 1, save=evaluated)
        if log.last < args.epochs:  # as of a run that was stopped there, between evaluations, and is to end there
            record(args.epochs, {})
    print(f"saved {args.run_dir / 'model.torch'}")
    return args.run_dir


if __name__ == "__main__":
    run_cli(main)
