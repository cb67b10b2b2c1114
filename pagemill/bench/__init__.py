"""Measures servers as their users see them, and the kernels as the machine allows them.

Knows HTTP, and no part of the engine: whatever speaks OpenAI's or Ollama's API is measured alike.
Only `kernels` looks inside, at operations of the cpu backend, and `gpu`, which is a command of its
own. The rest prints nothing: results are values, and `document` says how they read; the command
line and `page` show them.
"""
