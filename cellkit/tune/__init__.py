"""Search the parameters of a recipe for those that score best, and say honestly what that gains.

`space` reads off a recipe what may be varied, `search` proposes values (Optuna, TPE), `scoring` runs a trial and costs
only what has changed, `tuning` puts them together with held-out folds, `output` writes the recipe.
"""
