"""Text on one side, token ids on the other: tokenizer, chat templates, detokenizer.

Knows no engine, no server and no file format: it is given metadata and gives ids and text.
"""
