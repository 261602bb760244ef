"""A stream of a real vLLM is cut, and goes on from its text: at temperature 0, as if uncut."""

from __future__ import annotations

import pytest

from tests.integration.conftest import RealEngine
from tests.integration.cutting import PATHS, goes_on_where_it_is_cut

pytestmark = pytest.mark.engine


@pytest.mark.parametrize("path", PATHS)
async def test_a_cut_answer_at_temperature_0_is_the_uncut_one_where_the_model_is_sure(
    vllm_engine: RealEngine, path: str
) -> None:
    places = (900, 1500, 2500, 3500, 5000, 6500)
    await goes_on_where_it_is_cut(vllm_engine, "vllm", path, places, max_tokens=60)
