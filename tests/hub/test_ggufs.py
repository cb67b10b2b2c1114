"""Which GGUF file a name means: by tag, by what fits, split ones whole; and how they are kept."""

from collections.abc import Mapping

import pytest

from pagemill import hub
from pagemill.errors import DownloadError, NotFound
from pagemill.hub.ggufs import GROWTH, choose, quantization, split_names, variants
from pagemill.hub.store import Store
from pagemill.weights import formats
from tests.hub.fake import Fake, model_bytes
from tests.hub.hf import COMMIT, NEEDED, asked_commits, content, get, offer, place, publish

pytestmark = pytest.mark.usefixtures("fast_disk")

DATA = model_bytes(20_000)
GB = 10**9
SIZES = {
    "m-Q2_K.gguf": 3 * GB, "m-Q3_K_M.gguf": 4 * GB, "m-Q4_K_S.gguf": 4_990 * GB // 1000,
    "m-Q4_K_M.gguf": 5 * GB, "m-Q6_K.gguf": 7 * GB, "m-Q8_0.gguf": 9 * GB,
    "BF16/m-BF16-00001-of-00002.gguf": 9 * GB, "BF16/m-BF16-00002-of-00002.gguf": 8 * GB,
    "mmproj-F16.gguf": GB, "m.imatrix.gguf": 1, "README.md": 1,
}  # fmt: skip


def taken(sizes: Mapping[str, int], tag: str = "", memory: int = 0) -> str:
    return choose(variants(sizes), tag, memory, "hf.co/org/repo").files[0]


@pytest.mark.parametrize(
    ("memory_gb", "file"),
    [
        (0, "m-Q4_K_M.gguf"),  # not known
        (1000, "m-Q4_K_M.gguf"),  # plenty is no reason for a larger one
        (8, "m-Q4_K_M.gguf"),
        (7.1, "m-Q3_K_M.gguf"),  # 70 % are 4.97: Q4_K_M needs 5, Q4_K_S a little less
        (7.13, "m-Q4_K_S.gguf"),
        (5.8, "m-Q3_K_M.gguf"),
        (5, "m-Q2_K.gguf"),
    ],
)
def test_what_fits_the_machine(memory_gb: float, file: str) -> None:
    assert taken(SIZES, memory=int(memory_gb * GB)) == file


def test_what_fits_is_what_grows_least() -> None:
    """A small file of points of a grid takes more memory than a larger one of plain numbers."""
    sizes = {"m-IQ2_M.gguf": 2_900_000_000, "m-Q2_K.gguf": 3 * GB, "m-IQ1_S.gguf": 2 * GB}
    assert taken(sizes, memory=5 * GB) == "m-Q2_K.gguf"
    assert taken({**sizes, "m-Q2_K.gguf": 4 * GB}, memory=int(7.5 * GB)) == "m-Q2_K.gguf"
    with pytest.raises(NotFound, match=r"UD-IQ1_S \(2.0 GB, in memory up to 4.8 GB\)"):
        taken({"m-UD-IQ1_S.gguf": 2 * GB}, memory=5 * GB)


def test_growth_is_what_kernels_take() -> None:
    native = pytest.importorskip("pagemill._native", reason="the native kernels are not built")
    for name in native.matrix_formats():
        taken_bytes = native.packed_bytes(name, 4096, 4096)
        grown = taken_bytes / (4096 * formats.bytes_per_row(name, 4096))
        allowed = GROWTH.get(name.partition("_")[0], 1.1)
        assert allowed / 1.5 < grown <= allowed, name


def test_when_nothing_fits_the_sizes_are_said() -> None:
    with pytest.raises(NotFound) as caught:
        taken(SIZES, memory=4 * GB)
    said = caught.value.message
    assert "weights may take 2.8 GB, 70% of the available memory" in said
    assert "Q2_K (3.0 GB), Q3_K_M (4.0 GB)" in said
    assert "BF16 (17.0 GB)" in said
    assert "mmproj" not in said
    assert taken(SIZES, "Q8_0", memory=4 * GB) == "m-Q8_0.gguf"  # an order is an order


@pytest.mark.parametrize(
    ("files", "file"),
    [
        (["m-Q2_K.gguf", "m-Q4_K_M.gguf", "m-Q8_0.gguf"], "m-Q4_K_M.gguf"),
        (["m-IQ4_0.gguf", "m.Q8_0.gguf", "mmproj-F16.gguf"], "m.Q8_0.gguf"),
        (["m-Q6_K.gguf", "m-Q5_K_S.gguf"], "m-Q6_K.gguf"),
        (["only.gguf"], "only.gguf"),
        (["m-Q4_K_M.gguf", "m-i1-Q4_K_M.gguf"], "m-Q4_K_M.gguf"),
    ],
)
def test_without_a_tag(files: list[str], file: str) -> None:
    assert taken({name: 1000 - at for at, name in enumerate(files)}) == file


@pytest.mark.parametrize(
    ("tag", "files", "file"),
    [
        ("Q4_K", ["m-Q4_K_M.gguf", "m-Q4_K.gguf"], "m-Q4_K.gguf"),
        ("Q4_0", ["m-IQ4_0.gguf", "m-q4_0.gguf"], "m-q4_0.gguf"),
        ("Q2_K", ["q2_k/m-q2_k.gguf", "m-q4_k_m.gguf"], "q2_k/m-q2_k.gguf"),
        ("Q8_0", ["Q8_0/m-00001-of-00001.gguf", "m-Q4_0.gguf"], "Q8_0/m-00001-of-00001.gguf"),
        ("Q4_K_XL", ["m-UD-Q4_K_XL.gguf", "m-Q4_K_M.gguf"], "m-UD-Q4_K_XL.gguf"),
        ("Q4_K_M", ["m-UD-Q4_K_M.gguf", "m-Q4_K_M.gguf"], "m-Q4_K_M.gguf"),
        ("UD-Q4_K_M", ["m-UD-Q4_K_M.gguf", "m-Q4_K_M.gguf"], "m-UD-Q4_K_M.gguf"),
        ("F16", ["m-BF16.gguf", "m-F16.gguf"], "m-F16.gguf"),
        ("FP16", ["m-fp16.gguf", "m-q4_0.gguf"], "m-fp16.gguf"),
        ("IT", ["m-it-Q4_0.gguf", "m-pt-Q4_0.gguf"], "m-it-Q4_0.gguf"),
        ("Q4_0", ["m-Q4_0.gguf", "m-Q4_0-00001-of-00001.gguf"], "m-Q4_0.gguf"),
    ],
)
def test_with_a_tag(tag: str, files: list[str], file: str) -> None:
    if tag == "Q4_0" and len(files) == 2 and "00001" in files[1]:
        files = [files[0], files[1].replace("00001.gguf", "00002.gguf"),
                 files[1].replace("00001-of-00001", "00002-of-00002")]  # fmt: skip
    assert taken(dict.fromkeys(files, 1000), tag) == file


@pytest.mark.parametrize(
    ("tag", "files", "message"),
    [
        ("Q5_0", ["m-Q4_0.gguf", "m-Q8_0.gguf"], r"no quantization Q5_0; it has Q4_0 \(5\.0 GB\)"),
        ("Q4_0", ["a-Q4_0.gguf", "b-Q4_0.gguf"], "not one model of hf.co/org/repo: a-Q4_0.gguf"),
        ("Q8_0", ["m-Q8_0-00001-of-00003.gguf", "m-Q8_0-00003-of-00003.gguf"], "2 of the 3 files"),
        ("", ["m-00002-of-00002.gguf"], "1 of the 2 files"),
        ("X", [f"m{n}-Q{n % 7 + 2}_K.gguf" for n in range(50)], "and 30 more"),
    ],
)
def test_no_such_model(tag: str, files: list[str], message: str) -> None:
    with pytest.raises(NotFound, match=message):
        taken(dict.fromkeys(files, 5 * GB), tag)


def test_names_of_quantizations_and_split_files() -> None:
    told = {
        "Qwen2.5-7B-Instruct-Q4_K_M.gguf": "Q4_K_M", "m.gguf": "", "M-IQ2_XXS.gguf": "IQ2_XXS",
        "m-MXFP4_MOE.gguf": "MXFP4_MOE", "TQ1_0/m-00001-of-00002.gguf": "TQ1_0",
        "llama-3-q8-v2.gguf": "Q8", "Q8_0/m-Q4_0.gguf": "Q4_0", "a-f32.gguf": "F32",
    }  # fmt: skip
    assert {name: quantization(name) for name in told} == told
    assert split_names("a-00002-of-00003.GGUF") == [
        "a-00001-of-00003.GGUF", "a-00002-of-00003.GGUF", "a-00003-of-00003.GGUF"
    ]  # fmt: skip
    for name in ("a.gguf", "a-1-of-2.gguf", "a-00001-of-00000.gguf", "a-00001-of-99999.gguf"):
        assert split_names(name) == []


@pytest.mark.parametrize(
    ("text", "files", "chosen"),
    [
        ("org/repo", ["m-Q2_K.gguf", "m-Q4_K_M.gguf", "m-Q8_0.gguf"], "m-Q4_K_M.gguf"),
        ("hf.co/org/repo:q2_k", ["q2_k/m-q2_k.gguf", "m-q4_k_m.gguf"], "q2_k/m-q2_k.gguf"),
        ("org/repo/q2_k", ["q2_k/m.gguf", "m-q4_k_m.gguf"], "q2_k/m.gguf"),
    ],
)
def test_one_file_is_one_blob_at_a_pinned_commit(
    fake: Fake, store: Store, text: str, files: list[str], chosen: str
) -> None:
    offer(fake, dict.fromkeys(files, DATA))
    model = get(fake, store, text)
    assert model.path.parent == store.home / "blobs"
    assert model.path.read_bytes() == DATA
    assert model.source == f"hf.co/org/repo@{COMMIT}/{chosen}"
    assert [path for path, _ in fake.asked][1:] == [place(chosen)]


def test_a_split_model_is_kept_whole_under_its_own_names(fake: Fake, store: Store) -> None:
    parts = {f"m-Q8_0-0000{n}-of-00003.gguf": DATA[n:] for n in (1, 2, 3)}
    offer(fake, {f"Q8_0/{name}": body for name, body in parts.items()} | {"m-Q2_K.gguf": DATA})
    model = get(fake, store, "org/repo:Q8_0")
    assert model.path.name == "m-Q8_0-00001-of-00003.gguf"
    assert content(model.path.parent) == parts
    assert model.size == sum(len(body) for body in parts.values())
    assert asked_commits(fake) == {COMMIT}
    assert hub.resolve("org/repo:q8_0", store) == model
    (model.path.parent / "m-Q8_0-00003-of-00003.gguf").unlink()
    assert store.list() == []
    get(fake, store, "org/repo:Q8_0")
    store.remove(model.name)
    assert not model.path.parent.exists()


@pytest.mark.parametrize(
    ("repo", "text", "is_file"),
    [
        ("org/repo", "org/repo", False),
        ("org/repo", "org/repo:Q4_0", True),
        ("org/repo-GGUF", "org/repo-GGUF", True),
        ("gguf-org/repo", "gguf-org/repo", False),
    ],
)
def test_safetensors_unless_the_name_says_gguf(
    fake: Fake, store: Store, repo: str, text: str, is_file: bool
) -> None:
    offer(fake, {**NEEDED, "m-Q4_0.gguf": DATA}, repo=repo)
    assert get(fake, store, text).path.is_file() == is_file


def test_a_tag_of_a_repository_without_gguf(fake: Fake, store: Store) -> None:
    offer(fake, NEEDED)
    with pytest.raises(NotFound, match="no GGUF file, so no quantization Q4_0"):
        get(fake, store, "org/repo:Q4_0")


@pytest.mark.parametrize(
    "changes", [{"size": -1}, {"size": True}, {"size": "9"}, {"sha256": "../x"}, {"sha256": ""}]
)
def test_listings_that_make_no_sense(fake: Fake, store: Store, changes: dict[str, object]) -> None:
    listing = offer(fake, {"m.gguf": DATA})
    listing["siblings"][0]["lfs"] |= changes
    publish(fake, listing)
    with pytest.raises(DownloadError, match="makes no sense at"):
        get(fake, store)


def test_memory_is_asked_of_the_caller(fake: Fake, store: Store) -> None:
    offer(fake, {"m-Q4_K_M.gguf": DATA, "m-Q2_K.gguf": DATA[:5000]})
    assert get(fake, store, memory=20_000).size == 5000
    assert get(fake, store, memory=40_000).size == 20_000
