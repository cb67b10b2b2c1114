"""Orders to token ids. Long texts are tokenized on a thread: streams never wait for them."""

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeVar

from pagemill.server.orders import Conversation, check_token_ids, check_writes
from pagemill.server.ports import ServedModel
from pagemill.text.chat import chat_prompt

INLINE_CHARS = 8192  # below this a thread costs more than it saves

Item = TypeVar("Item")


async def off_loop(work: Callable[[], list[Item]], chars: int) -> list[Item]:
    """Work through so many characters or bytes: here, or on a thread if that takes long."""
    return work() if chars <= INLINE_CHARS else await asyncio.to_thread(work)


async def chat_ids(model: ServedModel, conversation: Conversation) -> list[int]:
    """A conversation as the model's template lays it out."""
    check_writes(model)
    return await off_loop(
        lambda: chat_prompt(
            model.tokenizer,
            model.template,
            conversation.messages,
            add_generation_prompt=conversation.add_generation_prompt,
            continue_final=conversation.continue_final,
            extra=conversation.template_values,
        ),
        sum(len(message.text) for message in conversation.messages),
    )


async def text_ids(
    model: ServedModel, text: str, *, add_special: bool, parse_special: bool
) -> list[int]:
    """A raw text, with what the model's own tokenizer puts around it.

    Control tokens spelled out in the text are plain text unless `parse_special`.
    """
    tokenizer = model.tokenizer
    ids = await off_loop(lambda: tokenizer.encode(text, special=parse_special), len(text))
    return tokenizer.frame(ids) if add_special else ids


async def completion_ids(
    model: ServedModel,
    prompts: Sequence[str | tuple[int, ...]],
    *,
    add_special: bool,
    parse_special: bool,
) -> list[Sequence[int]]:
    """The prompts of a text completion; ids are taken as they are, if the model knows them."""
    found: list[Sequence[int]] = []
    for prompt in prompts:
        if isinstance(prompt, str):
            found.append(
                await text_ids(model, prompt, add_special=add_special, parse_special=parse_special)
            )
        else:
            check_token_ids(prompt, model, "prompt")
            found.append(prompt)
    return found
