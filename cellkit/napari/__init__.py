"""The napari plug-in: results of runs as layers, recipes with a live preview, corrected labels as truth.

`napari.yaml` names what napari calls. `reader` and the Qt modules (`form`, `panel`, `widget`, `workers`) are the view;
all others know neither Qt nor a viewer.
"""
