"""Contents of tokenizer.json, made with the library whose format it is."""

import json
from typing import Any

import tokenizers
from tokenizers import models, trainers

from tests.text.texts import TEXTS

GPT2 = r"'s|'t| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
BYTE_LEVEL = {
    **{"type": "ByteLevel", "add_prefix_space": False},
    **{"trim_offsets": True, "use_regex": False},
}
METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True}
BLANKS = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
UNBLANKED = [
    {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
    {"type": "ByteFallback"},
    {"type": "Fuse"},
]
STRIPPED = [*UNBLANKED, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]
ADDED = ("<unk>", "<s>", "</s>", "<think>", "<h1>", "[SEP]")
CORPUS = [*TEXTS, "the hello world function return words naive cafe " * 3] * 3


def sequence(kind: str, *steps: Any) -> dict[str, Any]:
    return {"type": "Sequence", kind: list(steps)}


def split(pattern: str, **more: Any) -> dict[str, Any]:
    regex = {"Regex": pattern}
    return {"type": "Split", "pattern": regex, "behavior": "Isolated", "invert": False, **more}


def of_words(size: int = 200) -> dict[str, Any]:
    """A WordPiece model, trained."""
    return trained(
        models.WordPiece(unk_token="<unk>"), trainers.WordPieceTrainer, {"type": "Whitespace"}, size
    )


def trained(model: Any, trainer: Any, cutting: Any, size: int, **options: Any) -> dict[str, Any]:
    """The model that the library makes of the corpus."""
    learner = tokenizers.Tokenizer(model)
    if cutting:
        blank = tokenizers.Tokenizer(models.BPE())
        file = json.loads(blank.to_str()) | {"pre_tokenizer": cutting}
        learner.pre_tokenizer = tokenizers.Tokenizer.from_str(json.dumps(file)).pre_tokenizer
    learner.train_from_iterator(
        CORPUS,
        trainer(vocab_size=size, special_tokens=list(ADDED), show_progress=False, **options),
    )
    result: dict[str, Any] = json.loads(learner.to_str())["model"]
    return result


def byte_pairs(cutting: Any, **changes: Any) -> dict[str, Any]:
    model = models.BPE(unk_token="<unk>")
    return trained(model, trainers.BpeTrainer, cutting, 400) | changes


def with_bytes(model: dict[str, Any]) -> dict[str, Any]:
    """The model with a token for each byte."""
    vocab = model["vocab"]
    names = [f"<0x{byte:02X}>" for byte in range(256)]
    if isinstance(vocab, list):
        return model | {"vocab": [*vocab, *([name, 0.0] for name in names)], "byte_fallback": True}
    more = {name: len(vocab) + number for number, name in enumerate(names)}
    return model | {"vocab": {**vocab, **more}, "byte_fallback": True, "fuse_unk": True}


def unigram(cutting: Any) -> dict[str, Any]:
    return trained(models.Unigram(), trainers.UnigramTrainer, cutting, 600, unk_token="<unk>")


def file_of(model: dict[str, Any], **parts_of_it: Any) -> dict[str, Any]:
    ids = model["vocab"]
    places = {text: i for i, (text, _) in enumerate(ids)} if isinstance(ids, list) else ids
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    added = [
        {"id": places[text], "content": text, "special": text not in ("<think>", "<h1>"), **flags}
        for text in ADDED
    ]
    empty = dict.fromkeys(
        ("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder")
    )
    return {"version": "1.0", **empty, "added_tokens": added, "model": model, **parts_of_it}


def template(*single: str, pair: tuple[str, ...] = ("$A", "$B")) -> dict[str, Any]:
    """`single` and `pair` in order; what is no text is an added token, of the type before it."""

    def piece(name: str, second: bool) -> dict[str, Any]:
        kind = {"id": name.removeprefix("$"), "type_id": int(second)}
        return {"Sequence" if name.startswith("$") else "SpecialToken": kind}

    names = {name for name in (*single, *pair) if not name.startswith("$")}
    ids = {name: ADDED.index(name) for name in names}
    middle = pair.index("$B")
    return {
        "type": "TemplateProcessing",
        "single": [piece(name, False) for name in single],
        "pair": [piece(name, n >= middle) for n, name in enumerate(pair)],
        "special_tokens": {
            name: {"id": name, "ids": [i], "tokens": [name]} for name, i in ids.items()
        },
    }


CLEAN = {
    **{"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True},
    **{"strip_accents": None, "lowercase": True},
}
SPLIT_CLEAN = sequence("pretokenizers", split(GPT2), BYTE_LEVEL)
ALPHABET = BYTE_LEVEL
FILES: dict[str, dict[str, Any]] = {
    "byte level": file_of(
        byte_pairs({**BYTE_LEVEL, "use_regex": True}),
        normalizer={"type": "NFC"},
        pre_tokenizer={**BYTE_LEVEL, "use_regex": True},
        decoder=ALPHABET,
        post_processor=BYTE_LEVEL,
    ),
    "byte level, whole words": file_of(
        byte_pairs(SPLIT_CLEAN, ignore_merges=True),
        pre_tokenizer=SPLIT_CLEAN,
        decoder=ALPHABET,
        post_processor=template("<s>", "$A", pair=("<s>", "$A", "<s>", "$B")),
    ),
    "byte level with a blank before": file_of(
        byte_pairs({**BYTE_LEVEL, "use_regex": True}),
        pre_tokenizer={**BYTE_LEVEL, "add_prefix_space": True, "use_regex": True},
        decoder=ALPHABET,
        post_processor={
            **{"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 1]},
            **{"trim_offsets": True, "add_prefix_space": True},
        },
    ),
    "llama": file_of(
        with_bytes(byte_pairs(METASPACE)),
        normalizer=sequence("normalizers", {"type": "Prepend", "prepend": "▁"}, BLANKS),
        decoder=sequence("decoders", *STRIPPED),
    ),
    "gemma": file_of(
        with_bytes(byte_pairs(METASPACE)),
        normalizer=BLANKS,
        pre_tokenizer={
            **{"type": "Split", "pattern": {"String": " "}, "invert": False},
            "behavior": "MergedWithPrevious",
        },
        decoder=sequence("decoders", *UNBLANKED),
    ),
    "new llama": file_of(
        with_bytes(byte_pairs(METASPACE)),
        pre_tokenizer={**METASPACE, "split": False},
        decoder=sequence("decoders", *STRIPPED),
    ),
    "t5": file_of(
        unigram({**METASPACE, "prepend_scheme": "always"}),
        pre_tokenizer=sequence(
            "pretokenizers",
            {"type": "WhitespaceSplit"},
            {**METASPACE, "prepend_scheme": "always"},
        ),
        normalizer=sequence(
            "normalizers",
            {"type": "NFKC"},
            {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
        ),
        decoder={**METASPACE, "prepend_scheme": "always"},
        post_processor=template("$A", "</s>", pair=("$A", "</s>", "$B", "</s>")),
    ),
    "old t5": file_of(
        unigram({**METASPACE, "prepend_scheme": "always"}),
        pre_tokenizer={"type": "Metaspace", "replacement": "▁", "add_prefix_space": True},
        decoder={"type": "Metaspace", "replacement": "▁", "add_prefix_space": True},
    ),
    "bert": file_of(
        of_words(),
        normalizer=CLEAN,
        pre_tokenizer={"type": "BertPreTokenizer"},
        decoder={"type": "WordPiece", "prefix": "##", "cleanup": False},
        post_processor=template("<s>", "$A", "</s>", pair=("<s>", "$A", "</s>", "$B", "</s>")),
    ),
    "clip": file_of(
        trained(
            models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"),
            trainers.BpeTrainer,
            {"type": "Whitespace"},
            400,
            end_of_word_suffix="</w>",
        ),
        normalizer=sequence(
            "normalizers",
            {"type": "NFC"},
            {"type": "Replace", "pattern": {"Regex": "\\s+"}, "content": " "},
            {"type": "Lowercase"},
        ),
        pre_tokenizer={"type": "Whitespace"},
        post_processor={"type": "BertProcessing", "sep": ["</s>", 2], "cls": ["<s>", 1]},
    ),
    "whole words": file_of(
        trained(
            models.WordLevel(unk_token="<unk>"),
            trainers.WordLevelTrainer,
            {"type": "Whitespace"},
            99,
        ),
        pre_tokenizer={"type": "Whitespace"},
    ),
}
