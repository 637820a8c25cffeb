"""The intermediate representation: the elementwise vocabulary, symbols and pipeline stages."""
