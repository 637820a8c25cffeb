"""The documentation site: ``python -m tools.site`` makes it of specs/, generated/ and docs/.

    facts           what is known of each loss, read from files: spec, header, sheet, exports
    derive          what costs time: the derivation and the curves, kept between runs
    choices         choices.yaml, which loss for what
    tex, tex_layout formulas of the language as LaTeX
    mathml          LaTeX as MathML, and the font for it
    loss_page       one page per loss, with derivation_part, curves_part and speed_part
    catalogue_page, choices_page, document_pages
    build           all pages into build/site/pages, then mkdocs into build/site/html

A view of the site fetches nothing from a network: formulas are MathML, curves are inline SVG, and
fonts, scripts and the search index are its own files.  It is no part of the wheel.
"""
