"""Theorem D.1 on Gaussian data, where every term is closed form: ``python tests/shared/theorem.py`` writes its page.

A solver is then an affine map ``x_T -> a x_T + b`` of each coordinate. In units of sigma_T the shift that a noise
needs, ``T(x) - x`` with ``T = student^-1 teacher``, is ``(rho - 1) x + beta``, where ``rho = a_* / a`` and
``beta = (b_* - b) / (a sigma_T)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from pathlib import Path

import torch
from torch import Tensor

import s4s

ROOT = Path(__file__).resolve().parents[2]
PAGE, PICTURE = ROOT / "docs" / "theorem.md", ROOT / "docs" / "images" / "theorem"
SPREAD = torch.tensor([0.2, 0.4, 0.7, 1.0, 1.5, 2.5], dtype=torch.float64)  # of the data, by coordinate
MEAN = torch.linspace(-1, 1, 6, dtype=torch.float64)
PROCESS = s4s.EDM()
STUDENTS = {"DDIM": ("ddim", {}), "iPNDM 3": ("ipndm", {"order": 3}), "DPM-Solver++ 3": ("dpmpp", {"order": 3})}
NFES = (3, 4, 5, 6, 8, 10, 14, 20)


@dataclass(frozen=True)
class Terms:
    """What the theorem speaks of.

    Args:
        d: dimension.
        r: root mean square of the shift, in units of sigma_T.
        kl: KL(q || p), q the teacher's law and p the student's.
        volume: E_q[C(student) - C(teacher)], C the log-determinant of a solver's Jacobian.
    """

    d: int
    r: float
    kl: float
    volume: float

    @property
    def bound(self) -> float:
        """``r^2 / 2 + r sqrt(d) + volume``"""
        return self.r**2 / 2 + self.r * sqrt(self.d) + self.volume

    @property
    def stated(self) -> float:
        """``r^2 / 2 + r sqrt(d + 1) + |volume|``"""
        return self.r**2 / 2 + self.r * sqrt(self.d + 1) + abs(self.volume)


def terms(rho: Tensor, beta: Tensor) -> Terms:
    """Of affine maps, by coordinate: ``rho`` the ratio of their slopes, ``beta`` the shift of the noise."""
    r = ((rho - 1) ** 2 + beta**2).sum().sqrt().item()
    volume = -rho.abs().log().sum().item()
    kl = ((rho**2 + beta**2 - 1) / 2).sum().item() + volume
    return Terms(len(rho), r, kl, volume)


def denoise(x: Tensor, sigma: Tensor) -> Tensor:
    """The exact network of ``N(MEAN, SPREAD^2)``; sigma is one level."""
    return MEAN + SPREAD**2 / (SPREAD**2 + sigma**2) * (x - MEAN)


def affine(solver: s4s.Solver) -> tuple[Tensor, Tensor]:
    """Slope and offset [d] of a solver, from two samples."""
    x_T = solver.sigma[0] * torch.stack([torch.zeros_like(MEAN), torch.ones_like(MEAN)])
    offset, end = s4s.sample(solver, denoise, x_T)
    return (end - offset) / solver.sigma[0], offset


def of_solver(name: str, nfe: int, options: dict[str, int]) -> Terms:
    """A textbook solver on the EDM grid beside the teacher, UniPC with 100 evaluations."""
    slope, offset = affine(s4s.solver(name, s4s.grid("edm", PROCESS, nfe), **options))
    strong, at = affine(s4s.solver("unipc", s4s.grid("logsnr", PROCESS, 100)))
    return terms(strong / slope, (at - offset) / (slope * PROCESS.sigma_max))


def moved(r: float, kind: str, d: int = 6) -> Terms:
    """Teacher and student that differ by a translation of the noise, or by scaling it up or down, by r on average."""
    one, zero = torch.ones(d, dtype=torch.float64), torch.zeros(d, dtype=torch.float64)
    if kind == "translation":
        return terms(one, one * r / sqrt(d))
    return terms(one * (1 + r / sqrt(d) if kind == "growth" else 1 - r / sqrt(d)), zero)


def beyond(r: float, radius: float, d: int = 6, n: int = 100_000) -> float:
    """Share of noises that a growth of mean shift r moves out of a ball of this radius."""
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (r / sqrt(d) * x.norm(dim=1) > radius).double().mean().item()


def rows() -> list[str]:
    """The table of the page."""
    made = [
        "| solver | NFE | r | KL | r²/2 + r√d + ΔC | r²/2 + r√(d+1) + \\|ΔC\\| | ΔC |",
        "|:--|--:|--:|--:|--:|--:|--:|",
    ]
    for label, (name, options) in STUDENTS.items():
        for nfe in (4, 6, 10, 20):
            t = of_solver(name, nfe, options)
            made.append(
                f"| {label} | {nfe} | {t.r:.3f} | {t.kl:.3g} | {t.bound:.3f} | {t.stated:.3f} | {t.volume:+.3f} |"
            )
    return made


def page() -> str:
    """The page: what is said by hand, around the table."""
    said = PAGE.read_text(encoding="utf-8")
    before, _, rest = said.partition("<!-- table -->\n")
    _, _, after = rest.partition("<!-- end -->")
    return before + "<!-- table -->\n" + "\n".join(rows()) + "\n<!-- end -->" + after


def draw() -> list[Path]:
    """Bound against truth as r grows: three families in closed form, and few-step solvers."""
    import numpy as np
    from matplotlib.figure import Figure

    from s4s.report.style import drawing, save

    colors = {"translation": "#0072B2", "growth": "#D55E00", "shrinking": "#009E73"}
    with drawing():
        figure = Figure(figsize=(7.0, 3.1))
        left, right = figure.subplots(1, 2, sharey=True)
        r = np.geomspace(0.02, 2.2, 60)
        for kind, color in colors.items():
            every = [moved(float(each), kind) for each in r]
            left.plot(r, [t.kl for t in every], color=color, lw=1.8, label=f"{kind} of the noise")
            left.plot(r, [t.bound for t in every], color=color, lw=1.2, ls=(0, (4, 2)))
        left.plot([], [], color="#444444", lw=1.8, label="KL, the truth")
        left.plot([], [], color="#444444", lw=1.2, ls=(0, (4, 2)), label="r²/2 + r√d + ΔC")
        for (label, (name, options)), color in zip(STUDENTS.items(), colors.values(), strict=True):
            every = [of_solver(name, nfe, options) for nfe in NFES]
            x = [t.r for t in every]
            right.plot(x, [t.kl for t in every], color=color, marker="o", ms=3.5, lw=1.4, label=label)
            right.plot(x, [t.bound for t in every], color=color, lw=1.2, ls=(0, (4, 2)))
            right.plot(x, [t.stated for t in every], color=color, lw=1, ls=(0, (1, 1.5)))
        right.plot([], [], color="#444444", lw=1, ls=(0, (1, 1.5)), label="r²/2 + r√(d+1) + |ΔC|")
        for axes, title in ((left, "closed-form families"), (right, f"solvers, {NFES[-1]} to {NFES[0]} NFE")):
            axes.set(xscale="log", yscale="log", xlabel="r, root mean square shift (units of σ_T)", title=title)
            axes.grid(True)
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, columnspacing=1.2)
        left.set_ylabel("KL(teacher || student), nats")
        left.set_ylim(1e-4, 50)
        figure.subplots_adjust(wspace=0.08)
        return save(figure, PICTURE)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    for path in draw():
        if path.suffix == ".pdf":
            path.unlink()
