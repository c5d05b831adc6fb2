"""Fig. 4: speed of convergence from three initialisations, of an image VAE (a) and of a classifier (b), both on MNIST.

python -m experiments.fig4 --data_root DATA_ROOT --workers 2
"""

from utils import new_figure, run_cli, save_figure

from .grid import METHODS, Job, command_line, curve, drive, driver_parser, init_options, mean_std, paper_curve, paper_value, select

INITS = ("dwp", "filters", "xavier")
# panel: model, sizes of its kernels from input to output, metric, its name, the paper's name of the panel, steps, when to evaluate
PANELS = {
    "vae-mnist": ("image_vae", (7, 5, 5, 5, 5), "elbo", "variational lower bound, nats", "vae-mnist (variational lower bound, nats)", 400),
    "convnet-mnist": ("fconv", (7, 5), "acc", "test accuracy", "convnet-mnist", 300),
}
EVAL_STEPS = (20, 50, 100, 150, 200, 300, 400, 600, 800, 1000)


def parse_args(argv=None):
    parser = driver_parser(__doc__)
    parser.add_argument("--panel", nargs="+", choices=list(PANELS), default=list(PANELS), help="what converges")
    parser.add_argument("--splits", type=int, default=3, help="seeds 0, 1, …")
    parser.add_argument("--steps", type=int, help="steps of a run (default: 400 of the VAE, 300 of the classifier)")
    return parser.parse_args(argv)


def jobs(args, data="mnist"):
    for panel in args.panel:
        model, sizes, *_, steps = PANELS[panel]
        steps = args.steps or steps
        for seed in range(args.splits):
            for init in INITS:
                shared = dict(data=data, data_root=args.data_root, model=model, seed=seed, steps=steps)
                argv = command_line(eval_steps=[s for s in EVAL_STEPS if s <= steps] or [steps], **shared, **init_options(init, sizes))
                yield Job("fig4", panel, init, str(steps), seed, "experiments.convergence", argv, "batch 256, Adam 1e-3", every_row=True)


def table(rows):
    """The metric of each panel, mean ± standard deviation over seeds, beside the paper's, as Markdown."""
    lines = ["| panel | steps | init | value | paper | runs |", "|---|---|---|---|---|---|"]
    for panel, (_, _, metric, _, paper_panel, _) in PANELS.items():
        own = [r for r in rows if r["panel"] == panel]
        for step in sorted({r["x"] for r in own}):
            for init in INITS:
                values = select(own, method=init, x=step, metric=metric)
                if len(values):
                    paper = paper_value("fig4", paper_panel, init, step) or "–"
                    digits = 3 if metric == "acc" else 1
                    lines.append(f"| {panel} | {step} | {METHODS[init][0]} | {mean_std(values, digits)} | {paper} | {len(values)} |")
    return "\n".join(lines)


def plot(rows, file):
    figure, axes = new_figure(11, 4, columns=len(PANELS))
    for axis, (panel, (_, _, metric, label, paper_panel, _)) in zip(axes, PANELS.items()):
        own = [r for r in rows if r["panel"] == panel]
        for init in INITS:
            curve(axis, own, init, metric)
            paper_curve(axis, "fig4", paper_panel, init, label=f"paper, {METHODS[init][0]}")
        axis.set(xlabel="steps", ylabel=label, title=panel, xscale="log")
        ticks = [s for s in (20, 50, 100, 200, 400, 1000) if any(r["x"] >= s for r in own)]
        axis.set_xticks(ticks, map(str, ticks))
        axis.minorticks_off()
        axis.legend(frameon=False, fontsize=8)
    axes[0].set_ylim(-260, -85)
    axes[1].set_ylim(0.85, 1.0)
    figure.suptitle("Fig. 4: mean and range over seeds; grey: the paper", fontsize=10)
    save_figure(figure, file)


def main(argv=None):
    args = parse_args(argv)
    if args.quick:
        args.splits, args.steps = 1, 2
    rows, file = drive(args, "fig4", jobs(args, "glyph-digits" if args.quick else "mnist"), "batch 256, Adam 1e-3")
    print(table(rows))
    plot(rows, file)
    print(f"drew {file}")


if __name__ == "__main__":
    run_cli(main)
