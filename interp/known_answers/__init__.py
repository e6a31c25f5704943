"""Descriptions against known answers: concepts written as programs over tokens, features that follow one of them, and
whether what is said of such a feature selects the concept. No judge is asked.

Bottom up: `stream` is text as tokens; `words` and `contexts` are the concepts; `following` finds which features follow
which; `claims` says which tokens a description selects, and compares; `sources` scores heads at a distance.
"""
