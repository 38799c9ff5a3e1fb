"""The memory that operations share."""

import threading

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from byhand.ops import room
from byhand.ops.room import rooms


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_rooms_have_their_shapes_and_type_and_nothing_in_common(dtype):
    shapes = [(3, 4), (0, 5), (7,), (2, 3, 5)]
    made = rooms(torch.empty(1, dtype=dtype), *shapes)
    for value, one in enumerate(made):
        one.fill_(value)
    assert [tuple(one.shape) for one in made] == shapes
    assert all(one.dtype == dtype and one.is_contiguous() and bool((one == i).all()) for i, one in enumerate(made))


def test_the_next_call_gets_the_same_memory_unless_it_is_large(monkeypatch):
    like = torch.empty(1)
    first = rooms(like, (1000,))[0].data_ptr()
    assert rooms(like, (10,), (20, 3))[0].data_ptr() == first
    assert rooms(like.double(), (50,))[0].data_ptr() == first
    monkeypatch.setattr(room, "LARGEST", 4000)
    assert rooms(like, (1001,))[0].data_ptr() != first
    assert rooms(like, (1000,))[0].data_ptr() == first


def test_rooms_that_were_made_before_lie_in_the_memory_of_today(monkeypatch):
    monkeypatch.setattr(room._KEPT, "memory", torch.empty(0, dtype=torch.uint8))
    monkeypatch.setattr(room._KEPT, "rooms", {})
    like = torch.empty(1)
    small = rooms(like, (10,))
    assert rooms(like, (10,))[0] is small[0]
    large = rooms(like, (1000,))[0]
    assert rooms(like, (10,))[0].data_ptr() == large.data_ptr()
    for n in range(2 * room.MOST):
        assert rooms(like, (n, 2))[0].shape == (n, 2)
        assert len(room._KEPT.rooms) <= room.MOST
    assert rooms(like, (10,))[0].data_ptr() == large.data_ptr()


def test_each_thread_has_rooms_of_its_own():
    mine, theirs = rooms(torch.empty(1), (100,))[0].fill_(1), []
    thread = threading.Thread(target=lambda: theirs.extend(rooms(torch.empty(1), (100,))))
    thread.start()
    thread.join()
    theirs[0].fill_(2)
    assert bool((mine == 1).all())


def test_memory_first_taken_in_inference_mode_or_under_another_default_device_serves_everywhere(monkeypatch):
    monkeypatch.setattr(room._KEPT, "memory", torch.empty(0, dtype=torch.uint8))
    monkeypatch.setattr(room._KEPT, "rooms", {})
    like = torch.zeros(1)
    with torch.inference_mode(), torch.device("meta"):
        assert rooms(like, (10,))[0].device == like.device
    assert not room._KEPT.memory.is_inference()
    x = torch.ones(10, requires_grad=True)
    torch.mul(x.detach(), 2, out=rooms(like, (10,))[0])
    assert rooms(like, (10,))[0].tolist() == [2.0] * 10


def test_a_tensor_that_only_stands_for_one_has_rooms_of_its_kind():
    with FakeTensorMode():
        assert isinstance(rooms(torch.empty(1), (7, 3))[0], FakeTensor)
    assert type(rooms(torch.empty(1), (7, 3))[0]) is torch.Tensor
