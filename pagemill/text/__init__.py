"""Text on one side, token ids on the other: tokenizer, chat templates, detokenizer.

Must not know: engines, HTTP, file formats. It is given metadata and gives ids and text.
"""
