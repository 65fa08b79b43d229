"""Where the corpus comes from: the hub, a folder, or the generator; verified, in its canonical form."""
