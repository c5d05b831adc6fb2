"""The README's table: what the paper claims, its number, ours, and a verdict that follows from our interval by a rule.

python -m experiments.report writes it.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from . import fig2_tables, fig3, fig4, sparsification
from .methods import paper_value
from .rows import interval, interval_ends, markdown, paired_differences, select


class Claim(NamedTuple):
    """text: the claim.  figure, panel, x: where paper_results.csv has its number, of one method, or of `better` less `worse`.

    values(): our numbers, an array over splits or seeds.  digits: shown."""

    text: str
    figure: str
    panel: str
    x: str
    better: str
    worse: str
    values: Callable
    digits: int = 3

    def published(self):
        """The paper's number, or None."""
        better, worse = (paper_value(self.figure, self.panel, method, self.x) if method else 0 for method in (self.better, self.worse))
        return None if None in (better, worse) else better - worse

    def line(self):
        paper, values, sign = self.published(), self.values(), "+" if self.worse else ""
        runs = f", {len(values)} runs" if len(values) > 1 else ""
        return [
            self.text,
            "–" if paper is None else f"{paper:{sign}.{self.digits}f}",
            interval(values, self.digits, sign) + runs,
            verdict(values, paper, bool(self.worse)),
        ]


def verdict(values, paper, difference=True):
    """What our numbers say of the paper's, by their 95 % interval, a word in bold.

    Of a difference, which the paper finds above 0: yes, if the interval is above 0 and holds the paper's; smaller or larger, if it is above
    0 and beside the paper's; no, if it is not above 0 and below the paper's; open, if it has room for both, or there is no interval.
    Without a number of the paper's: yes above 0, no below, else open. Of a number: yes, smaller or larger."""
    if len(values) < 2:
        return "**open**"
    low, high = interval_ends(values)
    if paper is None:
        return "**yes**" if low > 0 else "**no**" if high < 0 else "**open**"
    if difference and low <= 0:
        return "**no**" if high < paper else "**open**"
    return "**smaller**" if high < paper else "**larger**" if low > paper else "**yes**"


LONG, SHORT = sorted(fig2_tables.SCHEDULES, reverse=True)
OTHER_DRAW = partial(fig2_tables.lead, "mnist", LONG, 50, "dwp-256", "frozen", "acc", seed=1)


def fig2_claims(text, epochs, x, better, worse, starts=tuple(fig2_tables.FIRST_KERNELS)):
    """A claim of Fig. 2a or b, with the baseline from each of these starts."""
    panel = dict(a="mnist", b="cifar10")[text[0]]
    for said, start in zip((f"Fig. 2{text}", "…"), starts):
        ours, kernels = partial(fig2_tables.lead, panel, epochs, x, better, worse, "acc", start), fig2_tables.FIRST_KERNELS[start]
        yield Claim(f"{said} from {kernels.format('the prior')}", "fig2", panel, str(x), "dwp", worse, ours)


def fig4_claim(text, panel, x, digits=3):
    """The lead over Xavier's start after x steps."""
    own = fig4.PANELS[panel]

    def ours():
        return paired_differences(fig4.in_main(fig4.DRIVER.results()), "dwp", "xavier", panel=panel, x=x, metric=own.metric)

    return Claim(f"Fig. 4: {text}", "fig4", own.paper, str(x), "dwp", "xavier", ours, digits)


def untrained():
    return paired_differences(fig3.DRIVER.results(), "dwp", "xavier", panel="mnist", x="1/4", metric="acc")


def compressed():
    return select(sparsification.DRIVER.results(), panel="lenet300", method="loguniform", metric="compression_snr")


CLAIMS = [
    *fig2_claims("a, the paper's schedule, 50 digits: it beats N(0, 1)", LONG, 50, "dwp-256", "sn"),
    *fig2_claims("a, 50 digits: it beats variational dropout (the release's log-uniform)", LONG, 50, "dwp-256", "vd"),
    *fig2_claims("a, 100 digits: it beats N(0, 1)", LONG, 100, "dwp-256", "sn", starts=("xavier",)),
    *fig2_claims("a, 100 digits: it beats variational dropout", LONG, 100, "dwp-256", "vd", starts=("xavier",)),
    *fig2_claims("a, 50 digits, not in the paper: it beats untrained kernels", LONG, 50, "dwp-256", "frozen", starts=("vae",)),
    Claim("… by another draw of these", "fig2", "mnist", "50", "dwp", "frozen", OTHER_DRAW),
    *fig2_claims("b, reduced, 200 images of CIFAR-10: it beats N(0, 1)", SHORT, 200, "dwp", "sn"),
    Claim(
        "Fig. 3a: untrained, kernels from the prior beat Xavier's (quarter-width nets)",
        *("fig3", "mnist", "1/4", "dwp", "xavier", untrained),
    ),
    fig4_claim("an image VAE learns faster from kernels of the prior (nats after 200 steps)", "vae-mnist", 200, digits=1),
    fig4_claim("… and a CNN on MNIST (accuracy after 100 steps)", "convnet-mnist", 100),
    fig4_claim("… and a CNN on CIFAR-10 (accuracy after 100 steps)", "convnet-cifar10", 100),
    Claim(
        "Slides: Sparse variational dropout compresses LeNet-300-100 (times)",
        *("slides_sparse_vd", "lenet300 compression", "", "loguniform", "", compressed, 0),
    ),
]


def table():
    return markdown(
        "claim (it: a net under the deep weight prior) | paper | ours (95 % interval) | holds", [claim.line() for claim in CLAIMS]
    )
