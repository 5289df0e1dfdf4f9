from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stylekit.faces.pose import head_pose

LEVEL_PITCH_DEG = 9.6
ANGLES = st.floats(-50, 50)


def level_head() -> np.ndarray:
    """A flat face, its chin nearer the camera by what a level head's is."""
    points = np.zeros((468, 3))
    for right, left, y in ((33, 263, -1.0), (61, 291, 1.0), (234, 454, 0.0)):
        points[[right, left], :2] = (-1.0, y), (1.0, y)
    slope = np.tan(np.radians(LEVEL_PITCH_DEG))
    points[10], points[152] = (0, -2, -2 * slope), (0, 2, 2 * slope)
    return points


def turn_about(axis: int, degrees: float) -> np.ndarray:
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    first, second = [(1, 2), (0, 2), (0, 1)][axis]
    matrix = np.eye(3)
    matrix[[first, second], [first, second]] = cosine
    matrix[first, second], matrix[second, first] = -sine, sine
    return matrix


@settings(max_examples=30, deadline=None)
@given(ANGLES, ANGLES, st.floats(0.1, 100), st.floats(-1e3, 1e3))
def test_roll_and_yaw_are_the_angles_that_a_head_was_turned_by(roll, yaw, size, moved):
    head = level_head() @ turn_about(1, yaw).T @ turn_about(2, roll).T * size + moved
    assert head_pose(head)[:2] == pytest.approx((roll, yaw), abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(ANGLES)
def test_pitch_of_a_level_head_is_none_and_grows_by_the_turn(pitch):
    assert head_pose(level_head() @ turn_about(0, pitch).T) == pytest.approx((0, 0, pitch), abs=1e-6)
