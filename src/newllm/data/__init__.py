"""From text to token windows: count a corpus's vocabulary, encode its rows and cut them. Needs no torch."""
