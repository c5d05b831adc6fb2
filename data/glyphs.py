"""Two embedded image sets drawn from the fonts that matplotlib ships, for machines without a network.

`glyph-letters` (A-J) plays the source domain and `glyph-digits` (0-9) the target domain, as notMNIST and MNIST do in the paper.
Each glyph is drawn once per font at high resolution; an image is one such drawing under a random stroke weight, affine map
and elastic warp, sampled at twice the final size and averaged down to 28 x 28.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from myexman import replacing

GLYPHS = {"glyph-letters": "ABCDEFGHIJ", "glyph-digits": "0123456789"}
FONTS = (  # files in matplotlib's own folder, whatever fonts and font cache the machine has
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique"),
    *("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSansMono", "DejaVuSansMono-BoldOblique"),
    *("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "cmr10", "cmss10", "cmtt10", "cmb10"),
)
SIZE, CANVAS, CHUNK = 28, 96, 500
COUNTS = {"train": 12000, "test": 2000}


def draw_glyph(char, font):
    """One character in one of FONTS, centred, 70 % of the canvas high; float32 (CANVAS, CANVAS), ink is 1."""
    from matplotlib import get_data_path
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties
    from matplotlib.patches import PathPatch
    from matplotlib.textpath import TextPath
    from matplotlib.transforms import Affine2D

    file = Path(get_data_path(), "fonts/ttf", f"{font}.ttf")
    path = TextPath((0, 0), char, size=100, prop=FontProperties(fname=file))
    (x0, y0), (x1, y1) = path.get_extents().get_points()
    scale = 0.70 / max(x1 - x0, y1 - y0)
    centre = Affine2D().translate(-(x0 + x1) / 2, -(y0 + y1) / 2).scale(scale * CANVAS).translate(CANVAS / 2, CANVAS / 2)
    figure = Figure(figsize=(1, 1), dpi=CANVAS)
    figure.add_artist(PathPatch(path, color="black", linewidth=0, transform=centre))  # in pixels; axes would take most of the time
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return torch.from_numpy(1 - np.asarray(canvas.buffer_rgba())[..., 0] / 255).float()


def distort(ink, rng):
    """Random stroke weight, affine map and elastic warp.  ink: (n, 1, CANVAS, CANVAS) -> uint8 (n, SIZE, SIZE)."""
    n = len(ink)

    def uniform(low, high, *shape):
        return torch.empty(n, *shape).uniform_(low, high, generator=rng)

    # Stroke weight: blur, then move the threshold that separates ink from paper.
    soft = F.avg_pool2d(F.avg_pool2d(ink, 5, 1, 2), 5, 1, 2)
    ink = torch.sigmoid((soft - uniform(0.15, 0.55, 1, 1, 1)) * 25)
    # Affine map from output to input coordinates, both in [-1, 1]: rotation, slant, scale per axis, shift.
    angle, slant = uniform(-0.22, 0.22), uniform(-0.35, 0.35)
    sx, sy = uniform(0.75, 1.2), uniform(0.75, 1.1)
    cos, sin = angle.cos(), angle.sin()
    rotate = torch.stack([cos, -sin, sin, cos], 1).view(n, 2, 2)
    shear = torch.stack([sx, slant * sx, torch.zeros(n), sy], 1).view(n, 2, 2)
    shift = uniform(-0.12, 0.12, 2, 1)
    grid = F.affine_grid(torch.cat([rotate @ shear, shift], 2), (n, 1, 2 * SIZE, 2 * SIZE), align_corners=False)
    # Elastic warp: a smooth random displacement field.
    field = torch.randn(n, 2, 5, 5, generator=rng) * uniform(0.01, 0.06, 1, 1, 1)
    grid = grid + F.interpolate(field, size=(2 * SIZE, 2 * SIZE), mode="bicubic", align_corners=True).permute(0, 2, 3, 1)
    image = F.avg_pool2d(F.grid_sample(ink, grid, align_corners=False), 2)[:, 0]
    image = (image * uniform(0.85, 1.1, 1, 1)).clamp(0, 1)
    return (image * 255).round().byte().numpy()


def make_glyphs(name, file, counts=COUNTS, seed=0):
    """Render the set `name` and cache it as an .npz file (deterministic by seed; a few seconds on a CPU)."""
    chars = GLYPHS[name]
    masters = torch.stack(
        [torch.stack([draw_glyph(c, f) for f in FONTS]) for c in tqdm(chars, desc=f"{name}: fonts", leave=False, disable=None)]
    )
    rng = torch.Generator().manual_seed(seed + 1000 * list(GLYPHS).index(name))
    arrays = {}
    for split, n in counts.items():
        y = torch.arange(n) % len(chars)
        y = y[torch.randperm(n, generator=rng)]
        font = torch.randint(len(FONTS), (n,), generator=rng)
        chunks = tqdm(torch.arange(n).split(CHUNK), desc=f"{name}: {split}", leave=False, disable=None)
        arrays[f"x_{split}"] = np.concatenate([distort(masters[y[i], font[i]][:, None], rng) for i in chunks])
        arrays[f"y_{split}"] = y.byte().numpy()
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as (part,):
        np.savez_compressed(part, **arrays)
