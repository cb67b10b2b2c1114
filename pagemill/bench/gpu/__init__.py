"""One command that says what Pagemill does on a card: `python -m pagemill.bench.gpu`.

Parts are measured one after another, each in a process of its own: a kernel that breaks the device,
or never ends, takes its own part with it and no other. They append lines to one file, which is read
at the end. Must not know: how a kernel works.
"""
