"""Test descriptions against known answers, without a judge: concepts are programs over tokens, and for features that
follow a concept it is known what the description should select.

Bottom up: `stream` is text as tokens; `words` and `contexts` are the concepts; `following` finds which features follow
which concept; `claims` finds which tokens a description selects, and compares; `sources` tests named heads at a
distance.
"""
