"""Whole numbers as users give them: Python's, numpy's, and what is none."""

from __future__ import annotations

import numpy as np
import pytest

from ctxcompress_integrations._numbers import as_python, whole


@pytest.mark.parametrize("given", [3, np.int64(3), np.uint8(3)])
def test_a_whole_number_becomes_pythons_own(given):
    assert type(whole("k", given)) is int
    assert whole("k", given) == 3


@pytest.mark.parametrize("given", [0, -1, np.int64(0), True, np.True_, 2.0, np.float32(2), "3", None])
def test_what_is_none_is_refused_by_name_and_value(given):
    with pytest.raises(ValueError, match=r"^k must be an int >= 1, got "):
        whole("k", given)


def test_the_least_may_be_another():
    assert whole("limit", 0, least=0) == 0
    with pytest.raises(ValueError, match="limit must be an int >= 2, got 1"):
        whole("limit", 1, least=2)


def test_other_things_stay_as_they_are():
    assert as_python("x") == "x"
    assert as_python(True) is True
    assert type(as_python(np.float32(0.5))) is float
