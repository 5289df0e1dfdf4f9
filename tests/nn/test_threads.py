from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylekit.nn.threads import on_threads


@pytest.fixture(autouse=True)
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.frozen = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
        self.frozen.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.frozen(F.leaky_relu(self.first(x), 0.2))
        return made


@pytest.mark.parametrize("count", [2, 3, 7])
@pytest.mark.parametrize("by_picture", [False, True])
def test_a_module_and_its_gradients_are_the_same(count: int, by_picture: bool) -> None:
    torch.manual_seed(0)
    network, picture = Network(), torch.randn(count, 3, 9, 11, requires_grad=by_picture)
    wanted = [*([picture] if by_picture else []), *network.first.parameters()]
    weight = torch.randn(count, 4, 9, 11)
    expected = network(picture)
    found = on_threads(network)(picture)
    torch.testing.assert_close(found, expected)
    for one, other in zip(
        torch.autograd.grad((found * weight).sum(), wanted), torch.autograd.grad((expected * weight).sum(), wanted), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_several_maps_keep_their_names_and_go_back_to_the_picture() -> None:
    def look(picture: Tensor, layers: tuple[str, ...]) -> dict[str, Tensor]:
        return {name: picture.square() * number for number, name in enumerate(layers, 1)}

    picture = torch.randn(5, 2, requires_grad=True)
    found = on_threads(look)(picture, ("a", "b"))
    assert list(found) == ["a", "b"]
    (gradient,) = torch.autograd.grad(found["b"].sum(), picture)  # nothing comes back through the other one
    torch.testing.assert_close(gradient, 4 * picture.detach())


def test_without_gradient_nothing_is_kept() -> None:
    graphs: list[bool] = []

    class Watched(Network):
        def forward(self, x: Tensor) -> Tensor:
            made = super().forward(x)
            graphs.append(made.requires_grad)
            return made

    with torch.no_grad():
        on_threads(Watched())(torch.randn(4, 3, 8, 8))
    assert graphs == [False, False, False]


def test_each_part_has_a_thread_and_its_share_of_torchs() -> None:
    seen: list[tuple[int, str, int, bool]] = []
    met = threading.Barrier(2, timeout=20)

    def look(picture: Tensor) -> Tensor:
        met.wait()  # both are there at once
        seen.append((len(picture), threading.current_thread().name, torch.get_num_threads(), torch.is_grad_enabled()))
        return picture

    torch.set_num_threads(4)
    on_threads(look)(torch.zeros(2, 1, requires_grad=True))
    assert [each[0] for each in seen] == [1, 1]
    assert len({each[1] for each in seen}) == 2
    assert [each[2:] for each in seen] == [(2, True), (2, True)]
    assert torch.get_num_threads() == 4


@pytest.mark.parametrize(("threads", "count"), [(1, 6), (3, 1)])
def test_what_cannot_be_divided_is_not(threads: int, count: int) -> None:
    torch.set_num_threads(threads)
    picture = torch.zeros(count, 1)
    assert on_threads(lambda x: x)(picture) is picture


def test_an_error_in_a_part_reaches_the_caller_who_has_all_threads_again() -> None:
    def look(picture: Tensor) -> Tensor:
        raise ValueError("not this one")

    with pytest.raises(ValueError, match="not this one"):
        on_threads(look)(torch.zeros(3, 1))
    assert torch.get_num_threads() == 3


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_threads_of_a_prepared_process_keep_what_they_freed() -> None:
    program = """
import resource, sys
from stylekit import process
process.prepare()
import torch
from stylekit.nn.cpu import keep_freed_memory
from stylekit.nn.threads import on_threads
keep_freed_memory()
torch.set_num_threads(2)
faults = []
for _ in range(12):
    on_threads(lambda x: torch.ones(20 << 20).mean() + x)(torch.zeros(2, 1))
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(faults[-1] - faults[5])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 60_000  # 245,760 pages where every tensor is made anew
