"""The importer gives published totals, names what it does not understand, and lists the defaults it fills in."""

import json
from pathlib import Path
from typing import Any

import pytest

from sparsesim.errors import InputError
from sparsesim.model import Setting, load_model
from sparsesim.model.hf import import_config, read_config
from sparsesim.work import MoeFfn

CONFIGS = Path(__file__).parents[2] / "data" / "hf_configs"
SMALL: dict[str, dict[str, Any]] = json.loads((CONFIGS.parent / "hf_small.json").read_text())

COUNTED = {
    "Qwen--Qwen3-0.6B": 596_049_920,
    "Qwen--Qwen3-8B": 8_190_735_360,
    "Qwen--Qwen3-32B": 32_762_123_264,
    "Qwen--Qwen3-30B-A3B": 30_532_122_624,
    "Qwen--Qwen3-235B-A22B-FP8": 235_093_634_560,
    "Qwen--Qwen3.5-35B-A3B": 34_660_610_688,
    "deepseek-ai--DeepSeek-V3": 671_026_404_352 + 58 * 256,
    "google--gemma-4-26B-A4B": 25_233_141_760,
    "meta-llama--Llama-4-Scout-17B-16E-Instruct": 107_769_861_120,
    "meta-llama--Meta-Llama-3.1-8B": 8_030_261_248,
    "meta-llama--Meta-Llama-3.1-70B": 70_553_706_496,
    "meta-llama--Meta-Llama-3.1-405B": 405_853_388_800,
    "mistralai--Mixtral-8x7B-v0.1": 46_702_792_704,
    "mistralai--Mixtral-8x22B-v0.1": 140_620_634_112,
    "nvidia--NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": 31_577_937_344 + 23 * 128,
    "openai--gpt-oss-120b": 116_829_156_672,
    "openai--gpt-oss-20b": 20_914_757_184,
}
"""Parameters of the modules transformers 5.23.0 builds from these files (counted on torch's meta device), and the
routers' correction biases, which are buffers there and tensors in the checkpoints."""

CLASS_DEFAULTS = {
    "qwen2": 12_049_846_272,
    "qwen2_moe": 14_315_784_192,
    "qwen3_next": 79_674_391_296,
    "qwen3_5_text": 8_953_803_264,
    "gemma": 8_537_680_896,
    "gemma2": 2_614_341_888,
    "gemma3_text": 2_628_658_432,
    "phi3": 3_821_079_552,
    "phimoe": 41_872_793_600,
    "smollm3": 3_075_098_624,
    "deepseek_v32": 671_877_929_216 + 58 * 256,
    "kimi_linear": 49_133_074_464 + 26 * 256,
    "glm4": 9_400_279_040,
    "glm4_moe": 103_481_200_640 + 45 * 128,
    "glm4_moe_lite": 29_943_390_976 + 46 * 64,
    "glm_moe_dsa": 743_911_199_232 + 75 * 256,
    "olmo2": 6_888_624_128,
    "olmoe": 13_361_612_800,
    "mamba": 159_308_544,
    "mamba2": 7_285_403_648,
    "falcon_mamba": 159_308_544,
    "jamba": 51_570_323_328,
    "bamba": 9_992_765_440,
    "granitemoehybrid": 38_601_064_448,
    "minimax": 47_373_946_880,
    "minimax_m2": 228_689_748_992 + 62 * 256,
    "bitnet": 2_741_155_840,
    "lfm2": 2_705_497_600,
    "recurrent_gemma": 2_010_263_040,
    "zamba2": 2_481_848_336,
    "seed_oss": 28_921_040_896,
    "exaone4": 9_429_069_824,
}
"""The same count for each class with nothing given: every size is the class's default."""


def config(name: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((CONFIGS / f"{name}_config.json").read_text())
    return values


@pytest.mark.parametrize("name", COUNTED)
def test_total_is_that_of_the_modules_the_configuration_builds(name: str) -> None:
    assert read_config(CONFIGS / f"{name}_config.json").parameters() == COUNTED[name]


def test_every_shipped_configuration_is_counted() -> None:
    assert {file.stem.removesuffix("_config") for file in CONFIGS.glob("*.json")} == set(COUNTED)


@pytest.mark.parametrize("model_type", CLASS_DEFAULTS)
def test_class_defaults_give_the_size_of_the_class(model_type: str) -> None:
    model = import_config({"model_type": model_type}, model_type, "class defaults")
    assert model.parameters() == CLASS_DEFAULTS[model_type]
    assert any(note.startswith("hidden_size:") for note in model.assumed)


@pytest.mark.parametrize("name", SMALL)
def test_every_option_changes_the_size_as_it_changes_the_module(name: str) -> None:
    """Small configurations with biases, steps, patterns and ranks that published ones leave off."""
    counted = SMALL[name]["parameters"]
    model = import_config(SMALL[name]["fields"], name, name)
    assert model.parameters() in (counted, counted + SMALL[name]["correction_biases"])


@pytest.mark.parametrize("name", ["deepseek-v3", "llama-3.1-70b", "qwen3-30b-a3b", "mixtral-8x7b"])
def test_zoo_and_published_configuration_agree(name: str) -> None:
    files = {
        "deepseek-v3": "deepseek-ai--DeepSeek-V3",
        "llama-3.1-70b": "meta-llama--Meta-Llama-3.1-70B",
        "qwen3-30b-a3b": "Qwen--Qwen3-30B-A3B",
        "mixtral-8x7b": "mistralai--Mixtral-8x7B-v0.1",
    }
    read, zoo = read_config(CONFIGS / f"{files[name]}_config.json"), load_model(name)
    assert (read.layers, read.precision, read.mtp) == (zoo.layers, zoo.precision, zoo.mtp)


def test_published_active_parameters() -> None:
    """gpt-oss publishes 5.13 B and 3.61 B without the input embedding, Qwen3-235B 22.19 B with it."""
    active = {
        "openai--gpt-oss-120b": (5.13, False),
        "openai--gpt-oss-20b": (3.61, False),
        "Qwen--Qwen3-235B-A22B-FP8": (22.19, True),
        "mistralai--Mixtral-8x22B-v0.1": (39.15, True),
    }
    for name, (billions, embedding) in active.items():
        model = read_config(CONFIGS / f"{name}_config.json")
        assert round(model.active_parameters(embedding) / 1e9, 2) == billions


def test_gpt_oss_stores_its_experts_in_4_25_bits() -> None:
    model = read_config(CONFIGS / "openai--gpt-oss-120b_config.json")
    stored = model.stored()
    assert model.weight_bytes() == pytest.approx(stored.experts * (0.5 + 1 / 32) + (stored.total - stored.experts) * 2)
    ops = [
        task.op for task in model.token_tasks(1.0, Setting(precision=model.precision)) if isinstance(task.op, MoeFfn)
    ]
    assert {(op.dtype, op.weights) for op in ops} == {("bf16", "mxfp4")}


def test_block_scales_of_fp8_weights_are_counted() -> None:
    model = read_config(CONFIGS / "deepseek-ai--DeepSeek-V3_config.json")
    stored = model.stored()
    quantised = stored.linear + stored.experts
    assert model.weight_bytes() == pytest.approx(quantised * (1 + 4 / 128**2) + stored.kept * 2)


def test_unknown_field_is_named_with_its_place() -> None:
    values = config("Qwen--Qwen3-8B") | {"mixture_of_depths": 3}
    with pytest.raises(InputError, match="mixture_of_depths: 3 is not understood"):
        import_config(values, "x", "x.json")


def test_place_of_a_faulty_field_is_file_line_and_column(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{\n  "model_type": "llama",\n  "hidden_size": "wide"\n}')
    with pytest.raises(InputError, match=r"config\.json:3:3: hidden_size: 'wide' is not a whole number"):
        read_config(path)


def test_all_faults_come_at_once() -> None:
    values = config("Qwen--Qwen3-8B") | {"vocab_size": -1, "hidden_act": "snake", "surprise": True}
    with pytest.raises(InputError) as caught:
        import_config(values, "x", "x.json")
    assert {problem.path for problem in caught.value.problems} == {"vocab_size", "hidden_act", "surprise"}


def test_a_fault_that_stops_the_reading_hides_no_unknown_field() -> None:
    values = config("Qwen--Qwen3-8B") | {"num_attention_heads": "many", "surprise": True}
    with pytest.raises(InputError) as caught:
        import_config(values, "x", "x.json")
    assert {problem.path for problem in caught.value.problems} == {"num_attention_heads", "surprise"}


def test_unknown_model_type_offers_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean qwen3"):
        import_config({"model_type": "qwen33"}, "x", "x.json")


def test_layer_list_must_have_as_many_entries_as_layers() -> None:
    values = config("openai--gpt-oss-20b") | {"num_hidden_layers": 25}
    with pytest.raises(InputError, match="layer_types: has 24 entries for num_hidden_layers 25"):
        import_config(values, "x", "x.json")


def test_unknown_quantisation_is_named() -> None:
    values = config("Qwen--Qwen3-8B") | {"quantization_config": {"quant_method": "fp9"}}
    with pytest.raises(InputError, match="unknown quant_method 'fp9'"):
        import_config(values, "x", "x.json")


@pytest.mark.parametrize(
    ("quantization", "expected", "bytes_each"),
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "int4-g128", 0.5 + 2.5 / 128),
        ({"quant_method": "awq", "bits": 4, "group_size": 64}, "int4", 0.5 + 2.5 / 64),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "int4", 0.5 + 4 / 64),
        ({"quant_method": "bitnet"}, "ternary", 0.25),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"weights": {"type": "int", "num_bits": 4, "group_size": 32}}},
            },
            "int4",
            0.5 + 2.5 / 32,
        ),
        ({"quantization": {"quant_algo": "NVFP4"}}, "nvfp4", 0.5 + 1 / 16),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8", 1 + 4 / 16384),
    ],
)
def test_quantisation_with_its_metadata(quantization: dict[str, Any], expected: str, bytes_each: float) -> None:
    precision = import_config(config("Qwen--Qwen3-8B") | {"quantization_config": quantization}, "x", "x.json").precision
    assert precision.weights == expected
    assert precision.weight_bytes_each(precision.weights) == pytest.approx(bytes_each)


def test_a_null_in_the_file_is_not_replaced_by_the_class_default() -> None:
    values = {"model_type": "mistral", "sliding_window": None}
    assert import_config(values, "x", "x.json").contexts() == (float("inf"),)
    assert import_config({"model_type": "mistral"}, "x", "x.json").contexts() == (4096.0,)


def test_kimi_linear_layers_are_counted_from_one() -> None:
    nested = {
        "full_attn_layers": [4, 8, 12, 16, 20, 24, 27],
        "kda_layers": [i for i in range(1, 28) if i not in (4, 8, 12, 16, 20, 24, 27)],
        "num_heads": 32,
        "head_dim": 128,
        "short_conv_kernel_size": 4,
    }
    model = import_config({"model_type": "kimi_linear", "linear_attn_config": nested}, "x", "x.json")
    attention = [
        index
        for index, blocks in enumerate(b for group in model.layers for b in [group.blocks] * group.count)
        if blocks[0].kv_elements_per_token()
    ]
    assert attention == [3, 7, 11, 15, 19, 23, 26]


def test_longcat_zero_experts_have_a_place_in_the_router_and_no_weights() -> None:
    """Published: 560 B, of which 18.6 to 31.3 B are active, 27 B in the mean (arXiv 2509.01322)."""
    model = import_config({"model_type": "longcat_flash"}, "longcat", "class defaults")
    assert round(model.parameters() / 1e9) == 561
    assert model.active_parameters() == pytest.approx(27e9, rel=0.05)
    experts = next(t.op for t in model.token_tasks(1.0, Setting()) if isinstance(t.op, MoeFfn))
    assert (experts.experts, experts.top_k) == (512, 8)


def test_lfm2_layers_without_attention_are_short_convolutions() -> None:
    model = import_config({"model_type": "lfm2", "num_hidden_layers": 4, "full_attn_idxs": [2]}, "x", "x.json")
    kinds = [group.blocks[0].kind for group in model.layers for _ in range(group.count)]
    assert kinds == ["short_conv", "short_conv", "attention", "short_conv"]
    assert model.state_bytes() == 3 * 2560 * 2 * 2


def test_matmul_free_is_ternary_and_rounds_its_width_to_256() -> None:
    """370M: d 1024 and hidden_ratio 4 give 2816 neurons; facts of its repository."""
    fields = {"model_type": "hgrn_bit", "hidden_size": 1024, "num_hidden_layers": 24, "hidden_ratio": 4}
    model, zoo = import_config(fields, "x", "x.json"), load_model("mmfreelm-370m")
    assert (model.layers, model.precision) == (zoo.layers, zoo.precision)


def test_falcon_h1_runs_attention_and_mamba_side_by_side() -> None:
    fields = {
        "model_type": "falcon_h1",
        "hidden_size": 1024,
        "num_hidden_layers": 36,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "intermediate_size": 2048,
        "vocab_size": 32784,
        "mamba_d_ssm": 1536,
        "mamba_n_heads": 24,
        "mamba_d_head": 64,
        "mamba_d_state": 128,
        "mamba_n_groups": 1,
    }
    model = import_config(fields, "x", "x.json")
    assert model.layers == load_model("falcon-h1-0.5b").layers
    assert round(model.parameters() / 1e6) == 521
    with pytest.raises(InputError, match="mamba_d_ssm: 1500 is not 24 heads of 64"):
        import_config(fields | {"mamba_d_ssm": 1500}, "x", "x.json")


def test_quantisation_may_stand_in_a_file_beside(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config("Qwen--Qwen3-8B")))
    sibling = {"quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}}
    (tmp_path / "hf_quant_config.json").write_text(json.dumps(sibling))
    precision = read_config(tmp_path / "config.json").precision
    assert (precision.weights, precision.activations, precision.kv) == ("fp8", "fp8", "fp8")


def test_attention_left_unconverted_leaves_the_experts_quantised() -> None:
    left = {"quant_method": "fp8", "modules_to_not_convert": ["lm_head", "model.layers.0.self_attn"]}
    values = config("Qwen--Qwen3-30B-A3B") | {"quantization_config": left}
    precision = import_config(values, "x", "x.json").precision
    assert (precision.weights, precision.experts, precision.activations) == ("bf16", "fp8", "bf16")


def test_nemotron_pattern_gives_one_block_a_layer() -> None:
    model = read_config(CONFIGS / "nvidia--NVIDIA-Nemotron-3-Nano-30B-A3B-BF16_config.json")
    letters = "".join(
        {"mamba2": "M", "attention": "*", "moe": "E"}[group.blocks[0].kind] * group.count for group in model.layers
    )
    assert letters == "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME"
    assert model.precision.state == "fp32"


def test_fields_of_older_releases_are_read() -> None:
    """state-spaces/mamba-2.8b-hf and ai21labs/Jamba-v0.1 as published, with the names their first code used."""
    mamba = {
        "model_type": "mamba",
        "d_inner": 5120,
        "d_model": 2560,
        "hidden_size": 2560,
        "intermediate_size": 5120,
        "n_layer": 64,
        "num_hidden_layers": 64,
        "pad_vocab_size_multiple": 8,
        "rms_norm": True,
        "ssm_cfg": {},
        "state_size": 16,
        "time_step_rank": 160,
        "vocab_size": 50280,
    }
    assert import_config(mamba, "x", "x.json").layers == load_model("mamba-2.8b").layers
    jamba = {"model_type": "jamba", "mamba_inner_layernorms": True, "mamba_dt_rank": 256, "n_ctx": 262144}
    assert import_config(jamba, "x", "x.json").layers == load_model("jamba-v0.1").layers


def test_defaults_of_layers_that_are_not_there_are_not_listed() -> None:
    fields = {"model_type": "nemotron_h", "hybrid_override_pattern": "M-M*-", "num_hidden_layers": 5}
    assert not [note for note in import_config(fields, "x", "x.json").assumed if "experts" in note]
