"""How good an embedding is, by the protocols of section 4.2."""
