import subprocess
import sys

import pytest

from rhapsode.config import build_config, parse_overrides
from rhapsode.errors import UserError
from rhapsode.generation import GenerationConfig


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("max_new_tokens", 0, r"^generation.max_new_tokens must be greater than or equal to 1; got 0\.$"),
        ("temperature", -0.1, r"^generation.temperature must be greater than or equal to 0; got -0.1\.$"),
        ("temperature", 1e-9, r"^generation.temperature must be 0 or at least 0.0001; got 1e-09\. Use 0"),
        ("temperature", float("nan"), r"^generation.temperature must be a finite number; got nan\.$"),
        ("top_k", -1, r"^generation.top_k must be greater than or equal to 0; got -1\.$"),
        ("top_p", 0.0, r"^generation.top_p must be greater than 0; got 0.0\.$"),
        ("top_p", 1.1, r"^generation.top_p must be less than or equal to 1; got 1.1\.$"),
        ("min_p", -0.1, r"^generation.min_p must be greater than or equal to 0; got -0.1\.$"),
        ("min_p", 2, r"^generation.min_p must be less than or equal to 1; got 2\.$"),
        ("repetition_penalty", 0, r"^generation.repetition_penalty must be greater than or equal to 0.01; got 0\.$"),
        ("repetition_penalty", 1e6, r"^generation.repetition_penalty must be less than or equal to 100; got 1000000"),
        ("stop", ["a", ""], r"^generation.stop must hold strings of at least one character; got ''\. Leave it out\.$"),
        ("seed", -1, r"^generation.seed must be greater than or equal to 0; got -1\.$"),
        ("seed", 1 << 63, r"^generation.seed must be less than 9223372036854775808; got 9223372036854775808\.$"),
        ("top_q", 0.5, r"^the setting generation.top_q must be one of .*; got 'top_q'\. Did you mean 'top_p'\?$"),
    ],
)
def test_a_bad_value_gives_one_sentence(name: str, value: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_config(GenerationConfig, {name: value}, "generation")


def test_none_and_zero_switch_top_k_off() -> None:
    assert build_config(GenerationConfig, parse_overrides(["top_k=none"])).top_k is None
    assert build_config(GenerationConfig, parse_overrides(["top_k=0"])).top_k == 0


def test_one_stop_string_needs_no_list() -> None:
    assert build_config(GenerationConfig, parse_overrides(["stop=END"])).stop == ("END",)
    assert build_config(GenerationConfig, parse_overrides(['stop=["a", "b"]'])).stop == ("a", "b")


def test_every_setting_has_help() -> None:
    assert all(field.description for field in GenerationConfig.model_fields.values())


def test_settings_do_not_import_torch() -> None:
    code = "import sys; from rhapsode.generation import GenerationConfig; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_name_of_the_package_is_an_attribute_error() -> None:
    import rhapsode.generation

    with pytest.raises(AttributeError, match=r"'rhapsode.generation' has no attribute 'missing'"):
        rhapsode.generation.missing  # noqa: B018
    assert all(getattr(rhapsode.generation, name) for name in rhapsode.generation.__all__)
