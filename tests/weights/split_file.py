"""A `File` cut into the parts of a split model."""

from dataclasses import replace

from tests.weights.gguf_writer import I32, U16, File, value


def split(file: File, count: int) -> list[File]:
    """`count` parts; the metadata goes to the first, the tensors to all in turn."""
    parts = []
    for number in range(count):
        keys = file.keys if number == 0 else {}
        keys = keys | {
            "split.no": value(U16, number),
            "split.count": value(U16, count),
            "split.tensors.count": value(I32, len(file.tensors)),
        }
        parts.append(replace(file, keys=keys, tensors=file.tensors[number::count]))
    return parts


def part_name(number: int, count: int) -> str:
    return f"model-{number + 1:05}-of-{count:05}.gguf"
