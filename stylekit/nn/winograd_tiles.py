"""The transforms of Winograd's F(4x4, 3x3), before and after the product (Lavin and Gray 2016, section 4.2), as compiled loops.

Pictures are [N, H, W, C] in memory, tiles [T, 36, C], both given flat. `where` is the picture's height and width, the row of
tiles that the tiles given begin with, and which rows of tiles to do from there, begin and end.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from stylekit.nn.cpu import compiled

NEAR, FAR = 0.75, 1.5
"""The product is taken at 0, plus and minus these, and infinity. With 1 and 2, as in the paper, it is 1.7 times less exact."""

# LLVM makes vector code of the innermost loops, over the channels, only where no more than eight pairs of places must be checked
# not to overlap; places a known distance apart count as one. So the number of channels is a constant of each kernel, the first
# pass stores what the second one loads pixel by pixel, not row by row, and indices are unsigned.


@cache
def enter_tiles(channels: int) -> Callable[..., None]:
    """Return the kernel that transforms 6x6 tiles of some rows of tiles: `out[k, p, c]` of tile k, Lavin and Gray's B^T d B."""
    one = np.uintp(channels)

    @compiled(fastmath=True)
    def enter(picture: Any, gate: Any, slope: Any, out: Any, where: Any) -> None:
        height, width, first, begin, end = where
        gated = slope != 1
        negative = np.float32(slope)
        p, q = np.float32(NEAR), np.float32(FAR)
        pp, qq = p * p, q * q
        sum_, product = pp + qq, pp * qq
        across, down = np.uintp((width + 3) // 4), (height + 3) // 4
        line = np.uintp(width) * one
        halfway = np.zeros((4 * across + 2) * 6 * one, np.float32)
        near = np.empty(6 * line, np.float32)
        for r in range(begin, end):
            image, top = (first + r) // down, (first + r) % down * 4 - 1
            if gated or top < 0 or top + 6 > height:
                for i in range(6):
                    y, z = top + i, np.uintp(i) * line
                    o = np.uintp((image * height + y) * width) * one
                    if not 0 <= y < height:
                        for c in range(line):
                            near[z + c] = 0
                    elif gated:
                        for c in range(line):
                            v = picture[o + c]
                            near[z + c] = v if gate[o + c] > 0 else v * negative
                    else:
                        for c in range(line):
                            near[z + c] = picture[o + c]
                source, start = near, np.uintp(0)
            else:
                source, start = picture, np.uintp((image * height + top) * width) * one
            for x in range(np.uintp(width)):
                o, z = start + x * one, (x + np.uintp(1)) * np.uintp(6) * one
                for c in range(one):
                    d0 = source[o + c]
                    d1 = source[o + c + line]
                    d2 = source[o + c + np.uintp(2) * line]
                    d3 = source[o + c + np.uintp(3) * line]
                    d4 = source[o + c + np.uintp(4) * line]
                    d5 = source[o + c + np.uintp(5) * line]
                    s = d4 - qq * d2
                    u = p * (d3 - qq * d1)
                    v = d4 - pp * d2
                    w = q * (d3 - pp * d1)
                    halfway[z + c] = product * d0 - sum_ * d2 + d4
                    halfway[z + c + one] = s + u
                    halfway[z + c + np.uintp(2) * one] = s - u
                    halfway[z + c + np.uintp(3) * one] = v + w
                    halfway[z + c + np.uintp(4) * one] = v - w
                    halfway[z + c + np.uintp(5) * one] = product * d1 - sum_ * d3 + d5
            for t in range(across):
                for i in range(np.uintp(6)):
                    o = (t * np.uintp(24) + i) * one
                    z = ((np.uintp(r) * across + t) * np.uintp(36) + i * np.uintp(6)) * one
                    for c in range(one):
                        d0 = halfway[o + c]
                        d1 = halfway[o + c + np.uintp(6) * one]
                        d2 = halfway[o + c + np.uintp(12) * one]
                        d3 = halfway[o + c + np.uintp(18) * one]
                        d4 = halfway[o + c + np.uintp(24) * one]
                        d5 = halfway[o + c + np.uintp(30) * one]
                        s = d4 - qq * d2
                        u = p * (d3 - qq * d1)
                        v = d4 - pp * d2
                        w = q * (d3 - pp * d1)
                        out[z + c] = product * d0 - sum_ * d2 + d4
                        out[z + c + one] = s + u
                        out[z + c + np.uintp(2) * one] = s - u
                        out[z + c + np.uintp(3) * one] = v + w
                        out[z + c + np.uintp(4) * one] = v - w
                        out[z + c + np.uintp(5) * one] = product * d1 - sum_ * d3 + d5

    return enter


@cache
def leave_tiles(channels: int) -> Callable[..., None]:
    """Return the kernel that brings some rows of tiles back, Lavin and Gray's A^T m A, adds the bias, takes the leaky ReLU."""
    one = np.uintp(channels)

    @compiled(fastmath=True)
    def leave(product: Any, bias: Any, slope: Any, out: Any, where: Any) -> None:
        height, width, first, begin, end = where
        negative = np.float32(slope)
        p, q = np.float32(NEAR), np.float32(FAR)
        pp, qq, ppp, qqq = p * p, q * q, p * p * p, q * q * q
        across, down = (width + 3) // 4, (height + 3) // 4
        halfway = np.empty(np.uintp(24) * one, np.float32)
        made = np.empty(np.uintp(16) * one, np.float32)
        for r in range(begin, end):
            image, top = (first + r) // down, (first + r) % down * 4
            for t in range(across):
                left = t * 4
                for i in range(np.uintp(6)):
                    o = (np.uintp(r * across + t) * np.uintp(36) + i * np.uintp(6)) * one
                    z = i * np.uintp(4) * one
                    for c in range(one):
                        m1 = product[o + c + one]
                        m2 = product[o + c + np.uintp(2) * one]
                        m3 = product[o + c + np.uintp(3) * one]
                        m4 = product[o + c + np.uintp(4) * one]
                        s, d, u, v = m1 + m2, m1 - m2, m3 + m4, m3 - m4
                        halfway[z + c] = product[o + c] + s + u
                        halfway[z + c + one] = p * d + q * v
                        halfway[z + c + np.uintp(2) * one] = pp * s + qq * u
                        halfway[z + c + np.uintp(3) * one] = ppp * d + qqq * v + product[o + c + np.uintp(5) * one]
                for j in range(np.uintp(4)):
                    o = j * one
                    for c in range(one):
                        m1 = halfway[o + c + np.uintp(4) * one]
                        m2 = halfway[o + c + np.uintp(8) * one]
                        m3 = halfway[o + c + np.uintp(12) * one]
                        m4 = halfway[o + c + np.uintp(16) * one]
                        s, d, u, v = m1 + m2, m1 - m2, m3 + m4, m3 - m4
                        shift = bias[c]
                        y0 = halfway[o + c] + s + u + shift
                        y1 = p * d + q * v + shift
                        y2 = pp * s + qq * u + shift
                        y3 = ppp * d + qqq * v + halfway[o + c + np.uintp(20) * one] + shift
                        made[o + c] = y0 if y0 > 0 else y0 * negative
                        made[o + c + np.uintp(4) * one] = y1 if y1 > 0 else y1 * negative
                        made[o + c + np.uintp(8) * one] = y2 if y2 > 0 else y2 * negative
                        made[o + c + np.uintp(12) * one] = y3 if y3 > 0 else y3 * negative
                row = np.uintp(min(4, width - left)) * one
                for i in range(min(4, height - top)):
                    o = np.uintp((image * height + top + i) * width + left) * one
                    z = np.uintp(4 * i) * one
                    for c in range(row):
                        out[o + c] = made[z + c]

    return leave


@cache
def spread_tiles(channels: int) -> Callable[..., None]:
    """Return the kernel that transforms 4x4 tiles of some rows of tiles of a gradient, A g A^T: back through `leave_tiles`."""
    one = np.uintp(channels)

    @compiled(fastmath=True)
    def spread(gradient: Any, gate: Any, slope: Any, out: Any, where: Any) -> None:
        height, width, first, begin, end = where
        gated = slope != 1
        negative = np.float32(slope)
        p, q = np.float32(NEAR), np.float32(FAR)
        pp, qq, ppp, qqq = p * p, q * q, p * p * p, q * q * q
        across, down = np.uintp((width + 3) // 4), (height + 3) // 4
        line = np.uintp(width) * one
        halfway = np.zeros(4 * across * 6 * one, np.float32)
        near = np.empty(4 * line, np.float32)
        for r in range(begin, end):
            image, top = (first + r) // down, (first + r) % down * 4
            if gated or top + 4 > height:
                for i in range(4):
                    y, z = top + i, np.uintp(i) * line
                    o = np.uintp((image * height + y) * width) * one
                    if y >= height:
                        for c in range(line):
                            near[z + c] = 0
                    elif gated:
                        for c in range(line):
                            v = gradient[o + c]
                            near[z + c] = v if gate[o + c] > 0 else v * negative
                    else:
                        for c in range(line):
                            near[z + c] = gradient[o + c]
                source, start = near, np.uintp(0)
            else:
                source, start = gradient, np.uintp((image * height + top) * width) * one
            for x in range(np.uintp(width)):
                o, z = start + x * one, x * np.uintp(6) * one
                for c in range(one):
                    g0 = source[o + c]
                    g1 = source[o + c + line]
                    g2 = source[o + c + np.uintp(2) * line]
                    g3 = source[o + c + np.uintp(3) * line]
                    even, odd = g0 + pp * g2, p * g1 + ppp * g3
                    even2, odd2 = g0 + qq * g2, q * g1 + qqq * g3
                    halfway[z + c] = g0
                    halfway[z + c + one] = even + odd
                    halfway[z + c + np.uintp(2) * one] = even - odd
                    halfway[z + c + np.uintp(3) * one] = even2 + odd2
                    halfway[z + c + np.uintp(4) * one] = even2 - odd2
                    halfway[z + c + np.uintp(5) * one] = g3
            for t in range(across):
                for i in range(np.uintp(6)):
                    o = (t * np.uintp(24) + i) * one
                    z = ((np.uintp(r) * across + t) * np.uintp(36) + i * np.uintp(6)) * one
                    for c in range(one):
                        g0 = halfway[o + c]
                        g1 = halfway[o + c + np.uintp(6) * one]
                        g2 = halfway[o + c + np.uintp(12) * one]
                        g3 = halfway[o + c + np.uintp(18) * one]
                        even, odd = g0 + pp * g2, p * g1 + ppp * g3
                        even2, odd2 = g0 + qq * g2, q * g1 + qqq * g3
                        out[z + c] = g0
                        out[z + c + one] = even + odd
                        out[z + c + np.uintp(2) * one] = even - odd
                        out[z + c + np.uintp(3) * one] = even2 + odd2
                        out[z + c + np.uintp(4) * one] = even2 - odd2
                        out[z + c + np.uintp(5) * one] = g3

    return spread
