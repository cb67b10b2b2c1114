"""The HTTP side: dialects in front of one engine door. Knows no model, no kernel, no weights."""
