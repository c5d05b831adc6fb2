"""Pictures of kernels, and matplotlib figures that need no display."""

from pathlib import Path

import numpy as np
import torch


def new_figure(width, height, columns=1, rows=1, **kwargs):
    """A matplotlib figure that needs no display, and its axes (an array if there are several). Sizes in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, **kwargs)


def save_figure(figure, file):
    """Write a figure to a file, and return it."""
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=130)
    return figure


def kernel_sheet(kernels, columns=10):
    """Kernels (n, 1, k, k) as one picture (rows (k + 1) + 1, columns (k + 1) + 1), NaN between them."""
    kernels = kernels.detach().cpu()
    k, rows = kernels.shape[-1], -(-len(kernels) // columns)
    sheet = torch.full((rows * (k + 1) + 1, columns * (k + 1) + 1), float("nan"))
    for i, w in enumerate(kernels[:, 0]):
        r, c = divmod(i, columns)
        sheet[r * (k + 1) + 1 : (r + 1) * (k + 1), c * (k + 1) + 1 : (c + 1) * (k + 1)] = w
    return sheet.numpy()


def draw_kernels(axes, groups, columns=10):
    """One panel per group of kernels, {title: (n, 1, k, k)}, all on one colour scale centred at zero."""
    sheets = {title: kernel_sheet(w, columns) for title, w in groups.items()}
    limit = max(np.nanquantile(np.abs(s), 0.995) for s in sheets.values())
    for axis, (title, sheet) in zip(axes, sheets.items()):
        image = axis.imshow(sheet, cmap="RdBu_r", vmin=-limit, vmax=limit)
        axis.set_title(title, fontsize=10)
        axis.axis("off")
    axes[-1].figure.colorbar(image, ax=list(axes), shrink=0.7, label="weight")


def plot_kernels(groups, file=None):
    """A figure of draw_kernels(), written to a file if one is given."""
    figure, axes = new_figure(3.6 * len(groups) + 0.8, 3.6, columns=len(groups), squeeze=False)
    draw_kernels(axes[0], groups)
    return save_figure(figure, file) if file else figure


@torch.no_grad()
def plot_latent(vae, kernels, file=None, shown=250):
    """A figure, written to a file if one is given: latent means of kernels in a plane, some kernels drawn at their place, and the decoder's
    mean on a grid (paper, Fig. 5).

    Of a VAE with more than two latent dimensions, the plane of the two that vary most; the grid's others are 0."""
    z = vae.encoder(kernels)[0].cpu()
    plane = z.var(0).topk(2).indices.sort().values
    z = z[:, plane]
    limit = 1.1 * float(z.abs().quantile(0.995))
    figure, (left, right) = new_figure(11, 5.6, columns=2)
    left.plot(*z.T, ".", color="0.8", markersize=2)
    colours = float(kernels.abs().quantile(0.995))
    size = limit / 22
    for (x, y), w in zip(z[:shown].tolist(), kernels[:shown, 0].cpu()):
        left.imshow(w, cmap="RdBu_r", vmin=-colours, vmax=colours, extent=(x - size, x + size, y - size, y + size), zorder=2)
    names = dict(zip(("xlabel", "ylabel"), (f"$z_{i + 1}$" for i in plane.tolist())))
    left.set(xlim=(-limit, limit), ylim=(-limit, limit), title="kernels at their latent means", **names)
    axis = torch.linspace(-limit, limit, 15)
    grid = torch.zeros(15**2, vae.z_dim)
    grid[:, plane] = torch.cartesian_prod(axis.flip(0), axis).flip(1)  # rows from top to bottom, columns from left to right
    right.imshow(
        kernel_sheet(vae.decoder(grid.to(kernels.device))[0], 15),
        cmap="RdBu_r",
        vmin=-colours,
        vmax=colours,
        extent=(-limit, limit, -limit, limit),
    )
    right.set(title="decoder mean over the latent plane", **names)
    return save_figure(figure, file) if file else figure
