"""Pure codecs of the formats that other programs read."""
