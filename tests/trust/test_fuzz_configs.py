"""Any config.json: a Config whose numbers hold together, or one sentence."""

import json
import math

from helpers import TINY
from hypothesis import given
from hypothesis import strategies as st
from reference import small_config
from tiers import examples

from qwen3_scratch import Error, read_config
from qwen3_scratch.checkpoints.weights import all_slots

MOE, TINYS = small_config().to_dict(), json.loads((TINY / "config.json").read_text("utf-8"))
DENSE = {"model_type": "qwen3", "hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2,
         "num_key_value_heads": 1, "head_dim": 4, "intermediate_size": 6, "vocab_size": 11,
         "layer_types": ["full_attention", "sliding_attention", "full_attention"]}  # fmt: skip
NEW = {"num_local_experts": 4, "dtype": "bfloat16", "rope_parameters": {"rope_type": "linear", "factor": 2.0}}
NAMES = sorted({*MOE, *TINYS, *DENSE, *NEW, "rope_scaling", "quantization_config", "partial_rotary_factor"})
NUMBERS = st.one_of(
    st.integers(-2, 9), st.sampled_from([2**31, 2**63, -(2**63), 10**30, 10**4000]), st.floats(),
    st.sampled_from([0.0, 1e-300, 1e308]),
)  # fmt: skip
WORDS = st.sampled_from(
    [
        "",
        "yarn",
        "linear",
        "default",
        "dynamic",
        "silu",
        "qwen3",
        "qwen3_moe",
        "float16",
        "bfloat16",
        "8",
        "\ud800",
        "\n",
    ]
)
LEAVES = st.one_of(st.none(), st.booleans(), NUMBERS, WORDS, st.text(max_size=5))
ROPE_NAMES = st.sampled_from(
    ["rope_type", "type", "factor", "rope_theta", "original_max_position_embeddings", "beta_fast", "mscale"]
)
VALUES = st.one_of(
    LEAVES,
    st.lists(LEAVES, max_size=4),
    st.lists(st.sampled_from(["full_attention", "sliding_attention"]), min_size=2, max_size=3),
    st.dictionaries(ROPE_NAMES, LEAVES | st.dictionaries(WORDS, LEAVES, max_size=1), max_size=4),
)
CHANGES = st.dictionaries(st.sampled_from(NAMES), VALUES, min_size=1, max_size=3)


def holds_together(config):
    assert len(config.layer_types) == config.num_hidden_layers
    active, total = config.num_parameters(active=True), config.num_parameters()
    assert 0 < active <= total
    assert config.num_attention_heads % config.num_key_value_heads == 0
    assert math.isfinite(config.rope_theta)
    if total < 10**6 and config.num_hidden_layers < 100:
        assert sum(math.prod(slot.shape) for slot in all_slots(config)) == total


def read(folder, content):
    (folder / "config.json").write_text(content, "utf-8", errors="surrogatepass")
    try:
        return read_config(folder)
    except Error as error:
        assert len(str(error).splitlines()) == 1
        assert len(str(error)) < 1000
        return None


@examples(400)
@given(
    base=st.sampled_from([MOE, TINYS, DENSE, MOE | NEW]),
    changes=CHANGES,
    left_out=st.sets(st.sampled_from(NAMES), max_size=2),
)
def test_any_change_of_a_config_gives_a_config_that_holds_together_or_a_sentence(
    tmp_path_factory, base, changes, left_out
):
    folder = tmp_path_factory.getbasetemp()
    content = {name: value for name, value in {**base, **changes}.items() if name not in left_out}
    config = read(folder, json.dumps(content))
    if config is not None:
        holds_together(config)
        again = read(folder, json.dumps(config.to_dict()))
        assert again is not None
        assert again.num_parameters() == config.num_parameters()


@given(content=st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(WORDS, inner), max_leaves=20))
def test_any_other_json_is_a_sentence(tmp_path_factory, content):
    assert read(tmp_path_factory.getbasetemp(), json.dumps(content)) is None


@given(
    content=st.text(max_size=200) | st.sampled_from(["{" * 99999, "[" * 99999, '{"a":' * 99999, "1" * 99999, "1e999"])
)
def test_any_other_text_is_a_sentence(tmp_path_factory, content):
    assert read(tmp_path_factory.getbasetemp(), content) is None
