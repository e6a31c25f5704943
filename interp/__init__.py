"""The science: tensors in, tensors out. No orchestration, no files, no logging.

`projection` scores vectors against others and takes z-scores; `weightlens`, `activations`, `coactivation`,
`circuitlens`, `descriptions` and `fade` are the stages' methods; `interventions` changes features while a model
runs; `families` and `capture` know the models; `kernels` has the compiled loops. docs/methods.md has the formulas.
"""
