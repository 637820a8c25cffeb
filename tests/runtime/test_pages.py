"""Fresh gradients: what huge pages must not change."""

from __future__ import annotations

import ctypes

import pytest
import torch

from lossgen.runtime import pages


@pytest.mark.parametrize("rows", [0, 1, 3000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shape_and_dtype_are_kept_and_strides_are_not(rows: int, dtype: torch.dtype) -> None:
    like = torch.empty(1025, rows, dtype=dtype).t()
    found = pages.empty_like(like)
    assert (found.shape, found.dtype, found.is_contiguous()) == (like.shape, dtype, True)
    found.fill_(1.0)


@pytest.mark.skipif(pages._LIBC is None, reason="advice is for Linux")
def test_the_advice_stays_inside_the_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Library:
        @staticmethod
        def madvise(begin: ctypes.c_void_p, length: ctypes.c_size_t, advice: int) -> int:
            asked.append((begin.value, length.value, advice))
            return 0

    monkeypatch.setattr(pages, "_LIBC", Library)
    assert pages.empty_like(torch.empty(1000, 1000)).numel() == 10**6
    assert asked == []  # 4 MB hold one whole page at most
    found = pages.empty_like(torch.empty(3000, 1001))
    ((begin, length, advice),) = asked
    end = found.data_ptr() + found.numel() * 4
    assert advice == 14
    assert begin % 2**21 == length % 2**21 == 0
    assert found.data_ptr() <= begin < begin + length <= end
    assert end - (begin + length) < 2**21
