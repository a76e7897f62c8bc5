"""The zoo's models have the parameter totals their publishers state."""

import pytest

from sparsesim.model import Precision, load_model

EXACT = {
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.1-405b": 405_853_388_800,
    "qwen3-8b": 8_190_735_360,
    "qwen3-32b": 32_762_123_264,
    "qwen3-30b-a3b": 30_532_122_624,
    "mixtral-8x7b": 46_702_792_704,
    "jamba-v0.1": 51_570_323_328,
    "mamba2-2.7b": 2_702_599_680,
}
BILLIONS = {
    "samba-421m": 0.422,
    "samba-1.3b": 1.330,
    "samba-1.7b": 1.742,
    "samba-3.8b": 3.864,
    "deepseek-v3": 671.03,
}
ACTIVE_BILLIONS = {"qwen3-30b-a3b": 3.35, "mixtral-8x7b": 12.88, "jamba-v0.1": 12.11, "deepseek-v3": 37.55}


@pytest.mark.parametrize("name", EXACT)
def test_total_is_the_published_number_of_parameters(name: str) -> None:
    assert load_model(name).parameters() == EXACT[name]


@pytest.mark.parametrize("name", BILLIONS)
def test_total_rounds_to_the_published_billions(name: str) -> None:
    digits = len(str(BILLIONS[name]).partition(".")[2])
    assert round(load_model(name).parameters() / 1e9, digits) == BILLIONS[name]


@pytest.mark.parametrize("name", ACTIVE_BILLIONS)
def test_active_parameters_round_to_the_published_billions(name: str) -> None:
    assert round(load_model(name).active_parameters() / 1e9, 2) == ACTIVE_BILLIONS[name]


def test_a_dense_model_uses_every_parameter() -> None:
    model = load_model("llama-3.1-8b")
    assert model.active_parameters() == model.parameters()


def test_deepseek_latent_cache_of_4096_tokens() -> None:
    model = load_model("deepseek-v3")
    assert model.kv_bytes_per_token(Precision()) == 70_272
    assert model.kv_bytes(4096, Precision()) == 287_834_112


def test_llama_70b_cache_of_a_million_tokens() -> None:
    assert load_model("llama-3.1-70b").kv_bytes(1_000_000) == 327.68e9


def test_jamba_cache_at_256k_is_4_gib_and_an_eighth_of_all_attention() -> None:
    model = load_model("jamba-v0.1")
    assert model.kv_bytes(256 * 1024) == 4 * 2**30
    assert model.kv_bytes(256 * 1024) * 8 == 32 * 2 * 8 * 128 * 2 * 256 * 1024


def test_window_caps_the_cache() -> None:
    model = load_model("samba-3.8b")
    assert model.kv_bytes(2048) == model.kv_bytes(1_000_000) == 16 * 2 * 256 * 2 * 2048
