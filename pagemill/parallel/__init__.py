"""One network in several processes, its ranks (`--tensor-parallel-size`, and pipelines likewise).

Every rank has a share of each layer (some heads, some inner widths), or some of the layers, or
both. The engine process is rank 0: it schedules and samples as ever, and tells the others each
`Step`, no more. A network is written without knowing of ranks: it finds its own sizes in a card and
a `WeightSource` that are cut (`share`), and calls `Ops.all_reduce` where a sum goes over heads or
inner widths (`shared_ops`). Must not know: requests, text, how an operation is computed.
"""
