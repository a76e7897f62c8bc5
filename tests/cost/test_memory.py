"""What fits, in bytes."""

import pytest

from sparsesim.cost.memory import check_fits, plan_memory
from sparsesim.errors import DoesNotFitError
from sparsesim.model.setting import Setting
from sparsesim.model.zoo import load_model

H100 = 81559 * 2**20


def plan(name: str, capacity: float = H100, **layout: int):
    model = load_model(name)
    setting = Setting(precision=model.precision, **layout)
    options = {"utilisation": 0.9, "reserve_bytes": 3e9, "block_tok": 16, "max_running": 256}
    return model, setting, plan_memory(model, setting, capacity, **options)


def test_blocks_of_llama_by_hand() -> None:
    """8.03e9 weights of 2 B, 3 GB reserve, 128 KiB of cache a token: what is left over 2 MiB blocks."""
    _, _, of = plan("llama-3.1-8b")
    free = 0.9 * H100 - 2 * 8_030_261_248 - 3e9
    assert of.kv_blocks == int(free // (16 * 131072))


def test_tp_halves_weights_and_cache_of_a_device() -> None:
    _, _, one = plan("llama-3.1-8b")
    _, _, two = plan("llama-3.1-8b", tp=2)
    assert two.weight_bytes == pytest.approx(one.weight_bytes / 2, rel=0.01)
    assert two.block_bytes == one.block_bytes / 2
    assert two.kv_blocks > 2 * one.kv_blocks


def test_a_model_without_attention_keeps_states_only() -> None:
    _, _, of = plan("mamba2-2.7b")
    assert of.kv_blocks == 0
    assert of.kv_windows == ()
    assert of.state_slots == 256


def test_a_hybrid_keeps_both() -> None:
    _, _, of = plan("jamba-v0.1", tp=2)
    assert of.kv_blocks > 0
    assert of.state_slots == 256


def test_what_does_not_fit_says_how_much_is_missing_and_what_would() -> None:
    model, setting, of = plan("qwen3-32b", capacity=40e9)
    missing = (of.weight_bytes + of.block_bytes + 3e9 - 0.9 * 40e9) / 2**30
    with pytest.raises(DoesNotFitError, match=rf"{missing:.2f} GiB a device are missing[\s\S]*would fit with tp 2"):
        check_fits(of, model, setting, "a card of 40 GB")
    assert DoesNotFitError.exit_code == 3
