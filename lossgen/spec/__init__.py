"""The spec language: model, loader, formula parser."""
