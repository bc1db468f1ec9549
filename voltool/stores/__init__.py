"""Where dumps lie. `contract` is what a store promises; one file a kind of store; `naming` owns the file names."""
