"""Search the parameters of a recipe, or the config of a training, for what scores best; say honestly what that gains.

`dimension` is one thing that is varied, `search` proposes values (Optuna: TPE, random) and keeps trials.

Of recipes: `space` reads off what may be varied, `scoring` runs a trial and costs only what has changed, `tuning` puts
them together with held-out folds, `output` writes the recipe.

Of trainings: `config_space` reads off what may be varied, `trainings` trains a trial in a folder of its own, `pruning`
gives up those without hope, `config_tuning` measures the gain on images that no trial has seen, `config_output` writes
the config.
"""
