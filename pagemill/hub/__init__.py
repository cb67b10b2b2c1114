"""Models on this machine and where they come from: names, the catalogue, the store, downloads."""
