import pytest

from servery.engine.errors import LoadError
from servery.engine.quantization.module_names import SkippedModules, matches


@pytest.mark.parametrize(
    ("pattern", "skipped", "kept"),
    [
        ("lm_head", "lm_head", "model.layers.0.mlp.up_proj"),
        ("model.layers.1", "model.layers.1.mlp.up_proj", "model.layers.11.mlp.up_proj"),
        ("mlp.gate", "model.layers.3.mlp.gate", "model.layers.3.mlp.gate_proj"),
        (r"model\.layers\.[02]\.self_attn", "model.layers.2.self_attn.q_proj", "model.layers.1.self_attn.q_proj"),
        ("model.layers.*.down_proj", "model.layers.10.mlp.down_proj", "model.layers.10.mlp.up_proj"),
    ],
)
def test_a_module_is_skipped_by_how_its_name_begins_or_ends(pattern, skipped, kept):
    modules = SkippedModules((pattern,))
    assert (skipped in modules, kept in modules) == (True, False)


def test_nothing_is_skipped_without_patterns():
    assert "lm_head" not in SkippedModules()


def test_a_broken_pattern_is_told():
    with pytest.raises(LoadError, match=r"the pattern '\(', which is not valid: missing \)"):
        matches("(", "lm_head")
    with pytest.raises(LoadError, match=r"which is not valid: the repetition number is too large"):
        matches("a{99999999999999}", "lm_head")
    with pytest.raises(LoadError, match=r"which is not valid: maximum recursion depth"):
        matches("(" * 5_000 + ")" * 5_000, "lm_head")
