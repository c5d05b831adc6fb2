"""A page for a prior: one HTML file, to open in a browser, without a network.

    python -m experiments.prior_page data/fconv/vae7x7 --out prior.html

It shows kernels beside samples, their norms, where the prior drifts, the card's numbers beside those of the shipped and of the published
priors of that kernel size, and, of a kernel VAE, what the decoder makes of the latent code under the pointer.
"""

import base64
import html
import io
import json
from pathlib import Path

import torch

from models.pictures import draw_kernels, new_figure
from models.prior_folder import card_rows
from models.screen import QUANTITIES
from models.vae import VAE
from myexman import Parser, read_params, replacing, resolve_paths
from myexman.logger import read_rows
from utils import load_density, load_kernels, run_cli, seed_everything

from .rows import HERE, RESULTS, ROOT
from .screening import draw_drift, draw_norms, numbers_by_prior

STEPS = {1: 201, 2: 41, 3: 21, 4: 11}  # points of the grid of codes along each dimension, by the number of those
LIMIT = 2.5  # of the codes that are shown


def parse_args(argv=None):
    parser = Parser(description=__doc__)
    parser.add_argument("prior", type=Path, metavar="DIR", help="a prior folder")
    parser.add_argument("--kernels", type=Path, metavar="DIR", help="folder of the kernels it was fitted to (default: from params.yaml)")
    parser.add_argument("--out", type=Path, default=Path("prior.html"), help="the page")
    return parser.parse_args(argv)


def kernels_of(args):
    """The kernels that the prior was fitted to, (n, 1, k, k), or None if they are not at hand."""
    params = resolve_paths(read_params(args.prior / "params.yaml"), ("data_dir",))
    fitted = Path(params.get("data_dir") or "")
    folders = [args.kernels] if args.kernels else [fitted, ROOT / fitted]
    found = [folder / "train.npy" for folder in folders if (folder / "train.npy").exists()]
    if args.kernels and not found:
        raise FileNotFoundError(f"--kernels: {args.kernels} has no train.npy")
    return load_kernels(found[0]) if found else None


def picture(figure, caption):
    """A figure as HTML."""
    content = io.BytesIO()
    figure.savefig(content, dpi=110, format="png")
    source = base64.b64encode(content.getvalue()).decode()
    said = html.escape(caption)
    return f'<figure><img alt="{said}" src="data:image/png;base64,{source}"><figcaption>{said}</figcaption></figure>'


@torch.no_grad()
def latent_grid(vae, kernels, colours):
    """What the page needs to decode: decoder means on a grid of the codes that vary most, as bytes, with their scale."""
    codes = vae.encoder(kernels)[0] if kernels is not None else vae.sample_codes(1000)
    variances = codes.var(0)
    dims = variances.topk(min(vae.z_dim, max(STEPS))).indices
    steps = STEPS[len(dims)]
    axis = torch.linspace(-LIMIT, LIMIT, steps)
    grid = torch.zeros(steps ** len(dims), vae.z_dim)
    grid[:, dims] = torch.cartesian_prod(*[axis] * len(dims)).view(len(grid), -1)
    means = torch.cat([vae.decoder(part)[0] for part in grid.split(4096)]).flatten(1)
    scale = float(means.abs().max())
    content = base64.b64encode((127 * means / scale).round().to(torch.int8).numpy().tobytes()).decode()
    facts = dict(k=vae.kernel_dim, steps=steps, dims=dims.tolist(), limit=LIMIT, scale=scale, colours=colours, grid=content)
    return facts | dict(variances=[f"{value:.2f}" for value in variances[dims].tolist()])


LATENT = """<h2>Its latent space</h2>
<div class="latent">
<div><canvas id="plane" width="450" height="{height}"></canvas><p class="note">Move over the plane: {axes}.</p></div>
<div><canvas id="kernel" width="210" height="210"></canvas><p id="code"></p><div id="sliders"></div>
<p class="note">The decoder's mean, between points of a grid.{rest}</p></div>
</div>"""


def latent_section(facts, z_dim):
    names = [f"z{d + 1}" for d in facts["dims"]]
    axes = f"{names[0]} from left to right, {names[1]} from below, the two that vary most" if len(names) > 1 else names[0]
    rest = f" The other {z_dim - len(names)} codes are 0." if z_dim > len(names) else ""
    return LATENT.format(height=450 if len(names) > 1 else 30, axes=axes, rest=rest)


def drawn(draw, values):
    """A figure of its own of what draw(axis, values) draws."""
    figure, axis = new_figure(6, 3)
    draw(axis, values)
    return figure


def table(priors):
    lines = ["<table>", "<tr><th>quantity</th>" + "".join(f"<th>{html.escape(name)}</th>" for name in priors) + "</tr>"]
    for quantity, words in QUANTITIES.items():
        cells = [numbers.get(quantity) for numbers in priors.values()]
        if any(cell is not None for cell in cells):
            shown = "".join(f"<td>{'–' if cell is None else f'{cell:.4g}'}</td>" for cell in cells)
            lines.append(f"<tr><td>{html.escape(words)}</td>{shown}</tr>")
    return "\n".join([*lines, "</table>"])


def page(args):
    """The page's text."""
    seed_everything(0)
    density, kernels = load_density(args.prior), kernels_of(args)
    k, samples = density.kernel_dim, density.sample(2000)
    if kernels is not None and kernels.shape[-1] != k:
        raise ValueError(f"the prior is of {k}x{k} kernels, and --kernels are {kernels.shape[-1]}x{kernels.shape[-1]}")
    groups = ({"kernels": kernels} if kernels is not None else {}) | {"samples of the prior": samples}
    others = numbers_by_prior(row for row in read_rows(RESULTS / "priors.csv") if f"vae{k}x{k}" in row["prior"])
    priors = {"this prior": card_rows(args.prior)} | others
    figure, axes = new_figure(3.8 * len(groups) + 0.8, 3.8, columns=len(groups), squeeze=False)
    draw_kernels(axes[0], {name: w[torch.randperm(len(w))[:100]] for name, w in groups.items()})
    pictures = picture(figure, "A hundred of each, on one scale.") + picture(drawn(draw_norms, groups), "Their norms.")
    drifts = "The drift test: how alike (mean absolute cosine) kernels become when only the prior moves them; a value near 1 ruins a net. "
    drifts += "Open: alignment, the length of their mean direction."
    pictures += picture(drawn(draw_drift, priors), drifts)
    known = f"its folder of kernels holds {len(kernels)} now" if kernels is not None else "the kernels it was fitted to are not at hand"
    facts = latent_grid(density, kernels, float(samples.abs().quantile(0.99))) if type(density) is VAE else None
    fields = dict(
        title=f"A prior of {k}x{k} kernels: {html.escape(args.prior.resolve().name)}",
        about=f"A {type(density).__name__}{f' with {density.z_dim} latent dimensions' if facts else ''}; {known}.",
        latent=latent_section(facts, density.z_dim) if facts else "",
        pictures=pictures,
        table=table(priors),
        data=json.dumps(facts),
    )
    text = (HERE / "prior_page.html").read_text()
    for name, value in fields.items():
        text = text.replace(f"@{name}@", value)
    return text


def main(argv=None):
    args = parse_args(argv)
    text = page(args)
    with replacing(args.out) as (part,):
        part.write_text(text)
    print(f"wrote {args.out}, {len(text) / 1e6:.1f} MB")


if __name__ == "__main__":
    run_cli(main)
