"""The stages: pure functions from layers to a layer, one idea a file. Each is callable without any recipe."""
