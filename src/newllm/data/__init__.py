"""From text to token windows: fetch the corpus, count its vocabulary, encode and cut it. Needs no torch."""
