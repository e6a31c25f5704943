"""Steps that read the corpus: tokenising, active features, statistics and samples, co-activation."""
