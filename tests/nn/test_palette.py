import pytest
import torch

from stylekit.nn.palette import GRID, MEMORY, Palette


def flat(*colours, size=64):
    return torch.stack([torch.tensor(c, dtype=torch.float32).view(3, 1, 1).expand(3, size, size) for c in colours])


RED, GREEN, WHITE = (1.0, -1, -1), (-1, 1.0, -1), (1.0, 1, 1)


def test_each_place_takes_the_nearest_colour_that_cartoons_have_there():
    """Left half red or white, right half green: a reddish photograph becomes red on the left, and on the right green."""
    palette = Palette()
    for left in (RED, WHITE):
        cartoon = torch.cat((flat(left)[..., :32], flat(GREEN)[..., :32]), -1)
        palette.remember(cartoon)
    target = palette.targets(flat((0.9, -0.5, -0.5)))
    assert torch.allclose(target[..., : GRID // 2 - 2], flat(RED, size=GRID)[..., : GRID // 2 - 2])
    assert torch.allclose(target[..., GRID // 2 + 2 :], flat(GREEN, size=GRID)[..., GRID // 2 + 2 :])


def test_the_distance_is_zero_on_target_and_pulls_towards_it():
    palette = Palette()
    palette.remember(flat(RED, GREEN))
    photo = flat((0.8, -0.7, -0.9))
    assert palette(flat(RED), photo).item() == pytest.approx(0)
    stylized = photo.clone().requires_grad_()
    distance = palette(stylized, photo)
    distance.backward()
    assert distance.item() == pytest.approx((0.2 + 0.3 + 0.1) / 3, abs=1e-5)
    assert (stylized.grad[:, 0] < 0).all()
    assert (stylized.grad[:, 1] > 0).all()


def test_only_the_latest_cartoons_are_remembered():
    palette = Palette()
    palette.remember(flat(RED))
    for _ in range(MEMORY // 4):
        palette.remember(flat(GREEN, GREEN, GREEN, GREEN))
    assert int(palette.seen) == MEMORY + 1
    assert torch.allclose(palette.targets(flat(RED)), flat(GREEN, size=GRID))


def test_the_memory_is_part_of_a_checkpoint():
    palette, other = Palette(), Palette()
    palette.remember(flat(RED, WHITE))
    other.load_state_dict(palette.state_dict())
    assert torch.equal(other.targets(flat(WHITE)), palette.targets(flat(WHITE)))
