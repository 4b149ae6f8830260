"""The Python words: run a recipe on one picture, or use stages without any recipe.

Run it as ``python examples/quickstart.py PICTURE.png labels.tif``.
"""

import sys

import cellkit as ck

picture, target = sys.argv[1:]

# A recipe, from a file or by the name of one that ships with cellkit, on one picture.
recipe = ck.Recipe.read("nuclei")
result = ck.run(recipe, ck.read(picture))
ck.write(target, result["labels"])
print(result["table"][["label", "area", "centroid_y", "centroid_x"]].head())

# The same stages are plain functions on arrays.
image = ck.stages.grayscale(ck.read(picture)["image"])
mask = ck.stages.otsu(image, ck.stages.histogram(image))
labels = ck.stages.components(mask)
print(f"{result['labels'].max()} nuclei; Otsu alone finds {labels.max()} pieces")
