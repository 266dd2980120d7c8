"""Memory of decoding does not grow with the number of different input lengths."""

import ctypes
import sys

import pytest
import torch

from whisper_recipe.decoding.backends.ctranslate2 import CTranslate2Backend

FIELDS = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")


class Mallinfo2(ctypes.Structure):
    """mallinfo(3) of glibc."""

    _fields_ = [(name, ctypes.c_size_t) for name in FIELDS]


@pytest.fixture
def used():
    """How many bytes malloc has handed out."""
    if sys.platform != "linux" or not hasattr(libc := ctypes.CDLL(None), "mallinfo2"):
        pytest.skip("needs mallinfo2 of glibc 2.33")
    libc.mallinfo2.restype = Mallinfo2
    return lambda: libc.mallinfo2().uordblks


def test_inputs_of_new_lengths_need_no_more_memory(ct2_model, used):
    """With oneDNN's default, each length takes 0.3 MB."""
    backend, after = CTranslate2Backend(ct2_model, "default"), []
    for number in range(60):
        backend.detect_languages(torch.zeros(1, 80, 100 + 2 * number))
        after.append(used())
    assert after[-1] - after[19] < 4e6
