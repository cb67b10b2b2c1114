"""Settings: one declaration, four sources, errors that name what is wrong."""

from pathlib import Path
from typing import Any

import pytest

from pagemill.config import EngineConfig, HttpConfig, HubConfig, Settings, all_settings
from pagemill.errors import ConfigError


def load(
    flags: dict[str, Any] | None = None,
    env: dict[str, str] | None = None,
    file: dict[str, Any] | None = None,
) -> Settings:
    return Settings.load(flags or {}, {"HOME": "/nonexistent", **(env or {})}, file or {})


def test_flag_beats_environment_beats_file_beats_default() -> None:
    sources: list[dict[str, Any]] = [
        {},
        {"file": {"max_queued": 1}},
        {"file": {"max_queued": 1}, "env": {"PAGEMILL_MAX_QUEUED": "2"}},
        {
            "file": {"max_queued": 1},
            "env": {"PAGEMILL_MAX_QUEUED": "2"},
            "flags": {"max_queued": "3"},
        },
    ]
    assert [load(**given).engine.max_queued for given in sources] == [0, 1, 2, 3]


def test_a_flag_that_is_none_was_not_given() -> None:
    assert load({"port": None}, {"PAGEMILL_PORT": "9"}).http.port == 9


def test_an_empty_variable_is_not_set() -> None:
    assert load(env={"PAGEMILL_PORT": ""}).http.port == 8000


def test_names_may_be_written_with_dashes() -> None:
    assert load(file={"max-num-seqs": 8}).engine.max_num_seqs == 8
    assert load({"max-num-seqs": 8}).engine.max_num_seqs == 8


@pytest.mark.parametrize(
    ("written", "size"),
    [("512M", 512 << 20), ("2G", 2 << 30), ("2GiB", 2 << 30), ("1.5k", 1536), ("77", 77), (77, 77)],
)
def test_sizes(written: object, size: int) -> None:
    assert load({"kv_cache_memory": written}).engine.kv_cache_memory == size


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        *(("q8", "q8"), ("Q8_0", "q8"), ("int8", "q8"), ("f16", "f16"), ("f32", "f32")),
        *(("fp8", "fp8"), ("fp8_e4m3", "fp8"), ("bf16", "bf16"), ("bfloat16", "bf16")),
    ],
)
def test_a_cache_may_be_called_as_other_servers_call_it(written: str, kept: str) -> None:
    assert load({"kv_cache_dtype": written}).engine.kv_cache_dtype == kept


def test_unknown_kinds_of_caches_list_the_choices() -> None:
    with pytest.raises(ConfigError, match="'q4'; it must be one of auto, f16, bf16, f32, q8, fp8"):
        load({"kv_cache_dtype": "q4"})


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("500ms", 0.5), ("30s", 30), ("2m", 120), ("1h", 3600), (7, 7), ("7", 7)],
)
def test_durations(written: object, seconds: float) -> None:
    assert load({"drain": written}).http.drain_s == pytest.approx(seconds)


def test_lists_come_as_commas_or_as_lists() -> None:
    assert load({"api_key": "a, b,"}).http.api_key == ("a", "b")
    assert load(file={"api_key": ["a", "b"]}).http.api_key == ("a", "b")


@pytest.mark.parametrize("word", ["true", "YES", "on", "1", True, 1])
def test_switches(word: object) -> None:
    assert load({"offline": word}).hub.offline is True


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "65536"), ("port", "-1"), ("port", "8000.5"), ("port", 8000.5), ("port", True),
        ("port", "9" * 5000), ("max_queued", "-1"), ("page_size", "x"), ("backend", "gpu"),
        ("kv_cache_memory", "-1"), ("kv_cache_memory", "nan"), ("kv_cache_memory", "1X"),
        ("kv_cache_memory", True), ("drain", "soon"), ("drain", "-1s"), ("drain", [1]),
        ("prefix_caching", "maybe"), ("api_key", [1]), ("index_url", "ftp://x"), ("home", ""),
        ("host", 1), ("log_level", "loud"),
    ],
)  # fmt: skip
def test_unparsable_values_are_named(name: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        load({name: value})
    assert caught.value.param == name
    assert f"--{name.replace('_', '-')} is " in caught.value.message
    assert "it must be" in caught.value.message
    assert len(caught.value.message) < 300


def test_errors_say_which_source_was_wrong() -> None:
    with pytest.raises(ConfigError, match=r"^PAGEMILL_PORT is 'x'"):
        load(env={"PAGEMILL_PORT": "x"})
    with pytest.raises(ConfigError, match=r"^port in the config file is 'x'"):
        load(file={"port": "x"})


def test_secrets_are_not_repeated() -> None:
    with pytest.raises(ConfigError) as caught:
        load(file={"api_key": [["hunter2"]]})
    assert "hunter2" not in caught.value.message


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ({"flags": {"max-num-seq": 1}}, "--max-num-seq is no setting; "
            "did you mean --max-num-seqs?"),
        ({"file": {"kv_cache_memry": 1}}, "kv_cache_memry in the config file is no setting; "
            "did you mean kv_cache_memory?"),
        ({"env": {"PAGEMILL_TREADS": "1"}}, "environment variable PAGEMILL_TREADS is no setting; "
            "did you mean PAGEMILL_THREADS?"),
        ({"file": {"zzz": 1}}, "zzz in the config file is no setting; `pagemill serve --help` "),
    ],
)  # fmt: skip
def test_unknown_settings_are_named_with_the_nearest(given: dict[str, Any], hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(**given)
    assert caught.value.message.startswith(hint)


def test_variables_of_tests_and_of_kubernetes_are_no_settings() -> None:
    settings = load(
        env={
            "PAGEMILL_TEST_MODEL": "x",
            "PAGEMILL_SERVICE_HOST": "10.0.0.1",
            "PAGEMILL_PORT_8000_TCP": "tcp://10.0.0.1:8000",
            "PAGEMILL_PORT": "tcp://10.0.0.1:8000",
        }
    )
    assert settings.http.port == 8000


def test_variables_of_other_tools_count_after_ours() -> None:
    assert load(env={"HF_TOKEN": "a"}).hub.hf_token == "a"
    assert load(env={"HF_TOKEN": "a", "PAGEMILL_HF_TOKEN": "b"}).hub.hf_token == "b"


def test_the_package_index_is_the_one_that_pip_uses() -> None:
    assert load(env={"PIP_INDEX_URL": "https://a/simple/"}).hub.index_url == "https://a/simple"
    assert load().hub.index_url == ""  # the hub looks into pip's files when it needs an index


def test_blanks_belong_to_a_template() -> None:
    assert load(file={"chat-template": " {{ x }}\n"}).text.chat_template == " {{ x }}\n"


def test_home_is_expanded() -> None:
    assert load({"home": "~/models"}).hub.home == Path.home() / "models"


@pytest.mark.parametrize(
    ("flag", "written", "attribute", "value"),
    [
        ("gpu-memory-utilization", "0.85", "gpu_memory_utilization", 0.85),
        ("gpu-memory-utilization", 1, "gpu_memory_utilization", 1.0),
        ("gpu-layers", "auto", "gpu_layers", -1),
        ("gpu-layers", "12", "gpu_layers", 12),
        ("kv-offload-gib", "1.5", "kv_offload_bytes", 3 << 29),
    ],
)
def test_shares_layers_and_gibibytes(
    flag: str, written: object, attribute: str, value: object
) -> None:
    assert getattr(load({flag: written}).engine, attribute) == value


@pytest.mark.parametrize(
    ("flag", "written"),
    [
        ("gpu-memory-utilization", "0"), ("gpu-memory-utilization", "1.1"),
        ("gpu-memory-utilization", "nan"), ("gpu-layers", "-2"), ("gpu-layers", "all"),
        ("kv-offload-gib", "-1"), ("kv-offload-gib", "2G"), ("kv-offload-gib", True),
    ],
)  # fmt: skip
def test_what_is_no_share_layer_or_gibibyte(flag: str, written: object) -> None:
    with pytest.raises(ConfigError, match=f"--{flag} is"):
        load({flag: written})


def test_every_setting_is_documented_and_unique() -> None:
    settings = all_settings()
    assert len({setting.name for setting in settings}) == len(settings)
    for setting in settings:
        assert setting.help
        assert setting.flag == "--" + setting.name.replace("_", "-")
        assert setting.env == "PAGEMILL_" + setting.name.upper()
        # What is documented as the default can also be written.
        assert setting.read(setting.default, "default") == setting.default


def test_defaults_need_no_source() -> None:
    assert Settings() == Settings(EngineConfig(), HttpConfig(), HubConfig())
    assert load().engine == EngineConfig()
