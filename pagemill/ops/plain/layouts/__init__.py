"""How matrices lie in a device's memory: one file for each layout. Must not know: what for."""
