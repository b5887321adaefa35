"""How fast, how large and how robust the library is, measured."""
