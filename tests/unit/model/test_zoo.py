"""The zoo's models have the parameter totals their publishers state."""

from pathlib import Path

import pytest

from sparsesim.errors import InputError
from sparsesim.loading import data_root
from sparsesim.model import Precision, load_model, model_names

EXACT = {
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.1-405b": 405_853_388_800,
    "qwen3-8b": 8_190_735_360,
    "qwen3-32b": 32_762_123_264,
    "qwen3-30b-a3b": 30_532_122_624,
    "qwen3-235b-a22b": 235_093_634_560,
    "mixtral-8x7b": 46_702_792_704,
    "mixtral-8x22b": 140_620_634_112,
    "jamba-v0.1": 51_570_323_328,
    "mamba2-2.7b": 2_702_599_680,
    # Counted by building the module with transformers 5.23.0 at the same sizes.
    "gemma-2-2b": 2_614_341_888,
    "gemma-4-26b-a4b": 25_233_141_760,
    "gpt-oss-20b": 20_914_757_184,
    "gpt-oss-120b": 116_829_156_672,
    "llama-7b": 6_738_415_616,
    "llama-4-scout": 107_769_861_120,
    "mistral-7b": 7_241_732_096,
    "mistral-7b-v0.1": 7_241_732_096,
    "mamba2-7b": 7_285_403_648,
    "nemotron-3-nano-30b-a3b": 31_577_937_344 + 23 * 128,
    "phi-3.5-mini": 3_821_079_552,
    "qwen3-0.6b": 596_049_920,
    "qwen3-next-80b-a3b": 79_674_391_296,
    "qwen3.5-35b-a3b": 34_660_610_688,
    "deepseek-v3.2": 671_877_929_216 + 58 * 256,
    "glm-5": 743_911_199_232 + 75 * 256,
    "kimi-linear-48b-a3b": 49_133_074_464 + 26 * 256,
}
PUBLISHED_BILLIONS = {
    "samba-421m": "0.422",
    "samba-1.3b": "1.330",
    "samba-1.7b": "1.742",
    "samba-3.8b": "3.864",
    "deepseek-v3": "671.03",
    "kimi-k2": "1026.4",
    "falcon-h1-0.5b": "0.521",
    "falcon-mamba-7b": "7.27",
    "gpt-3-175b": "175",
    "gemma-2-9b": "9.24",
    "jamba-1.5-mini": "51.6",
    "jamba-1.5-large": "398.6",
    "llama-2-70b": "69.0",
    "llama-3.2-1b": "1.24",
    "llama-3.2-3b": "3.21",
    "llama-4-maverick": "401",
    "mamba-130m": "0.13",
    "mamba-370m": "0.37",
    "mamba-790m": "0.79",
    "mamba-1.4b": "1.4",
    "mamba-2.8b": "2.8",
    "mamba2-780m": "0.78",
    "minimax-text-01": "456",
    "mmfreelm-370m": "0.37",
    "mmfreelm-1.3b": "1.36",
    "mmfreelm-2.7b": "2.7",
    "nemotron-h-8b": "8.1",
    "nemotron-h-56b": "56",
    "olmoe-1b-7b": "6.9",
    "glm-4.5-air": "107",
    "bitnet-b1.58-2b4t": "2.4",
    "northpole-3b": "3.3",
    "palm-8b": "8.63",
    "palm-62b": "62.50",
    "palm-540b": "540.4",
    "qwen2.5-0.5b": "0.49",
    "qwen2.5-7b": "7.62",
    "smollm2-1.7b": "1.71",
    "twell-0.5b": "0.51",
    "twell-1b": "1.03",
    "twell-1.5b": "1.54",
    "twell-2b": "2.05",
    "zamba2-2.7b": "2.7",
}
"""As published (facts of each file's source); 107 of GLM-4.5-Air is 106 B rounded up by its width of heads."""
ACTIVE_BILLIONS = {
    "qwen3-30b-a3b": "3.35",
    "mixtral-8x7b": "12.88",
    "mixtral-8x22b": "39.15",
    "jamba-v0.1": "12.11",
    "jamba-1.5-large": "94",
    "deepseek-v3": "37.55",
    "kimi-k2": "32.9",
    "qwen3-235b-a22b": "22.19",
    "olmoe-1b-7b": "1.3",
    "llama-4-scout": "17",
    "llama-4-maverick": "17",
}


def rounded(number: int, like: str) -> str:
    return f"{number / 1e9:.{len(like.partition('.')[2])}f}"


@pytest.mark.parametrize("name", EXACT)
def test_total_is_the_published_number_of_parameters(name: str) -> None:
    assert load_model(name).parameters() == EXACT[name]


@pytest.mark.parametrize("name", PUBLISHED_BILLIONS)
def test_total_rounds_to_the_published_billions(name: str) -> None:
    assert rounded(load_model(name).parameters(), PUBLISHED_BILLIONS[name]) == PUBLISHED_BILLIONS[name]


@pytest.mark.parametrize("name", ACTIVE_BILLIONS)
def test_active_parameters_round_to_the_published_billions(name: str) -> None:
    assert rounded(load_model(name).active_parameters(), ACTIVE_BILLIONS[name]) == ACTIVE_BILLIONS[name]


def test_gpt_oss_and_minimax_publish_active_parameters_without_the_tables() -> None:
    for name, published in (("gpt-oss-120b", "5.13"), ("gpt-oss-20b", "3.61")):
        assert rounded(load_model(name).active_parameters(embedding=False), published) == published
    minimax = load_model("minimax-text-01")
    tables = 2 * minimax.vocab * minimax.d_model
    assert rounded(minimax.active_parameters() - tables, "45.9") == "45.9"


def test_every_model_of_the_zoo_has_its_total_tested_here_or_is_held_to_something_elsewhere() -> None:
    tests = [file.read_text() for file in Path(__file__).parents[2].rglob("test_*.py")]
    others = set(model_names()) - set(EXACT) - set(PUBLISHED_BILLIONS)
    assert [name for name in others if not any(f'"{name}"' in text for text in tests)] == []


def test_multi_token_prediction_of_deepseek_is_the_published_module() -> None:
    """README_WEIGHTS of DeepSeek-V3: 11.5 B parameters of its own beside the shared embedding and head."""
    assert load_model("deepseek-v3").mtp_parameters() == pytest.approx(11.5e9, rel=0.01)


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


def test_nemotron_state_and_cache_vectors() -> None:
    """Public vectors: 24 layers of (30,720 + 1,048,576) elements of 2 B, and the cache of 4 layers at 8192 tokens."""
    model = load_model("nemotron-h-8b")
    assert model.state_bytes(Precision(state="bf16")) == 51_806_208
    assert model.kv_bytes(8192) == 134_217_728


def test_indexer_keys_are_cached_beside_the_latent_vectors() -> None:
    """DeepSeek-V3.2: 61 layers of an fp8 key of 128 and its fp32 scale, over V3's 70,272 B a token."""
    model = load_model("deepseek-v3.2")
    assert model.kv_bytes_per_token(Precision()) == 70_272 + 61 * (128 + 4)
    assert model.contexts() == (float("inf"), 2048.0)


def test_feed_forward_is_two_thirds_of_a_layer_four_times_as_wide() -> None:
    """GPT-3: 8 d^2 of 12 d^2, over 1.2 B parameters a layer at d 12288."""
    attention, ffn = (block for block, _ in load_model("gpt-3-175b").blocks)
    shares = [block.weights(12288).linear for block in (attention, ffn)]
    assert shares[1] / sum(shares) == pytest.approx(2 / 3)
    assert shares[1] > 1.2e9


def test_pattern_must_fill_the_layers(tmp_path: Path) -> None:
    path = tmp_path / "odd.yaml"
    text = data_root().joinpath("scenarios/models/jamba-v0.1.yaml").read_text()
    path.write_text(text.replace("layers: 32", "layers: 30"))
    with pytest.raises(InputError, match="a pattern of 8 letters does not fill 30 layers"):
        load_model(path)


def test_letters_of_the_pattern_are_the_blocks(tmp_path: Path) -> None:
    path = tmp_path / "odd.yaml"
    text = data_root().joinpath("scenarios/models/jamba-v0.1.yaml").read_text()
    path.write_text(text.replace("pattern: MmMmAmMm", "pattern: MmMmXmMm"))
    with pytest.raises(InputError, match="letter 'A' is in blocks but not in the pattern; letter 'X'"):
        load_model(path)


def test_unknown_block_and_field_are_named_with_their_place(tmp_path: Path) -> None:
    path = tmp_path / "odd.yaml"
    text = data_root().joinpath("scenarios/models/llama-3.1-8b.yaml").read_text()
    path.write_text(text.replace("kind: ffn", "kind: fnn").replace("head_dim", "head_dims"))
    with pytest.raises(InputError) as caught:
        load_model(path)
    messages = [str(problem) for problem in caught.value.problems]
    assert any("unknown kind 'fnn'" in message and "ffn" in message for message in messages)
    assert any("head_dims" in message and "odd.yaml" in message for message in messages)


def test_unknown_model_offers_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean qwen3-30b-a3b"):
        load_model("qwen3-30b-a3")
