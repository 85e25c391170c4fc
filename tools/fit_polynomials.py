"""Fit the polynomials of stream v1: minimax by linear programming, with coefficients that are float32 numbers.

    python tools/fit_polynomials.py [log|rsqrt|cos|sin|central|tail]

Prints coefficients (constant term first) and the largest error in units of the promise, 2**-21 of a normal's value.
They are written into
docs/stream.md, `tritonparam/stream/reference/transforms.py` and `kernels/transforms.py` by hand, once: a changed
coefficient is a new stream version.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.special import ndtri

Vector = NDArray[np.float64]
PROMISE = 2.0**-21
POINTS = 1200


def nodes(low: float, high: float) -> Vector:
    """Points of [low, high], dense towards both ends as the extrema of a minimax error are."""
    return low + (high - low) * (1 - np.cos(np.pi * (np.arange(POINTS) + 0.5) / POINTS)) / 2


def minimax(basis: NDArray[np.float64], target: Vector, tolerance: Vector) -> tuple[Vector, float]:
    """The coefficients that minimize max |basis @ c - target| / tolerance, and that maximum."""
    scaled, goal = basis / tolerance[:, None], target / tolerance
    ones = np.ones((len(goal), 1))
    scale = np.abs(scaled).max(0)
    rows = np.block([[scaled / scale, -ones], [-scaled / scale, -ones]])
    cost = np.r_[np.zeros(basis.shape[1]), 1.0]
    bounds = [(None, None)] * basis.shape[1] + [(0, None)]
    options = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}
    found = linprog(cost, A_ub=rows, b_ub=np.r_[goal, -goal], bounds=bounds, method="highs", options=options)
    return found.x[:-1] / scale, float(found.x[-1])


def fit(x: Vector, factor: Vector, degree: int, target: Vector, tolerance: Vector, fixed: dict[int, float]) -> None:
    """Fit factor * polynomial(x), rounding one coefficient after the other, the constant term first."""
    known = dict(fixed)
    powers = np.stack([factor * x**n for n in range(degree + 1)], axis=1)
    error = 0.0
    for n in range(degree + 1):
        if n in known:
            continue
        free = [m for m in range(degree + 1) if m not in known]
        rest = target - sum((powers[:, m] * value for m, value in known.items()), np.zeros_like(target))
        found, error = minimax(powers[:, free], rest, tolerance)
        known[n] = float(np.float32(found[0]))
    exact = np.abs(sum(powers[:, m] * value for m, value in known.items()) - target) / tolerance
    print("  minimax error", round(error, 4), "after rounding", round(float(exact.max()), 4))
    print("  ", ", ".join(f'"{known[n].hex()}"' for n in range(degree + 1)))


def log() -> None:
    """n * LOG(n) for w = -2 ln(1 + n/2), -1 <= n <= 0, alone and with an octave, 2 ln 2, added.

    An error of w is one of w / (2 sqrt(w)) in the radius, and the promise is absolute below 1, relative above.
    """
    n = nodes(-1, 0)
    w = -2 * np.log1p(n / 2)
    radius = np.sqrt(w)
    tolerance = 2 * PROMISE * np.minimum(radius * np.maximum(radius, 1), w + np.log(4))
    fit(n, n, 7, w, tolerance, {})


def rsqrt() -> None:
    """RSQRT(e) for 1 / sqrt(1 + e), where the integer seed leaves e = w * y**2 - 1."""
    low, high = seed_range()
    e = nodes(low, high)
    print("  e in", low, high)
    fit(e, np.ones_like(e), 4, 1 / np.sqrt(1 + e), np.full_like(e, PROMISE), {0: 1.0})


def seed_range() -> tuple[float, float]:
    """The range of e: it repeats with every factor of 4."""
    w = np.linspace(1, 4, 2_000_001, dtype=np.float32)
    y = (np.int32(0x5F375A86) + (-w.view(np.int32) >> 1)).view(np.float32).astype(np.float64)
    e = w.astype(np.float64) * y * y - 1
    return float(e.min()), float(e.max())


def _eighths() -> tuple[Vector, Vector]:
    x = nodes(0, 1)
    return x, x * x


def _angle_tolerance(value: Vector) -> Vector:
    """Of a sine or cosine whose radius may be anything up to 6.76."""
    return np.maximum(value, 1 / 6.76) * PROMISE


def cos() -> None:
    """COS(y) for cos(pi/4 x), y = x**2."""
    x, y = _eighths()
    value = np.cos(np.pi / 4 * x)
    fit(y, np.ones_like(y), 3, value, _angle_tolerance(value), {0: 1.0})


def sin() -> None:
    """x * SIN(y) for sin(pi/4 x), y = x**2."""
    x, y = _eighths()
    value = np.sin(np.pi / 4 * x)
    fit(y, x, 3, value, _angle_tolerance(value), {})


def _quantile(w: Vector) -> tuple[Vector, Vector]:
    """(q, z): the lower tail mass with w = -2 ln(4 q (1 - q)), and minus its normal quantile."""
    u = np.exp(-w / 2)
    q = u / (2 * (1 + np.sqrt(1 - u)))
    return q, -ndtri(q)


def central() -> None:
    """(1 - 2q) * CENTRAL(w) for the normal quantile, w <= 11."""
    w = nodes(0, 11.02)
    q, z = _quantile(w)
    fit(w, 1 - 2 * q, 9, z, np.maximum(z, 1) * PROMISE, {})


def tail() -> None:
    """sqrt(w) * TAIL(1 / sqrt(w)) for the normal quantile, w > 11: to a mass of 2**-149."""
    s = nodes(1 / np.sqrt(205), 1 / np.sqrt(10.98))
    _, z = _quantile(1 / s**2)
    fit(s, 1 / s, 7, z, z * PROMISE, {})


FITS: dict[str, Callable[[], None]] = {each.__name__: each for each in (log, rsqrt, cos, sin, central, tail)}

if __name__ == "__main__":
    for name in sys.argv[1:] or FITS:
        print(name)
        FITS[name]()
