"""Images larger than memory: a recipe carried out block by block, with the results it would have on the whole image."""
