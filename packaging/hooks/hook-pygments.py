# Instead of PyInstaller's own, which takes in every language: rich's Markdown imports the package (typer, for the
# completion of zsh and fish), and there is no source to colour.
hiddenimports = []
